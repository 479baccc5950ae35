"""MetaReward: collection, advantages, updates, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.lifetimes import INNER, NETWORK, POINT, lifetimes, meta_reward
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from envs.tasks import PointGoal
from sb3_ext.meta import LifetimeVecEnv, MetaReward
from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.outer_learners.lifetime_collection import Job, collect, merge_states, normal_log_prob
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork


@pytest.mark.parametrize(
    "wrong",
    [{"signal": "dense"}, {"objective": "return"}, {"n": 0}, {"lifetimes_per_task": 3}, {"n_jobs": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_does_not_fit_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "n" not in wrong else "n_lifetimes"):
        lifetimes(**wrong)


def test_it_needs_lifetimes() -> None:

    with pytest.raises(ValueError, match="LifetimeVecEnv"):
        meta_reward(DummyVecEnv([lambda: gym.make("sparse/PointGoal-v0")]))
    with pytest.raises(ValueError, match="signal='sparse'"):
        meta_reward(lifetimes(signal="sparse")).learn(1)


@pytest.mark.parametrize("signal", ["reward", "advantage"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"imitation_iterations": 1},
        {"n_shards": 2},
    ],
    ids=["plain", "imitation", "shards"],
)
def test_it_trains_saves_and_continues_exactly(tmp_path: Path, signal: str, kwargs: dict[str, Any]) -> None:
    steps = 4 * 120
    kwargs = dict(baseline="step", **kwargs)
    unbroken = meta_reward(lifetimes(signal=signal), **kwargs).learn(3 * steps)
    assert unbroken.num_timesteps == 3 * steps

    class SaveInside(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == steps + 40:
                self.model.save(tmp_path / "inside")
            return True

    meta_reward(lifetimes(signal=signal), **kwargs).learn(2 * steps, SaveInside())
    continued = MetaReward.load(tmp_path / "inside", lifetimes(signal=signal), device="cpu")
    assert continued.num_timesteps == steps
    continued.learn(2 * steps, reset_num_timesteps=False)
    for one, two in zip(unbroken.policy.parameters(), continued.policy.parameters(), strict=True):
        assert torch.equal(one, two)


def test_predict_remembers_and_forgets_at_the_start_of_a_lifetime() -> None:
    model = meta_reward()
    observations = model.env.reset()
    first, state = model.predict(observations, deterministic=True)
    second, _ = model.predict(observations, state, np.zeros(4, dtype=bool), deterministic=True)
    again, _ = model.predict(observations, state, np.ones(4, dtype=bool), deterministic=True)
    assert first.shape == (4, 1)
    assert not np.allclose(first, second) and np.allclose(first, again)


@pytest.mark.parametrize("network", [{"use_sde": True}, {"success_memory": True}], ids=["sde", "memory"])
def test_what_was_collected_is_what_the_network_gives(network: dict[str, bool]) -> None:
    """One pass over whole lifetimes repeats the steps' means, deviations and values, in pieces or at once."""
    model = meta_reward(policy_kwargs={"network_kwargs": {**NETWORK, **network}})
    env = model.lifetimes
    result = collect(model.policy.network, env, Job(3, 1, True, env.get_state()))
    assert result is not None
    lifetimes, net = result.lifetimes, model.policy.network
    at_once = net(lifetimes.inputs, net.begin(4))
    assert torch.allclose(at_once.value, lifetimes.values, atol=1e-5)
    log_probs = normal_log_prob(lifetimes.agent_rewards, at_once.mean, at_once.std)
    assert torch.allclose(log_probs, lifetimes.log_probs, atol=1e-3)
    first, second = ({key: value[part] for key, value in lifetimes.inputs.items()} for part in (slice(70), slice(70, None)))
    half = net(first, net.begin(4))
    assert torch.allclose(net(second, half.state).mean, at_once.mean[70:], atol=1e-5)
    if "use_sde" in network:  # within a batch the noise is a function of the features
        noise = (lifetimes.agent_rewards - at_once.mean)[:40, 0].detach().double()
        features = at_once.sde_features[:40, 0].double()
        assert torch.allclose(features @ (torch.linalg.pinv(features, rtol=1e-4) @ noise), noise, atol=1e-3)


def test_the_scales_of_shards_make_one() -> None:
    before = {"scale": {"a": [2, 1.0]}}
    states = [{"scale": {"a": [4, 2.0]}}, {"scale": {"a": [3, 2.0], "b": [5, 7.0]}}]
    merged = merge_states(states, before)["scale"]  # a: 1 1, 3 3, 4 in all
    assert merged == {"a": [5, pytest.approx(12 / 5)], "b": [5, pytest.approx(7.0)]}


def test_lifetimes_that_cant_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="3 shards"):
        meta_reward(n_shards=3).learn(1)


def test_a_second_learn_begins_with_a_fresh_schedule() -> None:
    seen: list[float] = []
    model = meta_reward(learning_rate=lambda progress: seen.append(progress) or 1e-3)
    model.learn(700, reset_num_timesteps=False).learn(700, reset_num_timesteps=False)
    assert 0 < min(seen) and max(seen) == 1


