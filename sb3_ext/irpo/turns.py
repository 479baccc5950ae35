"""A turn of one policy, which acts from reset: the returns of its episodes, and the user's callbacks kept apart."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from irwrappers.transitions import FiniteCheck

DEFAULT_TURN = 10_000  # steps of each environment after which a turn ends, where no time limit is known


def turn_limit(env: VecEnv, max_episode_steps: int | None) -> int:
    """Return the steps of each environment after which a turn ends at the latest.

    Args:
        env: the environment, whose own time limit is the default.
        max_episode_steps: the algorithm's argument, or None.
    """
    if max_episode_steps is not None:
        return max_episode_steps
    spec = env.get_attr("spec", indices=[0])[0] if env.has_attr("spec") else None
    limit = getattr(spec, "max_episode_steps", None)
    return limit if limit is not None else DEFAULT_TURN


def warn_of_endless_episodes(limit: int) -> bool:
    """Warn that a turn ended after ``limit`` steps of each environment with episodes unfinished, and return True."""
    warnings.warn(
        f"Some environments ended no episode within {limit} steps. Their turn ends there: the episode is bootstrapped and "
        "counts with its return so far. Give the environment a time limit (gymnasium.make(…, max_episode_steps=…)) "
        "or set max_episode_steps of IRPO.",
        stacklevel=6,
    )
    return True


def warn_of_short_run(total_timesteps: int, n_steps: int, n_envs: int) -> None:
    """Warn that a run of ``total_timesteps`` is too short for exploratory policies, if it holds fewer than ten rollouts."""
    rollout = n_steps * n_envs
    if total_timesteps < 10 * rollout:
        warnings.warn(
            f"learn({total_timesteps}) holds fewer than ten rollouts of {rollout} transitions (n_steps={n_steps}, {n_envs} "
            "environments): too few for exploratory policies to learn. Give more timesteps or a smaller n_steps.",
            stacklevel=4,
        )


class SeparateGenerators:
    """Context manager that replaces the state of the global random generators of Python, NumPy and torch.

    Within a block they continue from the state at the end of the last block; afterwards they have the state from before it.
    """

    def __init__(self) -> None:
        self._inside: Any = None
        self._outside: Any = None

    @staticmethod
    def _states() -> Any:
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpus

    @staticmethod
    def _set(states: Any) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if states[3]:
            torch.cuda.set_rng_state_all(states[3])

    def __enter__(self) -> None:
        self._outside = self._states()
        if self._inside is not None:
            self._set(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = self._states()
        self._set(self._outside)


class TurnRecorder:
    """Callback of SB3's rollout loop that records the returns of episodes and passes every event on to the user's callback.

    Random numbers that a callback uses (an evaluation with sampled actions) do not change training, so a resumed run, whose
    callbacks act at other times, equals the uninterrupted run.

    Args:
        callback: the user's callback.
        env: the environment, before its ``VecNormalize`` is frozen.
        gamma: discount of the returns.
        generators: random generators that callbacks use.

    Attributes:
        returns: discounted returns of the episodes that ended, of the environment's own rewards.
        ended: bool ``[n_envs]``, the environments in which an episode ended.
        n_steps: steps of each environment so far.
        rewarded: whether any reward was not 0.

    Raises:
        ValueError: for NaN or infinite rewards and observations, at the step in which they occur.
    """

    def __init__(self, callback: BaseCallback, env: VecEnv, gamma: float, generators: SeparateGenerators) -> None:
        self.callback = callback
        self._generators = generators
        self._finite: FiniteCheck | None = None
        self.gamma = gamma
        self.returns: list[float] = []
        self.ended = np.zeros(env.num_envs, dtype=bool)
        self.n_steps = 0
        self.rewarded = False
        self._n_taken = 0
        self._running = np.zeros(env.num_envs)
        self._discount = np.ones(env.num_envs)
        self._normalize = unwrap_vec_normalize(env)
        self._training = self._normalize is not None and self._normalize.training
        self._seen: list[tuple[Any, np.ndarray, np.ndarray]] = []  # original observations and rewards, and dones

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Call the user's callback with ``VecNormalize.training`` as the user set it and with random generators of its own."""
        with self._generators:
            if self._normalize is None:
                yield
                return
            frozen, self._normalize.training = self._normalize.training, self._training
            try:
                yield
            finally:
                self._normalize.training = frozen

    def on_rollout_start(self) -> None:
        """Call the user's callback."""
        with self._outside():
            self.callback.on_rollout_start()

    def on_rollout_end(self) -> None:
        """Call the user's callback."""
        with self._outside():
            self.callback.on_rollout_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Keep the local variables of the rollout loop, and pass them on to the user's callback."""
        self._locals = locals_
        self.callback.update_locals(locals_)

    def on_step(self) -> bool:
        """Record a step; return False if the user's callback stopped training."""
        rewards, dones = self._locals["rewards"], self._locals["dones"]
        if self._normalize is not None:
            rewards = self._normalize.get_original_reward()
            if self._training:
                observations = self._normalize.get_original_obs() if self._normalize.norm_obs else None
                self._seen.append((observations, rewards, dones))
        if self._finite is None:
            self._finite = FiniteCheck(self._locals["new_obs"])
        self._finite.rewards(rewards, self.n_steps)
        self._finite.observations(self._locals["new_obs"], f"at step {self.n_steps}")
        self.n_steps += 1
        self.rewarded = self.rewarded or bool(np.any(rewards))
        self._running += self._discount * rewards
        self._discount *= self.gamma
        if dones.any():
            self.returns += self._running[dones].tolist()
            self.ended |= dones
            self._running[dones], self._discount[dones] = 0.0, 1.0
        with self._outside():
            return self.callback.on_step()

    @property
    def unfinished(self) -> list[float]:
        """Returns so far in the environments in which no episode has ended, all over the same number of steps."""
        return self._running[~self.ended].tolist()

    def take_new(self) -> list[float]:
        """Return the returns recorded since the last call."""
        new, self._n_taken = self.returns[self._n_taken :], len(self.returns)
        return new

    def cut(self) -> None:
        """Add the returns so far of the environments in which no episode has ended to ``returns``."""
        self.returns += self.unfinished

    def update_statistics(self, normalize: VecNormalize | None) -> None:
        """Update the statistics of ``normalize``, which were frozen during the turn, from all of its steps."""
        if normalize is None or not normalize.training:
            return
        for observations, rewards, dones in self._seen:
            if normalize.norm_obs:
                if isinstance(observations, dict):
                    for key in normalize.norm_obs_keys or ():
                        normalize.obs_rms[key].update(observations[key])
                else:
                    normalize.obs_rms.update(observations)
            if normalize.norm_reward:
                normalize._update_reward(rewards)
            normalize.returns[dones] = 0
