"""Sampling of solvable mazes: ``MazeMaker``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.maps import MOVES


class Maze(NamedTuple):
    """A maze of rows × columns cells, numbered row by row.

    Args:
        walls: bool ``[rows · columns]``.
        start: number of the start cell.
        goal: number of the goal cell.
    """

    walls: np.ndarray
    start: int
    goal: int


class MazeMaker:
    """Sampler of mazes of one size and density, every one solvable.

    Rooms are the cells of odd row and odd column. A depth-first walk from a random room, backing up where it is stuck,
    opens walls until all rooms are connected by exactly one path: a perfect maze, of long corridors. Of the inner walls that
    are left the share 1 - ``density``, sampled at random, is then opened as well, and a post that no wall touches any more
    goes too. The start is any room; the goal is any of that half of the rooms which is farthest from it.

    Args:
        size: rows and columns of the map, its border included: one odd number of at least 5 or two.
        density: share of the inner walls of a perfect maze that is kept; 1 is the perfect maze, 0 an empty hall.
    """

    def __init__(self, size: int | tuple[int, int], density: float) -> None:
        sizes = (size, size) if isinstance(size, (int, np.integer)) else size
        if (
            not isinstance(sizes, Sequence)
            or len(sizes) != 2
            or not all(isinstance(n, (int, np.integer)) and n >= 5 and n % 2 for n in sizes)
        ):
            raise ValueError(
                f"size must be an odd number of at least 5, or two, (rows, columns): rooms and walls alternate; got {size!r}."
            )
        if not (isinstance(density, (int, float, np.integer, np.floating)) and 0 <= density <= 1):
            raise ValueError(f"density, the share of inner walls that is kept, must be in [0, 1]; got {density!r}.")
        rows, columns = int(sizes[0]), int(sizes[1])
        self.shape = (rows, columns)
        self.density = float(density)
        self.moves = np.array([column + row * columns for column, row in MOVES])
        numbers = np.arange(rows * columns).reshape(self.shape)
        self._all_walls = np.ones(rows * columns, dtype=bool)
        self._all_walls[numbers[1::2, 1::2]] = False
        self._posts = numbers[2:-1:2, 2:-1:2].ravel()
        self._inner_walls = np.concatenate([numbers[1::2, 2:-1:2].ravel(), numbers[2:-1:2, 1::2].ravel()])
        # For each room its neighbours, as (room, the wall between), rooms numbered among themselves.
        self._rooms: list[int] = numbers[1::2, 1::2].ravel().tolist()
        number = {cell: room for room, cell in enumerate(self._rooms)}
        self._neighbours = [
            [(number[cell + 2 * move], cell + move) for move in self.moves.tolist() if cell + 2 * move in number]
            for cell in self._rooms
        ]

    def sample(self, rng: np.random.Generator) -> Maze:
        """Return a maze sampled with ``rng``."""
        n = len(self._rooms)
        uniform: list[float] = rng.random(n + 2).tolist()  # one call: a generator's call costs more than a room
        walls = self._all_walls.copy()
        walls[self._tree(uniform)] = False
        if self.density < 1:
            removable = self._inner_walls[walls[self._inner_walls]]
            walls[rng.permutation(removable)[round(self.density * len(removable)) :]] = False
            beside = self._posts[:, None] + self.moves
            walls[self._posts] = walls[beside].any(axis=1)
        start = int(uniform[n] * n)
        order = self._by_distance(start, walls.tolist())
        goal = order[n // 2 + int(uniform[n + 1] * (n - n // 2))]
        return Maze(walls, self._rooms[start], self._rooms[goal])

    def _tree(self, uniform: list[float]) -> list[int]:
        """Return the walls that a depth-first walk through all rooms opens; ``uniform`` decides its turns."""
        room = int(uniform[0] * len(self._rooms))
        visited = [False] * len(self._rooms)
        visited[room] = True
        path, opened = [room], []
        for number in uniform[1 : len(self._rooms)]:
            while not (new := [way for way in self._neighbours[room] if not visited[way[0]]]):
                path.pop()
                room = path[-1]
            room, wall = new[int(number * len(new))]
            visited[room] = True
            path.append(room)
            opened.append(wall)
        return opened

    def _by_distance(self, start: int, is_wall: list[bool]) -> list[int]:
        """Return all rooms, the nearest to ``start`` first."""
        seen = [False] * len(self._rooms)
        seen[start] = True
        order = [start]
        for room in order:  # grows on the way
            for neighbour, wall in self._neighbours[room]:
                if not seen[neighbour] and not is_wall[wall]:
                    seen[neighbour] = True
                    order.append(neighbour)
        return order
