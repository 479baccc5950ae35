"""Lifetimes of B agents as an environment, and the batches of tasks in it."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.lifetimes import INNER, POINT, lifetimes, meta_reward

from envs.tasks import MetaWorldML1, MetaWorldML10, PointGoal
from sb3_ext.meta import LifetimeVecEnv
from sb3_ext.meta.lifetimes.task_batches import LoopedTasks, NativeTasks, ProcessTasks, TaskBatch


def trajectory(batch: TaskBatch, tasks: list, n_steps: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    seen = [batch.begin(tasks, range(len(tasks)))]
    for _ in range(n_steps):
        seen += batch.step(rng.uniform(-1, 1, (len(tasks), width)).astype(np.float32))
    batch.close()
    return seen


def test_native_looped_and_parallel_tasks_are_the_same() -> None:
    rng = np.random.default_rng(0)
    tasks = [PointGoal().sample(rng) for _ in range(3)]
    forms = [NativeTasks(POINT), LoopedTasks(PointGoal(), POINT), ProcessTasks(PointGoal(), POINT, 2)]
    native, looped, parallel = (trajectory(form, tasks, 25, 2) for form in forms)
    assert any(part.any() for part in native[2::5])  # some received a reward
    for one, two, three in zip(native, looped, parallel, strict=True):
        assert np.allclose(one, two)
        assert np.array_equal(two, three)


def test_a_meta_world_environment_that_changes_its_task_is_a_new_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        family, rng = MetaWorldML1("reach"), np.random.default_rng(0)
        used, new = LoopedTasks(family, {}), LoopedTasks(family, {})
        first, second = [family.sample(rng)], [family.sample(rng)]
        used.begin(first, [0])
        used.step(np.full((1, 4), 0.5, np.float32))
        one, two = trajectory(used, second, 5, 4), trajectory(new, second, 5, 4)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def run(env: LifetimeVecEnv, reward_of_agents: float = 0.5) -> tuple[list[dict], list[np.ndarray], list[dict]]:
    observations, rewards = [env.reset()], []
    for _ in range(env.settings.lifetime):
        seen, reward, done, infos = env.step(np.full((env.num_envs, 1), reward_of_agents, np.float32))
        observations.append(seen)
        rewards.append(reward)
    assert done.all()
    return observations, rewards, infos  # type: ignore[return-value]


def test_a_lifetime_is_an_episode_and_repeats_under_its_seed() -> None:
    env = lifetimes()
    observations, rewards, infos = run(env)
    space = env.observation_space
    assert all(np.isin(o["scalars"][:, 3], [0.0, 2.0]).all() for o in observations)
    assert observations[0]["scalars"][:, 3].all() and not observations[0]["scalars"][:, 2].any()
    assert np.allclose(observations[5]["scalars"][:, 2], 0.5)  # the last reward
    assert space["observation"].shape == (2,)
    assert [len(info["lifetime"]["success"]) for info in infos] == [3] * 4
    env.seed(0)
    again = run(env)
    assert all(np.array_equal(a["observation"], b["observation"]) for a, b in zip(observations, again[0], strict=True))
    env.seed(1)
    other = run(env)
    assert not np.array_equal(observations[9]["observation"], other[0][9]["observation"])
    assert np.isclose(np.mean(np.abs(rewards)), 1e-4, rtol=0.5)


def test_lifetimes_of_one_task_begin_alike() -> None:
    env = lifetimes(lifetimes_per_task=2)
    env.reset()
    assert env.tasks[0] == env.tasks[1] != env.tasks[2]
    weights = env.agents.params["pi.0.weight"]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_dense_rewards_teach_more_than_sparse_ones() -> None:
    """The two baselines, without an outer learner."""
    success = {}
    for signal in ("sparse", "shaped"):
        inner = dict(n_steps=200, n_batches=4, n_epochs=10, n_minibatches=4, learning_rate=3e-3)
        env = LifetimeVecEnv(
            PointGoal("test"),
            16,
            signal=signal,
            settings=inner,
            env_kwargs={"max_episode_steps": 25, "goal_radius": 0.15},
            seed=3,
        )
        infos = run(env)[2]
        success[signal] = np.mean([info["lifetime"]["success"][-1] for info in infos])
    assert success["shaped"] > success["sparse"] + 0.2


class NoDenseReward(gym.Wrapper):
    def step(self, action: Any) -> Any:
        *step, info = self.env.step(action)
        del info["shaped_reward"]
        return *step, info


class PointGoalWithout(PointGoal):
    has_vector_form = False

    def make(self, task: Any, **kwargs: Any) -> gym.Env:
        return NoDenseReward(super().make(task, **kwargs))


def test_tasks_without_a_dense_reward_are_for_the_sparse_objective() -> None:
    def make(objective: Any) -> LifetimeVecEnv:
        return LifetimeVecEnv(PointGoalWithout(), 2, objective=objective, settings=INNER, env_kwargs=POINT, seed=0)

    assert meta_reward(make("sparse")).learn(240).num_timesteps == 240
    for model in (meta_reward(make("shaped")), meta_reward(make("sparse"), imitation_iterations=1)):
        with pytest.raises(ValueError, match=r"no info\['shaped_reward'\]"):
            model.learn(240)


def test_environments_of_kinds_that_are_not_sampled_are_kept_and_not_too_many() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        family, rng = MetaWorldML10(), np.random.default_rng(0)
        kinds = {task.env_id: task for task in (family.sample(rng) for _ in range(40))}
        first, second, third = list(kinds.values())[:3]
        batch = LoopedTasks(family, {})
        batch.begin([first], [0])
        used = batch._envs[0]
        batch.begin([second], [0])
        batch.begin([first], [0])
        assert batch._envs[0] is used
        batch.begin([third], [0])
        assert len(batch._spare) == 1
        batch.close()
