"""Figures: learning curves, performance profiles, probabilities of improvement, gradient norms of the paper's IRPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from irwrappers.plot.figures import finish, new_figure
from sb3_ext.zoo.benchmark.comparison import THRESHOLDS
from sb3_ext.zoo.benchmark.table import known_metrics

_PANEL = (4.0, 3.0)  # inches
_DASHES = ("-", "--", ":", "-.")  # a line style for each ten contenders, since there are ten colors


def _colors(labels: list[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10"].colors  # type: ignore[attr-defined, unused-ignore]
    return {label: palette[i % len(palette)] for i, label in enumerate(labels)}


def _panels(envs: list[str], n_rows: int, n_labels: int) -> tuple[Any, Any]:
    height = max(n_rows * _PANEL[1], 0.25 * n_labels + 1)
    figure = new_figure(len(envs) * _PANEL[0] + 1.5, height)
    return figure, figure.subplots(n_rows, len(envs), squeeze=False, sharex="col")


def plot_sample_efficiency(folder: Path, curves: dict[tuple[str, str, str], pd.DataFrame]) -> None:
    """Write ``sample_efficiency_<actions>.png``: a column for each environment, IQM and interval of success and return.

    Args:
        folder: where to write.
        curves: from :func:`sb3_ext.zoo.benchmark.table.all_curves`.
    """
    metrics = known_metrics(pd.concat(curves.values()))
    colors = _colors(list(dict.fromkeys(label for _, label, _ in curves)))
    dashes = {label: _DASHES[i // 10 % len(_DASHES)] for i, label in enumerate(colors)}
    for actions in dict.fromkeys(key[2] for key in curves):
        chosen = {(env, label): curve for (env, label, how), curve in curves.items() if how == actions}
        envs = list(dict.fromkeys(env for env, _ in chosen))
        figure, axes = _panels(envs, len(metrics), len(colors))
        for (env, label), curve in chosen.items():
            for row, metric in enumerate(metrics):
                ax = axes[row, envs.index(env)]
                ax.plot(curve.timesteps, curve[metric], dashes[label], color=colors[label], label=label)
                ax.fill_between(
                    curve.timesteps, curve[f"{metric}_low"], curve[f"{metric}_high"], color=colors[label], alpha=0.2, lw=0
                )
        for column, env in enumerate(envs):
            axes[0, column].set_title(env)
            if "success" in metrics:
                axes[0, column].set_ylim(-0.05, 1.05)
            axes[-1, column].set_xlabel("environment steps")
        for row, metric in enumerate(metrics):
            axes[row, 0].set_ylabel(f"{metric}, {actions} actions" if row == 0 else metric)
        _legend(figure, axes)
        finish(figure, folder / f"sample_efficiency_{actions}.png")


def plot_gradient_norms(folder: Path, norms: pd.DataFrame) -> None:
    """Write ``gradient_norms.png``: a panel for each environment and contender, medians over seeds.

    Args:
        folder: where to write.
        norms: rows of ``gradient_norms.csv``: the norm of the extrinsic gradient at the base policy, and of IRPO's.
    """
    groups = list(norms.groupby(["env", "algo"], sort=False))
    n_columns = min(len(groups), 6)
    n_rows = -(-len(groups) // n_columns)
    figure = new_figure(n_columns * 2.7 + 1, n_rows * 2.4)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for ax, ((env, label), rows) in zip(axes.flat, groups, strict=False):
        # Iterations of different seeds end at different timesteps: medians in fifty equal parts.
        parts = rows.groupby(pd.cut(rows.timesteps, 50), observed=True).median(numeric_only=True)
        for column, style, name in (("train/direct_gradient_norm", "--", "direct"), ("train/irpo_gradient_norm", "-", "IRPO")):
            ax.plot(parts.timesteps, parts[column], style, label=name)
        shown = parts[["train/direct_gradient_norm", "train/irpo_gradient_norm"]].to_numpy()
        if not (shown <= 0).any():
            ax.set_yscale("log")
        else:  # a norm of exactly 0 (no reward in the batch) has no place on a logarithmic axis; symlog has it at the bottom
            least = shown[shown > 0].min(initial=1.0)
            ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(least)))
            ax.set_ylim(0, None)
        ax.set_title(f"{env}\n{label}", fontsize="small")
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    figure.supxlabel("environment steps")
    figure.supylabel("gradient norm")
    _legend(figure, axes)
    finish(figure, folder / "gradient_norms.png")


def plot_comparison(folder: Path, comparison: pd.DataFrame, profiles: dict[str, dict[str, np.ndarray]]) -> None:
    """Write ``performance_profile.png`` and ``probability_of_improvement.png``, a panel for each kind of actions.

    Args:
        folder: where to write.
        comparison: table of :func:`sb3_ext.zoo.benchmark.comparison.compare`; if it is empty, nothing is written.
        profiles: profiles of the same function.
    """
    if not len(comparison):
        return
    colors = _colors(list(dict.fromkeys(comparison.algo)))
    nonempty = {actions: by_label for actions, by_label in profiles.items() if by_label}
    if nonempty:
        figure, axes = _panels(list(nonempty), 1, len(colors))
        for ax, (actions, by_label) in zip(axes[0], nonempty.items(), strict=True):
            for i, (label, (share, low, high)) in enumerate(by_label.items()):
                ax.plot(THRESHOLDS, share, _DASHES[i // 10 % len(_DASHES)], color=colors[label], label=label)
                ax.fill_between(THRESHOLDS, low, high, color=colors[label], alpha=0.2, lw=0)
            ax.set(title=f"{actions} actions", xlabel="normalised score", ylim=(-0.05, 1.05))
        axes[0, 0].set_ylabel("share of runs above it")
        _legend(figure, axes)
        finish(figure, folder / "performance_profile.png")
    pairs = comparison.dropna(subset="improvement")
    if len(pairs):
        by_actions = list(pairs.groupby("actions", sort=False))
        figure = new_figure(len(by_actions) * _PANEL[0] + 1.5, 1.2 + 0.35 * len(set(pairs.algo)))
        axes = figure.subplots(1, len(by_actions), squeeze=False, sharey=True)
        for ax, (actions, rows) in zip(axes[0], by_actions, strict=True):
            for row in rows.itertuples():
                error = np.nan_to_num([[row.improvement - row.improvement_low], [row.improvement_high - row.improvement]])
                ax.errorbar([row.improvement], [row.algo], xerr=error, fmt="o", capsize=3, color=colors[row.algo])
            ax.axvline(0.5, color="gray", lw=1, ls="--")
            ax.set(title=f"{actions} actions", xlabel=f"P({rows.over.iloc[0]} better)", xlim=(-0.05, 1.05))
            ax.margins(y=0.2)
        axes[0, 0].invert_yaxis()
        finish(figure, folder / "probability_of_improvement.png")


def _legend(figure: Any, axes: Any) -> None:
    entries = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", fontsize="small")
