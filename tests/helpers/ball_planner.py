"""Paths through the MuJoCo mazes, and a controller that moves PointMaze's ball along one."""

from collections import deque

import numpy as np


def shortest_path(env):
    """Points (x, y) to visit, from the agent's cell to the goal: the centres of a shortest path's cells, then the goal."""
    maze = env.source.maze
    start = tuple(maze.cell_xy_to_rowcol(env.body.data.qpos[:2]))
    goal = tuple(maze.cell_xy_to_rowcol(env.source.goal))
    came_from, queue = {start: None}, deque([start])
    while goal not in came_from:
        row, column = cell = queue.popleft()
        for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if neighbour not in came_from and maze.maze_map[neighbour[0]][neighbour[1]] != 1:
                came_from[neighbour] = cell
                queue.append(neighbour)
    path, cell = [], goal
    while cell is not None:
        path.append(maze.cell_rowcol_to_xy(cell))
        cell = came_from[cell]
    return [*path[::-1], env.source.goal.copy()]


def towards(observation, target):
    """A spring and a damper, as forces in [-1, 1]."""
    return np.clip(4.0 * (target - observation[:2]) - 0.8 * observation[2:4], -1, 1).astype(np.float32)


def follow(env, observation, path):
    """Play one episode along ``path``; returns its rewards and the last step's (terminated, truncated, info)."""
    rewards, path = [], list(path)
    while True:
        if len(path) > 1 and np.linalg.norm(path[0] - observation[:2]) < 0.2:
            path.pop(0)
        observation, reward, terminated, truncated, info = env.step(towards(observation, path[0]))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, terminated, truncated, info
