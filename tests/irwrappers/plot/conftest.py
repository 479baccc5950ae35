"""Mazes of which figures are made."""

import gymnasium as gym
import pytest
from helpers.plotted import LAYOUT

import envs  # noqa: F401 (registers sparse/…)


@pytest.fixture(scope="module")
def maze():
    return gym.make("sparse/Maze1-v0", layout=LAYOUT)


@pytest.fixture(scope="module")
def point_maze():
    return gym.make("sparse/PointMaze1-v0")
