"""Maps written as text, for the grid mazes and the MuJoCo mazes alike: reading their rows, and which cells can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Cell = tuple[int, int]  # (row, column)

# Left, down, right, up: the order of Gymnasium's FrozenLake, as (column, row) steps.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def named_or_given(given: Any, named: Mapping[str, Sequence[str]]) -> Any:
    """Return the rows of a map: those of the name ``given``, the lines of a string with line breaks, or ``given`` itself.

    Raises:
        KeyError: for a string that is neither a name in ``named`` nor has several lines.
    """
    if not isinstance(given, str):
        return given
    return given.strip("\n").split("\n") if "\n" in given and given not in named else named[given]


def check_rows(rows: Sequence[Sequence[Any]], kind: str, unit: str, allowed: Sequence[Any], legend: str) -> None:
    """Refuse rows of different lengths and unknown cells.

    Args:
        rows: the map, row by row.
        kind: what the error message calls the map.
        unit: what the error message counts in a row.
        allowed: the cells there are. Compared one by one, because a cell may be anything, unhashable too.
        legend: what the error message says the cells stand for.

    Raises:
        ValueError: naming the row and column.
    """
    allowed = list(allowed)
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"Every row of a {kind} has the same length: row 0 has {len(rows[0])} {unit}s, row {number} has {len(row)}."
            )
        for column, cell in enumerate(row):
            if cell not in allowed:
                raise ValueError(f"Unknown {unit} {cell!r} at row {number}, column {column}; use {legend}.")


def find_cells(rows: Sequence[Sequence[Any]], *kinds: Any) -> list[Cell]:
    """Return the (row, column) of every cell of the given kinds, row by row."""
    return [(number, column) for number, row in enumerate(rows) for column, cell in enumerate(row) if cell in kinds]


def walk_tables(walls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the free cells and where each move leads, for bool ``walls`` ``[rows, columns]`` with S free cells.

    Returns:
        cells: int ``[S, 2]``, (column, row) of each free cell, row by row.
        index: int ``[rows, columns]``, each cell's place in ``cells``, -1 for walls.
        next_state: int ``[S, 4]``, the cell after each move; a move into a wall or off the map stays.
    """
    cells = np.argwhere(~walls)[:, ::-1]
    index = np.full(walls.shape, -1)
    index[cells[:, 1], cells[:, 0]] = np.arange(len(cells))
    targets = cells[:, None, :] + np.array(MOVES)
    column, row = targets[..., 0], targets[..., 1]
    inside = (0 <= column) & (column < walls.shape[1]) & (0 <= row) & (row < walls.shape[0])
    target_index = np.where(inside, index[np.where(inside, row, 0), np.where(inside, column, 0)], -1)
    return cells, index, np.where(target_index >= 0, target_index, np.arange(len(cells))[:, None])


def reachable(next_state: np.ndarray, start: int) -> np.ndarray:
    """Return which states a walk from ``start`` can reach, bool ``[S]``; ``next_state`` is int ``[S, A]``."""
    reached = np.zeros(len(next_state), dtype=bool)
    frontier = np.array([start])
    while len(frontier):
        reached[frontier] = True
        frontier = np.unique(next_state[frontier])
        frontier = frontier[~reached[frontier]]
    return reached


def check_reachable(rows: Sequence[Sequence[Any]], walls: np.ndarray, starts: Sequence[Cell], goals: Sequence[Cell]) -> None:
    """Refuse a map in which a goal cannot be reached from a start over the sides (not the corners) of free cells.

    Raises:
        ValueError: naming the cells.
    """
    _, index, next_state = walk_tables(walls)
    for start in starts:
        reached = reachable(next_state, int(index[start]))
        for goal in goals:
            if not reached[index[goal]]:
                raise ValueError(
                    f"The goal {rows[goal[0]][goal[1]]!r} at row {goal[0]}, column {goal[1]} cannot be reached from the start "
                    f"{rows[start[0]][start[1]]!r} at row {start[0]}, column {start[1]}; open a path of free cells."
                )
