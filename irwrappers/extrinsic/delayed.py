"""Rewards paid later than they are earned: every n steps, or at the end of the episode."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.vector import ORIGINAL, VectorReward, VectorStep
from irwrappers.validation import check_range

UNDELAYED = "undelayed_reward"  # the entry of ``info`` with what the wrapped environment paid in this step


class DelayedReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Pays the sum of the rewards every ``delay`` steps, 0 in between, and what is left when the episode ends.

    The return of an episode stays the environment's. ``info["undelayed_reward"]`` is what the wrapped environment paid in
    this step; ``info["original_reward"]`` the same but for other reward wrappers beneath this one.

    The last payment needs to see the end of the episode: put the wrapper around ``TimeLimit``, not inside it (as
    ``gym.make`` does for ``additional_wrappers``). A vector version of the wrapper exists: :class:`VectorDelayedReward`.

    Source: the delayed MuJoCo tasks of Zheng, Oh & Singh, arXiv 1804.06459, with ``delay=20``.

    Args:
        env: the environment.
        delay: steps between payments, at least 1.

    Raises:
        ValueError: ``delay`` is no integer of at least 1.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import DelayedReward
        >>> env = DelayedReward(gym.make("CartPole-v1", max_episode_steps=8), delay=3)
        >>> _ = env.reset(seed=0)
        >>> [env.step(i % 2)[1] for i in range(8)]
        [0.0, 0.0, 3.0, 0.0, 0.0, 3.0, 0.0, 2.0]
    """

    def __init__(self, env: gym.Env[ObsType, ActType], delay: int = 20) -> None:
        delay = _check_delay(delay)
        gym.utils.RecordConstructorArgs.__init__(self, delay=delay)
        gym.Wrapper.__init__(self, env)
        self.delay = delay
        self._owed = 0.0
        self._waited = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        self._owed, self._waited = 0.0, 0
        return super().reset(seed=seed, options=options)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        reward = float(reward)
        self._owed += reward
        self._waited += 1
        paid = 0.0
        if terminated or truncated or self._waited == self.delay:
            paid, self._owed, self._waited = self._owed, 0.0, 0
        return observation, paid, terminated, truncated, {ORIGINAL: reward, **info, UNDELAYED: reward}


class VectorDelayedReward(VectorReward[ObsType, ActType]):
    """:class:`DelayedReward` around a vector environment: each copy has its own clock, whatever the autoreset mode.

    Rewards and infos are those of a ``SyncVectorEnv`` of wrapped copies. The step in which ``NEXT_STEP`` resets a copy counts
    for nothing; ``reset(options={"reset_mask": mask})`` starts the clocks of those copies anew.

    Args:
        env: the vector environment.
        delay: steps between payments, at least 1.

    Raises:
        ValueError: ``delay`` is no integer of at least 1, or ``env.metadata["autoreset_mode"]`` is missing.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import VectorDelayedReward
        >>> envs = VectorDelayedReward(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), delay=3)
        >>> _ = envs.reset(seed=0)
        >>> [envs.step([i % 2] * 2)[1].tolist() for i in range(4)]
        [[0.0, 0.0], [0.0, 0.0], [3.0, 3.0], [0.0, 0.0]]
    """

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray], delay: int = 20) -> None:
        self.delay = _check_delay(delay)
        gym.utils.RecordConstructorArgs.__init__(self, delay=self.delay)
        super().__init__(env)
        self._owed = np.zeros(self.num_envs)
        self._waited = np.zeros(self.num_envs, dtype=np.int64)

    def _begin(self, copies: np.ndarray, observations: Any) -> None:
        self._owed[copies], self._waited[copies] = 0.0, 0

    def _pay(self, step: VectorStep) -> np.ndarray:
        step.notes[UNDELAYED] = step.rewards
        self._owed += np.where(step.stepped, step.rewards, 0.0)
        self._waited += step.stepped
        paying = step.done | (self._waited == self.delay)
        paid = np.where(paying, self._owed, 0.0)
        self._owed[paying], self._waited[paying] = 0.0, 0
        return paid


class EpisodicReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Pays the whole return of an episode in its last step and 0 before it.

    The undiscounted return stays the environment's; ``info["original_reward"]`` is what it paid in this step. The end of
    the episode may be a time limit's, so put the wrapper around ``TimeLimit``, not inside it. A vector version of the wrapper
    exists: :class:`VectorEpisodicReward`.

    Args:
        env: the environment.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import EpisodicReward
        >>> env = EpisodicReward(gym.make("CartPole-v1", max_episode_steps=4))
        >>> _ = env.reset(seed=0)
        >>> [env.step(i % 2)[1] for i in range(4)]
        [0.0, 0.0, 0.0, 4.0]
    """

    def __init__(self, env: gym.Env[ObsType, ActType]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._owed = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        self._owed = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        reward = float(reward)
        self._owed += reward
        paid = self._owed if terminated or truncated else 0.0
        return observation, paid, terminated, truncated, {ORIGINAL: reward, **info}


class VectorEpisodicReward(VectorReward[ObsType, ActType]):
    """:class:`EpisodicReward` around a vector environment; rewards and infos are those of wrapped copies.

    Args:
        env: the vector environment.

    Raises:
        ValueError: ``env.metadata["autoreset_mode"]`` is missing.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import VectorEpisodicReward
        >>> envs = VectorEpisodicReward(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", max_episode_steps=3))
        >>> _ = envs.reset(seed=0)
        >>> [envs.step([i % 2] * 2)[1].tolist() for i in range(3)]
        [[0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]
    """

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._owed = np.zeros(self.num_envs)

    def _begin(self, copies: np.ndarray, observations: Any) -> None:
        self._owed[copies] = 0.0

    def _pay(self, step: VectorStep) -> np.ndarray:
        self._owed += np.where(step.stepped, step.rewards, 0.0)
        return np.where(step.done, self._owed, 0.0)


def _check_delay(delay: Any) -> int:
    check_range("delay", delay, 1, integer=True, schedule=False, meaning="steps between rewards")
    return int(delay)
