"""Intrinsic beside extrinsic return over training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irwrappers.plot.figures import finish, new_figure
from irwrappers.plot.logs import Series, check_series, read_logs
from irwrappers.validation import check_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Default names, in the order of search: arrays, SB3's logs, Monitor files; IntrinsicRewardCallback, IntrinsicPPO.
EXTRINSIC = ("extrinsic", "rollout/ep_rew_mean", "monitor/r")
INTRINSIC = ("intrinsic", "intrinsic/episode_return", "intrinsic/reward_mean", "intrinsic/reward")
COLORS = ("#2f6db5", "#d1603d")


def plot_returns(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    extrinsic: str | None = None,
    intrinsic: str | None = None,
    window: int | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot both returns over the steps of training, and one against the other.

    Args:
        source: a folder or file of logs, or a mapping from names to values ``[n]`` or pairs (steps ``[n]``, values ``[n]``);
            its entry ``"steps"``, if there, goes with all values that come alone. Read from a folder: TensorBoard's event
            files, ``progress.csv`` of SB3's logger, and Monitor's ``*monitor.csv`` (columns as ``monitor/r`` …; their steps
            are the sum of the episodes' lengths).
        extrinsic: name of the extrinsic series there; by default that of SB3's logs or Monitor.
        intrinsic: name of the intrinsic series; by default that of ``IntrinsicRewardCallback`` or ``IntrinsicPPO``.
        window: number of values that the thick lines are means of; by default a twentieth of all. Thin lines are the values.
        names: of the two returns, in the picture; by default those of the series.
        title: of the picture.
        path: file to save the picture in.

    Raises:
        ValueError: a series is not there; the message lists those that are.
        FileNotFoundError: there are no logs at ``source``.
    """
    series = _from_arrays(source) if isinstance(source, Mapping) else read_logs(source)
    chosen = [_choose(series, "extrinsic", extrinsic, EXTRINSIC), _choose(series, "intrinsic", intrinsic, INTRINSIC)]
    labels = list(names or chosen)
    if len(labels) != 2:
        raise ValueError(f"names must be two, of the extrinsic and the intrinsic return, got {names!r}.")
    figure = new_figure(9.6, 4.4 + 0.3 * (title is not None))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    means = []
    for panel, name, label, color in zip((upper, lower), chosen, labels, COLORS, strict=True):
        steps, values = series[name]
        means.append(moving_mean(values, window))
        panel.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        panel.plot(steps, means[-1], color=color, linewidth=2)
        panel.set_ylabel(label)
        panel.grid(alpha=0.25)
        panel.margins(x=0.01)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("environment steps")
    lower.xaxis.set_major_formatter(_thousands())
    _plot_against(figure, figure.add_subplot(grid[:, 1]), [series[name][0] for name in chosen], means, labels)
    if title is not None:
        figure.suptitle(title, fontsize=13)
    return finish(figure, path)


def moving_mean(values: np.ndarray, window: int | None = None) -> np.ndarray:
    """Return means of the last ``window`` values (a twentieth of all by default), of fewer at the beginning."""
    if window is None:
        window = max(1, len(values) // 20)
    check_range("window", window, 1, integer=True, schedule=False)
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def _plot_against(figure: Figure, panel: Any, steps: list[np.ndarray], means: list[np.ndarray], labels: list[str]) -> None:
    """Plot the path of training in the plane of both returns."""
    early, late = max(s[0] for s in steps), min(s[-1] for s in steps)
    common = steps[1][(steps[1] >= early) & (steps[1] <= late)]
    if len(common) == 0:
        panel.text(0.5, 0.5, "no steps in common", ha="center", va="center", transform=panel.transAxes)
        return
    extrinsic, intrinsic = (np.interp(common, *pair) for pair in zip(steps, means, strict=True))
    panel.plot(intrinsic, extrinsic, color="#b9bbc4", linewidth=1, zorder=1)
    points = panel.scatter(intrinsic, extrinsic, c=common, cmap="viridis", s=14, linewidths=0, zorder=2)
    panel.set(xlabel=labels[1], ylabel=labels[0])
    panel.grid(alpha=0.25)
    figure.colorbar(points, ax=panel, label="environment steps", format=_thousands())


def _thousands() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _choose(series: Mapping[str, Series], what: str, given: str | None, usual: Sequence[str]) -> str:
    wanted = usual if given is None else (given,)
    for name in wanted:
        if name in series:
            return name
    raise ValueError(
        f"There is no {what} return named {' or '.join(map(repr, wanted))}; there are {sorted(series)}. Name one of "
        f"them as {what}=, or log it: the intrinsic return with IntrinsicRewardCallback, the extrinsic one with Monitor."
    )


def _from_arrays(source: Mapping[str, Any]) -> dict[str, Series]:
    shared = source.get("steps")
    series = {}
    for name, given in source.items():
        if name == "steps":
            continue
        if isinstance(given, tuple):
            if len(given) != 2:
                raise ValueError(f"{name!r} must be values [n] or a pair (steps [n], values [n]), got {len(given)} arrays.")
            steps, values = given
        else:
            values = np.asarray(given)
            steps = np.arange(1, values.size + 1) if shared is None else shared
        series[name] = check_series(name, steps, values)
    return series
