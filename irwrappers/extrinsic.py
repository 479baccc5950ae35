"""Wrappers that change when and for what the environment's own reward is paid.

* ``DelayedReward`` - pays the sum of the last n rewards every n steps, and the rest at the end of the episode.
* ``VectorDelayedReward`` - the same around a ``gymnasium.vector.VectorEnv``.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

__all__ = ["DelayedReward", "VectorDelayedReward"]

UNDELAYED = "undelayed_reward"  # the entry of ``info`` with what the environment paid in this step


class DelayedReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Pays the sum of the rewards every ``delay`` steps, 0 in between, and what is left when the episode ends.

    The return of an episode stays the environment's. ``info["undelayed_reward"]`` is what the environment paid in this step.

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
        >>> from irwrappers import DelayedReward
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
        return observation, paid, terminated, truncated, {**info, UNDELAYED: reward}


class VectorDelayedReward(VectorWrapper[ObsType, ActType, ObsType, ActType, np.ndarray]):
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
        >>> from irwrappers import VectorDelayedReward
        >>> envs = VectorDelayedReward(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), delay=3)
        >>> _ = envs.reset(seed=0)
        >>> [envs.step([i % 2] * 2)[1].tolist() for i in range(4)]
        [[0.0, 0.0], [0.0, 0.0], [3.0, 3.0], [0.0, 0.0]]
    """

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray], delay: int = 20) -> None:
        self.delay = _check_delay(delay)
        super().__init__(env)
        if "autoreset_mode" not in env.metadata:
            raise ValueError(
                f"{env} does not say how it resets its copies; expected metadata['autoreset_mode'] to be an "
                "AutoresetMode. Set it, or wrap the single environments in DelayedReward."
            )
        self.autoreset_mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._owed = np.zeros(self.num_envs)
        self._waited = np.zeros(self.num_envs, dtype=np.int64)
        self._resetting = np.zeros(self.num_envs, dtype=bool)  # copies whose next step will be their reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        begun = (options or {}).get("reset_mask", slice(None))
        result = super().reset(seed=seed, options=options)  # first, for it refuses a wrong mask
        self._owed[begun], self._waited[begun], self._resetting[begun] = 0.0, 0, False
        return result

    def step(self, actions: ActType) -> tuple[ObsType, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = super().step(actions)
        stepped = ~self._resetting
        self._owed += np.where(stepped, rewards, 0.0)
        self._waited += stepped
        done = np.logical_or(terminated, truncated)
        paying = done | (self._waited == self.delay)
        paid = np.where(paying, self._owed, 0.0)
        self._owed[paying], self._waited[paying] = 0.0, 0
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._resetting = done
        return observations, paid, terminated, truncated, self._inform(infos, rewards, stepped, done)

    def _inform(self, infos: dict[str, Any], rewards: np.ndarray, stepped: np.ndarray, done: np.ndarray) -> dict[str, Any]:
        """Infos with the undelayed rewards; those of an episode that SAME_STEP has ended stand in ``final_info``."""
        infos = dict(infos)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            infos["final_info"] = {**infos.get("final_info", {}), **_entry(rewards, done)}
            stepped = ~done
        return {**infos, **_entry(rewards, stepped)} if stepped.any() else infos


def _entry(rewards: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The rewards of the copies in ``mask`` in the layout of a vector environment's ``info``."""
    return {UNDELAYED: np.where(mask, rewards, 0.0), f"_{UNDELAYED}": mask.copy()}


def _check_delay(delay: Any) -> int:
    if isinstance(delay, bool) or not isinstance(delay, (int, np.integer)) or delay < 1:
        raise ValueError(f"delay must be an integer of at least 1 (steps between payments), got {delay!r}.")
    return int(delay)
