"""Argument checks that name what was given, what was expected and where."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    integer: bool = False,
    optional: bool = False,
    schedule: bool = True,
    meaning: str = "",
) -> None:
    """Raise ``ValueError`` unless ``value`` is a number in [low, high].

    Args:
        name: of the argument.
        value: of the argument.
        low: smallest value.
        high: largest value.
        open_low: exclude ``low``.
        open_high: exclude ``high``.
        integer: accept integers only.
        optional: accept None.
        schedule: accept functions, such as SB3's schedules.
        meaning: what the number is, for the message.
    """
    if (schedule and callable(value)) or (optional and value is None):
        return
    numeric = isinstance(value, Integral if integer else Real) and not isinstance(value, bool)  # NumPy's numbers too
    above = numeric and (low < value if open_low else low <= value)
    if not (above and (value < high if open_high else value <= high)):
        bounds = f"{'(' if open_low else '['}{low}, {high}{')' if open_high or high == math.inf else ']'}"
        kind = f"{'an integer' if integer else 'a number'} in {bounds}{' or None' if optional else ''}"
        raise ValueError(f"{name} must be {kind}{f' ({meaning})' if meaning else ''}, got {value!r}.")


def check_number(name: str, value: Any, meaning: str = "") -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number.

    Args:
        name: of the argument.
        value: of the argument.
        meaning: what the number is, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number{f' ({meaning})' if meaning else ''}, got {value!r}.")


def check_positive(**values: Any) -> None:
    """Raise ``ValueError`` for the first argument that is not a number above 0.

    Args:
        **values: the arguments by their names.
    """
    for name, value in values.items():
        check_range(name, value, 0, open_low=True, schedule=False)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``.

    Args:
        name: of the argument.
        value: of the argument.
        choices: what it may be.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
