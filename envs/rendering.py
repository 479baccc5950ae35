"""Frames of the environments that have no simulator with a renderer."""

from __future__ import annotations

import numpy as np

TILE = 16  # pixels a cell
WALL_COLOR, FLOOR_COLOR, GOAL_COLOR, AGENT_COLOR = (40, 42, 54), (240, 240, 236), (72, 170, 96), (52, 101, 214)


def render_grid(walls: np.ndarray, goal: np.ndarray, agent: np.ndarray | None) -> np.ndarray:
    """Return one frame of a grid, uint8 ``[rows · TILE, columns · TILE, 3]``.

    Args:
        walls: bool ``[rows, columns]``.
        goal: (column, row) of the goal.
        agent: (column, row) of the agent, or ``None`` to leave it out.
    """
    image = np.where(walls[..., None], np.array(WALL_COLOR, dtype=np.uint8), np.array(FLOOR_COLOR, dtype=np.uint8))
    image[goal[1], goal[0]] = GOAL_COLOR
    frame = image.repeat(TILE, axis=0).repeat(TILE, axis=1)
    if agent is None:
        return frame
    left, top = agent * TILE
    margin = TILE // 4
    frame[top + margin : top + TILE - margin, left + margin : left + TILE - margin] = AGENT_COLOR
    return frame
