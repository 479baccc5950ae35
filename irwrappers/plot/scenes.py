"""The states in a picture of a reward, and their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch.utils._pytree import tree_leaves, tree_map

from irwrappers.plot.maps import (
    Axis,
    FloorPlan,
    check_positions,
    entries,
    entry,
    floor_plan,
    is_lattice,
    lattice_plan,
    transition_graph,
)


@dataclass
class Scene:
    """The N states of a picture and their positions, in a mesh of cells or as points.

    Args:
        observations: of the states, ``[N, …]`` or a dict of such.
        positions: ``[N, 2]``.
        plan: the map, or ``None``.
        axes: entries of an observation that the axes show, or ``None``.
        x_edges: edges of the mesh's columns, or the limits of points.
        y_edges: edges of the mesh's rows, or the limits of points.
        cells: row and column of each state in the mesh; ``None`` for points.
        from_graph: whether these are all states of the environment's ``transition_graph()``.
    """

    observations: Any
    positions: np.ndarray
    plan: FloorPlan | None
    axes: tuple[Axis, Axis] | None
    x_edges: np.ndarray
    y_edges: np.ndarray
    cells: tuple[np.ndarray, np.ndarray] | None
    from_graph: bool = False

    @classmethod
    def of_states(cls, observations: Any, positions: np.ndarray, env: Any, axes: Any, from_graph: bool = False) -> Scene:
        """Return the scene of given states: on the map of ``env``, on a grid of whole numbers, or as points."""
        plan = grid = floor_plan(env, axes)
        if plan is None and is_lattice(positions):
            grid = lattice_plan(positions)
        if grid is None:
            x, y = (np.array([column.min(), column.max()]) for column in positions.T)
            return cls(observations, positions, plan, axes, x, y, None, from_graph)
        cells = grid.cell_of(positions) if grid.grid else None
        return cls(observations, positions, plan, axes, grid.x_edges, grid.y_edges, cells, from_graph)

    def mesh(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of the values in each cell, ``[rows, columns]``, NaN where there is no state."""
        assert self.cells is not None
        shape = (len(self.y_edges) - 1, len(self.x_edges) - 1)
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, self.cells, values)
        np.add.at(count, self.cells, 1)
        return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def make_scene(
    space: spaces.Space,
    env: Any,
    observations: Any,
    positions: Any,
    axes: tuple[Axis, Axis] | None,
    ranges: Sequence[tuple[float, float]] | None,
    base: Any,
    resolution: int,
) -> Scene:
    """Return the states that :func:`~irwrappers.plot.plot_reward` shows; the arguments are explained there."""
    if observations is not None:
        if positions is None:
            axes = axes or (0, 1)
            return Scene.of_states(observations, entries(observations, axes), env, axes)
        places = check_positions(positions)
        n = len(tree_leaves(observations)[0])
        if len(places) != n:
            raise ValueError(f"Expected a position for each of the {n} observations, got {len(places)}.")
        return Scene.of_states(observations, places, env, None)
    if positions is not None:
        raise ValueError("positions belong to observations; give observations too.")
    graph = transition_graph(env)
    if graph is not None and ranges is None and np.ndim(graph[0]) == 2:
        places = entries(graph[0], axes or (0, 1))
        if is_lattice(places):
            return Scene.of_states(graph[0], places, env, axes or (0, 1), from_graph=True)
    return _slice(space, env, axes, ranges, base, resolution)


def _slice(
    space: spaces.Space,
    env: Any,
    axes: tuple[Axis, Axis] | None,
    ranges: Sequence[tuple[float, float]] | None,
    base: Any,
    resolution: int,
) -> Scene:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"A slice needs one-dimensional Box observations, this reward has {space}; give observations and positions."
        )
    origin = np.asarray(base_observation(env, base, None), dtype=space.dtype)
    if origin.shape != space.shape:
        raise ValueError(f"base must be an observation of shape {space.shape}, got shape {origin.shape}.")
    axes = _with_repeats(axes or (0, 1), origin)
    both = np.concatenate([np.atleast_1d(axis) for axis in axes])
    if both.min() < 0 or both.max() >= len(origin) or len(set(both.tolist())) < len(both):
        raise ValueError(f"indices must be different entries in 0 … {len(origin) - 1}, got {axes}.")
    plan = floor_plan(env, axes)
    if ranges is not None:
        plan = plan if plan is None or not plan.grid else None
        limits = [(float(low), float(high)) for low, high in ranges]
    elif plan is not None:
        limits = [(edges.min(), edges.max()) for edges in (plan.x_edges, plan.y_edges)]
    else:
        limits = [(float(space.low[entry(axis)]), float(space.high[entry(axis)])) for axis in axes]
    if len(limits) != 2 or not all(np.isfinite(limit).all() and limit[0] < limit[1] for limit in limits):
        raise ValueError(
            f"Entries {[entry(axis) for axis in axes]} can't be shown over {limits}: expected two finite (low, high) with "
            "low < high. Give ranges where the observation space has no bounds."
        )
    x_edges, y_edges = (np.linspace(low, high, resolution + 1) for low, high in limits)
    x, y = ((edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges))
    row, column = (index.ravel() for index in np.indices((resolution, resolution)))
    observations = np.repeat(origin[None], resolution**2, axis=0)
    for axis, points in ((axes[0], x[column]), (axes[1], y[row])):
        observations[:, np.atleast_1d(axis)] = points[:, None]
    return Scene(observations, np.column_stack([x[column], y[row]]), plan, axes, x_edges, y_edges, (row, column))


def _with_repeats(axes: tuple[Axis, Axis], origin: np.ndarray) -> tuple[Axis, Axis]:
    """Add entries that are equal to the position: a state in which only one of them varies does not exist."""
    if not all(isinstance(axis, int) and axis < len(origin) and origin[axis] % 1 != 0 for axis in axes):
        return axes
    first, second = (np.flatnonzero(origin == origin[entry(axis)]).tolist() for axis in axes)
    if set(first) & set(second):
        return axes
    return _first(axes[0], first), _first(axes[1], second)


def _first(axis: Axis, repeats: list[int]) -> Axis:
    return (entry(axis), *(i for i in repeats if i != entry(axis)))


def base_observation(env: Any, base: Any, graph_states: Any) -> Any:
    """Return the observation to start from: as given, of a reset, or the first of ``graph_states``."""
    if base is not None:
        return base
    if isinstance(env, gym.Env):
        return env.reset()[0]
    if graph_states is not None:
        return tree_map(lambda x: np.asarray(x)[0], graph_states)
    raise ValueError("Give base, the observation of a single environment to start from, or a single env to reset.")


def under_walls(scene: Scene) -> np.ndarray:
    """Return the cells of a slice whose centres are in a wall of the map or off it, bool ``[rows, columns]``."""
    assert scene.plan is not None
    plan = scene.plan
    x, y = ((edges[1:] + edges[:-1]) / 2 for edges in (scene.x_edges, scene.y_edges))
    column = np.searchsorted(plan.x_edges, x) - 1
    row = np.searchsorted(-plan.y_edges, -y) - 1
    inside_x, inside_y = ((0 <= i) & (i < size) for i, size in ((column, plan.walls.shape[1]), (row, plan.walls.shape[0])))
    walls = plan.walls[row.clip(0, plan.walls.shape[0] - 1)][:, column.clip(0, plan.walls.shape[1] - 1)]
    return walls | ~(inside_y[:, None] & inside_x[None, :])
