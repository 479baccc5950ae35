"""Random walks through an environment, as training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm.auto import tqdm

from irwrappers.original import OriginalView


class Walks(NamedTuple):
    """Columns of consecutive walks: ``positions`` ``[L, W, d]``; ``same_walk`` int ``[L, W]``, the number of the walk a step
    belongs to; ``last`` int ``[L, W]``, the last row of that walk; ``timesteps``: environment steps taken."""

    positions: Tensor
    same_walk: Tensor
    last: Tensor
    timesteps: int


def random_steps(env: VecEnv, n_steps: int, seed: int | None) -> Iterator[Any]:
    """Take ``n_steps`` uniformly random actions in every copy from reset; yields the original observations ``[B, …]``."""
    rng = np.random.default_rng(seed)
    view = OriginalView(env)
    if seed is not None:
        env.seed(seed)
    view.reset()
    for _ in range(n_steps):
        yield view.step(random_actions(env.action_space, env.num_envs, rng))[1]


def collect_walks(
    env: VecEnv,
    select: Callable[[Tensor], Tensor],
    n_walks: int,
    max_timesteps: int,
    seed: int,
    device: torch.device,
    progress_bar: bool = False,
) -> Walks:
    """Uniformly random actions from reset, until ``n_walks`` episodes or ``max_timesteps`` steps.

    The environment is reset, with the options ``random_start`` and ``ignore_goal``, whenever every copy has ended an
    episode. With ``VecNormalize`` the original observations are used.
    """
    if max_timesteps < env.num_envs:
        raise ValueError(
            f"Random walks need a step for each of the {env.num_envs} copies, and the budget is {max_timesteps} steps; "
            "give fit() more steps or the environment fewer copies."
        )
    rng = np.random.default_rng(seed)
    view = OriginalView(env)

    def restart() -> Any:
        env.set_options({"random_start": True, "ignore_goal": True})
        return view.reset()[1]

    env.seed(seed)
    positions, numbers, real = [np.asarray(restart())], [np.arange(env.num_envs)], [np.ones(env.num_envs, dtype=bool)]
    number, next_number = numbers[0].copy(), env.num_envs
    waiting = np.ones(env.num_envs, dtype=bool)
    timesteps = finished = 0
    with tqdm(total=max_timesteps, desc="Random walks", disable=not progress_bar, leave=False) as bar:
        while finished < n_walks and timesteps + env.num_envs <= max_timesteps:
            _, observations, _, dones, infos = view.step(random_actions(env.action_space, env.num_envs, rng))
            timesteps += env.num_envs
            bar.update(env.num_envs)
            current = np.array(observations)
            ended = np.flatnonzero(dones)
            for i in ended:
                current[i] = view.original_terminal(infos[i])
            positions.append(current)
            numbers.append(number.copy())
            real.append(np.ones(env.num_envs, dtype=bool))
            if not len(ended):
                continue
            finished += len(ended)
            waiting[ended] = False
            again = observations if waiting.any() else restart()
            starting = ended if waiting.any() else np.arange(env.num_envs)
            waiting |= not waiting.any()
            number[starting] = next_number + np.arange(len(starting))
            next_number += len(starting)
            # A row for the new walks' first observations; the copies that go on have none, and theirs is taken out below.
            first = current.copy()
            first[starting] = again[starting]
            positions.append(first)
            numbers.append(number.copy())
            real.append(np.isin(np.arange(env.num_envs), starting))
    env.set_options()
    table = torch.as_tensor(np.stack(positions), device=device)
    same_walk = torch.as_tensor(np.stack(numbers), device=device)
    flat = select(table.flatten(0, 1)).view(*same_walk.shape, -1)
    flat, same_walk = _without_gaps(flat, same_walk, torch.as_tensor(np.stack(real), device=device))
    return Walks(flat, same_walk, _last_rows(same_walk), timesteps)


def _without_gaps(positions: Tensor, same_walk: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Each column's real rows moved together, all columns cut to the shortest: two rows in a walk are then a step apart."""
    if real.all():
        return positions, same_walk
    order = (~real).byte().argsort(dim=0, stable=True)[: int(real.sum(0).min())]
    return positions.gather(0, order[..., None].expand(-1, -1, positions.shape[-1])), same_walk.gather(0, order)


def _last_rows(same_walk: Tensor) -> Tensor:
    """For each entry of ``[L, W]`` the last row down its column that belongs to the same walk."""
    length = len(same_walk)
    rows = torch.arange(length, device=same_walk.device)[:, None].expand_as(same_walk)
    ends = torch.ones_like(same_walk, dtype=torch.bool)
    ends[:-1] = same_walk[1:] != same_walk[:-1]
    candidates = torch.where(ends, rows, length)
    return candidates.flip(0).cummin(0).values.flip(0)


def random_actions(space: spaces.Space, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` uniformly random actions of ``space`` from ``rng``."""
    if isinstance(space, spaces.Discrete):
        return int(space.start) + rng.integers(int(space.n), size=n)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start + rng.integers(space.nvec, size=(n, *space.nvec.shape))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(n, *space.shape), dtype=np.int8)
    if isinstance(space, spaces.Box) and space.is_bounded():
        return rng.uniform(space.low, space.high, size=(n, *space.shape)).astype(space.dtype)
    raise ValueError(f"Cannot draw random actions of {space}; expected a bounded Box, Discrete, MultiDiscrete or MultiBinary.")
