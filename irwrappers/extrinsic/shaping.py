"""Potential-based reward shaping, which keeps optimal policies optimal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import VectorEnv

from irwrappers.extrinsic.vector import ORIGINAL, VectorReward, VectorStep
from irwrappers.validation import check_range

Potential = Callable[[Any], Any]


class PotentialShaping(gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Add F = γΦ(s′) − Φ(s) to the reward, with Φ = 0 where the episode has terminated.

    The discounted sum of F over an episode is −Φ(s₀), or γᵀΦ(s_T) − Φ(s₀) if it was truncated after T steps: whatever the
    policy, its value in s becomes V(s) − Φ(s), and optimal policies stay optimal. At a time limit Φ(s′) is not replaced by 0,
    because a learner bootstraps there, from a value that is V(s′) − Φ(s′) too, as Stable-Baselines3's algorithms do.

    ``info["original_reward"]`` is the environment's reward in this step. A vector version of the wrapper exists:
    :class:`VectorPotentialShaping`.

    Source: Ng, Harada & Russell, ICML 1999, theorem 1. Φ = 0 at the end of an episode: their assumption in the episodic case.

    Args:
        env: the environment.
        potential: Φ, a function from an observation to a number. A callable can't be written as JSON: ``env.spec`` holds
            it and ``gym.make(env.spec)`` uses it, but ``env.spec.to_json()`` raises ``TypeError``.
        gamma: γ, in [0, 1]: the learner's discount factor. With another one the guarantee is lost.

    Raises:
        ValueError: ``potential`` is not callable, ``gamma`` is not in [0, 1], or a potential is not a finite number.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import PotentialShaping
        >>> env = PotentialShaping(gym.make("FrozenLake-v1", is_slippery=False), potential=lambda state: state, gamma=0.5)
        >>> _ = env.reset(seed=0)
        >>> env.step(1)[:2], env.step(1)[:2]  # 4 of 16 states further, twice
        ((4, 2.0), (8, 0.0))
    """

    def __init__(self, env: gym.Env[ObsType, ActType], potential: Potential, gamma: float = 0.99) -> None:
        _check_arguments(potential, gamma)
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, potential=potential, gamma=gamma)
        gym.Wrapper.__init__(self, env)
        self.potential = potential
        self.gamma = float(gamma)
        self._phi = 0.0  # of the current state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._phi = self._evaluate(observation)
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        reward = float(reward)
        phi = 0.0 if terminated else self._evaluate(observation)
        shaped = reward + (self.gamma * phi - self._phi)
        self._phi = phi
        return observation, shaped, terminated, truncated, {ORIGINAL: reward, **info}

    def _evaluate(self, observation: ObsType) -> float:
        return float(_check_potentials(self.potential(observation), (), observation))


class VectorPotentialShaping(VectorReward[ObsType, ActType]):
    """:class:`PotentialShaping` around a vector environment; rewards and infos are those of wrapped environments.

    Args:
        env: the vector environment.
        potential: Φ, a function from a batch of observations (as the vector environment returns them) to ``[n]`` numbers. A
            function of one observation becomes one by ``lambda batch: [phi(one) for one in batch]``.
        gamma: as in :class:`PotentialShaping`.

    Raises:
        ValueError: as there, or ``env.metadata["autoreset_mode"]`` is missing.

    Example:
        >>> import gymnasium as gym
        >>> from irwrappers.extrinsic import VectorPotentialShaping
        >>> envs = gym.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode="sync", is_slippery=False)
        >>> envs = VectorPotentialShaping(envs, potential=lambda states: states, gamma=0.5)
        >>> _ = envs.reset(seed=0)
        >>> envs.step([1, 2])[1].tolist()
        [2.0, 0.5]
    """

    def __init__(self, env: VectorEnv[ObsType, ActType, np.ndarray], potential: Potential, gamma: float = 0.99) -> None:
        _check_arguments(potential, gamma)
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, potential=potential, gamma=gamma)
        super().__init__(env)
        self.potential = potential
        self.gamma = float(gamma)
        self._phi = np.zeros(self.num_envs)

    def _begin(self, begun: np.ndarray, observations: Any) -> None:
        self._phi[begun] = self._evaluate(observations)[begun]

    def _compute_rewards(self, step: VectorStep) -> np.ndarray:
        phi = np.where(step.terminated, 0.0, self._evaluate(step.next_observations))
        shaped = step.rewards + (self.gamma * phi - self._phi)
        self._phi = phi
        return shaped

    def _evaluate(self, observations: Any) -> np.ndarray:
        return _check_potentials(self.potential(observations), (self.num_envs,), observations)


def _check_arguments(potential: Any, gamma: Any) -> None:
    if not callable(potential):
        raise ValueError(f"potential must be a function from an observation to a number, got {potential!r}.")
    check_range("gamma", gamma, 0, 1, schedule=False, meaning="the learner's discount factor")


def _check_potentials(values: Any, shape: tuple[int, ...], observations: Any) -> np.ndarray:
    phi = np.asarray(values, dtype=np.float64)
    if phi.size == 1 and shape == ():
        phi = phi.reshape(())  # an array or tensor with one number is one, too
    if phi.shape != shape or not np.isfinite(phi).all():
        expected = f"{shape[0]} finite numbers, one for each observation of a batch" if shape else "a finite number"
        raise ValueError(f"potential must give {expected}; it gave {values!r} for {observations!r}.")
    return phi
