"""The maps of the grid mazes: ``#`` wall, space free, ``S`` start, ``G`` goal.

``GRID_LAYOUTS`` holds them by name: those of IRPO (arXiv 2601.21391) and a ladder of rarer and rarer success.
:class:`GridLayout` checks a map and turns it into lookup tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.maps import check_reachable, check_rows, find_cells, named_or_given, walk_tables

GRID_LAYOUTS: dict[str, tuple[str, ...]] = {
    "FourRooms0": (
        "#############",
        "#    #      #",
        "#    #      #",
        "#        G  #",
        "#    #      #",
        "#    #      #",
        "## ###### ###",
        "#     #     #",
        "#     #     #",
        "#  S  #     #",
        "#           #",
        "#     #     #",
        "#############",
    ),
    "FourRooms1": (
        "#############",
        "#    #     G#",
        "#    #      #",
        "#           #",
        "#    #      #",
        "#    #      #",
        "## ###### ###",
        "#     #     #",
        "#     #     #",
        "#     #S    #",
        "#           #",
        "#     #     #",
        "#############",
    ),
    "Maze0": (
        "###########",
        "#     #   #",
        "# ### # # #",
        "#   # #G# #",
        "### # ### #",
        "# # # #   #",
        "# # # # ###",
        "# # # #   #",
        "# ### ### #",
        "#    S    #",
        "###########",
    ),
    "Maze1": (
        "###########",
        "#         #",
        "# ####### #",
        "#       # #",
        "# # ##### #",
        "# #   #  S#",
        "# # # # # #",
        "# # #   # #",
        "# # ##### #",
        "#G#       #",
        "###########",
    ),
    "Maze2": (
        "###########",
        "#   #     #",
        "# # # ### #",
        "# #   #   #",
        "# ### # ###",
        "#G#S# #   #",
        "### # ### #",
        "#   # #   #",
        "# ##### # #",
        "#       # #",
        "###########",
    ),
    # The ladder: with 200 steps each, uniformly random actions succeed in 3 % of the episodes of the first and 2e-6 of those
    # of the last, each 6 to 9 times as rarely as in the one before.
    "GridLadder1": (
        "#############",
        "#S  #   #   #",
        "#   #       #",
        "#       #   #",
        "#   #   #   #",
        "## ####### ##",
        "#   #   #   #",
        "#   #       #",
        "#   #   #   #",
        "#   #   #  G#",
        "#############",
    ),
    "GridLadder2": (
        "###########",
        "#S        #",
        "######### #",
        "#       # #",
        "# ##### # #",
        "# #   # # #",
        "# # # # # #",
        "# # #G  # #",
        "# # ##### #",
        "# #       #",
        "###########",
    ),
    "GridLadder3": (
        "#############",
        "#S    #   # #",
        "#     # # # #",
        "#       #   #",
        "#     ##### #",
        "##### #   # #",
        "#   # # # # #",
        "# #   # #   #",
        "# ##### #####",
        "#     #     #",
        "# ### # ### #",
        "#   #     #G#",
        "#############",
    ),
    "GridLadder4": (
        "#############",
        "#S        # #",
        "# ####### # #",
        "#   #   #   #",
        "### # # ### #",
        "#   #     # #",
        "# ###   # # #",
        "#   #   # # #",
        "### ### # # #",
        "# #   # #   #",
        "# ##### #####",
        "#          G#",
        "#############",
    ),
    "GridLadder5": (
        "#############",
        "#S          #",
        "# ######### #",
        "# #   #   # #",
        "# ### #   # #",
        "#     #   # #",
        "####### # # #",
        "#     # # # #",
        "###   # # # #",
        "#       #   #",
        "# ### #######",
        "#          G#",
        "#############",
    ),
    "GridLadder6": (
        "#############",
        "#S          #",
        "# # # # # # #",
        "########### #",
        "# # # # # # #",
        "#           #",
        "# ###########",
        "# # # # # # #",
        "#           #",
        "########### #",
        "#      G    #",
        "#############",
    ),
}

_LEGEND = "'#' (wall), ' ' (free), 'S', 'G'"


@dataclass(frozen=True)
class GridLayout:
    """A checked map as tables over its S free cells.

    Args:
        walls: bool ``[rows, columns]``.
        cells: int ``[S, 2]``, (column, row) of each free cell, row by row.
        next_state: int ``[S, 4]``, the cell after each move; a move into a wall or off the map stays.
        observations: float32 ``[S, 4]``, (column, row, goal column, goal row).
        start: index of the start cell.
        goal: index of the goal cell.
    """

    walls: np.ndarray
    cells: np.ndarray
    next_state: np.ndarray
    observations: np.ndarray
    start: int
    goal: int

    @classmethod
    def parse(cls, layout: str | Sequence[str]) -> GridLayout:
        """Build the tables of a map.

        Args:
            layout: a name in ``GRID_LAYOUTS``, rows of characters, or one string with line breaks.

        Raises:
            ValueError: for an unknown name or a malformed map, naming the row and column.
        """
        rows = _rows(layout)
        walls = np.array([list(row) for row in rows]) == "#"
        start_cell, goal_cell = _find(rows, "S", "start"), _find(rows, "G", "goal")
        check_reachable(rows, walls, [start_cell], [goal_cell])
        cells, index, next_state = walk_tables(walls)
        start, goal = int(index[start_cell]), int(index[goal_cell])
        observations = np.concatenate([cells, np.broadcast_to(cells[goal], cells.shape)], axis=1).astype(np.float32)
        return cls(walls, cells, next_state, observations, start, goal)


def _rows(layout: str | Sequence[str]) -> list[str]:
    try:
        rows = list(named_or_given(layout, GRID_LAYOUTS))
    except KeyError:
        raise ValueError(
            f"Unknown layout {layout!r}; expected one of {sorted(GRID_LAYOUTS)} or a map as a list of rows of "
            "'#', ' ', one 'S' and one 'G'."
        ) from None
    if not rows or not all(isinstance(row, str) for row in rows):
        raise ValueError(f"A layout is a non-empty list of strings, one for each row of the map; got {layout!r}.")
    check_rows(rows, "layout", "character", "# SG", _LEGEND)
    return rows


def _find(rows: list[str], letter: str, name: str) -> tuple[int, int]:
    places = find_cells(rows, letter)
    if len(places) != 1:
        where = ", ".join(f"row {number} column {column}" for number, column in places)
        raise ValueError(
            f"A layout has exactly one {name} {letter!r}; this one has {len(places)}" + (f": {where}." if where else ".")
        )
    return places[0]
