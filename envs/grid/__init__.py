"""Grid mazes: those of IRPO, a ladder of rarer and rarer success, and random ones."""

from envs.grid.grid_maze import GridMaze, GridMazeVectorEnv
from envs.grid.layouts import GRID_LAYOUTS, GridLayout
from envs.grid.random_maze import RandomMaze, RandomMazeVectorEnv

__all__ = ["GRID_LAYOUTS", "GridLayout", "GridMaze", "GridMazeVectorEnv", "RandomMaze", "RandomMazeVectorEnv"]
