"""Random walks in an environment, as training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from irwrappers.transitions import EpisodeEnds, OriginalView


class Walks(NamedTuple):
    """Columns of consecutive random walks.

    Attributes:
        positions: ``[L, W, d]``.
        same_walk: int ``[L, W]``, the number of the walk that a step belongs to.
        last: int ``[L, W]``, the last row of that walk.
        timesteps: environment steps taken.
    """

    positions: Tensor
    same_walk: Tensor
    last: Tensor
    timesteps: int


def random_steps(env: VecEnv, n_steps: int, seed: int | None) -> Iterator[Any]:
    """Reset, take uniformly random actions, and yield the original observations ``[B, …]`` of each step.

    Args:
        env: vectorised environment.
        n_steps: number of steps in each environment.
        seed: of the environment and of the actions; None: the environment is not seeded.
    """
    rng = np.random.default_rng(seed)
    view = OriginalView(env)
    if seed is not None:
        env.seed(seed)
    view.reset()
    for _ in range(n_steps):
        yield view.step(random_actions(env.action_space, env.num_envs, rng))[1]


class WalkCollector:
    """A collector of random walks that continue where the last :meth:`collect` stopped.

    Actions are uniformly random. The environment is reset, with the options ``random_start`` and ``ignore_goal``, whenever
    all parallel environments have ended an episode. With ``VecNormalize`` the original observations are used.

    Args:
        env: vectorised environment.
        seed: of the environment and of the actions.
    """

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.env = env
        self.timesteps = self.finished = 0  # environment steps taken, episodes that have ended
        self._rng = np.random.default_rng(seed)
        self._view = OriginalView(env)
        n_envs = env.num_envs
        env.seed(seed)
        # One row for each step: observations, the number of their walk, and whether the row has one (see _begin_walks).
        self._positions, self._numbers = [np.asarray(self._restart())], [np.arange(n_envs)]
        self._real = [np.ones(n_envs, dtype=bool)]
        self._number, self._next_number = self._numbers[0].copy(), n_envs
        self._waiting = np.ones(n_envs, dtype=bool)

    def _restart(self) -> Any:
        self.env.set_options({"random_start": True, "ignore_goal": True})
        return self._view.reset()[1]

    def collect(self, n_walks: int, max_timesteps: int) -> bool:
        """Walk until ``n_walks`` episodes or ``max_timesteps`` steps, those of earlier calls included.

        Args:
            n_walks: number of episodes.
            max_timesteps: number of environment steps.

        Returns:
            whether it stopped because of ``max_timesteps``.
        """
        env = self.env
        while self.finished < n_walks and self.timesteps + env.num_envs <= max_timesteps:
            _, observations, _, dones, infos = self._view.step(random_actions(env.action_space, env.num_envs, self._rng))
            self.timesteps += env.num_envs
            ends = EpisodeEnds(dones, infos)
            current = np.array(ends.next_observations(np.asarray(observations), original=True))
            self._append(current, np.ones(env.num_envs, dtype=bool))
            if len(ends.indices):
                self._begin_walks(current, observations, ends.indices)
        return self.finished < n_walks

    def _begin_walks(self, current: np.ndarray, observations: Any, ended: np.ndarray) -> None:
        """Number the walks that begin where episodes have ended, and add a row with their first observations."""
        n_envs = self.env.num_envs
        self.finished += len(ended)
        self._waiting[ended] = False
        again = observations if self._waiting.any() else self._restart()
        starting = ended if self._waiting.any() else np.arange(n_envs)
        self._waiting |= not self._waiting.any()
        self._number[starting] = self._next_number + np.arange(len(starting))
        self._next_number += len(starting)
        # Environments in the middle of an episode have no observation in this row; :meth:`walks` removes it.
        first = current.copy()
        first[starting] = again[starting]
        self._append(first, np.isin(np.arange(n_envs), starting))

    def _append(self, positions: np.ndarray, real: np.ndarray) -> None:
        self._positions.append(positions)
        self._numbers.append(self._number.copy())
        self._real.append(real)

    def walks(self, select: Callable[[Tensor], Tensor], device: torch.device) -> Walks:
        """Return all walks so far.

        Args:
            select: the entries of observations ``[n, …]`` to keep, ``[n, d]``.
            device: of the tensors.
        """
        table = torch.as_tensor(np.stack(self._positions), device=device)
        same_walk = torch.as_tensor(np.stack(self._numbers), device=device)
        flat = select(table.flatten(0, 1)).view(*same_walk.shape, -1)
        flat, same_walk = _without_gaps(flat, same_walk, torch.as_tensor(np.stack(self._real), device=device))
        return Walks(flat, same_walk, _last_rows(same_walk), self.timesteps)

    def close(self) -> None:
        """Clear the reset options of the environment."""
        self.env.set_options()


def _without_gaps(positions: Tensor, same_walk: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Remove rows that are not real and cut all columns to the shortest: two rows in a walk are then one step apart."""
    if real.all():
        return positions, same_walk
    order = (~real).byte().argsort(dim=0, stable=True)[: int(real.sum(0).min())]
    return positions.gather(0, order[..., None].expand(-1, -1, positions.shape[-1])), same_walk.gather(0, order)


def _last_rows(same_walk: Tensor) -> Tensor:
    """Return the last row of the same walk and column, for each entry of ``[L, W]``."""
    length = len(same_walk)
    rows = torch.arange(length, device=same_walk.device)[:, None].expand_as(same_walk)
    ends = torch.ones_like(same_walk, dtype=torch.bool)
    ends[:-1] = same_walk[1:] != same_walk[:-1]
    candidates = torch.where(ends, rows, length)
    return candidates.flip(0).cummin(0).values.flip(0)


def random_actions(space: spaces.Space, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` uniformly random actions of ``space``, sampled with ``rng``."""
    if isinstance(space, spaces.Discrete):
        return int(space.start) + rng.integers(int(space.n), size=n)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start + rng.integers(space.nvec, size=(n, *space.nvec.shape))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(n, *space.shape), dtype=np.int8)
    if isinstance(space, spaces.Box) and space.is_bounded():
        return rng.uniform(space.low, space.high, size=(n, *space.shape)).astype(space.dtype)
    raise ValueError(f"Cannot sample actions of {space}; expected a bounded Box, Discrete, MultiDiscrete or MultiBinary.")
