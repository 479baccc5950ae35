"""The coefficient of the bonus as a schedule, and the weights of a reward's channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.features import FeatureDifference

Coefficient = float | str | Callable[[float], float]


def coefficient_schedule(intrinsic_coef: Coefficient, total_timesteps: int | None) -> Callable[[float], float]:
    """Return a function of the remaining progress (1 to 0), like SB3's schedules.

    Args:
        intrinsic_coef: a number, ``"lin_0.1"`` (from 0.1 down to 0) or such a function.
        total_timesteps: environment steps of the training; the last two need it.

    Raises:
        ValueError: another kind of coefficient, or no ``total_timesteps`` where it is needed.
    """
    linear = isinstance(intrinsic_coef, str) and intrinsic_coef.startswith("lin_")
    if (linear or callable(intrinsic_coef)) and total_timesteps is None:
        raise ValueError(
            f"intrinsic_coef={intrinsic_coef!r} changes with the progress of training, which is computed from "
            "total_timesteps; give total_timesteps=<environment steps of the training, of all environments together> or a "
            "constant intrinsic_coef."
        )
    if callable(intrinsic_coef):
        return intrinsic_coef
    try:
        value = float(intrinsic_coef.removeprefix("lin_") if isinstance(intrinsic_coef, str) else intrinsic_coef)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or isinstance(intrinsic_coef, bool):
        raise ValueError(
            "intrinsic_coef must be a finite number, 'lin_<number>' or a function of the remaining progress, got "
            f"{intrinsic_coef!r}."
        )
    return _Linear(value) if linear else _Constant(value)


class _Constant:
    """A constant schedule that can be pickled."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, progress_remaining: float) -> float:
        return self.value


class _Linear(_Constant):
    """A schedule that falls to 0."""

    def __call__(self, progress_remaining: float) -> float:
        return self.value * progress_remaining


def channel_weights(reward: IntrinsicReward, weights: Sequence[float] | None) -> Tensor:
    """Return the weight of each channel in the bonus, ``[n_rewards]``.

    Args:
        reward: the reward model.
        weights: as given by the user; None: 1 each.

    Raises:
        ValueError: weights of another number or not finite, or none for channels that cancel.
    """
    n, names = reward.n_rewards, reward.channel_names
    if weights is None:
        if n > 1 and any(isinstance(part, FeatureDifference) for part in reward.modules()):
            raise ValueError(
                f"{type(reward).__name__} has the channels {', '.join(names)}, signed pairs that cancel when they are summed. "
                f"Give the weight of each, e.g. intrinsic_weights={[1] + [0] * (n - 1)}."
            )
        return torch.ones(n)
    if len(weights) != n or not all(math.isfinite(weight) for weight in weights):
        raise ValueError(
            f"intrinsic_weights must be {n} finite numbers, one for each of {', '.join(names)}; got {list(weights)}."
        )
    return torch.tensor(weights, dtype=torch.float32)
