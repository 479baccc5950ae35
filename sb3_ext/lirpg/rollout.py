"""A rollout with what a learned reward needs beside SB3's buffer: the environment's reward alone, and its own values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers import VecIntrinsicReward
from irwrappers.wrappers.bonus import EXTRINSIC
from sb3_ext.common.gae import DiscountedSum, generalized_advantage_estimation


class ExtrinsicRecorder(VecEnvWrapper):
    """Remembers extrinsic rewards, and how truncated episodes ended; passes on ``coef`` times what ``venv`` pays.

    The two differ where a ``VecIntrinsicReward`` beneath adds a bonus: it is paid, and is no part of what is remembered. SB3
    bootstraps what it is passed with V^mix; what is remembered can be bootstrapped with V^ex.
    """

    def __init__(self, venv: VecEnv, coef: float) -> None:
        super().__init__(venv)
        self._coef = coef
        self._normalize: VecNormalize | None = None  # around the bonus: its units are those of r_ex too
        while isinstance(venv, VecEnvWrapper) and not isinstance(venv, VecIntrinsicReward):
            self._normalize = venv if isinstance(venv, VecNormalize) else self._normalize
            venv = venv.venv
        self._given_to: VecNormalize | None = None
        self.rewards: list[np.ndarray] = []  # [B] for each step
        self.original_observations: list[Any] = []  # those before each step and, one more, after the last
        self.original_rewards: list[np.ndarray] = []
        self.truncated: list[tuple[int, int, Any]] = []  # step, copy, the observation that ended the episode

    def keep_originals(self, last_observations: Any) -> None:
        """From now on, remember what a ``VecNormalize`` was given as well, if there is one.

        Args:
            last_observations: those that the next step begins with, as normalised.
        """
        self._given_to = unwrap_vec_normalize(self.venv)
        if self._given_to is not None:
            self.original_observations.append(self._given_to.unnormalize_obs(last_observations))

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones):
            last = infos[i].get("terminal_observation")
            if last is not None and infos[i].get("TimeLimit.truncated", False):
                self.truncated.append((len(self.rewards), int(i), last))
        extrinsic, original = rewards, None
        if EXTRINSIC in infos[0]:
            extrinsic = np.array([info[EXTRINSIC] for info in infos])
            if self._normalize is not None:
                original, extrinsic = extrinsic, self._normalize.normalize_reward(extrinsic)
        if self._given_to is not None:
            self.original_observations.append(self._given_to.get_original_obs())
            self.original_rewards.append(self._given_to.get_original_reward() if original is None else original)
        self.rewards.append(np.array(extrinsic, dtype=np.float32))
        return observations, rewards if self._coef == 1 else self._coef * rewards, dones, infos

    def stacked(self) -> np.ndarray:
        """All extrinsic rewards ``[T, B]``.

        Raises:
            ValueError: some are NaN or infinite.
        """
        rewards = np.stack(self.rewards)
        if not np.isfinite(rewards).all():
            raise ValueError("The environment paid NaN or infinite rewards.")
        return rewards


class Samples(NamedTuple):
    """Transitions ``[n, …]``. advantages: of r_ex_coef · r_ex with V^mix, as SB3 has them; extrinsic_…: of r_ex with V^ex."""

    observations: Any
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    extrinsic_values: Tensor
    extrinsic_advantages: Tensor
    extrinsic_returns: Tensor

    def rows(self, indices: Tensor | slice) -> Samples:
        observations, *others = self
        return Samples(_rows(observations, indices), *(column[indices] for column in others))


def _rows(observations: Any, indices: Tensor | slice) -> Any:
    if isinstance(observations, Tensor):
        return observations[indices]
    return {key: part[indices] for key, part in observations.items()}


def concatenate(batches: Sequence[Samples]) -> Samples:
    """All transitions of several."""
    return (
        batches[0]
        if len(batches) == 1
        else Samples(*(tree_map(lambda *parts: torch.cat(parts), *rows) for rows in zip(*batches, strict=True)))
    )


def slices(batches: Sequence[Samples]) -> list[slice]:
    """Where each of them lies in :func:`concatenate`'s."""
    ends = np.cumsum([len(batch.actions) for batch in batches]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@dataclass
class LearnedRewardRollout:
    """All T steps of B copies, in SB3's order: copy by copy, n = B · T."""

    samples: Samples
    discount: Tensor  # [T, B], γλ, but 0 where an episode ends

    @cached_property
    def discounted_sum(self) -> DiscountedSum:
        """Σ_i (γλ)^i r_{t+i} to the end of the episode: what rewards add to GAE, which is linear in them."""
        return DiscountedSum(self.discount)

    def minibatches(self, batch_size: int | None) -> Iterator[Tensor]:
        """Indices, drawn as SB3's buffers draw them."""
        indices = torch.from_numpy(np.random.permutation(len(self.samples.actions)))
        yield from indices.to(self.samples.actions.device).split(batch_size or len(indices))


def make_rollout(
    buffer: RolloutBuffer,
    recorder: ExtrinsicRecorder,
    last_observations: Any,
    last_dones: np.ndarray,
    to_tensor: Callable[[Any], Any],
    critic: Callable[[Any], Tensor],
    chunk: int,
) -> LearnedRewardRollout:
    """Of a full ``buffer`` that has not been shuffled, and what was recorded beside it.

    Args:
        to_tensor: observations as the environment gives them → as ``critic`` takes them. chunk: rows at a time for it.
    """

    def flat(array: np.ndarray) -> Tensor:
        array = np.asarray(array)
        return torch.as_tensor(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]), device=buffer.device)

    def stacked(rows: Any) -> Tensor:  # [T·B] → [T, B]
        return rows.view(n_copies, n_steps).t()

    n_steps, n_copies = buffer.buffer_size, buffer.n_envs
    # MuJoCo's are float64, and what sees them casts them to this.
    observations = tree_map(
        lambda part: part.float() if part.is_floating_point() else part, tree_map(flat, buffer.observations)
    )
    discrete = isinstance(buffer.action_space, spaces.Discrete)
    actions = flat(buffer.actions).long().flatten() if discrete else flat(buffer.actions).float()
    done = torch.as_tensor(np.concatenate([buffer.episode_starts[1:], last_dones[None]]) > 0, device=buffer.device)
    with torch.no_grad():
        starts = range(0, n_steps * n_copies, chunk)
        rows = [tree_map(lambda part, at=start: part[at : at + chunk], observations) for start in starts]
        values = stacked(torch.cat([critic(part) for part in rows]))
        next_values = torch.cat([values[1:], critic(to_tensor(last_observations))[None]])
        terminated = done.clone()
        if recorder.truncated:
            steps, copies, ends = zip(*recorder.truncated, strict=True)
            next_values[steps, copies] = critic(to_tensor(tree_map(lambda *parts: np.stack(parts), *ends)))
            terminated[steps, copies] = False
        rewards = torch.as_tensor(recorder.stacked(), device=buffer.device)
        advantages = generalized_advantage_estimation(
            rewards, values, next_values, terminated, done, buffer.gamma, buffer.gae_lambda
        )
    extrinsic = (part.t().reshape(-1) for part in (values, advantages, advantages + values))
    own = (flat(part) for part in (buffer.values, buffer.log_probs, buffer.advantages))
    discount = buffer.gamma * buffer.gae_lambda * (~done).to(values.dtype)
    return LearnedRewardRollout(Samples(observations, actions, *own, *extrinsic), discount)
