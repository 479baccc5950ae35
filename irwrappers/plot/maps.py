"""The map behind a picture: walls and marks, read from attributes that an environment may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from irwrappers.intrinsic.base import environment_hook

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WALL, UNKNOWN, INK = "#2b2d3a", "#f1f1ee", "#1d1e26"
Axis = int | tuple[int, ...]  # the entry of an observation that an axis shows, or several that move together


@dataclass
class FloorPlan:
    """Cells of equal size, some of them walls.

    Args:
        walls: bool ``[rows, columns]``.
        x_edges: edges of the columns, ``[columns + 1]``.
        y_edges: edges of the rows, ``[rows + 1]``, descending where row 0 is at the top.
        grid: whether the agent moves from cell to cell, so that a cell is one state.
        marks: positions (x, y) by their labels.
    """

    walls: np.ndarray
    x_edges: np.ndarray
    y_edges: np.ndarray
    grid: bool
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def cell_of(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of positions ``[N, 2]`` of a grid.

        Raises:
            ValueError: a position lies in a wall or off the map.
        """
        column = np.rint(positions[:, 0] - self.x_edges[0] - 0.5).astype(int)
        row = np.rint(positions[:, 1] - self.y_edges[0] - 0.5).astype(int)
        rows, columns = self.walls.shape
        on_map = (0 <= row) & (row < rows) & (0 <= column) & (column < columns)
        free = on_map & ~self.walls[row.clip(0, rows - 1), column.clip(0, columns - 1)]
        if not free.all():
            wrong = positions[~free][0].tolist()
            raise ValueError(
                f"Position {wrong} is in a wall or off the map of {rows} by {columns} cells; are these the observations of "
                "that environment, and the right indices?"
            )
        return row, column


def hook(env: Any, name: str) -> Any:
    """Return attribute ``name`` of an environment (the first, of several), or ``None`` if it has none."""
    if env is None:
        return None
    if isinstance(env, VecEnv):
        return environment_hook(env, name)
    if isinstance(env, gym.Env):
        return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
    if isinstance(env, gym.vector.VectorEnv):
        return getattr(env.unwrapped, name, None)
    raise TypeError(f"Expected a Gymnasium environment or an SB3 VecEnv, got {type(env).__name__}.")


