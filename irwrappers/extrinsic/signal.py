"""The success signal of the black-box meta-learning paper: a larger reward for an earlier success."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.success import SUCCESS, Criterion, Episode, Predicate, VectorSuccess
from irwrappers.extrinsic.vector import ORIGINAL, VectorStep
from irwrappers.validation import check_range


class SuccessSignal(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Give 1 − 0.7 t/T at the first success of an episode, −0.2 at the end of an episode without one, and 0 otherwise.

    t counts the steps of the episode before this one, as in the authors' program: the reward of a success in the very first
    step is 1. T is the largest number of steps in an episode; t stays at T from there on. Success does not end the episode.
    ``info["is_success"]`` is whether this episode has succeeded yet, ``info["original_reward"]`` the environment's reward in
    this step. Put the wrapper around ``TimeLimit``, not inside it: it must see the end of the episode. A vector version of
    the wrapper exists: :class:`VectorSuccessSignal`.

    Source: Pappalardo, Ramele & Santos, arXiv 2407.21546: the input of the learned rewards and of the sparse baseline.

    Args:
        env: the environment.
        success: the entry of ``info`` that is true at success; ``"is_success"`` if nothing else is given.
        threshold: instead, success is a reward of the environment of at least this.
        predicate: instead, a function ``(obs, action, next_obs, reward, terminated, truncated, info) -> bool``. A callable
            can't be written as JSON: ``env.spec`` holds it and ``gym.make(env.spec)`` uses it, but ``env.spec.to_json()``
            raises ``TypeError``.
        max_episode_steps: T; ``None`` for the environment's own, ``env.spec.max_episode_steps``.

    Raises:
        ValueError: as in :class:`~irwrappers.SparseReward`, or T is not an integer of at least 1, or neither given nor known.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import SuccessSignal
        >>> env = SuccessSignal(gym.make("FrozenLake-v1", is_slippery=False, max_episode_steps=10), threshold=1.0)
        >>> _ = env.reset(seed=0)
        >>> [round(env.step(action)[1], 2) for action in (1, 1, 2, 2, 1, 2)]  # the shortest path
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.65]
        >>> _ = env.reset()
        >>> env.step(2)[1], env.step(1)[1]  # a hole
        (0.0, -0.2)
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        success: str | None = None,
        threshold: float | None = None,
        predicate: Predicate | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        criterion = Criterion(success, threshold, predicate)
        self.max_episode_steps = _check_horizon(max_episode_steps, env)
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            success=success,
            threshold=threshold,
            predicate=predicate,
            max_episode_steps=max_episode_steps,
        )
        gym.Wrapper.__init__(self, env)
        self._episode = Episode(criterion)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._episode.begin(observation)
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        elapsed = self._episode.steps
        first = self._episode.first_success(action, observation, float(reward), terminated, truncated, info)
        failed = (terminated or truncated) and not self._episode.succeeded
        signal = float(success_signal(first, failed, elapsed, self.max_episode_steps))
        info = {ORIGINAL: float(reward), **info, SUCCESS: self._episode.succeeded}
        return observation, signal, terminated, truncated, info


class VectorSuccessSignal(VectorSuccess[ObsType, ActType]):
    """:class:`SuccessSignal` around a vector environment; rewards and infos are those of wrapped environments.

    Args:
        env: the vector environment.
        success: the entry of ``info`` that is true at success; ``"is_success"`` if nothing else is given.
        threshold: instead, success is a reward of the environment of at least this.
        predicate: as in :class:`SuccessSignal`, but of batches: it receives the arrays and infos of the vector environment as
            they are before a reset of ``SAME_STEP``, and returns ``[n]`` truth values. Its values for environments that
            ``NEXT_STEP`` resets in this step are not used.
        max_episode_steps: T; ``None`` for the environment's own.

    Raises:
        ValueError: as in :class:`SuccessSignal`, or ``env.metadata["autoreset_mode"]`` is missing.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import VectorSuccessSignal
        >>> envs = gym.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode="sync", is_slippery=False)
        >>> envs = VectorSuccessSignal(envs, threshold=1.0, max_episode_steps=10)
        >>> _ = envs.reset(seed=0)
        >>> [envs.step(actions)[1].round(2).tolist() for actions in ((1, 2), (1, 1), (2, 0), (2, 0), (1, 0), (2, 0))][1::4]
        [[0.0, -0.2], [0.65, 0.0]]
    """

    def __init__(
        self,
        env: VectorEnv[ObsType, ActType, np.ndarray],
        success: str | None = None,
        threshold: float | None = None,
        predicate: Predicate | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        criterion = Criterion(success, threshold, predicate)
        self.max_episode_steps = _check_horizon(max_episode_steps, env)
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            success=success,
            threshold=threshold,
            predicate=predicate,
            max_episode_steps=max_episode_steps,
        )
        super().__init__(env, criterion)

    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        elapsed = self._steps.copy()  # before this step is counted
        first = self._first_success(step)
        return success_signal(first, step.done & ~self._succeeded, elapsed, self.max_episode_steps)


def success_signal(first: Any, failed: Any, elapsed: Any, horizon: int) -> np.ndarray:
    """Return the success signal of a step, or of a step of several environments.

    Args:
        first: whether it is the episode's first success.
        failed: whether the episode ends without one.
        elapsed: steps of the episode before this one.
        horizon: T, the largest number of steps in an episode.
    """
    return np.where(first, 1.0 - 0.7 * (np.minimum(elapsed, horizon) / horizon), np.where(failed, -0.2, 0.0))


def _check_horizon(steps: Any, env: Any) -> int:
    if steps is None and env.spec is not None:
        steps = env.spec.max_episode_steps
        if isinstance(env, VectorEnv):  # gym.make_vec leaves a limit that it was given among the arguments
            steps = env.spec.kwargs.get("max_episode_steps", steps)
    if steps is None:
        raise ValueError(
            f"{env} has no spec.max_episode_steps, the largest number of steps in an episode; give max_episode_steps."
        )
    check_range("max_episode_steps", steps, 1, integer=True, schedule=False)
    return int(steps)
