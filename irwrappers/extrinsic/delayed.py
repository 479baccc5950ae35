"""Rewards that are accumulated and given later: every n steps, or at the end of the episode."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.vector import ORIGINAL, VectorReward, VectorStep
from irwrappers.validation import check_range

UNDELAYED = "undelayed_reward"  # the entry of ``info`` with the wrapped environment's reward


class DelayedReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Give the sum of the rewards every ``delay`` steps, 0 in between, and the rest when the episode ends.

    The return of an episode does not change. ``info["undelayed_reward"]`` is the wrapped environment's reward in this step;
    ``info["original_reward"]`` that of the environment beneath any other reward wrappers.

    The wrapper must see the end of the episode: put it around ``TimeLimit``, not inside it (as ``gym.make`` does for
    ``additional_wrappers``). A vector version of the wrapper exists: :class:`VectorDelayedReward`.

    Source: the delayed MuJoCo tasks of Zheng, Oh & Singh, arXiv 1804.06459, with ``delay=20``.

    Args:
        env: the environment.
        delay: number of steps between rewards, at least 1.

    Raises:
        ValueError: ``delay`` is not an integer of at least 1.

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
        self._accumulated = 0.0
        self._waited = 0  # steps since the last reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        self._accumulated, self._waited = 0.0, 0
        return super().reset(seed=seed, options=options)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        reward = float(reward)
        self._accumulated += reward
        self._waited += 1
        given = 0.0
        if terminated or truncated or self._waited == self.delay:
            given, self._accumulated, self._waited = self._accumulated, 0.0, 0
        return observation, given, terminated, truncated, {ORIGINAL: reward, **info, UNDELAYED: reward}


class VectorDelayedReward(VectorReward[ObsType, ActType]):
    """:class:`DelayedReward` around a vector environment, in any autoreset mode; each sub-environment has its own delay.

    Rewards and infos are those of a ``SyncVectorEnv`` of wrapped environments. The step in which ``NEXT_STEP`` resets an
    environment is not counted; ``reset(options={"reset_mask": mask})`` restarts the count of those environments.

    Args:
        env: the vector environment.
        delay: number of steps between rewards, at least 1.

    Raises:
        ValueError: ``delay`` is not an integer of at least 1, or ``env.metadata["autoreset_mode"]`` is missing.

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
        self._accumulated = np.zeros(self.num_envs)
        self._waited = np.zeros(self.num_envs, dtype=np.int64)

    def _begin(self, begun: np.ndarray, observations: Any) -> None:
        self._accumulated[begun], self._waited[begun] = 0.0, 0

    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        step.notes[UNDELAYED] = step.rewards
        self._accumulated += np.where(step.stepped, step.rewards, 0.0)
        self._waited += step.stepped
        due = step.done | (self._waited == self.delay)
        given = np.where(due, self._accumulated, 0.0)
        self._accumulated[due], self._waited[due] = 0.0, 0
        return given


class EpisodicReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Give the whole return of an episode in its last step and 0 before it.

    The undiscounted return does not change; ``info["original_reward"]`` is the environment's reward in this step. A time limit
    may end the episode, so put the wrapper around ``TimeLimit``, not inside it. A vector version of the wrapper exists:
    :class:`VectorEpisodicReward`.

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
        self._accumulated = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        self._accumulated = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        reward = float(reward)
        self._accumulated += reward
        given = self._accumulated if terminated or truncated else 0.0
        return observation, given, terminated, truncated, {ORIGINAL: reward, **info}


class VectorEpisodicReward(VectorReward[ObsType, ActType]):
    """:class:`EpisodicReward` around a vector environment; rewards and infos are those of wrapped environments.

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
        self._accumulated = np.zeros(self.num_envs)

    def _begin(self, begun: np.ndarray, observations: Any) -> None:
        self._accumulated[begun] = 0.0

    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        self._accumulated += np.where(step.stepped, step.rewards, 0.0)
        return np.where(step.done, self._accumulated, 0.0)


def _check_delay(delay: Any) -> int:
    check_range("delay", delay, 1, integer=True, schedule=False, meaning="steps between rewards")
    return int(delay)
