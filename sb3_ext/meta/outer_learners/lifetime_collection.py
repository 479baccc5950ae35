"""Whole lifetimes of agents that a reward network rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sb3_ext.meta.lifetimes.dense_rewards import Target, bounded_dense_rewards
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.policies import KEYS, LAST_REWARD, MetaRewardNetwork


class Lifetimes(NamedTuple):
    """B whole lifetimes of T steps.

    Attributes:
        inputs: of the reward network, by name ``[T, B, ...]``.
        agent_rewards: what the network gave ``[T, B]``.
        log_probs: their log-probabilities ``[T, B]``.
        values: of the network's value head ``[T, B]``.
        rewards: of the outer learner ``[T, B]``.
        episodes: number of each step's episode, int ``[T, B]``.
        shaped: dense reward of the tasks ``[T, B]``.
        scale: mean size of the dense reward ``[B]``.
        dense: whether the agent received the dense reward instead of the network's, bool ``[B]``.
    """

    inputs: dict[str, Tensor]
    agent_rewards: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    episodes: Tensor
    shaped: Tensor
    scale: Tensor
    dense: Tensor


class Job(NamedTuple):
    """What determines a group of lifetimes, beside the network and the environment.

    Attributes:
        seed: of tasks, agents and sampled rewards.
        n_dense: number of agents that receive the dense reward.
        noise: whether the rewards of the others are sampled; False: the network's mean.
        state: the environment's running scale (``LifetimeVecEnv.get_state``).
        target: form of the dense reward, see ``bounded_dense_rewards``.
    """

    seed: int
    n_dense: int
    noise: bool
    state: dict[str, Any]
    target: Target = "reward"


class Result(NamedTuple):
    """Result of a :class:`Job`.

    Attributes:
        lifetimes: the steps.
        infos: of the last step, one for each lifetime.
        state: of the environment, afterwards.
    """

    lifetimes: Lifetimes
    infos: list[dict[str, Any]]
    state: dict[str, Any]


OnStep = Callable[[Any, np.ndarray, np.ndarray, list[dict[str, Any]]], bool]


@torch.no_grad()
def collect(network: MetaRewardNetwork, env: LifetimeVecEnv, job: Job, on_step: OnStep | None = None) -> Result | None:
    """Return whole lifetimes, from reset to their end, or None if ``on_step`` stopped them.

    Args:
        network: gives the rewards.
        env: the environment.
        job: seeds and settings.
        on_step: function that is called with (observations, rewards, dones, infos) after each step; False stops.
    """
    n, device = env.num_envs, next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(job.seed)
    env.seed(job.seed)
    env.set_state(job.state)
    observations: Any = env.reset()
    state, last_rewards = network.begin(n, device), torch.zeros(n, device=device)
    dense = np.arange(n) < job.n_dense
    outputs_of_steps: list[tuple[Any, ...]] = []
    stepped: list[tuple[Any, ...]] = []
    for step in range(env.settings.lifetime):
        inputs = {key: torch.as_tensor(observations[key], device=device) for key in KEYS}
        inputs["scalars"][:, LAST_REWARD] = last_rewards  # the network's own, also where the agent received the dense one
        last, scale = env.last_step, env.mean_shaped()
        if step % env.settings.n_steps == 0:
            sde_weights = network.sample_noise(n, generator)
        outputs = network({key: value[None] for key, value in inputs.items()}, state)
        state, sampled = outputs.state, outputs.mean
        if job.noise:
            sampled = sampled + network.noise(outputs, sde_weights, generator)
        outputs_of_steps.append((inputs, sampled, normal_log_prob(sampled, outputs.mean, outputs.std), outputs.value))
        last_rewards = sampled[0]
        given = last_rewards.cpu().numpy()
        if job.n_dense:
            before = stepped[-1:]  # progress is since the step before
            shaped = np.stack([*(one[2] for one in before), last.shaped])
            continues = np.stack([np.zeros(n, bool), *(~one[1] for one in before)])
            given = np.where(dense, bounded_dense_rewards(job.target, shaped, continues, scale)[-1], given)
        observations, rewards, dones, infos = env.step(given[:, None])
        stepped.append((rewards, last.done, last.shaped))
        if on_step is not None and not on_step(observations, rewards, dones, infos):
            return None
    inputs_, *columns = zip(*outputs_of_steps, strict=True)
    agent_rewards, log_probs, values = (torch.cat(column) for column in columns)
    rewards_, done, shaped_ = (torch.as_tensor(np.stack(column), device=device) for column in zip(*stepped, strict=True))
    ended = done.long().cumsum(0)
    lifetimes = Lifetimes(
        {key: torch.stack([one[key] for one in inputs_]) for key in KEYS},
        agent_rewards,
        log_probs,
        values,
        rewards_.float(),
        torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]),
        shaped_.float(),
        torch.as_tensor(scale, device=device),
        torch.as_tensor(dense, device=device),
    )
    return Result(lifetimes, infos, env.get_state())


def concatenate(groups: Sequence[Lifetimes]) -> Lifetimes:
    """Return the lifetimes of several groups as one."""
    return groups[0] if len(groups) == 1 else Lifetimes(*(_concatenated(column) for column in zip(*groups, strict=True)))


def _concatenated(parts: Sequence[Any]) -> Any:
    return tree_map(lambda *tensors: torch.cat(tensors, min(1, tensors[0].ndim - 1)), *parts)


def merge_states(states: Sequence[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Return one running scale from those of several groups.

    Args:
        states: of the groups, afterwards.
        before: the state with which all of them began.
    """
    if len(states) == 1:
        return states[0]
    scale: dict[str, list[float]] = {}
    for kind in dict.fromkeys(kind for state in states for kind in state["scale"]):
        old_count, old_mean = before["scale"].get(kind, (0, 0.0))
        total, weighted = old_count, old_count * old_mean
        for state in states:
            count, mean = state["scale"].get(kind, (old_count, old_mean))
            total += count - old_count
            weighted += count * mean - old_count * old_mean
        scale[kind] = [total, weighted / max(total, 1)]
    return {"scale": scale}


def normal_log_prob(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-density of independent normal numbers.

    Args:
        values: the numbers.
        mean: of each.
        std: standard deviation of each.
    """
    return -0.5 * ((values - mean) / std).square() - std.log() - 0.9189385332046727
