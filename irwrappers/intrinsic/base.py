"""The interface of every intrinsic reward: ``Transitions`` in, one or more reward channels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor, nn

from irwrappers.transitions import Transitions


class IntrinsicReward(nn.Module):
    """A reward signal with ``n_rewards`` channels.

    ``compute`` is pure; ``update`` learns from a batch and moves on past it; ``fit`` is for what must be trained beforehand;
    ``state_dict`` holds everything, so that a new module with the same constructor arguments continues exactly after
    ``load_state_dict``.

    Batches follow each other in time: row 0 of one comes after the last row of the batch before it, for each copy. What
    remembers the running episodes begins them where the last ``advance`` (which ``update`` includes) left them; ``forget``
    says that all copies begin anew. Whoever computes a reward after every step calls ``compute`` and ``advance`` then, and
    ``learn`` now and then.

    Args:
        observation_space, action_space: of the environment, one copy's.

    Attributes:
        n_rewards: number of channels.
        has_episode_memory: whether what a transition is paid depends on what came before it in its episode.
    """

    n_rewards: int
    has_episode_memory: bool = False

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space

    @property
    def channel_names(self) -> tuple[str, ...]:
        """A short name for each channel, for logs."""
        name = type(self).__name__.lower()
        return (name,) if self.n_rewards == 1 else tuple(f"{name}_{i}" for i in range(self.n_rewards))

    @property
    def needs_fit(self) -> bool:
        """Whether :meth:`fit` must still be called before :meth:`compute`."""
        return False

    def compute(self, batch: Transitions) -> Tensor:
        """Rewards ``[T, B, n_rewards]``; changes nothing and carries no gradient."""
        raise NotImplementedError

    def update(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch and move on past it; returns what to log."""
        log = self.learn(batch)
        self.advance(batch)
        return log

    def learn(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch, in any order of batches; returns what to log."""
        return {}

    def advance(self, batch: Transitions) -> None:
        """Remember these steps: counts, and what has happened in the running episodes."""

    def forget(self) -> None:
        """Every copy begins a new episode: what is remembered of running episodes goes, counts and networks stay."""

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Train beforehand, on at most ``total_timesteps`` environment steps.

        Returns:
            the number of environment steps taken.
        """
        return 0

    def only(self, channels: Sequence[int]) -> IntrinsicReward:
        """The same reward with some of its channels, in this order; it shares this one's state."""
        from irwrappers.intrinsic.compose import Select  # built on this module

        return Select(self, channels)


def as_vec_env(env: VecEnv | gym.Env) -> VecEnv:
    """An SB3 ``VecEnv`` from one, or from a single Gymnasium environment."""
    if isinstance(env, VecEnv):
        return env
    if isinstance(env, gym.Env):
        return DummyVecEnv([lambda: env])
    hint = ""
    if isinstance(env, gym.vector.VectorEnv):
        hint = " Present a Gymnasium vector environment through sb3_ext.common.vec_env.GymnasiumVecEnv."
    raise TypeError(f"Expected an SB3 VecEnv or a gymnasium.Env, got {type(env).__name__}.{hint}")


def environment_hook(env: VecEnv, name: str) -> Any:
    """An attribute of the first copy of ``env``, or ``None`` where the environment has none of that name."""
    return env.get_attr(name, indices=[0])[0] if env.has_attr(name) else None
