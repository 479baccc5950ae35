"""``IntrinsicBonus``: the part that both wrappers share, one step of B environments at a time."""

from __future__ import annotations

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
from irwrappers.intrinsic.registry import RewardChoice, make_intrinsic_reward
from irwrappers.intrinsic.running import RunningStd
from irwrappers.seeding import seeded
from irwrappers.serialization import check_same_spaces
from irwrappers.transitions import Transitions
from irwrappers.validation import check_number, check_range
from irwrappers.wrappers.coefficients import Coefficient, channel_weights, coefficient_schedule

EXTRINSIC, INTRINSIC, EPISODE = "reward_extrinsic", "reward_intrinsic", "intrinsic_episode"  # entries of ``info``


class IntrinsicBonus:
    """Compute the bonus of each step of B environments, train the reward model, and keep the running scale of the bonus.

    Args:
        intrinsic_reward: as in :class:`~irwrappers.VecIntrinsicReward`, like all of the following.
        observation_space: of a single environment.
        action_space: of a single environment.
        n_envs: number of parallel environments, B.
        intrinsic_coef: coefficient of the bonus, or its schedule.
        extrinsic_coef: coefficient of the environment's reward.
        intrinsic_reward_kwargs: constructor arguments of a reward given by name.
        intrinsic_weights: of the reward's channels.
        learn_every: steps of each environment between two updates of the reward model.
        normalize_reward: divide by the running deviation of the discounted return.
        gamma: discount factor of that return.
        episodic: reset that return at the end of an episode.
        clip_reward: largest absolute value of a normalised channel, or None.
        warmup_steps: largest number of environment steps for ``fit``.
        total_timesteps: environment steps over which the schedule of ``intrinsic_coef`` runs.
        training: add the bonus and train the reward model; else nothing is computed and the environment's reward passes.
        seed: of the reward model; None: sampled from NumPy's global generator.
        device: of the reward model.

    Attributes:
        num_steps: environment steps so far, of all environments together; the clock of the coefficient's schedule.
        num_warmup_steps: environment steps that ``fit`` took.
    """

    def __init__(
        self,
        intrinsic_reward: RewardChoice,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int,
        *,
        intrinsic_coef: Coefficient,
        extrinsic_coef: float,
        intrinsic_reward_kwargs: Mapping[str, Any] | None,
        intrinsic_weights: Sequence[float] | None,
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
        check_number("extrinsic_coef", extrinsic_coef)
        check_range("learn_every", learn_every, 1, integer=True, schedule=False, meaning="steps of each environment")
        check_range("gamma", gamma, 0, 1, open_high=True, schedule=False)
        check_range("clip_reward", clip_reward, 0, open_low=True, optional=True, schedule=False)
        check_range("warmup_steps", warmup_steps, 0, integer=True, schedule=False)
        check_range("total_timesteps", total_timesteps, 1, integer=True, optional=True, schedule=False)
        self.schedule = coefficient_schedule(intrinsic_coef, total_timesteps)
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
        kwargs = dict(intrinsic_reward_kwargs or {})
        with seeded(self.seed, self.device):
            self.intrinsic_reward = make_intrinsic_reward(intrinsic_reward, observation_space, action_space, **kwargs)
        check_same_spaces(
            (self.intrinsic_reward.observation_space, self.intrinsic_reward.action_space),
            (observation_space, action_space),
            "the reward was built",
        )
        self.intrinsic_reward.to(self.device)
        self.intrinsic_weights = channel_weights(self.intrinsic_reward, intrinsic_weights).to(self.device)
        self.std = RunningStd(self.intrinsic_reward.n_rewards).to(self.device)
        self.num_steps = self.num_warmup_steps = self._n_learned = 0
        self._warmed = False
        self.start(n_envs)

    # A rollout

    def start(self, n_envs: int) -> None:
        """Start with ``n_envs`` new environments: drop episodes and the batch that is being collected."""
        self.n_envs = n_envs
        self.returns = torch.zeros(n_envs, self.intrinsic_reward.n_rewards, dtype=torch.float64, device=self.device)
        self._observations: Any = None
        self._pending: list[Transitions] = []
        self._open = np.zeros(n_envs, dtype=bool)  # environments that are inside an episode, past its first observation
        self._episode_return, self._episode_length = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
        self._logs: dict[str, tuple[float, int]] = {}  # sum and number of values since pop_logs, which may never be called

    @property
    def intrinsic_coef(self) -> float:
        """The coefficient of the bonus at this point of training."""
        total = self.total_timesteps
        return float(self.schedule(1.0 if total is None else max(0.0, 1.0 - self.num_steps / total)))

    @property
    def needs_warm_up(self) -> bool:
        """Whether the reward model must be fitted before the next reset."""
        return self.training and self.warmup_steps > 0 and not self._warmed and self.intrinsic_reward.needs_fit

    def warm_up(self, env: VecEnv | gym.Env) -> None:
        """Fit the reward on at most ``warmup_steps`` steps of ``env``."""
        with seeded(self.seed, self.device):
            self.num_warmup_steps += self.intrinsic_reward.fit(env, self.warmup_steps, seed=self.seed)
        self._warmed = True

    def begin(self, observations: Any) -> None:
        """Start new episodes in all environments, which were reset and gave ``observations`` ``[B, …]``.

        A reset in the middle of an episode cuts it: the reward's episodic memory is cleared. The steps collected for the next
        update stay, the last of them marked as truncated.
        """
        if self._open.any():
            self.intrinsic_reward.forget()
            if self._pending:
                last = self._pending[-1]
                last.truncated = last.truncated | ~last.terminated
        self._open[:] = False
        self._episode_return[:], self._episode_length[:] = 0.0, 0
        self._observations = self._row(observations, "reset") if self.training else None

    def step(
        self,
        actions: Any,
        next_observations: Any,
        observations: Any,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the rewards of a step.

        Args:
            actions: ``[B, …]``.
            next_observations: those that the step led to, ``[B, …]``, before any reset.
            observations: those that the next step starts from: ``next_observations``, or the first of a new episode.
            rewards: of the environment, ``[B]``.
            terminated: bool ``[B]``.
            truncated: bool ``[B]``.
            valid: bool ``[B]``, False where the step was only a reset; None: all are valid.

        Returns:
            the reward of the agent, and the bonus before the coefficient, float32 ``[B]`` each.
        """
        if not self.training:
            self._observations = None
            return rewards.astype(np.float32), np.zeros(self.n_envs, dtype=np.float32)
        if self._observations is None:
            raise RuntimeError(
                "The bonus needs the observation that the step started from: call reset() first, also after training = True."
            )
        if not np.isfinite(rewards).all():
            index = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(f"Environment {index} gave the reward {rewards[index]}; expected a finite number.")
        done = terminated | truncated
        batch = Transitions(
            self._observations,
            torch.as_tensor(np.array(actions), device=self.device)[None],
            self._row(next_observations, "step"),
            self._flags(terminated),
            self._flags(truncated & ~terminated),
            None if valid is None else self._flags(valid),
        )
        self._observations = batch.next_observations if next_observations is observations else self._row(observations, "reset")
        intrinsic = self._compute(batch, done)
        coef = self.intrinsic_coef
        total = (self.extrinsic_coef * rewards + coef * intrinsic).astype(np.float32)
        self.num_steps += self.n_envs
        self._open = ~done if valid is None else ~done & valid
        self._episode_return += intrinsic
        self._episode_length += 1 if valid is None else valid
        self._log("reward", float(intrinsic.mean()))
        self._log("coef", coef)
        self._pending.append(batch)
        if len(self._pending) == self.learn_every:
            self._learn()
        return total, intrinsic

    def end_episode(self, index: int) -> dict[str, float]:
        """Return the sum ``r`` of the bonuses and the length ``l`` of the episode that environment ``index`` has ended."""
        episode = {"r": float(self._episode_return[index]), "l": int(self._episode_length[index])}
        self._episode_return[index], self._episode_length[index] = 0.0, 0
        self._log("episode_return", episode["r"])
        return episode

    def _log(self, name: str, value: float) -> None:
        total, number = self._logs.get(name, (0.0, 0))
        self._logs[name] = total + value, number + 1

    def pop_logs(self) -> dict[str, float]:
        """Return the means of what was logged since the last call, and the deviation that the bonus is divided by."""
        logs = {name: total / number for name, (total, number) in self._logs.items()}
        self._logs.clear()
        if self.normalize_reward:
            names = self.intrinsic_reward.channel_names if self.intrinsic_reward.n_rewards > 1 else [""]
            logs |= {f"return_std{'_' * bool(name)}{name}": float(x) for name, x in zip(names, self.std.std, strict=True)}
        return logs

    def _compute(self, batch: Transitions, done: np.ndarray) -> np.ndarray:
        """Return the bonus ``[B]``: channels divided by their running deviations, weighted and summed."""
        channels = self.intrinsic_reward.compute(batch)[0]
        self.intrinsic_reward.advance(batch)
        valid = None if batch.valid is None else batch.valid[0, :, None]
        if valid is not None:
            channels = channels.masked_fill(~valid, 0.0)
        if not channels.isfinite().all():
            indices = (~channels.isfinite()).any(1).nonzero().squeeze(1).tolist()
            raise ValueError(
                f"{type(self.intrinsic_reward).__name__} gave environments {indices} a reward that is not finite; expected "
                "finite numbers. Check the scale of the observations, or normalise them (normalize_observations=True)."
            )
        if self.normalize_reward:
            channels = self._normalized(channels, valid, done)
        return (channels @ self.intrinsic_weights).cpu().numpy()

    def _normalized(self, channels: Tensor, valid: Tensor | None, done: np.ndarray) -> Tensor:
        if not self.std.count.any():
            self.std.update(self.returns)  # the return before the first step, 0; without it the first deviation is 0
        returns = self.gamma * self.returns + channels
        self.returns = returns if valid is None else torch.where(valid, returns, self.returns)
        self.std.update(self.returns, valid)
        if self.episodic:
            self.returns[torch.as_tensor(done, device=self.device)] = 0.0
        scaled = self.std.normalize(channels)
        return scaled if self.clip_reward is None else scaled.clamp(-self.clip_reward, self.clip_reward)

    def _learn(self) -> None:
        batch = _concatenate(self._pending)
        self._pending = []
        # Minibatches have a seed of their own, so that the generator that the policy samples from is not advanced.
        with seeded(self.seed + 1 + self._n_learned, self.device), torch.enable_grad():
            log = self.intrinsic_reward.learn(batch)
        self._n_learned += 1
        for name, value in log.items():
            self._log(name, value)

    def _row(self, observations: Any, where: str) -> Any:
        """Check observations ``[B, …]`` and copy them to tensors ``[1, B, …]``."""
        parts = observations if isinstance(observations, dict) else {"": observations}
        for key, part in parts.items():
            if np.issubdtype(np.asarray(part).dtype, np.floating) and not np.isfinite(part).all():
                indices = sorted({int(row[0]) for row in np.argwhere(~np.isfinite(part))})
                entry = f"Entry {key!r} of the observation" if key else "The observation"
                raise ValueError(
                    f"{entry} that {where}() gave for environments {indices} is not finite: {np.asarray(part)[indices[0]]!r} "
                    f"for environment {indices[0]}. Expected finite numbers; repair the environment (SB3's VecCheckNan finds "
                    "the step)."
                )
        return tree_map(lambda part: torch.as_tensor(np.array(part), device=self.device)[None], observations)

    def _flags(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=bool), device=self.device)[None]

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Return reward, running deviation and step counters, without the steps collected since the last update."""
        return {
            "reward": self.intrinsic_reward.state_dict(),
            "std": self.std.state_dict(),
            "returns": self.returns,
            "counters": {"num_steps": self.num_steps, "num_warmup_steps": self.num_warmup_steps, "n_learned": self._n_learned},
            "warmed": self._warmed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; running returns start at 0 if the number of environments differs."""
        try:
            self.intrinsic_reward.load_state_dict(state["reward"])
            self.std.load_state_dict(state["std"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"The saved state does not fit {type(self.intrinsic_reward).__name__} with "
                f"{self.intrinsic_reward.n_rewards} channels; expected a reward of the same class and "
                f"arguments as the saved one. {error}"
            ) from error
        if state["returns"].shape == self.returns.shape:
            self.returns.copy_(state["returns"])
        counters = state["counters"]
        self.num_steps, self.num_warmup_steps = counters["num_steps"], counters["num_warmup_steps"]
        self._n_learned, self._warmed = counters["n_learned"], state["warmed"]


class BonusProperties:
    """Attributes that both wrappers take from their ``bonus``."""

    bonus: IntrinsicBonus

    @property
    def intrinsic_reward(self) -> IntrinsicReward:
        """The reward model."""
        return self.bonus.intrinsic_reward

    @property
    def training(self) -> bool:
        """Whether the bonus is added and the reward model is trained."""
        return self.bonus.training

    @training.setter
    def training(self, value: bool) -> None:
        self.bonus.training = value

    @property
    def num_warmup_steps(self) -> int:
        """Environment steps that ``fit`` took."""
        return self.bonus.num_warmup_steps

    def pop_logs(self) -> dict[str, float]:
        """Return means since the last call: bonus, coefficient, bonus per episode, and what the reward model logged."""
        return self.bonus.pop_logs()


def _concatenate(steps: Sequence[Transitions]) -> Transitions:
    """Concatenate batches of one step each to one batch ``[T, B]``."""

    def column(name: str) -> Any:
        return tree_map(lambda *rows: torch.cat(rows), *(getattr(step, name) for step in steps))

    valid = None if all(step.valid is None for step in steps) else torch.cat([step.mask for step in steps])
    names = ("observations", "actions", "next_observations", "terminated", "truncated")
    return Transitions(**{name: column(name) for name in names}, valid=valid)
