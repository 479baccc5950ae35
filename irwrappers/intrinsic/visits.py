"""Visit counts where states recur, and episodic pseudo-counts where they do not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers.intrinsic.base import CompositeReward, IntrinsicReward, as_vec_env
from irwrappers.intrinsic.counts import StateCount, row_keys
from irwrappers.intrinsic.episodic import PseudoCounts
from irwrappers.intrinsic.network_reward import check_finite
from irwrappers.intrinsic.random_walks import random_steps
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive

RECURRING = 0.5  # share of random steps that lead to a state met before, from which states count as recurring


@register("visits")
class Visits(CompositeReward):
    """Visit counts where states recur, episodic pseudo-counts where they do not.

    The reward is that of :class:`StateCount` or of :class:`PseudoCounts`. Counts lead through a maze of cells in
    which pseudo-counts, which begin anew in each episode, find nothing. On continuous states every state is new to counts, and
    their reward is constant. ``fit`` takes random steps: if half of them or more lead to a state that an earlier one led to,
    states recur. Without ``fit`` the first batch that is learned from decides.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        warmup_steps: largest number of random steps by which ``fit`` decides, over all parallel environments.
        pseudo_counts_kwargs: arguments of :class:`PseudoCounts`.
    """

    n_rewards = 1
    has_episode_memory = True
    decided: Tensor
    recurring: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        warmup_steps: int = 1000,
        pseudo_counts_kwargs: dict[str, Any] | None = None,
    ) -> None:
        check_positive(warmup_steps=warmup_steps)
        super().__init__(
            [
                StateCount(observation_space, action_space),
                PseudoCounts(observation_space, action_space, **(pseudo_counts_kwargs or {})),
            ]
        )
        self.warmup_steps = warmup_steps
        self.register_buffer("decided", torch.zeros((), dtype=torch.bool))
        self.register_buffer("recurring", torch.zeros((), dtype=torch.bool))

    def _parts(self) -> list[tuple[str, IntrinsicReward]]:
        """Return the reward in use alone, or both as long as it is not decided."""
        counts, pseudo_counts = self.rewards
        assert isinstance(counts, IntrinsicReward) and isinstance(pseudo_counts, IntrinsicReward)
        named = [("counts", counts), ("pseudo_counts", pseudo_counts)]
        return [named[0 if self.recurring else 1]] if self.decided else named

    @property
    def needs_fit(self) -> bool:
        return not self.decided or super().needs_fit

    def compute(self, batch: Transitions) -> Tensor:
        return self._parts()[-1][1].compute(batch)  # pseudo-counts while it is not decided

    def learn(self, batch: Transitions) -> dict[str, float]:
        if not self.decided and batch.mask.any():
            observations = tree_map(lambda x: x[batch.mask], batch.next_observations)
            self._decide(row_keys(self.observation_space, observations))
        return super().learn(batch)

    def update(self, batch: Transitions) -> dict[str, float]:
        return IntrinsicReward.update(self, batch)

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Decide by random steps, and fit the pseudo-counts on others if they are used."""
        used = 0
        if not self.decided:
            venv = as_vec_env(env)
            n_steps = max(1, min(self.warmup_steps, total_timesteps // 2) // venv.num_envs)
            if n_steps * venv.num_envs > total_timesteps:
                raise ValueError(
                    f"Visits decides by at least one random step of each of the {venv.num_envs} environments; "
                    f"give fit() at least {venv.num_envs} steps, got {total_timesteps}."
                )
            keys = []
            for observations in random_steps(venv, n_steps, seed):
                tensors = tree_map(lambda x: torch.as_tensor(x, device=self.decided.device), observations)
                check_finite(tensors, type(self).__name__)
                keys.append(row_keys(self.observation_space, tensors))
            used = n_steps * venv.num_envs
            self._decide(torch.cat(keys))
        return used + super().fit(env, total_timesteps - used, seed, progress_bar)

    def _decide(self, keys: Tensor) -> None:
        new = len(keys.unique()) / len(keys)
        self.recurring.fill_(1 - new >= RECURRING)
        self.decided.fill_(True)
