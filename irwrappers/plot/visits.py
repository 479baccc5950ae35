"""Plot how often an agent visited each place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from irwrappers.plot.figures import finish, new_figure
from irwrappers.plot.maps import (
    Axis,
    FloorPlan,
    add_color_bar,
    axis_names,
    check_positions,
    choose_axes,
    dress,
    entries,
    floor_plan,
    is_lattice,
    lattice_plan,
    panel_size,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_visits(
    observations: Any,
    indices: Sequence[Axis] | None = None,
    env: Any = None,
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
    bins: int = 60,
    log: bool = True,
    names: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 4,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot how often each place was visited: the cells of a grid, or bins of a plane.

    Args:
        observations: positions ``[…, 2]`` or observations ``[…, d]``, with any leading axes, such as time and environments.
            Or a mapping from names to such, to compare agents or moments: a panel each, with percentages of its visits.
        indices: the two entries of an observation that are the position; by default ``position_indices`` of ``env``. Positions
            ``[…, 2]`` need none.
        env: the environment, for its map.
        ranges: (low, high) of each axis; by default those of the map, or of the visits. Visits outside are not counted, and
            the title has their number. Grids are always shown whole.
        bins: number of bins along each axis, where positions are not whole numbers; on a map, along its longer side.
        log: logarithmic colours, if a place has 10 visits or more.
        names: of the two axes.
        title: above the number of visits, or above all panels.
        columns: of panels, for a mapping.
        path: file to save the picture in.

    Returns:
        the figure; ``figure.axes[0].collections[0].get_array()`` are the counts ``[rows, columns]``, masked where 0; of a
        mapping they are percentages, the i-th panel's at ``figure.axes[i]``.

    Raises:
        ValueError: positions that are not finite, or not on the environment's grid.
    """
    several = observations if isinstance(observations, Mapping) else {"": observations}
    if not several:
        raise ValueError("observations is an empty mapping; give at least one name with its observations.")
    agents, axes = {}, None
    for name, given in several.items():
        agents[name], axes = _positions(given, indices, env)
    plan = floor_plan(env, axes)
    fields = _fields(np.concatenate(list(agents.values())), plan, ranges, bins)
    counts = {name: fields.visits(positions) for name, positions in agents.items()}
    labels = axis_names(axes, plan, names)
    if isinstance(observations, Mapping):
        return finish(_plot_shares(counts, fields, plan, labels, log, title, columns), path)
    if fields.grid is None:
        places = f"{np.count_nonzero(counts['']):,} bins"
    elif plan is None:
        places = "of whole-numbered places"
    else:
        places = f"{np.count_nonzero(counts['']):,} of {np.count_nonzero(~plan.walls):,} cells"
    return finish(_plot(counts[""], fields, plan, labels, len(agents[""]), places, log, title), path)


class _Fields(NamedTuple):
    """The cells of ``grid``, or else the bins between the edges, in which visits are counted."""

    x_edges: np.ndarray
    y_edges: np.ndarray
    grid: FloorPlan | None

    def visits(self, positions: np.ndarray) -> np.ndarray:
        """Return the visits ``[rows, columns]`` of positions ``[N, 2]``."""
        if self.grid is None:
            histogram = np.histogram2d(positions[:, 1], positions[:, 0], bins=(self.y_edges, self.x_edges))[0]
            return histogram.astype(np.int64)
        counts = np.zeros(self.grid.walls.shape, dtype=np.int64)
        np.add.at(counts, self.grid.cell_of(positions), 1)
        return counts


def _positions(observations: Any, indices: Sequence[Axis] | None, env: Any) -> tuple[np.ndarray, tuple[Axis, Axis] | None]:
    """Return positions ``[N, 2]`` and their entries of an observation, ``None`` if positions were given."""
    numbers = np.asarray(observations)
    axes = choose_axes(indices, env if numbers.shape[-1:] != (2,) else None)
    if axes is not None:
        return check_positions(entries(numbers.reshape(-1, numbers.shape[-1]), axes)), axes
    if numbers.ndim == 0 or numbers.shape[-1] != 2:
        raise ValueError(
            f"Observations of shape {numbers.shape} are no positions [..., 2]; give indices, the two entries that are, or "
            "an env with position_indices."
        )
    return check_positions(numbers), None


