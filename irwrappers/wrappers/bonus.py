"""``IntrinsicBonus``: what ``VecIntrinsicReward`` and ``IntrinsicRewardWrapper`` share, one step of all copies at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.registry import make_intrinsic_reward
from irwrappers.intrinsic.running import RunningStd
from irwrappers.seeding import seeded
from irwrappers.serialization import check_same_spaces
from irwrappers.transitions import Transitions
from irwrappers.wrappers.coefficients import Coefficient, channel_weights, check_numbers, coefficient_schedule

RewardChoice = str | IntrinsicReward | Mapping[str, Mapping[str, Any]] | Sequence[Any]

EXTRINSIC, INTRINSIC, EPISODE = "reward_extrinsic", "reward_intrinsic", "intrinsic_episode"  # entries of ``info``


class IntrinsicBonus:
    """Prices each step of B copies, learns every ``learn_every`` steps, and keeps the running scale of the bonus.

    The arguments are those of :class:`~irwrappers.VecIntrinsicReward`, which says what they mean.

    Attributes:
        training: pay the bonus and learn; else nothing is computed and the environment's reward passes.
        num_steps: steps priced so far, all copies together; the clock of the coefficient's schedule.
        num_warmup_steps: environment steps that ``fit`` took.
    """

    def __init__(
        self,
        reward: RewardChoice,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int,
        *,
        coef: Coefficient,
        extrinsic_coef: float,
        reward_kwargs: Mapping[str, Any] | None,
        weights: Sequence[float] | None,
        learn_every: int,
        normalize_reward: bool,
        gamma: float,
        episodic: bool,
        clip_reward: float | None,
        warmup_steps: int,
        total_timesteps: int | None,
        training: bool,
        seed: int | None,
        device: torch.device | str,
    ) -> None:
        check_numbers(extrinsic_coef, learn_every, gamma, clip_reward, warmup_steps, total_timesteps)
        self.schedule = coefficient_schedule(coef, total_timesteps)
        self.extrinsic_coef = extrinsic_coef
        self.learn_every = learn_every
        self.normalize_reward = normalize_reward
        self.gamma = gamma
        self.episodic = episodic
        self.clip_reward = clip_reward
        self.warmup_steps = warmup_steps
        self.total_timesteps = total_timesteps
        self.training = training
        self.seed = int(np.random.randint(2**31 - 1)) if seed is None else int(seed)
        self.device = get_device(device)
        with seeded(self.seed, self.device):
            self.reward = make_intrinsic_reward(reward, observation_space, action_space, **dict(reward_kwargs or {}))
        check_same_spaces(
            (self.reward.observation_space, self.reward.action_space),
            (observation_space, action_space),
            "the reward was built",
        )
        self.reward.to(self.device)
        self.weights = channel_weights(self.reward, weights).to(self.device)
        self.std = RunningStd(self.reward.n_rewards).to(self.device)
        self.num_steps = self.num_warmup_steps = self._n_learned = 0
        self._warmed = False
        self.start(n_envs)

    # A rollout

    def start(self, n_envs: int) -> None:
        """New copies: nothing of their episodes and of the batch being collected is known."""
        self.n_envs = n_envs
        self.returns = torch.zeros(n_envs, self.reward.n_rewards, dtype=torch.float64, device=self.device)
        self._observations: Any = None
        self._pending: list[Transitions] = []
        self._open = np.zeros(n_envs, dtype=bool)  # copies within an episode, not at its beginning
        self._episode_return, self._episode_length = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
        self._logs: dict[str, list[float]] = defaultdict(list)

    @property
    def coef(self) -> float:
        """The coefficient now."""
        total = self.total_timesteps
        return float(self.schedule(1.0 if total is None else max(0.0, 1.0 - self.num_steps / total)))

    @property
    def wants_warm_up(self) -> bool:
        return self.training and self.warmup_steps > 0 and not self._warmed and self.reward.needs_fit

    def warm_up(self, env: VecEnv | gym.Env) -> None:
        """Fit the reward on at most ``warmup_steps`` steps of ``env``."""
        with seeded(self.seed, self.device):
            self.num_warmup_steps += self.reward.fit(env, self.warmup_steps, seed=self.seed)
        self._warmed = True

    def begin(self, observations: Any) -> None:
        """All copies were reset and show ``observations`` ``[B, …]``.

        A reset in the middle of an episode cuts it: the reward forgets what it remembered of it. The steps collected for the
        next learning stay, the last of them marked as truncated.
        """
        if self._open.any():
            self.reward.forget()
            if self._pending:
                last = self._pending[-1]
                last.truncated = last.truncated | ~last.terminated
        self._open[:] = False
        self._episode_return[:], self._episode_length[:] = 0.0, 0
        self._observations = self._row(observations, "reset") if self.training else None

    def step(
        self,
        actions: Any,
        following: Any,
        observations: Any,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Price a step.

        Args:
            actions: ``[B, …]``.
            following: the observations that the step led to, ``[B, …]``.
            observations: those to go on from: ``following``, but the first of the next episode where one ended.
            rewards: of the environment, ``[B]``.
            terminated, truncated: bool ``[B]``.
            valid: bool ``[B]``, False where the step was only a reset; None: nowhere.

        Returns:
            what the agent is paid and the bonus before the coefficient, float32 ``[B]`` each.
        """
        if not self.training:
            self._observations = None
            return rewards.astype(np.float32), np.zeros(self.n_envs, dtype=np.float32)
        if self._observations is None:
            raise RuntimeError("The bonus needs to know where the step began: call reset() first, also after training = True.")
        done = terminated | truncated
        batch = Transitions(
            self._observations,
            torch.as_tensor(np.array(actions), device=self.device)[None],
            self._row(following, "step"),
            self._flags(terminated),
            self._flags(truncated & ~terminated),
            None if valid is None else self._flags(valid),
        )
        self._observations = batch.next_observations if following is observations else self._row(observations, "reset")
        intrinsic = self._price(batch, done)
        coef = self.coef
        paid = (self.extrinsic_coef * rewards + coef * intrinsic).astype(np.float32)
        self.num_steps += self.n_envs
        self._open = ~done if valid is None else ~done & valid
        self._episode_return += intrinsic
        self._episode_length += 1 if valid is None else valid
        self._logs["reward"].append(float(intrinsic.mean()))
        self._logs["coef"].append(coef)
        self._pending.append(batch)
        if len(self._pending) == self.learn_every:
            self._learn()
        return paid, intrinsic

    def end_episode(self, index: int) -> dict[str, float]:
        """The bonuses' sum ``r`` and the length ``l`` of the episode that copy ``index`` has ended."""
        episode = {"r": float(self._episode_return[index]), "l": int(self._episode_length[index])}
        self._episode_return[index], self._episode_length[index] = 0.0, 0
        self._logs["episode_return"].append(episode["r"])
        return episode

    def pop_logs(self) -> dict[str, float]:
        """Means of what was logged since the last call, and the deviation the bonus is divided by."""
        logs = {name: float(np.mean(values)) for name, values in self._logs.items()}
        self._logs.clear()
        if self.normalize_reward:
            names = self.reward.channel_names if self.reward.n_rewards > 1 else [""]
            logs |= {f"return_std{'_' * bool(name)}{name}": float(x) for name, x in zip(names, self.std.std, strict=True)}
        return logs

    def _price(self, batch: Transitions, done: np.ndarray) -> np.ndarray:
        """The bonus ``[B]``: channels by their running deviations, weighted and summed."""
        channels = self.reward.compute(batch)[0]
        self.reward.advance(batch)
        valid = None if batch.valid is None else batch.valid[0, :, None]
        if valid is not None:
            channels = channels.masked_fill(~valid, 0.0)
        if not channels.isfinite().all():
            copies = (~channels.isfinite()).any(1).nonzero().squeeze(1).tolist()
            raise ValueError(
                f"{type(self.reward).__name__} paid copies {copies} a reward that is not finite; expected finite numbers. "
                "Check the scale of the observations, or normalise them (normalize_observations=True)."
            )
        if self.normalize_reward:
            channels = self._normalized(channels, valid, done)
        return (channels @ self.weights).cpu().numpy()

    def _normalized(self, channels: Tensor, valid: Tensor | None, done: np.ndarray) -> Tensor:
        if not self.std.count.any():
            self.std.update(self.returns)  # the return before the first step, 0: without it the first deviation would be 0
        returns = self.gamma * self.returns + channels
        self.returns = returns if valid is None else torch.where(valid, returns, self.returns)
        self.std.update(self.returns, valid)
        if self.episodic:
            self.returns[torch.as_tensor(done, device=self.device)] = 0.0
        scaled = self.std.normalize(channels)
        return scaled if self.clip_reward is None else scaled.clamp(-self.clip_reward, self.clip_reward)

    def _learn(self) -> None:
        batch = _join(self._pending)
        self._pending = []
        # A stream of its own: minibatches are drawn without moving the one that the policy samples from.
        with seeded(self.seed + 1 + self._n_learned, self.device), torch.enable_grad():
            log = self.reward.learn(batch)
        self._n_learned += 1
        for name, value in log.items():
            self._logs[name].append(value)

    def _row(self, observations: Any, where: str) -> Any:
        """A copy of observations ``[B, …]`` as tensors ``[1, B, …]``, checked."""
        parts = observations if isinstance(observations, dict) else {"": observations}
        for key, part in parts.items():
            if np.issubdtype(np.asarray(part).dtype, np.floating) and not np.isfinite(part).all():
                copies = sorted({int(row[0]) for row in np.argwhere(~np.isfinite(part))})
                entry = f"Entry {key!r} of the observation" if key else "The observation"
                raise ValueError(
                    f"{entry} that {where}() gave for copies {copies} is not finite: {np.asarray(part)[copies[0]]!r} for copy "
                    f"{copies[0]}. Expected finite numbers; repair the environment (SB3's VecCheckNan finds the step)."
                )
        return tree_map(lambda part: torch.as_tensor(np.array(part), device=self.device)[None], observations)

    def _flags(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=bool), device=self.device)[None]

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Reward, running deviation and clocks. Not the steps collected since the last learning, nor the observation."""
        return {
            "reward": self.reward.state_dict(),
            "std": self.std.state_dict(),
            "returns": self.returns,
            "counters": {"num_steps": self.num_steps, "num_warmup_steps": self.num_warmup_steps, "n_learned": self._n_learned},
            "warmed": self._warmed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; running returns of another number of copies begin at 0."""
        try:
            self.reward.load_state_dict(state["reward"])
            self.std.load_state_dict(state["std"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"The saved state does not fit {type(self.reward).__name__} with {self.reward.n_rewards} channels; expected a "
                f"reward of the same class and arguments as the saved one. {error}"
            ) from error
        if state["returns"].shape == self.returns.shape:
            self.returns.copy_(state["returns"])
        counters = state["counters"]
        self.num_steps, self.num_warmup_steps = counters["num_steps"], counters["num_warmup_steps"]
        self._n_learned, self._warmed = counters["n_learned"], state["warmed"]


def _join(steps: Sequence[Transitions]) -> Transitions:
    """Batches of one step each as one ``[T, B]``."""

    def column(name: str) -> Any:
        return tree_map(lambda *rows: torch.cat(rows), *(getattr(step, name) for step in steps))

    valid = None if all(step.valid is None for step in steps) else torch.cat([step.mask for step in steps])
    names = ("observations", "actions", "next_observations", "terminated", "truncated")
    return Transitions(**{name: column(name) for name in names}, valid=valid)
