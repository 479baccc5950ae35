"""Where an agent has been, and how often."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irwrappers.plot.figures import finish, new_figure
from irwrappers.plot.maps import (
    Axis,
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
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw how often each place was visited: the cells of a grid, or fields of a plane.

    Args:
        observations: positions ``[…, 2]`` or observations ``[…, d]``; axes of time and copies in front are welcome.
        indices: the two entries of an observation that are the position; by default ``position_indices`` of ``env``. Positions
            ``[…, 2]`` need none.
        env: the environment, for its map.
        ranges: (low, high) of each axis; by default those of the map, or of the visits. Visits outside are not counted, and
            the title says how many. Grids are always drawn whole.
        bins: fields along each axis, where places are not whole numbers; on a map, along its longer side.
        log: colours by the logarithm of the count, if a place has 10 or more.
        names: of the two axes.
        title: above the number of visits.
        path: file to save the picture in.

    Returns:
        the figure; ``figure.axes[0].collections[0].get_array()`` are the counts ``[rows, columns]``, masked where 0.

    Raises:
        ValueError: positions that are not finite, or not on the environment's grid.
    """
    numbers = np.asarray(observations)
    axes = choose_axes(indices, env if numbers.shape[-1:] != (2,) else None)
    if axes is None:
        if numbers.ndim == 0 or numbers.shape[-1] != 2:
            raise ValueError(
                f"Observations of shape {numbers.shape} are no positions [..., 2]; give indices, the two entries that are, or "
                "an env with position_indices."
            )
        positions = check_positions(numbers)
    else:
        positions = check_positions(entries(numbers.reshape(-1, numbers.shape[-1]), axes))
    plan = floor_plan(env, axes)
    grid = plan if plan is not None and plan.grid else None
    if grid is None and plan is None and ranges is None and is_lattice(positions):
        grid = lattice_plan(positions)
    if grid is not None:
        x_edges, y_edges = grid.x_edges, grid.y_edges
        counts = np.zeros(grid.walls.shape, dtype=np.int64)
        np.add.at(counts, grid.cell_of(positions), 1)
        places = (
            f"{np.count_nonzero(counts):,} of {np.count_nonzero(~plan.walls):,} cells" if plan else "of whole-numbered places"
        )
    else:
        x_limits, y_limits = _limits(positions, plan, ranges)
        n_x, n_y = bins, bins
        if plan is not None:  # drawn to scale: square fields
            span_x, span_y = np.ptp(x_limits), np.ptp(y_limits)
            n_x, n_y = (max(1, round(bins * span / max(span_x, span_y))) for span in (span_x, span_y))
        x_edges, y_edges = np.linspace(*x_limits, n_x + 1), np.linspace(*y_limits, n_y + 1)
        counts = np.histogram2d(positions[:, 1], positions[:, 0], bins=(y_edges, x_edges))[0].astype(np.int64)
        places = f"{np.count_nonzero(counts):,} fields"
    return finish(
        _draw(counts, x_edges, y_edges, plan, axis_names(axes, plan, names), len(positions), places, log, title), path
    )


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


def _draw(
    counts: np.ndarray,
    x_edges: np.ndarray,
    y_edges: np.ndarray,
    plan: Any,
    labels: tuple[str, str],
    n_visits: int,
    places: str,
    log: bool,
    title: str | None,
) -> Figure:
    from matplotlib.colors import LogNorm, Normalize

    figure = new_figure(*panel_size(x_edges, y_edges, plan is not None))
    panel = figure.subplots()
    most = max(int(counts.max()), 1)
    norm = LogNorm(1, most) if log and most >= 10 else Normalize(0, most)
    shown = np.ma.masked_equal(counts, 0)
    drawn = panel.pcolormesh(x_edges, y_edges, shown, cmap="YlGnBu", norm=norm)
    outside = n_visits - int(counts.sum())
    text = f"{n_visits:,} visits, {places}" + (f", {outside:,} visits outside" if outside else "")
    dress(panel, plan, labels, text if title is None else f"{title}\n{text}")
    add_color_bar(panel, drawn, "visits", counts=True)
    return figure