def _fields(positions: np.ndarray, plan: FloorPlan | None, ranges: Any, bins: int) -> _Fields:
    grid = plan if plan is not None and plan.grid else None
    if grid is None and plan is None and ranges is None and is_lattice(positions):
        grid = lattice_plan(positions)
    if grid is not None:
        return _Fields(grid.x_edges, grid.y_edges, grid)
    x_limits, y_limits = _limits(positions, plan, ranges)
    n_x, n_y = bins, bins
    if plan is not None:  # true to scale: square bins
        span_x, span_y = np.ptp(x_limits), np.ptp(y_limits)
        n_x, n_y = (max(1, round(bins * span / max(span_x, span_y))) for span in (span_x, span_y))
    return _Fields(np.linspace(*x_limits, n_x + 1), np.linspace(*y_limits, n_y + 1), None)


def _limits(positions: np.ndarray, plan: Any, ranges: Any) -> list[tuple[float, float]]:
    if ranges is not None:
        limits = [(float(low), float(high)) for low, high in ranges]
        if len(limits) != 2 or not all(np.isfinite(limit).all() and limit[0] < limit[1] for limit in limits):
            raise ValueError(f"ranges must be two (low, high), finite, low < high; got {ranges!r}.")
        return limits
    if plan is not None:
        return [(edges.min(), edges.max()) for edges in (plan.x_edges, plan.y_edges)]
    low, high = positions.min(0), positions.max(0)
    pad = np.where(high > low, 0.0, 0.5)  # all in one line
    return list(zip(low - pad, high + pad, strict=True))


def _plot(
    counts: np.ndarray,
    fields: _Fields,
    plan: FloorPlan | None,
    labels: tuple[str, str],
    n_visits: int,
    places: str,
    log: bool,
    title: str | None,
) -> Figure:
    from matplotlib.colors import LogNorm, Normalize

    figure = new_figure(*panel_size(fields.x_edges, fields.y_edges, plan is not None))
    panel = figure.subplots()
    most = max(int(counts.max()), 1)
    norm = LogNorm(1, most) if log and most >= 10 else Normalize(0, most)
    image = panel.pcolormesh(fields.x_edges, fields.y_edges, np.ma.masked_equal(counts, 0), cmap="YlGnBu", norm=norm)
    outside = n_visits - int(counts.sum())
    text = f"{n_visits:,} visits, {places}" + (f", {outside:,} visits outside" if outside else "")
    dress(panel, plan, labels, text if title is None else f"{title}\n{text}")
    add_color_bar(panel, image, "visits", counts=True)
    return figure


def _plot_shares(
    counts: dict[str, np.ndarray],
    fields: _Fields,
    plan: FloorPlan | None,
    labels: tuple[str, str],
    log: bool,
    title: str | None,
    columns: int,
) -> Figure:
    """Plot a panel for each agent, with one colour bar and no ticks: the axes are the same everywhere."""
    from matplotlib.colors import LogNorm, Normalize

    shares = {name: 100 * visits / max(visits.sum(), 1) for name, visits in counts.items()}
    most = max(share.max() for share in shares.values()) or 1.0
    least = min((share[share > 0].min() for share in shares.values() if share.any()), default=most)
    norm = LogNorm(least, most) if log and most >= 10 * least else Normalize(0, most)
    columns = min(columns, len(shares))
    rows = -(-len(shares) // columns)
    ratio = np.ptp(fields.y_edges) / np.ptp(fields.x_edges) if plan is not None else 1.0
    figure = new_figure(columns * 1.7 + 1.2, rows * (1.6 * float(np.clip(ratio, 0.4, 2.5)) + 0.5) + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, (name, share) in zip(panels.flat, shares.items(), strict=False):
        image = panel.pcolormesh(fields.x_edges, fields.y_edges, np.ma.masked_equal(share, 0), cmap="YlGnBu", norm=norm)
        dress(panel, plan, ("", ""), "")
        panel.set_title(name, fontsize=9)
        panel.set(xticks=[], yticks=[])
    for panel in panels.flat[len(shares) :]:
        panel.set_visible(False)
    figure.colorbar(image, ax=panels, label="% of visits", format="%g", shrink=0.8)
    figure.supxlabel(labels[0], fontsize=10)
    figure.supylabel(labels[1], fontsize=10)
    if title is not None:
        figure.suptitle(title, fontsize=13)
    return figure
