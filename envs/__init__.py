"""Sparse-reward tasks, registered with Gymnasium on import.

>>> import gymnasium as gym, envs
>>> env = gym.make("sparse/FourRooms-v0")
>>> vector_env = gym.make_vec("sparse/Maze-v1", num_envs=64)
"""

import gymnasium as gym

from envs.layouts import GRID_LAYOUTS

# Steps an episode may last (IRPO, arXiv 2601.21391).
_GRID_HORIZONS = {"FourRooms": 100, "Maze": 200}


def _register() -> None:
    for name in GRID_LAYOUTS:
        gym.register(
            id=f"sparse/{name}",
            entry_point="envs.grid:GridMaze",
            vector_entry_point="envs.grid:GridMazeVectorEnv",
            max_episode_steps=_GRID_HORIZONS[name.rsplit("-", 1)[0]],
            kwargs={"layout": name},
        )


_register()
