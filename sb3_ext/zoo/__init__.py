"""rl_zoo3 with our algorithms, environments and hyperparameters: ``python -m sb3_ext.train`` and ``… .enjoy``."""

from sb3_ext.zoo.cli import enjoy, train

__all__ = ["enjoy", "train"]
