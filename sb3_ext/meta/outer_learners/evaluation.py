"""Lifetimes of agents that a reward model, or the task itself, rewards: how well they learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.lifetime_collection import Job, collect
from sb3_ext.meta.outer_learners.reward_model import RewardModel

RewardSource = RewardModel | Literal["sparse", "shaped", "progress"]
"""A reward model, or the signal of a task that agents receive as reward."""


class Trace(NamedTuple):
    """One run of B lifetimes.

    Attributes:
        observations: before each step ``[T, B, n_obs]``.
        rewards: of the agents ``[T, B]``.
        shaped: dense reward of the task ``[T, B]``.
        done: whether a step is the last of its episode or of the lifetime, bool ``[T, B]``.
        success: share of successful episodes in each batch ``[n_batches, B]``.
        tasks: of the B lifetimes.
    """

    observations: np.ndarray
    rewards: np.ndarray
    shaped: np.ndarray
    done: np.ndarray
    success: np.ndarray
    tasks: list[Any]


def make_evaluation_env(
    family: Any,
    source: RewardSource,
    n_lifetimes: int,
    settings: InnerSettings | dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    n_jobs: int = 1,
) -> LifetimeVecEnv:
    """Return lifetimes under the conditions in which a reward model was trained.

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        source: of the agents' rewards.
        n_lifetimes: number of parallel lifetimes.
        settings: of the inner loop; None: the model's own.
        env_kwargs: arguments of the environments; None: the model's own.
        n_jobs: number of processes, for families without a vectorised environment.

    Raises:
        ValueError: if the model rewards agents with other spaces.
    """
    signal: Any = source
    if isinstance(source, RewardModel):
        source.check_spaces(family.observation_space, family.action_space)
        signal = source.signal
        settings = source.inner if settings is None else settings
        env_kwargs = source.env if env_kwargs is None else env_kwargs
    return LifetimeVecEnv(family, n_lifetimes, signal, settings=settings, env_kwargs=env_kwargs, n_jobs=n_jobs, seed=0)


def run_lifetimes(env: LifetimeVecEnv, source: RewardSource, seed: int) -> Trace:
    """Return B whole lifetimes with the model's mean rewards, or with the task's.

    Args:
        env: from :func:`make_evaluation_env`.
        source: of the agents' rewards.
        seed: of tasks, agents and environments.

    Raises:
        ValueError: if the agents of ``env`` receive other rewards.
    """
    signal = source.signal if isinstance(source, RewardModel) else source
    if env.signal != signal:
        raise ValueError(
            f"The rewards are of signal={signal!r}, and the agents of this LifetimeVecEnv receive {env.signal!r}; "
            "make_evaluation_env makes a fitting one."
        )
    if isinstance(source, RewardModel):
        result = collect(source.network, env, Job(seed, n_dense=0, noise=False, state=env.get_state()))
        assert result is not None
        lifetimes, infos = result.lifetimes, result.infos
        done = torch.diff(lifetimes.episodes, dim=0, append=lifetimes.episodes[-1:] + 1) > 0
        columns = [lifetimes.inputs["observation"], lifetimes.agent_rewards, lifetimes.shaped, done]
        observations, rewards, shaped, ends = (column.numpy() for column in columns)
        return Trace(observations, rewards, shaped, ends, *_successes_and_tasks(infos))
    env.seed(seed)
    seen: Any = env.reset()
    nothing, steps = np.zeros((env.num_envs, 1), np.float32), []
    for _ in range(env.settings.lifetime):
        last, before = env.last_step, seen["observation"]
        seen, _, _, infos = env.step(nothing)
        steps.append((before, env.last_rewards.cpu().numpy(), last.shaped, last.done))
    observations, rewards, shaped, ends = (np.stack(column) for column in zip(*steps, strict=True))
    return Trace(observations, rewards, shaped, ends, *_successes_and_tasks(infos))


def _successes_and_tasks(infos: list[dict[str, Any]]) -> tuple[np.ndarray, list[Any]]:
    lifetimes = [info["lifetime"] for info in infos]
    return np.array([one["success"] for one in lifetimes]).T, [one["task"] for one in lifetimes]


def success_over_lifetimes(
    env: LifetimeVecEnv, source: RewardSource, seeds: Iterable[int], progress_bar: bool = True
) -> np.ndarray:
    """Return the share of successful episodes in each batch of a lifetime ``[seeds, n_batches]``, the mean over B lifetimes.

    Args:
        env: from :func:`make_evaluation_env`.
        source: of the agents' rewards.
        seeds: one for each run of B lifetimes.
        progress_bar: whether to show a progress bar.
    """
    return np.stack([run_lifetimes(env, source, seed).success.mean(1) for seed in tqdm(list(seeds), disable=not progress_bar)])
