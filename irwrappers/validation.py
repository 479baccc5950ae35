"""Argument checks that name what was given, what was expected and where."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = float("inf"),
    *,
    open_low: bool = False,
    integer: bool = False,
    schedule: bool = True,
) -> None:
    """Raise ``ValueError`` unless ``value`` is a number in [low, high] ((low, high] with ``open_low``) or, with ``schedule``,
    a function."""
    if schedule and callable(value):
        return
    kind = "an integer" if integer else "a number"
    numeric = isinstance(value, Integral if integer else Real) and not isinstance(value, bool)  # NumPy's numbers too
    if not numeric or not (low < value <= high if open_low else low <= value <= high):
        bounds = f"{'(' if open_low else '['}{low}, {high}{')' if high == float('inf') else ']'}"
        raise ValueError(f"{name} must be {kind} in {bounds}, got {value!r}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
