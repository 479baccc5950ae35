"""Sparse-reward tasks, registered with Gymnasium on import.

>>> import gymnasium as gym, envs
>>> env = gym.make("sparse/FourRooms0-v0")
>>> vector_env = gym.make_vec("sparse/Maze1-v0", num_envs=64)

``python -m envs`` lists them all.
"""

from envs.catalogue import CATALOGUE
from envs.grid.layouts import GRID_LAYOUTS

__all__ = ["CATALOGUE", "GRID_LAYOUTS"]

for _family in CATALOGUE.values():
    _family.register()
