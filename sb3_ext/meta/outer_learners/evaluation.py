"""How agents fare over a lifetime that a reward model, or the task itself, pays for."""

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

Payer = RewardModel | Literal["sparse", "shaped", "progress"]


class Trace(NamedTuple):
    """One run of B lifetimes: observations ``[T, B, n_obs]`` (before each step), the rest ``[T, B]`` but for success
    ``[n_batches, B]`` and tasks, B of them.

    shaped: the task's dense reward. done: an episode's last step, or the lifetime's.
    """

    observations: np.ndarray
    payments: np.ndarray
    shaped: np.ndarray
    done: np.ndarray
    success: np.ndarray
    tasks: list[Any]


def make_evaluation_env(
    family: Any,
    payer: Payer,
    n_lifetimes: int,
    settings: InnerSettings | dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    n_jobs: int = 1,
) -> LifetimeVecEnv:
    """Lifetimes under the conditions of the model's training; ``settings`` and ``env_kwargs`` for where the task pays.

    Raises:
        ValueError: the model pays agents with other spaces.
    """
    signal: Any = payer
    if isinstance(payer, RewardModel):
        payer.check_spaces(family.observation_space, family.action_space)
        signal = payer.signal
        settings = payer.inner if settings is None else settings
        env_kwargs = payer.env if env_kwargs is None else env_kwargs
    return LifetimeVecEnv(family, n_lifetimes, signal, settings=settings, env_kwargs=env_kwargs, n_jobs=n_jobs, seed=0)


def run_lifetimes(env: LifetimeVecEnv, payer: Payer, seed: int) -> Trace:
    """B whole lifetimes, paid the model's mean reward (or by the task), from one ``seed``.

    Raises:
        ValueError: the agents of ``env`` are paid otherwise (:func:`make_evaluation_env` makes those of a payer).
    """
    signal = payer.signal if isinstance(payer, RewardModel) else payer
    if env.signal != signal:
        raise ValueError(f"The payer gives signal={signal!r}, and the agents of this LifetimeVecEnv take {env.signal!r}.")
    if isinstance(payer, RewardModel):
        result = collect(payer.network, env, Job(seed, n_taught=0, noise=False, state=env.get_state()))
        assert result is not None
        lifetimes, infos = result.lifetimes, result.infos
        done = torch.diff(lifetimes.episodes, dim=0, append=lifetimes.episodes[-1:] + 1) > 0
        columns = [lifetimes.inputs["observation"], lifetimes.payments, lifetimes.shaped, done]
        observations, payments, shaped, ends = (column.numpy() for column in columns)
        return Trace(observations, payments, shaped, ends, *_told(infos))
    env.seed(seed)
    seen: Any = env.reset()
    nothing, steps = np.zeros((env.num_envs, 1), np.float32), []
    for _ in range(env.settings.lifetime):
        last, before = env.last_step, seen["observation"]
        seen, _, _, infos = env.step(nothing)
        steps.append((before, env.last_paid.cpu().numpy(), last.shaped, last.done))
    observations, payments, shaped, ends = (np.stack(column) for column in zip(*steps, strict=True))
    return Trace(observations, payments, shaped, ends, *_told(infos))


def _told(infos: list[dict[str, Any]]) -> tuple[np.ndarray, list[Any]]:
    told = [info["lifetime"] for info in infos]
    return np.array([one["success"] for one in told]).T, [one["task"] for one in told]


def success_over_lifetimes(env: LifetimeVecEnv, payer: Payer, seeds: Iterable[int], progress_bar: bool = True) -> np.ndarray:
    """The share of successful episodes in each batch of a lifetime ``[seeds, n_batches]``, mean over B lifetimes a seed."""
    return np.stack([run_lifetimes(env, payer, seed).success.mean(1) for seed in tqdm(list(seeds), disable=not progress_bar)])
