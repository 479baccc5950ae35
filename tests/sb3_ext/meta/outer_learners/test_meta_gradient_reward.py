"""Rewards of agents by the gradient of what they learn: the gradient, the algorithm, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from envs.tasks import PointGoal
from sb3_ext.common.optimizers import Params
from sb3_ext.meta import LifetimeVecEnv, MetaGradientReward, RewardModel
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, InnerSettings, sample_order
from sb3_ext.meta.outer_learners.advantage_gradient import InnerUpdate, advantage_gradient
from sb3_ext.meta.outer_learners.meta_gradient_reward import _ages
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork

T, B, LR = 16, 2, 0.02
SMALL = dict(encoders=(6, 4), lstm_size=4, mean_arch=(5,), value_arch=(3,), success_memory=True)
ACTIONS = {"box": spaces.Box(-1, 1, (2,)), "discrete": spaces.Discrete(3)}


class Problem:
    """Two agents with an update behind them, a batch rewarded by a small network, and the task's advantages of it; float64."""

    def __init__(self, kind: str = "box", are_advantages: bool = False, max_grad_norm: float | None = 0.05) -> None:
        self.generator = torch.Generator().manual_seed(1)
        settings = InnerSettings(
            n_steps=T,
            n_epochs=2,
            n_minibatches=2,
            learning_rate=LR,
            ent_coef=0.01,
            max_grad_norm=max_grad_norm,
            net_arch=(5,),
        )
        self.agents = InnerAgents(B, spaces.Box(-1, 1, (3,)), ACTIONS[kind], settings, self.generator, dtype=torch.float64)
        batch, last, order = self._batch()
        self.agents.update(batch, last, order, are_advantages)
        self.batch, last, self.order = self._batch()
        self.update = InnerUpdate.of(self.agents, self.batch, last, self.order, are_advantages)
        n_actions = self.batch.actions.shape[-1]
        torch.manual_seed(2)
        self.network = MetaRewardNetwork(3, n_actions, 4, **SMALL).double()  # type: ignore[arg-type]
        self.inputs = dict(
            observation=self.batch.observations, action=self.batch.actions.double(), scalars=self._randn(T, B, 4)
        )
        self.state = tuple(self._randn(*part.shape).abs() for part in self.network.begin(B))
        steps = torch.arange(T).expand(B, -1)
        self.outer = self.agents.minibatch(self.batch, self._randn(T, B), None, steps)

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def _batch(self) -> tuple[InnerBatch, Tensor, Tensor]:
        agents, observations = self.agents, self._randn(T, B, 3)
        noise = agents.distribution.sample_noise((T, B), self.generator, torch.device("cpu")).double()
        columns = zip(*[agents.act(observations[t], noise[t]) for t in range(T)], strict=True)
        actions, log_probs, values = (torch.stack(column) for column in columns)
        done = torch.rand(T, B, generator=self.generator) < 0.2
        log_probs += 0.05 * self._randn(T, B)
        batch = InnerBatch(observations, actions, log_probs, values, self._randn(T, B), done)
        return batch, self._randn(B, 3), sample_order(2, T, B, self.generator)

    def advantages(self) -> Tensor:
        return self.update.advantages(self.agents, self.network(self.inputs, self.state).mean)

    def gradient(self, n_unroll: int, learning_rate: float | None) -> Tensor:
        """In η, as MetaGradientReward takes it, all of it in a row."""
        advantages = self.advantages()
        result = advantage_gradient(self.agents, self.update, advantages.detach(), self.outer, n_unroll, learning_rate)
        self.network.zero_grad()
        (advantages * result.gradient).sum().backward()
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self.network.parameters()]
        )

    def outer_after(self, n_unroll: int, learning_rate: float | None, moments: list[Params], record: bool) -> float:
        """−J(θ'(η)) with the steps written out; Adam's second moments are noted in ``moments`` or taken from there."""
        agents, batch = self.agents, self.batch
        advantages = self.advantages().detach()
        returns = None if self.update.are_advantages else advantages + batch.values
        theta, m = self.update.params, self.update.state["m"]
        for k in range(n_unroll):
            theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
            size = T // 2
            steps = self.order[k // 2].T[:, size * (k % 2) : size * (k % 2 + 1)]
            loss = agents.loss(agents.minibatch(batch, advantages, returns, steps), theta).sum()
            values = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
            grads = dict(zip(theta, values, strict=True))
            theta = {name: value.detach() for name, value in theta.items()}
            if learning_rate is not None:
                theta = {name: value - learning_rate * grads[name] for name, value in theta.items()}
                continue
            max_norm = agents.settings.max_grad_norm
            norms = torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()
            scale = torch.ones(B, dtype=torch.float64) if max_norm is None else (max_norm / (norms + 1e-6)).clamp(max=1)
            grads = {name: g * scale.view(B, *[1] * (g.dim() - 1)) for name, g in grads.items()}
            count = self.update.state["step"] + k + 1
            before = self.update.state["v"] if k == 0 else moments[k - 1]
            if record:
                moments.append({name: 0.999 * before[name] + 0.001 * g.square() for name, g in grads.items()})
            m = {name: 0.9 * m[name] + 0.1 * g for name, g in grads.items()}
            for name, v in moments[k].items():
                step = LR * m[name] / (1 - 0.9**count)
                theta[name] = theta[name] - step / ((v / (1 - 0.999**count)).sqrt() + 1e-5)
        outer = self.outer
        loss = agents.policy_loss(outer.observations, outer.actions, outer.log_probs, outer.advantages, theta)
        return float(loss.detach().sum())


@pytest.mark.parametrize(
    "given",
    [
        dict(n_unroll=1, learning_rate=0.1),
        dict(n_unroll=3, learning_rate=0.1),
        dict(n_unroll=3, learning_rate=0.1, kind="discrete", are_advantages=True),
        dict(n_unroll=1, learning_rate=None, kind="discrete"),
        dict(n_unroll=3, learning_rate=None),
        dict(n_unroll=3, learning_rate=None, max_grad_norm=None, are_advantages=True),
    ],
    ids=lambda given: " ".join(str(value) for value in given.values()),
)
def test_the_gradient_in_the_networks_parameters_is_the_finite_difference(given: dict[str, Any]) -> None:
    n_unroll, learning_rate = given.pop("n_unroll"), given.pop("learning_rate")
    problem, moments = Problem(**given), []  # type: ignore[var-annotated]
    gradient = problem.gradient(n_unroll, learning_rate)
    problem.outer_after(n_unroll, learning_rate, moments, record=True)
    expected, step = [], 1e-5
    weights = [p.data.view(-1) for p in problem.network.parameters()]
    for flat in weights:
        for i in range(0, len(flat), 3):  # a third of them
            ends = []
            for sign in (1, -2, 1):
                flat[i] += sign * step
                ends.append(problem.outer_after(n_unroll, learning_rate, moments, record=False))
            expected.append((ends[0] - ends[1]) / (2 * step))
    index = torch.cat([(torch.arange(len(flat)) % 3 == 0) for flat in weights])
    difference = (gradient[index] - torch.tensor(expected, dtype=torch.float64)).norm()
    assert gradient.norm() > 1e-5, "the problem must have something to differentiate"
    assert difference < 1e-6 * gradient[index].norm()


@pytest.mark.parametrize("n_unroll, learning_rate", [(0, 0.1), (3, 0.0), (0, None)])
def test_without_a_step_nothing_depends_on_the_rewards(n_unroll: int, learning_rate: float | None) -> None:
    assert not Problem().gradient(n_unroll, learning_rate).any()


@pytest.mark.parametrize("are_advantages", [False, True])
def test_all_steps_unrolled_are_the_agents_update(are_advantages: bool) -> None:
    problem = Problem(are_advantages=are_advantages)
    update, agents = problem.update, problem.agents
    advantages = update.advantages(agents, problem.batch.rewards)
    unrolled = advantage_gradient(agents, update, advantages, problem.outer, 4).params
    agents.update(update.batch, update.last_observations, update.order, are_advantages)
    for name, value in agents.params.items():
        assert torch.allclose(unrolled[name], value, atol=1e-12, rtol=0), name


def test_ages_begin_anew_after_an_end() -> None:
    done = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool).T
    assert _ages(done).T.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


