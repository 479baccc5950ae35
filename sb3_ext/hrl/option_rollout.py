"""Rollouts of choices: SB3's loop, in which an environment gets a new choice only when its last one has ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.utils._pytree import tree_map

from irwrappers.transitions import EpisodeEnds
from sb3_ext.hrl.buffers import OptionRolloutBuffer


def collect_choices(model: Any, env: VecEnv, callback: BaseCallback, buffer: OptionRolloutBuffer, n_steps: int) -> bool:
    """Fill ``buffer`` with ``n_steps`` steps of every environment, with a new choice for each at the first.

    Args:
        model: the algorithm, whose policy chooses and whose options act.
        env: the parallel environments.
        callback: called after each step.
        buffer: filled in place.
        n_steps: steps of each environment.

    Returns:
        False if the callback stopped training.
    """
    model.policy.set_training_mode(False)
    buffer.reset()
    callback.on_rollout_start()
    choices, remaining = np.zeros((2, env.num_envs), dtype=np.int64)
    for step in range(n_steps):
        observations = obs_as_tensor(model._last_obs, model.device)
        decided = remaining == 0
        values, log_probs = torch.zeros(2, env.num_envs, device=model.device)
        rows = np.flatnonzero(decided)
        if len(rows):
            with torch.no_grad():
                chosen, value, log_prob = model.policy(tree_map(lambda x, rows=rows: x[rows], observations))
            choices[rows], values[rows], log_probs[rows] = chosen.cpu().numpy(), value.flatten(), log_prob
            remaining[rows] = model.options.durations[choices[rows]]
        actions = model.options.act(choices, observations)
        new_obs, rewards, dones, infos = env.step(actions)
        model.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        model._update_info_buffer(infos, dones)
        _bootstrap_truncated(model, rewards, dones, infos)
        buffer.decided[step] = decided
        buffer.add(model._last_obs, choices, rewards, model._last_episode_starts, values, log_probs)
        remaining = np.where(dones, 0, remaining - 1)
        model._last_obs, model._last_episode_starts = new_obs, dones
    with torch.no_grad():
        last_values = model.policy.predict_values(obs_as_tensor(model._last_obs, model.device))
    buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
    _log_choices(model, buffer)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


@torch.no_grad()
def _bootstrap_truncated(model: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """Add γ V(last observation) to the last reward of episodes that a time limit cut, as SB3 does."""
    cut = EpisodeEnds(dones, infos).truncated
    if cut.any():
        last = tree_map(lambda *x: np.stack(x), *EpisodeEnds(cut, infos).terminal_observations())
        values = model.policy.predict_values(obs_as_tensor(last, model.device)).flatten()
        rewards[cut] += model.gamma * values.cpu().numpy()


def _log_choices(model: Any, buffer: OptionRolloutBuffer) -> None:
    chosen = buffer.actions[buffer.decided].flatten()
    shares = np.bincount(chosen, minlength=int(model.options.space.n)) / len(chosen)
    for name, share in zip(model.intrinsic_reward.channel_names, shares, strict=False):
        model.logger.record(f"choice/{name}", share)
    model.logger.record("choice/single_actions", shares[model.n_options :].sum())
    model.logger.record("choice/mean_duration", buffer.decided.size / len(chosen))
