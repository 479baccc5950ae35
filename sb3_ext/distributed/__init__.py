"""Work on a Ray cluster (``pip install "irwrappers[ray]"``): lifetimes of meta-learning, and runs of a benchmark.

Results equal those of a run without Ray and the same seed, whatever the number of machines, also if some of them are lost.

On several machines: install the same packages on each, ``ray start --head`` on one and ``ray start --address=HEAD:6379`` on
the others, then give the command ``--ray HEAD:6379`` (or ``--ray auto`` on a machine of the cluster). ``--ray local`` starts a
cluster of this machine's cores. On several machines a benchmark's ``--out`` must be a folder that all of them see.
"""

from sb3_ext.distributed.cluster import connect
from sb3_ext.distributed.ray_shards import RayShards
from sb3_ext.distributed.runs import run_on_cluster

__all__ = ["RayShards", "connect", "run_on_cluster"]