# ---------------------------------------------------------------------- the algorithm

POINT = {"max_episode_steps": 10, "goal_radius": 0.3}
INNER = {"n_steps": 40, "n_batches": 3, "n_epochs": 2, "n_minibatches": 4, "net_arch": (8,)}


def lifetimes(signal: Any = "reward") -> LifetimeVecEnv:
    return LifetimeVecEnv(PointGoal(), 4, signal, settings=INNER, env_kwargs=POINT, seed=0)


def learner(env: Any = None, **kwargs: Any) -> MetaGradientReward:
    policy_kwargs = {"network_kwargs": SMALL | kwargs.pop("network", {})}
    return MetaGradientReward("MlpLstmPolicy", env or lifetimes(), seed=0, device="cpu", policy_kwargs=policy_kwargs, **kwargs)


@pytest.mark.parametrize("signal", ["reward", "advantage"])
@pytest.mark.parametrize("kwargs", [{}, {"unroll_learning_rate": None, "n_unroll": 2}], ids=["plain", "adam"])
def test_it_trains_saves_and_continues_exactly(tmp_path: Path, signal: str, kwargs: dict[str, Any]) -> None:
    steps = 4 * 120
    unbroken = learner(lifetimes(signal), **kwargs)
    before = [parameter.detach().clone() for parameter in unbroken.policy.network.mean_head.parameters()]
    unbroken.learn(3 * steps)
    assert unbroken.num_timesteps == 3 * steps
    after = unbroken.policy.network.mean_head.parameters()
    assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))

    class SaveInside(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == steps + 40:
                self.model.save(tmp_path / "inside")
            return True

    learner(lifetimes(signal), **kwargs).learn(2 * steps, SaveInside())
    continued = MetaGradientReward.load(tmp_path / "inside", lifetimes(signal), device="cpu")
    assert continued.num_timesteps == steps
    continued.learn(2 * steps, reset_num_timesteps=False)
    for one, two in zip(unbroken.policy.parameters(), continued.policy.parameters(), strict=True):
        assert torch.equal(one, two)
    continued.save_reward_model(tmp_path / "reward")
    assert RewardModel.load(tmp_path / "reward").signal == signal


def test_a_callback_can_stop_it() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 50

    model = learner()
    model.learn(1000, Stop())
    assert model.num_timesteps == 200 and model._iteration == 0 and model.lifetimes.before_update is None


@pytest.mark.parametrize(
    "wrong",
    [{"n_unroll": 0}, {"n_epochs": 0}, {"unroll_learning_rate": 0}, {"gae_lambda": 1.5}, {"max_grad_norm": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        learner(**wrong)


def test_it_needs_lifetimes_with_rewards() -> None:
    with pytest.raises(ValueError, match="LifetimeVecEnv"):
        learner(DummyVecEnv([lambda: gym.make("sparse/PointGoal-v0")]))
    with pytest.raises(ValueError, match=r"signal='sparse'"):
        learner(lifetimes("sparse")).learn(1)


def test_agents_learn_to_go_where_the_tasks_goals_are() -> None:
    """All goals have y > 0, so a reward that knows the family, and of a task nothing, has its agents go up."""
    inner = dict(n_steps=100, n_batches=4, n_epochs=10, n_minibatches=4, learning_rate=1e-2, net_arch=(16,))
    env = LifetimeVecEnv(PointGoal(upper_half=True), 16, settings=inner, env_kwargs={"max_episode_steps": 25}, seed=0)
    network = dict(encoders=(16, 16), lstm_size=8, mean_arch=(16,), value_arch=(4,), success_memory=True)
    model = MetaGradientReward("MlpLstmPolicy", env, 3e-3, seed=0, device="cpu", policy_kwargs={"network_kwargs": network})
    returns = []

    class Note(BaseCallback):
        def _on_rollout_end(self) -> None:
            infos = self.locals["result"].infos
            returns.append(np.mean([info["lifetime"]["shaped"] for info in infos]))

        def _on_step(self) -> bool:
            return True

    model.learn(12 * env.settings.lifetime * 16, Note())
    assert np.mean(returns[-6:]) > 0  # agents without a reward: -2