def transition_graph(env: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the observations of all states ``[S, …]`` and next states ``[S, A]``, if the environment can list them."""
    if isinstance(env, VecEnv):
        has = env.has_attr("transition_graph")
        return env.env_method("transition_graph", indices=[0])[0] if has else None
    graph = hook(env, "transition_graph")
    return None if graph is None else graph()


def choose_axes(indices: Sequence[Axis] | None, env: Any) -> tuple[Axis, Axis] | None:
    """Return the two axes: as given, or the environment's ``position_indices``."""
    chosen = hook(env, "position_indices") if indices is None else indices
    if chosen is None:
        return None
    axes = tuple(chosen)[:2] if indices is None else tuple(chosen)
    if len(axes) != 2:
        raise ValueError(f"indices must be two entries of an observation, one for each axis; got {chosen!r}.")
    first, second = (int(axis) if np.ndim(axis) == 0 else tuple(int(i) for i in np.ravel(axis)) for axis in axes)
    return first, second


def entry(axis: Axis) -> int:
    """Return the (first) entry of an observation that an axis shows."""
    return axis if isinstance(axis, int) else axis[0]


def entries(observations: Any, axes: tuple[Axis, Axis]) -> np.ndarray:
    """Return the entries of both axes ``[N, 2]`` of observations ``[N, d]``."""
    numbers = np.asarray(observations)
    if numbers.ndim != 2 or numbers.dtype == object:
        raise ValueError(
            f"Expected observations [N, d] with entries to choose from, got shape {numbers.shape}; give positions [N, 2] "
            "beside observations of another kind."
        )
    chosen = [entry(axis) for axis in axes]
    if not all(0 <= i < numbers.shape[1] for i in chosen):
        raise ValueError(f"indices {chosen} must lie in 0 … {numbers.shape[1] - 1}, the entries of an observation.")
    return numbers[:, chosen].astype(np.float64)


def check_positions(positions: Any) -> np.ndarray:
    """Return positions as float64 ``[N, 2]``, or raise ``ValueError``."""
    places = np.asarray(positions, dtype=np.float64).reshape(-1, np.shape(positions)[-1] if np.ndim(positions) else 0)
    if places.shape[1] != 2 or not len(places) or not np.isfinite(places).all():
        raise ValueError(f"Expected finite positions [..., 2], at least one, got shape {np.shape(positions)}.")
    return places


def is_lattice(positions: np.ndarray) -> bool:
    """Return whether positions are whole numbers, so that each is a cell of a grid."""
    return bool((positions == np.rint(positions)).all() and np.ptp(positions, axis=0).max() < 1000)


def lattice_plan(positions: np.ndarray, margin: int = 0) -> FloorPlan:
    """Return a map whose free cells are at these positions, with ``margin`` rows and columns of walls around."""
    low = np.rint(positions.min(0)).astype(int) - margin
    columns, rows = np.rint(positions.max(0)).astype(int) + margin + 1 - low
    column, row = (np.rint(positions).astype(int) - low).T
    walls = np.ones((rows, columns), dtype=bool)
    walls[row, column] = False
    return FloorPlan(walls, low[0] - 0.5 + np.arange(columns + 1), low[1] - 0.5 + np.arange(rows + 1), grid=True)


def floor_plan(env: Any, axes: tuple[Axis, Axis] | None) -> FloorPlan | None:
    """Return the map of ``env``, if it has one and ``axes`` are the agent's position on it."""
    own = choose_axes(None, env)
    if (
        axes is not None
        and own is not None
        and not all(entry(i) in np.atleast_1d(axis) for i, axis in zip(own, axes, strict=True))
    ):
        return None  # other entries of the observation: no map
    graph = transition_graph(env)
    if graph is not None and (axes or own) is not None:
        positions = entries(graph[0], axes or own)  # type: ignore[arg-type]
        if is_lattice(positions):
            plan = lattice_plan(positions, margin=1)
            plan.marks = _marks(hook(env, "layout"))
            return plan
    maze = hook(env, "maze") or getattr(hook(env, "source"), "maze", None)
    return None if not hasattr(maze, "maze_map") else _mujoco_plan(maze)


def _marks(layout: Any) -> dict[str, tuple[float, float]]:
    if not all(hasattr(layout, name) for name in ("cells", "start", "goal")):
        return {}
    return {name: tuple(map(float, layout.cells[getattr(layout, which)])) for name, which in (("S", "start"), ("G", "goal"))}  # type: ignore[misc]


def _mujoco_plan(maze: Any) -> FloorPlan:
    """Return the map of one of Gymnasium-Robotics' mazes, whose row 0 is at the largest y."""
    walls = np.array([[str(cell) == "1" for cell in row] for row in maze.maze_map])
    x = np.arange(walls.shape[1] + 1) * maze.maze_size_scaling - maze.x_map_center
    y = maze.y_map_center - np.arange(walls.shape[0] + 1) * maze.maze_size_scaling
    marks = {}
    for name, sign in (("S", "r"), ("G", "g")):  # where a maze has exactly one start and one goal
        places = np.argwhere([[str(cell) == sign for cell in row] for row in maze.maze_map])
        if len(places) == 1:
            row, column = places[0]
            marks[name] = (float(x[column : column + 2].mean()), float(y[row : row + 2].mean()))
    return FloorPlan(walls, x, y, grid=False, marks=marks)


def axis_names(axes: tuple[Axis, Axis] | None, plan: FloorPlan | None, names: Sequence[str] | None) -> tuple[str, str]:
    """Return the labels of the two axes: ``names``, or what they show."""
    if names is not None:
        if len(names) != 2:
            raise ValueError(f"names must be two, one for each axis, got {names!r}.")
        return names[0], names[1]
    words = ("x", "y") if plan is None or not plan.grid else ("column", "row")
    if axes is None:
        return words
    labels = [f"observation[{entry(axis)}]" for axis in axes]
    return (labels[0], labels[1]) if plan is None else (f"{words[0]}  ({labels[0]})", f"{words[1]}  ({labels[1]})")


def dress(axes: Axes, plan: FloorPlan | None, labels: tuple[str, str], title: str) -> None:
    """Add walls, marks, labels and limits to a map."""
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_title(title, fontsize=11)
    axes.set_facecolor(UNKNOWN)
    for spine in axes.spines.values():
        spine.set_color("#8a8c96")
    if plan is None:
        return
    from matplotlib.colors import ListedColormap
    from matplotlib.patheffects import withStroke

    walls = np.ma.masked_where(~plan.walls, np.ones(plan.walls.shape))
    axes.pcolormesh(plan.x_edges, plan.y_edges, walls, cmap=ListedColormap([WALL]), zorder=2)
    for name, (x, y) in plan.marks.items():
        outline = [withStroke(linewidth=2.5, foreground="white")]
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "fontweight": "bold", "zorder": 3}
        axes.text(x, y, name, color=INK, path_effects=outline, **style)
    axes.set_aspect("equal")
    axes.set_xlim(plan.x_edges.min(), plan.x_edges.max())
    axes.set_ylim(plan.y_edges.min(), plan.y_edges.max())
    if plan.grid:
        from matplotlib.ticker import MaxNLocator

        axes.invert_yaxis()  # rows are counted downwards
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def add_color_bar(panel: Axes, image: Any, label: str, counts: bool = False) -> None:
    """Add a colour bar as high as the panel, also where the panel is true to scale.

    Args:
        panel: the axes.
        image: what the colours belong to.
        label: of the bar.
        counts: format the values as counts.
    """
    assert panel.figure is not None
    bar = panel.figure.colorbar(image, cax=panel.inset_axes((1.04, 0.0, 0.05, 1.0)), label=label)
    if counts:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import EngFormatter, MaxNLocator

        if isinstance(image.norm, LogNorm):
            bar.formatter = EngFormatter(sep="")
        else:
            bar.locator = MaxNLocator(nbins=8, integer=True)
        bar.update_ticks()


def panel_size(x_edges: np.ndarray, y_edges: np.ndarray, to_scale: bool) -> tuple[float, float]:
    """Return width and height in inches of a panel with its colour bar, true to scale for a map."""
    ratio = np.ptp(y_edges) / np.ptp(x_edges) if to_scale else 0.8
    return 4.9, float(np.clip(3.6 * ratio, 2.0, 6.5)) + 0.9
