"""Meta-World's 50 manipulation tasks with a 0/1 reward."""

from envs.meta_world.task import MetaWorldTask, benchmark_rand_vecs, check_task_name

__all__ = ["MetaWorldTask", "benchmark_rand_vecs", "check_task_name"]