def test_the_outer_update_rewards_more_where_more_was_better() -> None:
    model = meta_reward(n_epochs=4, learning_rate=3e-3, target_kl=None)
    env, network = model.lifetimes, model.policy.network
    model._setup_learn(1)
    model._generator = torch.Generator().manual_seed(0)
    result = collect(network, env, Job(3, 0, True, env.get_state()))
    assert result is not None
    collected = result.lifetimes
    everywhere = torch.ones_like(collected.agent_rewards, dtype=torch.bool)
    model._advantages = lambda one, _: (one.agent_rewards - one.agent_rewards.mean(), one.values, everywhere)  # type: ignore[method-assign]
    before = network(collected.inputs, network.begin(4)).mean.mean()
    model._train(collected, env)
    assert network(collected.inputs, network.begin(4)).mean.mean() > before + 0.02


def test_advantages_are_normalised_and_end_with_the_last_update() -> None:
    model = meta_reward()
    env = model.lifetimes
    result = collect(model.policy.network, env, Job(3, 0, True, env.get_state()))
    assert result is not None
    collected = result.lifetimes
    advantages, _, defined = model._advantages(collected, env)
    assert abs(float(advantages[defined].mean())) < 1e-5 and float(advantages[defined].std()) == pytest.approx(1, abs=1e-3)
    assert not defined[80:].any() and defined[:40].any()
    worse, _, _ = model._advantages(collected._replace(rewards=-collected.rewards, values=-collected.values), env)
    assert torch.allclose(worse[defined], -advantages[defined], atol=1e-4)


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ({}, {"baseline": "group"}, "lifetimes_per_task"),
        ({"n": 1}, {"baseline": "step"}, "n_lifetimes"),
        ({}, {"horizons": [], "fallback": []}, "No reward of an agent has an advantage"),
        ({}, {"horizons": [44.0]}, r"horizons must be a list of numbers of steps, each at least 1; got \[44.0\]"),
        ({}, {"clip_range": -1.0}, "clip_range"),
        ({}, {"target_kl": lambda progress: 0.01}, "target_kl must be a number"),
        ({}, {"imitation_learning_rate": -1.0}, "imitation_learning_rate"),
        ({}, {"imitation_expectile": 1.0}, "imitation_expectile"),
    ],
    ids=["group", "step", "none", "horizons", "clip", "kl", "rate", "expectile"],
)
def test_what_could_teach_nothing_is_refused(env: dict[str, Any], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta_reward(lifetimes(**env), **kwargs).learn(1)


@pytest.mark.parametrize("wrong", [{"clip_range": -0.2}, {"max_grad_norm": -1}, {"vf_coef": None}, {"net_arch": 64}])
def test_settings_of_agents_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"inner {next(iter(wrong))} must be"):
        InnerSettings(**{**INNER, **wrong})


def test_what_is_learned_follows_from_set_random_seed(tmp_path: Path) -> None:
    one, two, three = meta_reward(), meta_reward(seed=5), meta_reward()
    two.policy.load_state_dict(one.policy.state_dict())
    one.set_random_seed(5)
    one.save(tmp_path / "one")
    one = MetaReward.load(tmp_path / "one", lifetimes(), device="cpu")
    first, second, other = (next(model.learn(480).policy.parameters()) for model in (one, two, three))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_memory_of_visits_begins_with_the_nearest_of_random_places() -> None:
    torch.manual_seed(0)
    net = MetaRewardNetwork(3, 1, visit_memory=16)
    k = 6.0**2 / 3
    places = net.cells.weight / (2 * k)
    observations = torch.randn(50, 3)
    distances = torch.cdist(observations, places).square()
    assert torch.allclose(torch.softmax(net.cells(observations), -1), torch.softmax(-k * distances, -1), atol=1e-4)


def test_a_memory_of_visits_counts_them() -> None:
    """Two cells, left and right of 0; three steps in one call and one in the next."""
    net = MetaRewardNetwork(1, 1, visit_memory=2)
    with torch.no_grad():
        net.cells.weight.copy_(torch.tensor([[-100.0], [100.0]]))
        net.cells.bias.zero_()
        *_, counts = net.begin(1)
        first, counts = net._count(torch.tensor([-1.0, 1.0, 1.0]).reshape(3, 1, 1), counts)
        second, counts = net._count(torch.tensor([-1.0]).reshape(1, 1, 1), counts)
    visits = torch.expm1(4 * torch.cat([first, second]))[:, 0]
    assert torch.allclose(visits, torch.tensor([[1.0, 0, 1], [1, 1, 1], [1, 2, 2], [2, 2, 2]]), atol=1e-4)
    assert torch.allclose(counts[0, 0], torch.tensor([2.0, 2.0]))


def test_another_environment_closes_the_groups_of_the_one_before() -> None:
    model = meta_reward(n_shards=2).learn(1)
    assert model.shards is not None
    model.set_env(lifetimes())
    assert model.shards is None


def test_a_reward_needs_an_update_after_it() -> None:
    env = LifetimeVecEnv(PointGoal(), 4, settings={**INNER, "n_batches": 1}, env_kwargs=POINT, seed=0)
    with pytest.raises(ValueError, match="n_batches must be at least 2"):
        meta_reward(env).learn(1)
