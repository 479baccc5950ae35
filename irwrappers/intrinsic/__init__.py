"""Intrinsic rewards, one file each.

A module in this folder that defines a reward with ``@register("name")`` makes it available to ``make_intrinsic_reward``, the
wrappers, YAML and the tests; nothing else needs to be changed. ``python -m irwrappers`` lists them.
"""

import importlib
import pkgutil

from irwrappers.intrinsic.allo import ALLO
from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.compose import Concat, Sum
from irwrappers.intrinsic.constant import ConstantReward
from irwrappers.intrinsic.counts import StateCount
from irwrappers.intrinsic.curiosity import ICM, Disagreement
from irwrappers.intrinsic.e3b import E3B
from irwrappers.intrinsic.episodic import NGU, PseudoCounts
from irwrappers.intrinsic.laplacian import ExactLaplacian
from irwrappers.intrinsic.noise import NoiseReward
from irwrappers.intrinsic.random_network import RandomNetworkReward
from irwrappers.intrinsic.re3 import RE3
from irwrappers.intrinsic.registry import INTRINSIC_REWARDS, make_intrinsic_reward, register
from irwrappers.intrinsic.ride import RIDE
from irwrappers.intrinsic.rnd import DRND, RND
from irwrappers.intrinsic.running import RunningStd
from irwrappers.intrinsic.visits import Visits

__all__ = [
    "ALLO",
    "DRND",
    "E3B",
    "ICM",
    "INTRINSIC_REWARDS",
    "NGU",
    "RE3",
    "RIDE",
    "RND",
    "Concat",
    "ConstantReward",
    "Disagreement",
    "ExactLaplacian",
    "IntrinsicReward",
    "NoiseReward",
    "PseudoCounts",
    "RandomNetworkReward",
    "RunningStd",
    "StateCount",
    "Sum",
    "Visits",
    "make_intrinsic_reward",
    "register",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
