"""The B inner agents, learning side by side, against B plain PPO loops and against Stable-Baselines3's PPO."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor

import envs  # noqa: F401
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, InnerSettings, sample_order

OBSERVATIONS = spaces.Box(-1, 1, (3,))
ACTIONS = {"box": spaces.Box(-1, 1, (2,)), "discrete": spaces.Discrete(4)}


def plain_ppo(params: dict[str, Tensor], settings: InnerSettings, data: list[dict], continuous: bool) -> dict[str, Tensor]:
    """One agent's updates on its own data, written out step by step."""
    params = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.Adam(params.values(), lr=settings.learning_rate, eps=1e-5)

    def network(name: str, x: Tensor) -> Tensor:
        for layer in range(3):
            x = x @ params[f"{name}.{layer}.weight"].T + params[f"{name}.{layer}.bias"]
            x = torch.tanh(x) if layer < 2 else x
        return x

    def evaluate(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        output = network("pi", observations)
        if continuous:
            normal = torch.distributions.Normal(output, params["log_std"].exp())
            return normal.log_prob(actions).sum(-1), normal.entropy().sum(-1)
        categorical = torch.distributions.Categorical(logits=output)
        return categorical.log_prob(actions[:, 0]), categorical.entropy()

    for batch in data:
        n = len(batch["rewards"])
        with torch.no_grad():
            values = network("vf", batch["observations"])[:, 0]
            last = network("vf", batch["last"][None])[0, 0]
        advantages, running = torch.zeros(n, dtype=torch.float64), 0.0
        for t in reversed(range(n)):
            going_on = 0.0 if batch["done"][t] else 1.0
            following = last if t == n - 1 else values[t + 1]
            delta = batch["rewards"][t] + settings.gamma * going_on * following - values[t]
            running = delta + settings.gamma * settings.gae_lambda * going_on * running
            advantages[t] = running
        returns = advantages + values
        with torch.no_grad():
            old = evaluate(batch["observations"], batch["actions"])[0]
        size = math.ceil(n / settings.n_minibatches)
        for order in batch["order"]:
            for start in range(0, n, size):
                steps = order[start : start + size]
                advantage = advantages[steps]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                log_prob, entropy = evaluate(batch["observations"][steps], batch["actions"][steps])
                ratio = torch.exp(log_prob - old[steps])
                clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
                loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                loss = loss - settings.ent_coef * entropy.mean()
                loss = (
                    loss
                    + settings.vf_coef * ((network("vf", batch["observations"][steps])[:, 0] - returns[steps]) ** 2).mean()
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(params.values(), settings.max_grad_norm)
                optimizer.step()
    return {name: value.detach() for name, value in params.items()}


@pytest.mark.parametrize("kind", ACTIONS)
def test_b_agents_side_by_side_are_b_plain_loops(kind: str) -> None:
    n_agents, n_steps = 3, 21
    settings = InnerSettings(
        n_steps=n_steps, n_batches=3, n_epochs=3, n_minibatches=4, learning_rate=1e-2, ent_coef=0.01, net_arch=(8, 8)
    )
    generator = torch.Generator().manual_seed(0)
    agents = InnerAgents(n_agents, OBSERVATIONS, ACTIONS[kind], settings, generator, dtype=torch.float64)
    before = {name: value.detach().clone() for name, value in agents.params.items()}
    collected: list[list[dict]] = [[] for _ in range(n_agents)]
    for _ in range(3):
        observations = torch.randn(n_steps, n_agents, 3, generator=generator, dtype=torch.float64)
        noise = agents.distribution.sample_noise((n_steps, n_agents), generator, torch.device("cpu")).double()
        steps = [agents.act(observations[t], noise[t]) for t in range(n_steps)]
        actions, log_probs, values = (torch.stack(parts) for parts in zip(*steps, strict=True))
        rewards = torch.randn(n_steps, n_agents, generator=generator, dtype=torch.float64)
        done = torch.rand(n_steps, n_agents, generator=generator) < 0.2
        last = torch.randn(n_agents, 3, generator=generator, dtype=torch.float64)
        order = sample_order(settings.n_epochs, n_steps, n_agents, generator)
        agents.update(InnerBatch(observations, actions, log_probs, values, rewards, done), last, order)
        for b in range(n_agents):
            collected[b].append(
                {
                    "observations": observations[:, b],
                    "actions": actions[:, b],
                    "rewards": rewards[:, b],
                    "done": done[:, b],
                    "last": last[b],
                    "order": order[:, :, b],
                }
            )
    for b in range(n_agents):
        alone = plain_ppo({n: v[b] for n, v in before.items()}, settings, collected[b], kind == "box")
        for name, value in alone.items():
            moved = float((agents.params[name][b] - before[name][b]).detach().abs().max())
            assert moved > 1e-3, f"{name} of agent {b} did not learn"
            assert torch.allclose(agents.params[name][b], value, atol=1e-10, rtol=0), name


def test_an_update_is_sb3s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs on one rollout of SB3's PPO, whose buffer is float32, in SB3's own order of minibatches."""
    n_steps = 64
    model = PPO(
        "MlpPolicy",
        gym.make("sparse/PointGoal-v0", goal_angle=0.3),
        n_steps=n_steps,
        batch_size=16,
        n_epochs=2,
        vf_coef=0.25,
        learning_rate=1e-3,
        seed=1,
        device="cpu",
    )
    settings = InnerSettings(n_steps=n_steps, n_epochs=2, n_minibatches=4, learning_rate=1e-3)
    agents = InnerAgents(1, model.observation_space, model.action_space, settings, torch.Generator())
    names = {"log_std": "log_std", "pi.2.weight": "action_net.weight", "pi.2.bias": "action_net.bias"}
    names |= {"vf.2.weight": "value_net.weight", "vf.2.bias": "value_net.bias"}
    for ours, theirs in (("pi", "policy_net"), ("vf", "value_net")):
        for layer in range(2):
            for part in ("weight", "bias"):
                names[f"{ours}.{layer}.{part}"] = f"mlp_extractor.{theirs}.{2 * layer}.{part}"
    assert set(names) == set(agents.params)
    weights = dict(model.policy.named_parameters())
    with torch.no_grad():
        for ours, theirs in names.items():
            agents.params[ours].copy_(weights[theirs][None])

    orders: list[np.ndarray] = []
    permutation = np.random.permutation

    def recorded(n: int) -> np.ndarray:
        orders.append(permutation(n))
        return orders[-1]

    monkeypatch.setattr(np.random, "permutation", recorded)
    model.learn(n_steps)
    buffer = model.rollout_buffer
    as_tensor = torch.as_tensor
    starts = as_tensor(buffer.episode_starts).bool()
    last_obs = as_tensor(model._last_obs)
    done = torch.cat([starts[1:], as_tensor(model._last_episode_starts)[None].bool()])
    batch = InnerBatch(
        observations=as_tensor(buffer.observations).view(n_steps, 1, 2),
        actions=as_tensor(buffer.actions).view(n_steps, 1, 2),
        log_probs=as_tensor(buffer.log_probs).view(n_steps, 1),
        values=as_tensor(buffer.values).view(n_steps, 1),
        rewards=as_tensor(buffer.rewards).view(n_steps, 1),
        done=done,
    )
    agents.update(batch, last_obs, as_tensor(np.stack(orders))[:, :, None])
    for ours, theirs in names.items():
        assert torch.allclose(agents.params[ours][0], weights[theirs], atol=1e-4, rtol=0), ours


def test_advantages_given_directly_need_no_critic() -> None:
    settings = InnerSettings(n_steps=8, n_epochs=1, n_minibatches=1, learning_rate=0.1, net_arch=(4,))
    generator = torch.Generator().manual_seed(0)
    agents = InnerAgents(2, OBSERVATIONS, ACTIONS["discrete"], settings, generator)
    before = {name: value.detach().clone() for name, value in agents.params.items()}
    observations = torch.randn(8, 2, 3, generator=generator)
    noise = agents.distribution.sample_noise((8, 2), generator, torch.device("cpu"))
    actions, log_probs, values = (
        torch.stack(parts) for parts in zip(*[agents.act(observations[t], noise[t]) for t in range(8)], strict=True)
    )
    advantages = torch.zeros(8, 2)
    advantages[0, 0] = 1.0  # agent 0 has an advantage for its first action, agent 1 none
    batch = InnerBatch(observations, actions, log_probs, values, advantages, torch.zeros(8, 2, dtype=torch.bool))
    agents.update(batch, observations[0], sample_order(1, 8, 2, generator), are_advantages=True)
    after = agents.distribution.log_prob(agents.outputs(observations[0][:, None]), actions[0][:, None])[:, 0]
    assert after[0] > log_probs[0, 0] + 0.01
    assert torch.isclose(after[1], log_probs[0, 1])
    assert all(torch.equal(agents.params[name], before[name]) for name in before if name.startswith("vf"))


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"gamma": 1.5}, {"n_minibatches": 3000}, {"n_epochs": 2.5}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InnerSettings(**wrong)
