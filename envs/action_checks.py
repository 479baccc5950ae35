"""Checks of a user's arguments and actions, raised before work starts."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space


def check_render_mode(render_mode: str | None, modes: Collection[str] = ("rgb_array",)) -> None:
    """Raise a ValueError unless ``render_mode`` is ``None`` or one of ``modes``."""
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode must be None or {' or '.join(map(repr, modes))}, got {render_mode!r}.")


def check_option(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise a ValueError unless the argument ``name`` has a ``value`` among ``options``."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}.")


def check_integer(name: str, value: Any, least: int, most: int | None = None, meaning: str = "") -> int:
    """Return ``value`` as an int, or raise a ValueError unless it is an integer from ``least`` to ``most``.

    Args:
        name: the argument's name.
        value: the argument.
        least: smallest value allowed.
        most: largest value allowed, ``None`` for no limit.
        meaning: what the argument counts, for the error message.
    """
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {expected}{meaning and f', {meaning}'}, got {value!r}.")
    return int(value)


def check_action(action: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """Return ``action`` as an array of finite numbers of ``shape``, or raise a ValueError that says their ``meaning``."""
    numbers = np.asarray(action)
    if numbers.shape != shape or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"Invalid action {action!r}; expected finite numbers of shape {shape}: {meaning}.")
    return numbers


def check_actions(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the actions of n environments as an array of finite numbers of ``shape`` ``[n, …]``, or raise a ValueError."""
    actions = np.asarray(actions)
    if actions.shape != shape or not np.issubdtype(actions.dtype, np.number):
        raise ValueError(f"Expected actions of shape {shape}, got shape {actions.shape} of {actions.dtype}.")
    if not np.isfinite(actions).all():
        bad = int(np.argwhere(~np.isfinite(actions))[0][0])
        raise ValueError(f"Invalid action {actions[bad]} of environment {bad}; expected finite numbers.")
    return actions


def check_discrete(action: Any, space: Space, meaning: str) -> None:
    """Raise a ValueError unless ``action`` is in ``space``; ``meaning`` says in words what its integers stand for."""
    if not space.contains(action):
        raise ValueError(f"Invalid action {action!r}; expected an integer {meaning}.")


def check_discretes(actions: Any, num_envs: int, space: Discrete, meaning: str) -> np.ndarray:
    """Return the actions of ``num_envs`` environments as an int array ``[n]``, or raise a ValueError with the first that is
    not in ``space``."""
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(f"Expected integer actions of shape ({num_envs},), got shape {actions.shape} of {actions.dtype}.")
    if actions.min() < space.start or actions.max() >= space.start + space.n:
        bad = np.flatnonzero((actions < space.start) | (actions >= space.start + space.n))[0]
        raise ValueError(f"Invalid action {actions[bad]} of environment {bad}; expected {meaning}.")
    return actions


def did_you_mean(given: Any, names: Iterable[str], otherwise: str) -> str:
    """Return a sentence with the names that come closest to ``given``, or ``otherwise`` if none does."""
    close = difflib.get_close_matches(str(given), list(names), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
