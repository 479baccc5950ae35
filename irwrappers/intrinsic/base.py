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

    ``compute`` changes nothing; ``update`` is ``learn``, which trains the model, and then ``advance``, which adds the batch to
    counts and episodic memories; ``fit`` is for what must be trained beforehand;
    ``state_dict`` holds everything, so that a new module with the same constructor arguments continues exactly after
    ``load_state_dict``.

    Batches follow each other in time: in each environment, row 0 of a batch comes after the last row of the batch before it.
    A reward with an episodic memory starts a batch from the memory that the last ``advance`` (which ``update`` includes)
    left; ``forget`` clears it in all environments. To compute a reward after every step, call ``compute`` and ``advance``
    at each, and ``learn`` as often as the model is to be trained.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.

    Attributes:
        n_rewards: number of channels.
        has_episode_memory: whether the reward of a transition depends on what came before it in its episode.
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
        """Return rewards ``[T, B, n_rewards]``; changes nothing and carries no gradient."""
        raise NotImplementedError

    def update(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch and move on past it; return what to log."""
        log = self.learn(batch)
        self.advance(batch)
        return log

    def learn(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch, in any order of batches; return what to log."""
        return {}

    def advance(self, batch: Transitions) -> None:
        """Add these steps to counts and episodic memories."""

    def forget(self) -> None:
        """Clear the episodic memories of all environments; counts and networks stay."""

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Train before the first use, on at most ``total_timesteps`` environment steps.

        Args:
            env: the environment to collect them in.
            total_timesteps: budget, over all parallel environments.
            seed: of the environment, the actions and the training.
            progress_bar: show the progress.

        Returns:
            the number of environment steps taken.
        """
        return 0

    def only(self, channels: Sequence[int]) -> IntrinsicReward:
        """Return the same reward with some of its channels, in this order; it shares this one's state."""
        return Select(self, channels)


class CompositeReward(IntrinsicReward):
    """A reward made of other rewards, to which it passes on every call.

    Args:
        rewards: at least one, all built for the same spaces.
    """

    def __init__(self, rewards: Sequence[IntrinsicReward]) -> None:
        if not rewards:
            raise ValueError(f"{type(self).__name__} needs at least one intrinsic reward, got none.")
        super().__init__(rewards[0].observation_space, rewards[0].action_space)
        self.rewards = nn.ModuleList(rewards)

    def _parts(self) -> list[tuple[str, IntrinsicReward]]:
        parts = [part for part in self.rewards if isinstance(part, IntrinsicReward)]
        return [(f"{i}_{type(part).__name__.lower()}", part) for i, part in enumerate(parts)]

    @property
    def needs_fit(self) -> bool:
        return any(part.needs_fit for _, part in self._parts())

    def update(self, batch: Transitions) -> dict[str, float]:
        return {f"{name}/{key}": value for name, part in self._parts() for key, value in part.update(batch).items()}

    def learn(self, batch: Transitions) -> dict[str, float]:
        return {f"{name}/{key}": value for name, part in self._parts() for key, value in part.learn(batch).items()}

    def advance(self, batch: Transitions) -> None:
        for _, part in self._parts():
            part.advance(batch)

    def forget(self) -> None:
        for _, part in self._parts():
            part.forget()

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Fit the rewards that need it in turn; each may use an equal part of the steps that are left."""
        waiting = [part for _, part in self._parts() if part.needs_fit]
        used = 0
        for number, part in enumerate(waiting):
            share = (total_timesteps - used) // (len(waiting) - number)
            used += part.fit(env, share, seed=seed, progress_bar=progress_bar)
        return used


class Select(CompositeReward):
    """Some channels of a reward.

    Args:
        reward: the reward; it keeps its state, which is shared.
        channels: indices of its channels, in the order wanted.
    """

    channels: list[int]

    def __init__(self, reward: IntrinsicReward, channels: Sequence[int]) -> None:
        if isinstance(reward, Select):  # one layer, however often channels were dropped
            inner: list[int] = reward.channels
            reward, channels = reward._parts()[0][1], [inner[channel] for channel in channels]
        if not channels or not all(0 <= channel < reward.n_rewards for channel in channels):
            raise ValueError(
                f"Select needs channels of {type(reward).__name__}, 0 to {reward.n_rewards - 1}, got {list(channels)}."
            )
        super().__init__([reward])
        self.channels = [int(channel) for channel in channels]
        self.n_rewards = len(self.channels)
        self.has_episode_memory = reward.has_episode_memory

    @property
    def channel_names(self) -> tuple[str, ...]:
        names = self._parts()[0][1].channel_names
        return tuple(names[channel] for channel in self.channels)

    def compute(self, batch: Transitions) -> Tensor:
        return self._parts()[0][1].compute(batch)[..., self.channels]


def as_vec_env(env: VecEnv | gym.Env) -> VecEnv:
    """Return an SB3 ``VecEnv`` made from one, or from a single Gymnasium environment."""
    if isinstance(env, VecEnv):
        return env
    if isinstance(env, gym.Env):
        return DummyVecEnv([lambda: env])
    hint = ""
    if isinstance(env, gym.vector.VectorEnv):
        hint = " Wrap a Gymnasium vector environment in sb3_ext.common.vec_env.GymnasiumVecEnv."
    raise TypeError(f"Expected an SB3 VecEnv or a gymnasium.Env, got {type(env).__name__}.{hint}")


def environment_hook(env: VecEnv, name: str) -> Any:
    """Return attribute ``name`` of the first environment in ``env``, or ``None`` where it has none."""
    return env.get_attr(name, indices=[0])[0] if env.has_attr(name) else None
