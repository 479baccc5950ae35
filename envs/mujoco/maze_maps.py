"""The maps of the MuJoCo mazes: ``1`` wall, ``0`` free, ``r`` start, ``g`` goal, ``c`` start or goal.

The letters are those of Gymnasium-Robotics. ``MAZE_MAPS`` holds the maps by name: those of IRPO (arXiv 2601.21391) and a
ladder of rarer and rarer success. :func:`parse_maze_map` checks a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.action_checks import did_you_mean
from envs.maps import check_reachable, check_rows, find_cells, named_or_given

MAZE_MAPS: dict[str, tuple[str, ...]] = {
    "PointMaze0": (
        "111111",
        "1r1g01",
        "101101",
        "100001",
        "111111",
    ),
    "PointMaze1": (
        "111111",
        "1g0001",
        "111101",
        "1r0001",
        "111111",
    ),
    # The ladder: an untrained policy succeeds in 4 % of the episodes of the first, and about 5 to 15 times as rarely in each
    # as in the one before. The last is too rare for the measurement in untrained.csv (no success in 82 000 episodes); rough
    # estimates by multilevel splitting along the path's cells lie around 1e-6, and at 2e-5 for the fifth.
    "PointLadder1": (
        "1111111",
        "1r00001",
        "1011101",
        "1010001",
        "10101g1",
        "1111111",
    ),
    "PointLadder2": (
        "1111111",
        "1r00001",
        "1011101",
        "101g001",
        "1010101",
        "1111111",
    ),
    "PointLadder3": (
        "1111111",
        "1r00001",
        "1010111",
        "1010001",
        "1011101",
        "1000101",
        "11111g1",
        "1111111",
    ),
    "PointLadder4": (
        "11111111",
        "1r000001",
        "11111101",
        "10010001",
        "10000111",
        "1011g001",
        "11111111",
    ),
    "PointLadder5": (
        "111111111",
        "1r0000001",
        "111111101",
        "100100001",
        "100001111",
        "1011g0001",
        "111111111",
    ),
    "PointLadder6": (
        "11111111",
        "1r001001",
        "10001011",
        "11101001",
        "10001001",
        "10111111",
        "10000001",
        "111111g1",
        "11111111",
    ),
    "AntMaze0": (
        "1111",
        "1r11",
        "10g1",
        "1111",
    ),
    "AntMaze1": (
        "11111",
        "1r0g1",
        "11111",
    ),
    "AntMaze2": (
        "11111",
        "1g111",
        "100r1",
        "11111",
    ),
    "AntMaze3": (
        "11111",
        "1r011",
        "110g1",
        "11111",
    ),
    "AntMaze4": (
        "11111",
        "1r111",
        "10111",
        "100g1",
        "11111",
    ),
    "AntMaze5": (
        "11111",
        "1g011",
        "11011",
        "110r1",
        "11111",
    ),
}

WALL, FREE, START, GOAL, EITHER = 1, 0, "r", "g", "c"
_CELLS: dict[Any, int | str] = {1: WALL, 0: FREE, "1": WALL, "0": FREE, "r": START, "g": GOAL, "c": EITHER}
_LEGEND = "1 (wall), 0 (free), 'r' (start), 'g' (goal), 'c' (start or goal)"


def parse_maze_map(maze_map: str | Sequence[Sequence[int | str]]) -> list[list[int | str]]:
    """Return a map in Gymnasium-Robotics' form, checked.

    Args:
        maze_map: a name in ``MAZE_MAPS``; rows, each a string or a sequence of cells; or one string with line breaks.

    Raises:
        ValueError: for an unknown name, or for a map that is ragged, open at its border, without a start or a goal, or in
            which a goal can't be reached from a start; naming the row and column.
    """
    cells = _cells(maze_map)
    _check_border(cells)
    starts, goals = find_cells(cells, START, EITHER), find_cells(cells, GOAL, EITHER)
    if not starts:
        raise ValueError("A maze map has at least one start; mark a free cell with 'r' (or 'c', start or goal).")
    if not goals:
        raise ValueError("A maze map has at least one goal; mark a free cell with 'g' (or 'c', start or goal).")
    if starts == goals and len(starts) == 1:
        row, column = starts[0]
        raise ValueError(
            f"The only start is the only goal: 'c' at row {row}, column {column}; mark another cell 'r', 'g' or 'c'."
        )
    check_reachable(cells, np.array([[cell == WALL for cell in row] for row in cells]), starts, goals)
    return cells


def _cells(maze_map: Any) -> list[list[int | str]]:
    try:
        rows = [list(row) for row in named_or_given(maze_map, MAZE_MAPS)]
    except KeyError:
        hint = did_you_mean(maze_map, MAZE_MAPS, f"There are {', '.join(MAZE_MAPS)}.")
        raise ValueError(f"Unknown maze_map {maze_map!r}. {hint} A map of your own is a list of rows of {_LEGEND}.") from None
    except TypeError:
        rows = []
    if not rows or not rows[0]:
        raise ValueError(f"A maze map is a non-empty list of rows of {_LEGEND}; got {maze_map!r}.")
    check_rows(rows, "maze map", "cell", list(_CELLS), _LEGEND)
    return [[_CELLS[cell] for cell in row] for row in rows]


def _check_border(cells: list[list[int | str]]) -> None:
    last_row, last_column = len(cells) - 1, len(cells[0]) - 1
    for row, column in find_cells(cells, FREE, START, GOAL, EITHER):
        if row in (0, last_row) or column in (0, last_column):
            raise ValueError(
                f"The border of a maze map is wall; the cell at row {row}, column {column} is {cells[row][column]!r}. "
                "Put 1s around the map."
            )
