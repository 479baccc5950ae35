"""Whole lifetimes, paid by a reward network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sb3_ext.meta.lifetimes.dense_rewards import Target, taught_payments
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.policies import KEYS, LAST_PAYMENT, MetaRewardNetwork


class Lifetimes(NamedTuple):
    """B whole lifetimes: inputs ``[T, B, ...]``, the rest ``[T, B]`` but where noted.

    episodes: the number of each step's episode. shaped: the tasks' own dense reward. scale: its mean size ``[B]``.
    taught: bool ``[B]``, paid by the dense reward.
    """

    inputs: dict[str, Tensor]
    payments: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    episodes: Tensor
    shaped: Tensor
    scale: Tensor
    taught: Tensor


class Job(NamedTuple):
    """What determines a group's lifetimes, beside the network and the environment.

    seed: of tasks, agents and payments. n_taught: so many agents are paid by the dense reward. noise: whether the others are
    paid a sample, or the mean. state: the environment's running scale (``LifetimeVecEnv.get_state``). target: how the dense
    reward pays (``taught_payments``).
    """

    seed: int
    n_taught: int
    noise: bool
    state: dict[str, Any]
    target: Target = "reward"


class Result(NamedTuple):
    """Of a :class:`Job`; infos: of the last step, one for each lifetime. state: the environment's, afterwards."""

    lifetimes: Lifetimes
    infos: list[dict[str, Any]]
    state: dict[str, Any]


OnStep = Callable[[Any, np.ndarray, np.ndarray, list[dict[str, Any]]], bool]


@torch.no_grad()
def collect(network: MetaRewardNetwork, env: LifetimeVecEnv, job: Job, on_step: OnStep | None = None) -> Result | None:
    """Whole lifetimes from birth.

    Args:
        on_step: called with (observations, rewards, dones, infos) after each step; ``False`` ends it, and there is no result.
    """
    n, device = env.num_envs, next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(job.seed)
    env.seed(job.seed)
    env.set_state(job.state)
    observations: Any = env.reset()
    state, payments = network.begin(n, device), torch.zeros(n, device=device)
    taught = np.arange(n) < job.n_taught
    paid: list[tuple[Any, ...]] = []  # of one step or, bidirectional, of a batch: inputs, payments and the network's outputs
    stepped: list[tuple[Any, ...]] = []
    pending: list[dict[str, Tensor]] = []  # steps that are still to be paid
    for step in range(env.settings.lifetime):
        inputs = {key: torch.as_tensor(observations[key], device=device) for key in KEYS}
        inputs["scalars"][:, LAST_PAYMENT] = payments  # the network's own, also where the agent got something else
        pending.append(inputs)
        last, scale = env.last_step, env.mean_shaped()
        if step % env.settings.n_steps == 0:
            drawn = network.draw_noise(n, generator)
        given = np.zeros(n, np.float32)
        if not network.bidirectional or (step + 1) % env.settings.n_steps == 0:
            together = {key: torch.stack([one[key] for one in pending]) for key in KEYS}
            outputs = network(together, state)
            state, batch = outputs.state, outputs.mean
            if job.noise:
                batch = batch + network.noise(outputs, drawn, generator)
            paid.append((together, batch, normal_log_prob(batch, outputs.mean, outputs.std), outputs.value))
            due = batch.cpu().numpy()
            if job.n_taught:
                # One step more than is due: progress is since the step before.
                since = stepped[max(len(stepped) - len(pending), 0) :]
                shaped = np.stack([*(one[2] for one in since), last.shaped])
                goes_on = np.stack([np.zeros(n, bool), *(~one[1] for one in since)])
                due = np.where(taught, taught_payments(job.target, shaped, goes_on, scale)[-len(due) :], due)
            env.pay_earlier(due[:-1])
            given, pending = due[-1], []
            payments = payments if network.bidirectional else batch[0]
        observations, rewards, dones, infos = env.step(given[:, None])
        stepped.append((rewards, last.done, last.shaped))
        if on_step is not None and not on_step(observations, rewards, dones, infos):
            return None
    inputs_, *columns = zip(*paid, strict=True)
    payments_, log_probs, values = (torch.cat(column) for column in columns)
    rewards_, done, shaped_ = (torch.as_tensor(np.stack(column), device=device) for column in zip(*stepped, strict=True))
    ended = done.long().cumsum(0)
    lifetimes = Lifetimes(
        {key: torch.cat([one[key] for one in inputs_]) for key in KEYS},
        payments_,
        log_probs,
        values,
        rewards_.float(),
        torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]),
        shaped_.float(),
        torch.as_tensor(scale, device=device),
        torch.as_tensor(taught, device=device),
    )
    return Result(lifetimes, infos, env.get_state())


def concatenate(groups: Sequence[Lifetimes]) -> Lifetimes:
    """All lifetimes of several groups."""
    return groups[0] if len(groups) == 1 else Lifetimes(*(_side_by_side(column) for column in zip(*groups, strict=True)))


def _side_by_side(parts: Sequence[Any]) -> Any:
    return tree_map(lambda *tensors: torch.cat(tensors, min(1, tensors[0].ndim - 1)), *parts)


def merge_states(states: Sequence[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """One running scale from those of several groups, which all began with ``before``."""
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
    """Of independent normal numbers."""
    return -0.5 * ((values - mean) / std).square() - std.log() - 0.9189385332046727
