"""A reward at the first success of an episode and nothing else."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.success import SUCCESS, Criterion, Episode, Predicate, VectorSuccess
from irwrappers.extrinsic.vector import ORIGINAL, VectorStep
from irwrappers.validation import check_number


class SparseReward(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Give ``reward`` at the first success of an episode and 0 at every other step.

    ``info["is_success"]`` is whether this episode has succeeded yet (SB3 reads it at the end), and
    ``info["original_reward"]`` the environment's reward in this step. A vector version of the wrapper exists:
    :class:`VectorSparseReward`.

    Args:
        env: the environment.
        success: the entry of ``info`` that is true at success; ``"is_success"`` if nothing else is given.
        threshold: instead, success is a reward of the environment of at least this.
        predicate: instead, a function ``(obs, action, next_obs, reward, terminated, truncated, info) -> bool``. A callable
            can't be written as JSON: ``env.spec`` holds it and ``gym.make(env.spec)`` uses it, but ``env.spec.to_json()``
            raises ``TypeError``.
        reward: at success.
        terminate_on_success: whether success ends the episode.

    Raises:
        ValueError: more than one of ``success``, ``threshold`` and ``predicate``, or a value of another kind; in a step whose
            info has no entry ``success``.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import SparseReward
        >>> env = SparseReward(gym.make("Pendulum-v1"), predicate=lambda *step: step[2][0] > 0.99, terminate_on_success=True)
        >>> _ = env.reset(seed=3)
        >>> env.unwrapped.state = [0.2, -1.0]  # nearly upright
        >>> [(env.step([0.0])[1:3]) for _ in range(2)]
        [(0.0, False), (1.0, True)]
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        success: str | None = None,
        threshold: float | None = None,
        predicate: Predicate | None = None,
        reward: float = 1.0,
        terminate_on_success: bool = False,
    ) -> None:
        criterion = Criterion(success, threshold, predicate)
        check_number("reward", reward, "the reward of a success")
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            success=success,
            threshold=threshold,
            predicate=predicate,
            reward=reward,
            terminate_on_success=terminate_on_success,
        )
        gym.Wrapper.__init__(self, env)
        self.reward = float(reward)
        self.terminate_on_success = terminate_on_success
        self._episode = Episode(criterion)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._episode.begin(observation)
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        first = self._episode.first_success(action, observation, float(reward), terminated, truncated, info)
        terminated = terminated or (first and self.terminate_on_success)
        info = {ORIGINAL: float(reward), **info, SUCCESS: self._episode.succeeded}
        return observation, self.reward if first else 0.0, terminated, truncated, info


class VectorSparseReward(VectorSuccess[ObsType, ActType]):
    """:class:`SparseReward` around a vector environment; rewards and infos are those of wrapped environments.

    Args:
        env: the vector environment.
        success: the entry of ``info`` that is true at success; ``"is_success"`` if nothing else is given.
        threshold: instead, success is a reward of the environment of at least this.
        predicate: as in :class:`SparseReward`, but of batches: it receives the arrays and infos of the vector environment as
            they are before a reset of ``SAME_STEP``, and returns ``[n]`` truth values. Its values for environments that
            ``NEXT_STEP`` resets in this step are not used.
        reward: at success.
        terminate_on_success: whether success ends the episode. The vector environment must then be able to reset a
            sub-environment whose episode it has not ended: ``SyncVectorEnv``, ``AsyncVectorEnv`` or one with
            ``metadata["independent_envs"]``, in ``SAME_STEP`` or ``DISABLED`` mode.

    Raises:
        ValueError: as in :class:`SparseReward`; ``env.metadata["autoreset_mode"]`` is missing; or episodes of this
            environment can't be ended from outside.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import VectorSparseReward
        >>> envs = gym.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode="sync", is_slippery=False)
        >>> envs = VectorSparseReward(envs, threshold=1.0, reward=10.0)
        >>> _ = envs.reset(seed=0)
        >>> [envs.step([action, 0])[1].tolist() for action in (1, 1, 2, 2, 1, 2)][-2:]
        [[0.0, 0.0], [10.0, 0.0]]
    """

    def __init__(
        self,
        env: VectorEnv[ObsType, ActType, np.ndarray],
        success: str | None = None,
        threshold: float | None = None,
        predicate: Predicate | None = None,
        reward: float = 1.0,
        terminate_on_success: bool = False,
    ) -> None:
        criterion = Criterion(success, threshold, predicate)
        check_number("reward", reward, "the reward of a success")
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            success=success,
            threshold=threshold,
            predicate=predicate,
            reward=reward,
            terminate_on_success=terminate_on_success,
        )
        super().__init__(env, criterion)
        self.reward = float(reward)
        self.terminate_on_success = terminate_on_success
        if terminate_on_success:
            self._check_can_end_episodes()

    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        first = self._first_success(step)
        if self.terminate_on_success:
            step.terminated = step.terminated | first
        return np.where(first, self.reward, 0.0)
