"""Plot the value of a reward over a map, a slice, or any observations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces
from torch.utils._pytree import tree_map

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.plot.figures import finish, new_figure
from irwrappers.plot.maps import Axis, add_color_bar, axis_names, choose_axes, dress, is_lattice, panel_size, transition_graph
from irwrappers.plot.scenes import Scene, base_observation, make_scene, under_walls
from irwrappers.plot.values import reward_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Transition = Literal["stay", "from_base", "leave"]
LEGENDS = {"stay": "reward", "from_base": "reward of the way from the base", "leave": "reward of leaving, mean over actions"}


def plot_reward(
    reward: IntrinsicReward,
    env: Any = None,
    observations: Any = None,
    *,
    positions: Any = None,
    indices: Sequence[Axis] | None = None,
    ranges: Sequence[tuple[float, float]] | None = None,
    base: Any = None,
    transition: Transition | None = None,
    resolution: int = 60,
    channels: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot the value of a reward, a panel for each channel.

    The states are the given ``observations``; or else all states of ``env`` if it has ``transition_graph()`` and ``indices``
    are whole-numbered there (grids: the map); or else a slice through the observation space, in which two entries of
    ``base`` vary within ``ranges``. Walls are shown if ``env`` has a ``transition_graph()`` or a Gymnasium-Robotics ``maze``.

    Args:
        reward: the reward model, fitted if it needs that.
        env: a Gymnasium environment or an SB3 ``VecEnv``; use one that is not being trained in, for it may be reset.
        observations: ``[N, …]``, or a dict of such: images, for instance, with ``positions``.
        positions: of the observations in the picture, ``[N, 2]``; by default two of their entries.
        indices: the two entries of an observation that are the axes; by default the first two of the environment's
            ``position_indices``, then (0, 1). An axis may be a tuple of entries with the same value: observations of
            ``sparse/PointMaze1-v0`` have the position twice, ``indices=((4, 0), (5, 1))``. By default, entries of the base
            that are equal to the position vary with it.
        ranges: (low, high) of each axis of a slice; by default the map's, or the observation space's bounds.
        base: the observation that a slice contains; by default the one of ``env.reset()``.
        transition: whose reward is the value of a state s. ``"stay"``: s → s with the first or a zero action, for novelty of
            states. ``"from_base"``: base → s, for differences of features, and so the default for ``ALLO`` and
            ``ExactLaplacian``, whose eigenfunctions appear. ``"leave"``: the mean over all actions in s, for the errors
            of dynamics models; needs ``transition_graph()``.
        resolution: points along each axis of a slice; values are those of the cells' centres.
        channels: which of the reward's channels to show, by default all.
        names: of the two axes.
        title: of the picture.
        path: file to save the picture in.

    Returns:
        the figure; ``figure.axes[0].collections[0].get_array()`` are the values of the first channel.

    Raises:
        ValueError: there are no states to show, or an argument does not fit the others.
    """
    chosen = _check_channels(reward, channels)
    if transition not in (None, *LEGENDS):
        raise ValueError(f"transition must be 'stay', 'from_base' or 'leave', got {transition!r}.")
    if transition is None:
        transition = "from_base" if any(isinstance(m, FeatureDifference) for m in reward.modules()) else "stay"
    axes = choose_axes(indices, env)
    scene = make_scene(reward.observation_space, env, observations, positions, axes, ranges, base, resolution)
    values = _compute(reward, scene, env, base, transition)[:, chosen]
    labels = axis_names(scene.axes, scene.plan, names)

    n = len(chosen)
    columns = 2 if n == 4 else min(n, 3)
    rows = -(-n // columns)
    width, height = panel_size(scene.x_edges, scene.y_edges, scene.plan is not None)
    figure = new_figure(columns * width, rows * height + 0.3 * (title is not None))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, channel, column in zip(panels, chosen, values.T, strict=False):
        _plot(panel, scene, column, labels, reward.channel_names[channel], LEGENDS[transition])
    for panel in panels[n:]:
        panel.set_visible(False)
    if title is not None:
        figure.suptitle(title, fontsize=13)
    return finish(figure, path)


def _compute(reward: IntrinsicReward, scene: Scene, env: Any, base: Any, transition: str) -> np.ndarray:
    """Return the values of the scene's states, ``[N, n_rewards]``."""
    if transition == "stay":
        return reward_values(reward, scene.observations)
    if transition == "from_base":
        origin = base_observation(env, base, scene.observations)
        n = len(scene.positions)
        starts = tree_map(lambda x: np.repeat(np.asarray(x)[None], n, axis=0), origin)
        return reward_values(reward, starts, scene.observations)
    graph = transition_graph(env)
    if not scene.from_graph or graph is None or not isinstance(reward.action_space, spaces.Discrete):
        raise ValueError(
            "transition='leave' takes every action in every state: it needs an environment with transition_graph(), and "
            "neither observations nor ranges. Use 'stay' or 'from_base'."
        )
    states, next_states = np.asarray(graph[0]), np.asarray(graph[1])
    n, n_actions = next_states.shape
    actions = np.tile(np.arange(n_actions), n) + int(reward.action_space.start)
    values = reward_values(reward, states.repeat(n_actions, axis=0), states[next_states.ravel()], actions)
    return values.reshape(n, n_actions, -1).mean(1)


def _check_channels(reward: IntrinsicReward, channels: Sequence[int] | None) -> list[int]:
    if not isinstance(reward, IntrinsicReward):
        raise TypeError(f"Expected an IntrinsicReward, got {type(reward).__name__}; make_intrinsic_reward builds one by name.")
    if reward.needs_fit:
        raise ValueError(f"{type(reward).__name__} must be fitted before it can be plotted: call fit(env, steps).")
    chosen = list(range(reward.n_rewards)) if channels is None else [int(channel) for channel in channels]
    if not chosen or not all(0 <= channel < reward.n_rewards for channel in chosen):
        raise ValueError(f"channels must lie in 0 … {reward.n_rewards - 1}, got {channels!r}.")
    return chosen


def _plot(panel: Axes, scene: Scene, values: np.ndarray, labels: tuple[str, str], name: str, legend: str) -> None:
    from matplotlib.colors import CenteredNorm, Normalize

    shown = values if scene.cells is None else scene.mesh(values)
    free = shown
    if scene.cells is not None and scene.plan is not None and not scene.plan.grid:
        free = np.where(under_walls(scene), np.nan, shown)  # values under walls do not affect the range of colours
    low, high = np.nanmin(free), np.nanmax(free)
    signed = low < 0 < high
    norm: Any = CenteredNorm(halfrange=max(-low, high)) if signed else Normalize(low, high)
    style: dict[str, Any] = {"cmap": "RdBu_r" if signed else "viridis", "norm": norm}
    if scene.cells is None:
        x, y = scene.positions.T
        image: Any = panel.scatter(x, y, c=values, s=14, linewidths=0, **style)
    else:
        image = panel.pcolormesh(scene.x_edges, scene.y_edges, np.ma.masked_invalid(shown), **style)
        if scene.plan is None and is_lattice(scene.positions):
            panel.set_aspect("equal")
    dress(panel, scene.plan, labels, name)
    add_color_bar(panel, image, legend)
