"""Rollouts of several policies, side by side in one vectorised environment or one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from sb3_ext.common.episode_rollout import EpisodeRollout, collect_episodes, concatenate_policies, env_actions
from sb3_ext.common.optimizers import Params
from sb3_ext.irpo.policies import IRPOPolicy

NOISE_CHUNK = 64  # steps for which action noise is sampled in one call

Graph = Callable[..., Tensor]
_graphs: WeakKeyDictionary[IRPOPolicy, dict[Hashable, Graph]] = WeakKeyDictionary()


def collect_policies(
    env: VecEnv,
    policy: IRPOPolicy,
    params: Params,
    on_step: Callable[[dict[str, Any]], bool],
    batch_size: int,
    generator: torch.Generator,
) -> EpisodeRollout | None:
    """Collect whole episodes of each policy; return None if ``on_step`` returned False.

    The policies act side by side if P divides the number of environments, otherwise one after the other in all of them.

    Args:
        env: the parallel environments.
        policy: the module whose ``actor`` evaluates ``params``.
        params: weights of the P policies, ``[P, ...]``.
        on_step: called after each step with ``new_obs, rewards, dones, infos, actions``; False stops the collection.
        batch_size: transitions of each policy: each of its n environments runs until it has ⌈batch_size / n⌉ steps.
        generator: of the action noise.
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


def split_rollout(rollout: EpisodeRollout, n_policies: int, batch_size: int) -> EpisodeRollout:
    """Split one policy's rollout among ``n_policies`` by environments, if each then has at least half a batch.

    Args:
        rollout: of one policy. It is returned as it is if it can't be split.
        n_policies: number of parts.
        batch_size: transitions of a whole batch.
    """
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
) -> EpisodeRollout | None:
    n_policies, distribution = len(next(iter(params.values()))), policy.distribution
    n_envs = env.num_envs // n_policies  # of each policy
    noise: list[Tensor] = []
    graph: Graph | None = None
    # Buffers of features extractors; the two stores hold the weights of policies, which come in ``params``.
    buffers = {name: x for name, x in policy.named_buffers() if not name.startswith(("base.", "exploratory."))}
    weights = tree_leaves((params, buffers))

    @torch.no_grad()
    def act(observations: Any) -> tuple[np.ndarray, np.ndarray]:
        nonlocal graph
        if not noise:
            steps = distribution.sample_noise((NOISE_CHUNK, n_policies, n_envs), generator, policy.device)
            noise.extend(reversed(steps))
        inputs = policy.preprocess(obs_as_tensor(observations, policy.device))
        if graph is None:
            graph = _sampling_graph(policy, params, buffers, inputs, noise[-1])
        actions = graph(*weights, *tree_leaves(inputs), noise.pop()).cpu().numpy()
        return actions, env_actions(policy.action_space, actions)

    return collect_episodes(
        env,
        act,
        on_step,
        n_policies=n_policies,
        min_steps=math.ceil(batch_size / n_envs),
        device=policy.device,
    )


def _sampling_graph(policy: IRPOPolicy, *example: Any) -> Graph:
    """Return the traced function from the leaves of ``(params, buffers, inputs, noise)`` to actions.

    A step takes half the time without the Python code above the tensor operations. Tracing takes longer than a small batch,
    so the graph is kept for the next rollouts of these shapes.
    """
    leaves, spec = tree_flatten(example)

    def sample(*tensors: Tensor) -> Tensor:
        params, buffers, inputs, noise = tree_unflatten(tensors, spec)
        inputs = tree_map(lambda x: x.unflatten(0, (len(noise), -1)), inputs)
        outputs = vmap(lambda one, x: policy.actor(one | buffers, x))(params, inputs)
        return policy.distribution.sample(outputs, noise).flatten(0, 1)

    key = (policy.training, *((x.shape, x.dtype, x.device) for x in leaves))
    graphs = _graphs.setdefault(policy, {})
    if key not in graphs:
        graphs[key] = make_fx(sample)(*leaves)
    return graphs[key]
