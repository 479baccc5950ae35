"""RL²'s trials, and MAML-TRPO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.func import grad

from envs.tasks import PointGoal, TaskDistribution
from irwrappers.extrinsic import SuccessSignal
from sb3_ext.meta import MAMLTRPO, LifetimeVecEnv, MAMLPolicy, TrialVecEnv
from sb3_ext.meta.baselines.adaptation import Learner, TaskData
from sb3_ext.meta.lifetimes.task_batches import flat_actions
from sb3_ext.meta.outer_learners.linear_baseline import linear_baseline

POINT = {"max_episode_steps": 10, "goal_radius": 0.3}


class Sides(gym.Env[np.ndarray, np.integer]):
    """Walk three steps to the side with the reward; staying is an action too."""

    observation_space = spaces.Box(-3, 3, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, goal: int = 3) -> None:
        self.goal, self.place = goal, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.place = abs(self.goal - self.place), int(np.clip(self.place + action - 1, -3, 3))
        there = self.place == self.goal
        info = {"is_success": there, "shaped_reward": float(before - abs(self.goal - self.place))}
        return np.array([self.place], np.float32), float(there), there, False, info


gym.register("meta_test/Sides-v0", entry_point=Sides, max_episode_steps=8)


@dataclass(frozen=True)
class Side:
    goal: int
    env_id: ClassVar[str] = "meta_test/Sides-v0"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        return {"goal": self.goal}


class TwoSides(TaskDistribution[Side]):
    _example_id = Side.env_id

    def sample(self, rng: np.random.Generator) -> Side:
        return Side(int(rng.choice([-3, 3])))


def trials(family: Any = None, n: int = 4, **kwargs: Any) -> TrialVecEnv:
    family = family or PointGoal()
    point = dict(env_kwargs=POINT) if isinstance(family, PointGoal) else {}
    return TrialVecEnv(family, n, **{**dict(n_steps=20, n_batches=2, seed=0), **point, **kwargs})


def maml(env: Any = None, **kwargs: Any) -> MAMLTRPO:
    env = env or trials(history=False)
    return MAMLTRPO(
        "MlpPolicy", env, **{**dict(seed=0, device="cpu", policy_kwargs={"net_arch": {"pi": [8], "vf": []}}), **kwargs}
    )


# ---------------------------------------------------------------------- trials


@pytest.mark.parametrize("family", [PointGoal(), TwoSides()], ids=["box", "discrete"])
@pytest.mark.parametrize("objective", ["shaped", "sparse"])
def test_a_trial_is_a_plain_loop_over_single_environments(family: Any, objective: str) -> None:
    options = {"max_episode_steps": 10, "goal_radius": 0.9, "random_start": True, "step_size": 0.4}
    env_kwargs = options if isinstance(family, PointGoal) else {}
    env = trials(family, objective=objective, env_kwargs=env_kwargs, n_steps=20)
    seen = env.reset()
    starts = np.random.SeedSequence([0, 0]).spawn(2)[1].generate_state(4).tolist()
    singles = [SuccessSignal(family.make(task, **env_kwargs)) for task in env.tasks]
    width, n_actions = spaces.flatdim(family.observation_space), spaces.flatdim(family.action_space)
    expected = [np.r_[one.reset(seed=seed)[0], np.zeros(n_actions), 0, 1] for one, seed in zip(singles, starts, strict=True)]
    assert np.array_equal(seen, np.array(expected, np.float32))
    rng, sizes = np.random.default_rng(0), []
    ended, succeeded = np.zeros((2, 4)), np.zeros((2, 4))
    for step in range(40):
        if isinstance(family, PointGoal):
            actions = flat = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
        else:
            actions = rng.integers(3, size=4)
            flat = np.eye(3)[actions]
        seen, rewards, done, infos = env.step(actions)
        expected, objectives = [], []
        for index, one in enumerate(singles):
            observation, signal, terminated, truncated, info = one.step(actions[index])
            over = terminated or truncated
            ended[step // 20, index] += over
            succeeded[step // 20, index] += over and info["is_success"]
            expected.append(np.r_[one.reset()[0] if over else observation, flat[index], signal, over])
            objectives.append(info["shaped_reward"] if objective == "shaped" else signal)
        sizes += np.abs(objectives).tolist()
        scale = 1e-4 / max(np.mean(sizes), 1e-8) if objective == "shaped" else 1.0
        assert np.allclose(rewards, np.array(objectives) * scale, rtol=1e-5, atol=1e-12)
        assert done.all() == (step == 39) and not (done.any() and step < 39)
        shown = np.array([info["terminal_observation"] for info in infos]) if step == 39 else seen
        assert np.allclose(shown, expected)
    assert succeeded.any()
    assert [info["lifetime"]["success"] for info in infos] == (succeeded / np.maximum(ended, 1)).T.tolist()
    assert not any(info["TimeLimit.truncated"] for info in infos)
    assert (seen[:, -1] == 1).all() and not seen[:, width:-1].any()  # the next trial has begun


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)],
    ids=lambda space: type(space).__name__,
)
def test_a_batch_of_actions_is_flattened_as_each_of_them(space: spaces.Space) -> None:
    space.seed(0)
    actions = [space.sample() for _ in range(5)]
    assert np.array_equal(flat_actions(space, np.array(actions)), [spaces.flatten(space, action) for action in actions])


def test_trials_repeat_under_their_seed_and_have_the_tasks_of_lifetimes() -> None:
    env = trials()
    env.reset()
    first = env.tasks
    lifetimes = LifetimeVecEnv(PointGoal(), 4, env_kwargs=POINT, seed=0)
    lifetimes.reset()
    assert first == lifetimes.tasks
    env.reset()
    assert env.tasks != first
    env.seed(0)
    env.reset()
    assert env.tasks == first
    assert trials(history=False).observation_space.shape == (2,)


def test_recurrent_ppo_on_trials_is_rl2(tmp_path: Path) -> None:
    env = VecNormalize(trials(), norm_obs=False)
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=40, batch_size=80, n_epochs=1, seed=0, device="cpu")
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(320)
    assert not all(torch.equal(one, two) for one, two in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_success_buffer) == 8  # an entry for each trial
    model.save(tmp_path / "rl2")
    again = RecurrentPPO.load(tmp_path / "rl2", env, device="cpu").learn(160, reset_num_timesteps=False)
    assert again.num_timesteps == 480


# ---------------------------------------------------------------------- MAML's mathematics


def problem(space: spaces.Space, learning_rate: float = 0.3) -> tuple[Learner, dict, list[TaskData], TaskData]:
    """Three tasks, two inner batches and an outer one of 12 steps, in float64; steps large enough for all orders to count."""
    torch.manual_seed(0)
    net = dict(pi=[5], vf=[])
    policy = MAMLPolicy(spaces.Box(-1, 1, (3,)), space, lambda _: 0.0, net_arch=net, log_std_init=-0.5).double()
    theta = {name: value + 0.3 * torch.randn_like(value) for name, value in policy.theta.items()}
    learner = Learner(policy.actor, policy.distribution, learning_rate)

    def data(params: dict) -> TaskData:
        observations = torch.randn(12, 3, 3, dtype=torch.float64)
        outputs = torch.stack([policy.actor({n: v[i] for n, v in params.items()}, observations[:, i]) for i in range(3)], 1)
        noise = learner.distribution.sample_noise((12, 3), torch.Generator().manual_seed(1), torch.device("cpu")).double()
        actions = learner.distribution.sample(outputs, noise)
        return TaskData(observations, actions, outputs.detach(), torch.randn(12, 3, dtype=torch.float64))

    inner: list[TaskData] = []
    for _ in range(2):
        inner.append(data(learner.adapt(theta, inner, 3)))
    return learner, theta, inner, data(learner.adapt(theta, inner, 3))


def by_hand(learner: Learner, theta: dict, inner: list[TaskData], outer: TaskData) -> torch.Tensor:
    """The objective, task after task, with torch.autograd."""

    def surrogate(params: dict, data: TaskData, task: int) -> torch.Tensor:
        observations, actions, outputs, advantages = (part[:, task] for part in data)
        log_prob = learner.distribution.log_prob(learner.actor(params, observations), actions)
        return ((log_prob - learner.distribution.log_prob(outputs, actions)).exp() * advantages).mean()

    total = torch.zeros((), dtype=torch.float64)
    for task in range(3):
        params = {name: value.clone().requires_grad_() for name, value in theta.items()}
        for data in inner:
            ascent = torch.autograd.grad(surrogate(params, data, task), list(params.values()))
            params = {
                name: (value + learner.learning_rate * step).detach().requires_grad_()
                for (name, value), step in zip(params.items(), ascent, strict=True)
            }
        total += surrogate(params, outer, task).detach() / 3
    return total


SPACES = pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(4)], ids=["box", "discrete"])


@SPACES
def test_the_outer_gradient_is_the_finite_difference_of_the_objective_after_adaptation(space: spaces.Space) -> None:
    learner, theta, inner, outer = problem(space)
    gradient = grad(learner.objective)(theta, inner, outer)
    first_order = grad(Learner(learner.actor, learner.distribution, 0.0).objective)(theta, inner, outer)
    generator, h = torch.Generator().manual_seed(2), 1e-5
    for _ in range(4):
        along = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}
        ahead, behind = ({n: v + sign * h * along[n] for n, v in theta.items()} for sign in (1, -1))
        measured = (by_hand(learner, ahead, inner, outer) - by_hand(learner, behind, inner, outer)) / (2 * h)
        computed = sum((gradient[n] * along[n]).sum() for n in theta)
        assert torch.isclose(computed, measured, rtol=1e-6, atol=0)
        assert not torch.isclose(sum((first_order[n] * along[n]).sum() for n in theta), measured, rtol=0.01)


@SPACES
def test_without_an_inner_learning_rate_it_is_trpo_on_all_tasks_together(space: spaces.Space) -> None:
    learner, theta, inner, outer = problem(space, learning_rate=0.0)
    together = TaskData(*(part.flatten(0, 1)[:, None] for part in outer))  # one task of all the steps
    for function in (learner.objective, learner.kl_divergence):
        shifted = {name: value + 0.01 for name, value in theta.items()}  # the divergence has no gradient at θ itself
        maml_gradient, plain = grad(function)(shifted, inner, outer), grad(function)(shifted, [], together)
        assert all(torch.allclose(maml_gradient[name], plain[name], rtol=1e-10) for name in theta)
    assert learner.kl_divergence(theta, inner, outer) < 1e-12


def test_the_baseline_knows_returns_that_are_linear_in_its_features() -> None:
    ages = (torch.arange(26) % 10)[:, None].expand(-1, 2)
    done = ages[:-1] == 9
    rewards = torch.tensor([1.0, -2.0]).expand(25, 2)
    values = linear_baseline(torch.zeros(26, 2, 3), ages, rewards, done, gamma=1.0)
    assert torch.allclose(values, (10 - ages) * torch.tensor([1.0, -2.0]), atol=1e-2)  # also where the data is cut off
    assert not linear_baseline(torch.zeros(26, 2, 3), ages, rewards, torch.zeros_like(done), gamma=1.0).any()


# ---------------------------------------------------------------------- MAML-TRPO


@pytest.mark.parametrize("family", [PointGoal(), TwoSides()], ids=["box", "discrete"])
def test_it_trains_saves_and_continues_exactly(tmp_path: Path, family: Any) -> None:
    steps = 4 * 60

    def env() -> TrialVecEnv:
        return trials(family, n_batches=3, history=False)

    unbroken = maml(env())
    start = unbroken.policy.theta["action_net.weight"].clone()
    unbroken.learn(3 * steps, log_interval=100)
    assert unbroken.num_timesteps == 3 * steps
    assert {"rollout/success_first", "rollout/success"} <= set(unbroken.logger.name_to_value)
    assert not torch.equal(start, unbroken.policy.theta["action_net.weight"])

    class SaveInside(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == steps + 100:
                self.model.save(tmp_path / "inside")
            return True

    maml(env()).learn(2 * steps, SaveInside())
    continued = MAMLTRPO.load(tmp_path / "inside", env(), device="cpu")
    assert continued.num_timesteps == steps
    continued.learn(2 * steps, reset_num_timesteps=False)
    for name, value in unbroken.policy.theta.items():
        assert torch.equal(value, continued.policy.theta[name])


def test_adapting_leaves_the_policy_alone() -> None:
    model = maml(learning_rate=1.0).learn(1)
    theta = {name: value.clone() for name, value in model.policy.theta.items()}
    test = trials(PointGoal("test"), n=6, history=False)
    one = model.adapt(test)
    test.seed(0)
    two = model.adapt(test)
    assert one.tasks == two.tasks and one.before.shape == one.after.shape == (6,)
    assert all(torch.equal(one.params[name], two.params[name]) for name in theta)
    assert all(torch.equal(theta[name], value) for name, value in model.policy.theta.items())
    assert model.num_timesteps == 160
    seen = np.ones(2, np.float32)
    before, _ = model.predict(seen, deterministic=True)
    model.policy.load_state_dict({name: value[0] for name, value in one.params.items()}, strict=False)
    assert not np.allclose(before, model.predict(seen, deterministic=True)[0])


@pytest.mark.parametrize(
    "wrong",
    [{"objective": "dense"}, {"n": 0}, {"n_steps": 0}, {"n_batches": 1.5}, {"n_jobs": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_trials_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "n" not in wrong else "n_trials"):
        trials(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1.0},
        {"gamma": 1.5},
        {"gae_lambda": -0.1},
        {"inner_signal": "dense"},
        {"target_kl": 0},
        {"cg_max_steps": 0},
        {"cg_damping": -1},
        {"line_search_shrinking_factor": 0},
        {"line_search_max_iter": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        maml(**wrong)


def test_it_needs_trials_with_a_batch_to_adapt_on() -> None:
    with pytest.raises(ValueError, match="TrialVecEnv"):
        maml(DummyVecEnv([lambda: gym.make("sparse/PointGoal-v0")]))
    with pytest.raises(ValueError, match="n_batches"):
        maml(trials(n_batches=1))
    with pytest.raises(ValueError, match="TrialVecEnv"):
        MAMLTRPO("MlpPolicy", None, _init_setup_model=False).learn(1)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        maml().adapt(trials())


@pytest.mark.slow
def test_it_learns_to_adapt() -> None:
    """To goals of the test split, on a dense signal. Unadapted it cannot know where the goal is."""

    def env(split: str, n: int) -> TrialVecEnv:
        given = {"max_episode_steps": 25, "goal_radius": 0.3}
        return TrialVecEnv(PointGoal(split), n, n_steps=200, n_batches=2, history=False, env_kwargs=given, seed=0)

    model = MAMLTRPO(
        "MlpPolicy", env("train", 20), learning_rate=0.3, inner_signal="shaped", target_kl=0.01, seed=0, device="cpu"
    )
    untrained = model.adapt(env("test", 60))
    model.learn(15 * 20 * 400)
    trained = model.adapt(env("test", 60))
    assert untrained.after.mean() < 0.1
    assert trained.before.mean() < 0.1
    assert trained.after.mean() > 0.42  # 0.52 to 0.60 over three seeds


def test_it_learns_to_adapt_on_the_success_signal_alone() -> None:
    """As in the paper: adaptation receives the success signal only, the outer loop has the dense reward."""
    env = TrialVecEnv(TwoSides(), 20, n_steps=80, n_batches=2, history=False, seed=0)
    model = MAMLTRPO("MlpPolicy", env, learning_rate=1.0, target_kl=0.01, seed=0, device="cpu").learn(15 * 20 * 160)
    result = model.adapt(TrialVecEnv(TwoSides(), 40, n_steps=80, n_batches=2, history=False, seed=1))
    assert result.before.mean() < 0.4  # one side only, at best half
    assert result.after.mean() > 0.6


def test_agents_with_discrete_actions_live_whole_lifetimes() -> None:
    settings = {"n_steps": 160, "n_batches": 4, "n_epochs": 10, "n_minibatches": 4, "learning_rate": 3e-3}
    env = LifetimeVecEnv(TwoSides(), 8, "shaped", settings=settings, seed=0)
    seen = env.reset()
    assert np.array_equal(seen["action"].sum(1), np.ones(8))  # type: ignore[call-overload, index]
    for _ in range(640):
        *_, infos = env.step(np.zeros((8, 1), np.float32))
    success = np.mean([info["lifetime"]["success"] for info in infos], axis=0)
    assert success[0] < 0.5 < success[-1]
