"""SB3's rollout buffers with what the second value head learns from."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


class IntrinsicRolloutSamples(NamedTuple):
    """A minibatch: SB3's fields, then V_int at the time of acting and its target, all ``[n, …]``."""

    observations: Any
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    old_intrinsic_values: Tensor
    intrinsic_returns: Tensor


class IntrinsicRolloutBuffer(RolloutBuffer):
    """``RolloutBuffer`` and two more arrays ``[T, B]``, written when the rollout is complete."""

    intrinsic_values: np.ndarray
    intrinsic_returns: np.ndarray

    def reset(self) -> None:
        super().reset()
        self.intrinsic_values = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)
        self.intrinsic_returns = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)

    def get(self, batch_size: int | None = None) -> Generator[IntrinsicRolloutSamples, None, None]:  # type: ignore[override]
        if not self.generator_ready:  # SB3's own arrays are flattened under the same condition
            self.intrinsic_values = self.swap_and_flatten(self.intrinsic_values)
            self.intrinsic_returns = self.swap_and_flatten(self.intrinsic_returns)
        yield from super().get(batch_size)  # type: ignore[misc]

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> IntrinsicRolloutSamples:  # type: ignore[override]
        extra = (self.intrinsic_values[batch_inds].flatten(), self.intrinsic_returns[batch_inds].flatten())
        return IntrinsicRolloutSamples(*super()._get_samples(batch_inds, env), *map(self.to_torch, extra))


class IntrinsicDictRolloutBuffer(IntrinsicRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """The same for Dict observations."""
