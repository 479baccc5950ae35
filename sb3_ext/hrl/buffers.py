"""Rollout buffers for decisions that last several steps."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import torch
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils._pytree import tree_map

from sb3_ext.common.gae import discounted_sum


def semi_mdp_advantages(
    rewards: Tensor, values: Tensor, last_values: Tensor, decided: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return generalized advantages of decisions that last k steps each (options: Sutton, Precup & Singh 1999, §3).

        R = Σ_{i<k} γ^i r_{t+i},   δ = R + γ^k V(s_{t+k}) − V(s_t),   Â_t = δ + γ^k λ Â_{t+k}

    γ counts steps, λ counts decisions; if the episode ends within the k steps there is no further term. With k = 1
    throughout it is ordinary GAE. Linear in T: with G_t the λ-return from step t on, a decision or not,
    G_t = r_t + γ (1 − done_t) ((1 − λ) V_{t+1} + λ G_{t+1} if t + 1 is a decision else G_{t+1}), and Â_t = G_t − V_t.

    Args:
        rewards: ``[T, B]``.
        values: ``[T, B]``; only the values of decisions are used.
        last_values: ``[B]``, of the observations after the last step, where every environment decides anew.
        decided: bool ``[T, B]``, where a decision begins: all of row 0, and the step after an episode's last.
        done: bool ``[T, B]``, where an episode ended.
        gamma: discount of a step, in [0, 1].
        gae_lambda: λ, in [0, 1].

    Returns:
        ``[T, B]``: advantages of the decisions, 0 elsewhere.
    """
    next_values = torch.cat([values[1:], last_values[None]])
    decides_next = torch.cat([decided[1:], torch.ones_like(decided[:1])])
    # The share of V_{t+1} that enters directly: all of it after the last step, where there is no G.
    share = (1 - gae_lambda) * decides_next.to(values.dtype)
    share[-1] = 1.0
    discount = gamma * (~done).to(values.dtype)
    returns = discounted_sum(rewards + discount * share * next_values, discount * (1 - share))
    return (returns - values) * decided


class OptionRolloutBuffer(RolloutBuffer):
    """``RolloutBuffer`` with an entry for each step and environment, of which :meth:`get` yields the decisions.

    Its actions are the decisions, integers ``[n]`` in a minibatch. Arguments are SB3's.

    Attributes:
        decided: bool ``[T, B]``, where a decision begins; its row is set before each call of ``add``.
    """

    decided: np.ndarray

    def reset(self) -> None:
        super().reset()
        self.decided = np.zeros((self.buffer_size, self.n_envs), dtype=bool)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        ended = np.concatenate([self.episode_starts[1:] > 0, np.asarray(dones, dtype=bool)[None]])
        rewards, values, decided, done = map(torch.as_tensor, (self.rewards, self.values, self.decided, ended))
        last = last_values.detach().cpu().flatten()
        self.advantages = semi_mdp_advantages(
            rewards, values, last, decided, done, self.gamma, self.gae_lambda
        ).numpy()  # fmt: skip
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield minibatches of at most ``batch_size`` decisions, of equal size because the number of decisions varies."""
        assert self.full, "The rollout is not complete."
        if not self.generator_ready:
            keep = np.flatnonzero(self.swap_and_flatten(self.decided))
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
                kept = tree_map(lambda array: self.swap_and_flatten(array)[keep], getattr(self, name))
                setattr(self, name, kept)
            self.generator_ready = True
        indices = np.random.permutation(len(self.actions))
        n_batches = math.ceil(len(indices) / (batch_size or len(indices)))
        for batch in np.array_split(indices, n_batches):
            yield self._get_samples(batch)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(actions=samples.actions.long().flatten())


class OptionDictRolloutBuffer(OptionRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """:class:`OptionRolloutBuffer` for Dict observations."""
