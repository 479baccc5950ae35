"""Rollouts of IRPO's policies: side by side in one vectorised environment, or in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from sb3_ext.common.rollout import Rollout, collect_episodes, concatenate_policies, env_actions
from sb3_ext.common.updates import Params
from sb3_ext.irpo.policies import IRPOPolicy

NOISE_CHUNK = 64  # steps of action noise drawn at a time


def collect_policies(
    env: VecEnv,
    policy: IRPOPolicy,
    params: Params,
    on_step: Callable[[dict[str, Any]], bool],
    batch_size: int,
    generator: torch.Generator,
) -> Rollout | None:
    """Whole episodes of each policy in ``params`` ``[P, ...]``; ``None``: ``on_step`` returned False.

    The policies step side by side where P divides the copies, otherwise in turn, each until its copies have
    ⌈``batch_size`` / copies⌉ steps. ``generator`` draws the actions.
    """
    n_policies = len(next(iter(params.values())))
    if env.num_envs % n_policies == 0:
        return _collect_together(env, policy, params, on_step, batch_size, generator)
    rollouts = []
    for k in range(n_policies):
        one = {name: value[k : k + 1] for name, value in params.items()}
        rollout = _collect_together(env, policy, one, on_step, batch_size, generator)
        if rollout is None:
            return None
        rollouts.append(rollout)
    return concatenate_policies(rollouts)


def shared_out(rollout: Rollout, n_policies: int, batch_size: int) -> Rollout:
    """One policy's rollout as one of ``n_policies``, if the copies of each of them then hold at least half a batch."""
    if rollout.valid.shape[1] % n_policies == 0:
        shares = rollout.valid.unflatten(1, (n_policies, -1)).sum((0, 2))
        if int(shares.min()) >= batch_size / 2:
            return replace(rollout, n_policies=n_policies)
    return rollout


def _collect_together(
    env: VecEnv,
    policy: IRPOPolicy,
    params: Params,
    on_step: Callable[[dict[str, Any]], bool],
    batch_size: int,
    generator: torch.Generator,
) -> Rollout | None:
    n_policies, distribution = len(next(iter(params.values()))), policy.distribution
    copies = env.num_envs // n_policies
    noise: list[Tensor] = []
    traced: list[Callable[[Any, Tensor], Tensor]] = []

    def sample(inputs: Any, noise: Tensor) -> Tensor:
        inputs = tree_map(lambda x: x.unflatten(0, (n_policies, -1)), inputs)
        return distribution.sample(vmap(policy.actor)(params, inputs), noise).flatten(0, 1)

    @torch.no_grad()
    def act(observations: Any) -> tuple[np.ndarray, np.ndarray]:
        if not noise:
            drawn = distribution.draw_noise((NOISE_CHUNK, n_policies, copies), generator, policy.device)
            noise.extend(reversed(drawn))
        inputs = policy.preprocess(obs_as_tensor(observations, policy.device))
        if not traced:  # its tensor operations alone, without the layers of Python above them: half the time of a step
            traced.append(make_fx(sample)(inputs, noise[-1]))
        actions = traced[0](inputs, noise.pop()).cpu().numpy()
        return actions, env_actions(policy.action_space, actions)

    return collect_episodes(
        env,
        act,
        on_step,
        n_policies=n_policies,
        min_steps=math.ceil(batch_size / copies),
        device=policy.device,
    )
