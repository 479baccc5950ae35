"""``IntrinsicRewardWrapper``: an intrinsic reward around one Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.core import ActType, ObsType

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.wrappers.bonus import EPISODE, EXTRINSIC, INTRINSIC, Coefficient, IntrinsicBonus, RewardChoice


class IntrinsicRewardWrapper(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Pays ``extrinsic_coef · r_ext + coef · r_int`` around one environment.

    The bonuses are those that :class:`VecIntrinsicReward` pays around a ``VecEnv`` of one copy, and so are the arguments, the
    entries of ``info`` and what happens at resets; see there. With Stable-Baselines3 prefer that one: n copies then share a
    reward and learn from common batches.

    Put it outside ``TimeLimit`` (as ``gym.make`` gives the environment), for the end of an episode is where its memory ends.

    Raises:
        ValueError: as in :class:`VecIntrinsicReward`.

    >>> import gymnasium as gym
    >>> env = IntrinsicRewardWrapper(gym.make("MountainCar-v0"), "random", coef=0.5, reward_kwargs={"n_rewards": 1})
    >>> _ = env.reset(seed=0)
    >>> _, reward, _, _, info = env.step(2)
    >>> info["reward_extrinsic"], bool(reward == np.float32(-1 + 0.5 * info["reward_intrinsic"]))
    (-1.0, True)
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        reward: RewardChoice,
        coef: Coefficient = 1.0,
        extrinsic_coef: float = 1.0,
        reward_kwargs: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
        learn_every: int = 128,
        normalize_reward: bool = True,
        gamma: float = 0.99,
        episodic: bool = False,
        clip_reward: float | None = 10.0,
        warmup_steps: int = 10_000,
        total_timesteps: int | None = None,
        training: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        settings: dict[str, Any] = dict(
            coef=coef, extrinsic_coef=extrinsic_coef, reward_kwargs=reward_kwargs, weights=weights, learn_every=learn_every,
            normalize_reward=normalize_reward, gamma=gamma, episodic=episodic, clip_reward=clip_reward,
            warmup_steps=warmup_steps, total_timesteps=total_timesteps, training=training, seed=seed, device=device,
        )  # fmt: skip
        gym.utils.RecordConstructorArgs.__init__(self, reward=reward, **settings)
        gym.Wrapper.__init__(self, env)
        self.bonus = IntrinsicBonus(reward, env.observation_space, env.action_space, 1, **settings)

    @property
    def reward(self) -> IntrinsicReward:
        """The intrinsic reward."""
        return self.bonus.reward

    @property
    def training(self) -> bool:
        """Whether the bonus is paid and the reward learns."""
        return self.bonus.training

    @training.setter
    def training(self, value: bool) -> None:
        self.bonus.training = value

    @property
    def num_warmup_steps(self) -> int:
        """Environment steps that ``fit`` took."""
        return self.bonus.num_warmup_steps

    def pop_logs(self) -> dict[str, float]:
        """As in :class:`VecIntrinsicReward`."""
        return self.bonus.pop_logs()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        if self.bonus.wants_warm_up:
            self.bonus.warm_up(self.env)
        observation, info = super().reset(seed=seed, options=options)
        self.bonus.begin(_batched(self.env.observation_space, observation))
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        batched = _batched(self.env.observation_space, observation)
        flags = np.array([terminated]), np.array([truncated])
        paid, bonus = self.bonus.step(np.asarray(action)[None], batched, batched, np.array([reward], np.float32), *flags)
        info = {**info, EXTRINSIC: float(reward), INTRINSIC: float(bonus[0])}
        if self.training and (terminated or truncated):
            info[EPISODE] = self.bonus.end_episode(0)
        return observation, float(paid[0]), terminated, truncated, info


def _batched(space: spaces.Space, observation: Any) -> Any:
    """One observation as a batch of one, of the types an SB3 ``VecEnv`` gives."""
    if isinstance(space, spaces.Dict):
        return {key: _batched(part, observation[key]) for key, part in space.spaces.items()}
    return np.asarray(observation, dtype=space.dtype)[None]
