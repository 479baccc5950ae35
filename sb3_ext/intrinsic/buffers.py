"""SB3's rollout buffers with values and returns of a second value head."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


class IntrinsicRolloutSamples(NamedTuple):
    """Minibatch with SB3's fields and those of the intrinsic value head, all ``[n, …]``.

    Attributes:
        observations: as in SB3.
        actions: as in SB3.
        old_values: extrinsic values at the time of acting.
        old_log_prob: as in SB3.
        advantages: weighted sum of extrinsic and intrinsic advantages.
        returns: targets of the extrinsic value head.
        old_intrinsic_values: intrinsic values at the time of acting.
        intrinsic_returns: targets of the intrinsic value head.
    """

    observations: Any
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    old_intrinsic_values: Tensor
    intrinsic_returns: Tensor


class IntrinsicRolloutBuffer(RolloutBuffer):
    """SB3's ``RolloutBuffer`` with two more arrays ``[T, B]``, which are written when the rollout is complete.

    Attributes:
        intrinsic_values: values of the intrinsic head.
        intrinsic_returns: its targets.
    """

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
    """:class:`IntrinsicRolloutBuffer` for Dict observations."""
