"""rl_zoo3 with our algorithms, environments and hyperparameters, behind ``python -m sb3_ext.train`` and the other commands."""

from sb3_ext.zoo.environments import import_envs

import_envs()  # first: the modules below import `envs`, and another folder of that name should be reported as such

from sb3_ext.zoo.algorithms import AlgorithmEntry, find_algorithm, register_algorithm, registered_algorithms  # noqa: E402
from sb3_ext.zoo.cli import enjoy, train  # noqa: E402

__all__ = ["AlgorithmEntry", "enjoy", "find_algorithm", "register_algorithm", "registered_algorithms", "train"]
