"""Checks of what a user gives, raised before work starts."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete


def check_render_mode(render_mode: str | None, modes: Collection[str] = ("rgb_array",)) -> None:
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode must be None or {' or '.join(map(repr, modes))}, got {render_mode!r}.")


def check_action(action: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """``action`` as an array of finite numbers of ``shape``, or a ValueError that says what they mean."""
    numbers = np.asarray(action)
    if numbers.shape != shape or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"Invalid action {action!r}; expected finite numbers of shape {shape}: {meaning}.")
    return numbers


def check_discrete(action: Any, space: Discrete, meaning: str) -> None:
    """Raise a ValueError unless ``action`` is in ``space``; ``meaning`` says in words what its integers stand for."""
    if not space.contains(action):
        raise ValueError(f"Invalid action {action!r}; expected an integer {meaning}.")


def check_discretes(actions: Any, num_envs: int, space: Discrete, meaning: str) -> np.ndarray:
    """The actions of ``num_envs`` copies as an int array ``[n]``, or a ValueError with the first that is not in ``space``."""
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(f"Expected integer actions of shape ({num_envs},), got shape {actions.shape} of {actions.dtype}.")
    if actions.min() < 0 or actions.max() >= space.n:
        bad = np.flatnonzero((actions < 0) | (actions >= space.n))[0]
        raise ValueError(f"Invalid action {actions[bad]} for copy {bad}; expected {meaning}.")
    return actions


def did_you_mean(given: Any, names: Iterable[str], otherwise: str) -> str:
    """A sentence with the names that come closest to ``given``, or ``otherwise`` if none does."""
    close = difflib.get_close_matches(str(given), list(names), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
