"""The wrappers' arguments: what is accepted, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.features import FeatureDifference

Coefficient = float | str | Callable[[float], float]


def coefficient_schedule(coef: Coefficient, total_timesteps: int | None) -> Callable[[float], float]:
    """A function of the progress that remains (1 to 0), as SB3's schedules are, from a number, ``"lin_0.1"`` or a function."""
    linear = isinstance(coef, str) and coef.startswith("lin_")
    if (linear or callable(coef)) and total_timesteps is None:
        raise ValueError(
            f"coef={coef!r} changes with the progress of training, which the wrapper knows only from total_timesteps; give "
            "total_timesteps=<environment steps of the training, all copies together> or a constant coef."
        )
    if callable(coef):
        return coef
    try:
        value = float(coef.removeprefix("lin_") if isinstance(coef, str) else coef)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or isinstance(coef, bool):
        raise ValueError(
            f"coef must be a finite number, 'lin_<number>' or a function of the progress remaining, got {coef!r}."
        )
    return _Linear(value) if linear else _Constant(value)


class _Constant:
    """A schedule that pickles."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, progress_remaining: float) -> float:
        return self.value


class _Linear(_Constant):
    def __call__(self, progress_remaining: float) -> float:
        return self.value * progress_remaining


def channel_weights(reward: IntrinsicReward, weights: Sequence[float] | None) -> Tensor:
    """What each channel counts in the bonus, ``[n_rewards]``."""
    n, names = reward.n_rewards, reward.channel_names
    if weights is None:
        if n > 1 and any(isinstance(part, FeatureDifference) for part in reward.modules()):
            raise ValueError(
                f"{type(reward).__name__} has the channels {', '.join(names)}, signed pairs that cancel when they are summed. "
                f"Say what each counts, e.g. weights={[1] + [0] * (n - 1)}."
            )
        return torch.ones(n)
    if len(weights) != n or not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be {n} finite numbers, one for each of {', '.join(names)}; got {list(weights)}.")
    return torch.tensor(weights, dtype=torch.float32)


def check_numbers(
    extrinsic_coef: float, learn_every: int, gamma: float, clip_reward: float | None, warmup_steps: int, total: int | None
) -> None:
    """Raise ``ValueError`` for the first number out of its range."""

    def integer(value: Any, low: int) -> bool:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= low)

    checks = [
        ("extrinsic_coef", extrinsic_coef, math.isfinite(extrinsic_coef), "a finite number"),
        ("learn_every", learn_every, integer(learn_every, 1), "an integer of at least 1 (steps of each copy)"),
        ("gamma", gamma, 0 <= gamma < 1, "a number in [0, 1)"),
        ("clip_reward", clip_reward, clip_reward is None or clip_reward > 0, "a positive number or None"),
        ("warmup_steps", warmup_steps, integer(warmup_steps, 0), "an integer of at least 0"),
        ("total_timesteps", total, total is None or integer(total, 1), "a positive integer or None"),
    ]
    for name, value, good, expected in checks:
        if not good:
            raise ValueError(f"{name} must be {expected}, got {value!r}.")
