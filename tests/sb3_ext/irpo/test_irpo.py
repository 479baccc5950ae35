"""IRPO with its own defaults: PPO where it does not explore, and what its exploratory policies add."""

import inspect
import warnings
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers.irpo_models import SMALL, TWO, At, model_on
from helpers.irpo_toys import Toy, toys
from helpers.memory import Memory
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO
from sb3_ext.irpo.evidence import Schedule

BOX = spaces.Box(-10, 10, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


# ---------------------------------------------------------------- PPO


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_without_exploration_it_is_ppo_weight_for_weight(env_id):
    def trained(cls, **kwargs):
        env = make_vec_env(env_id, n_envs=4, seed=0)
        return cls("MlpPolicy", env, n_steps=64, n_epochs=3, ent_coef=0.01, seed=0, device="cpu", **kwargs).learn(1500)

    ours, sb3 = trained(IRPO, intrinsic_reward=None), trained(PPO)
    weights = ours.policy.state_dict()
    for name, value in sb3.policy.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert ours.num_timesteps == sb3.num_timesteps == 1536


def test_arguments_are_ppos_in_ppos_order_and_ours_are_keyword_only():
    ours, ppo = (list(inspect.signature(cls.__init__).parameters.values()) for cls in (IRPO, PPO))
    assert [p.name for p in ours[: len(ppo)]] == [p.name for p in ppo]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(ppo) :])
    same = [p.name for p, q in zip(ours, ppo, strict=False) if p.default == q.default]
    assert set(p.name for p in ppo) - set(same) == {"n_steps"}


@pytest.mark.parametrize(("n_envs", "expected"), [(1, 2048), (8, 256), (6, 341)])
def test_a_rollout_holds_2048_transitions_whatever_the_number_of_environments(n_envs, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert IRPO("MlpPolicy", toys(n_envs), device="cpu").n_steps == expected


# ---------------------------------------------------------------- accounts


def test_every_step_is_counted_and_learn_overshoots_by_less_than_a_rollout():
    counted = 0

    class Count(BaseCallback):
        def _on_step(self):
            nonlocal counted
            counted += self.training_env.num_envs
            return True

    model = model_on(intrinsic_reward=TWO[1:]).learn(5e2, callback=Count())
    assert model.num_timesteps == counted and 500 <= counted < 500 + 32
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps >= counted + 100
    model.learn(100)
    assert model._explored_timesteps <= model.num_timesteps < 200


@pytest.fixture
def single_rollouts(monkeypatch):
    """The base policy acts for one rollout between two exploratory turns."""
    monkeypatch.setattr("sb3_ext.irpo.irpo.TurnSchedule", partial(Schedule, longest_run=1))


def test_the_log_tells_shares_divergences_and_returns(single_rollouts):
    model, memory = model_on(pull_back=True), Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    model.learn(900)
    keys = set().union(*memory.written)
    assert {
        "exploration/share",
        "exploration/transitions_learned",
        "exploration/moves",
        "rollout/base_return",
        "rollout/ep_rew_mean",
        "train/loss",
    } <= keys
    for name in (explorer.name for explorer in model.explorers):
        assert {f"exploration/{name}/{what}" for what in ("kl", "return", "rewarded", "loss")} <= keys
    assert 0 < memory.written[-1]["exploration/share"] < 1
    assert 0 < memory.written[-1]["exploration/transitions_learned"] <= model.num_timesteps
    assert memory.written[0]["time/total_timesteps"] <= 3 * 32  # after the fit and the first rollout


def test_few_rollouts_are_warned_of():
    with pytest.warns(UserWarning, match="fewer than ten rollouts of 32 transitions"):
        model_on().learn(300)


# ---------------------------------------------------------------- spaces and environments

SPACES = [BOX, spaces.Discrete(2), IMAGE, spaces.Dict(x=BOX, picture=IMAGE)]
ACTIONS = [spaces.Discrete(2), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]


@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
def test_every_action_space_learns_with_all_defaults(action_space):
    env = toys(action_space=action_space)
    IRPO("MlpPolicy", env, **SMALL).learn(300)


@pytest.mark.parametrize("space", SPACES, ids=["box", "discrete", "image", "dict"])
def test_every_observation_space_learns_with_all_defaults(space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if space is IMAGE else "MlpPolicy"
    IRPO(policy, toys(observation_space=space), **SMALL).learn(200)


def test_an_id_is_enough():
    model = IRPO("MlpPolicy", "sparse/Maze1-v0", n_steps=32, seed=0).learn(600)
    assert model.get_env().num_envs == 8 and [explorer.name for explorer in model.explorers] == ["rnd+visits"]


def test_a_list_within_the_list_is_one_exploratory_policy():
    model = model_on(intrinsic_reward=["count", ["rnd", "pseudo_counts"]])
    assert [explorer.name for explorer in model.explorers] == ["statecount", "rnd+pseudocounts"]
    assert [explorer.intrinsic_reward.n_rewards for explorer in model.explorers] == [1, 2]
    model.learn(200)


def test_rewards_in_float64_from_worker_processes():
    env = SubprocVecEnv([lambda: Monitor(TimeLimit(Toy(), 10)) for _ in range(2)])
    try:
        model_on(env).learn(200)
    finally:
        env.close()


class Endless(Toy):
    """Never ends, and gives a reward of 1 for action 1."""

    def step(self, action):
        observation, _, _, _, info = super().step(action)
        return observation, float(action), False, False, info


def test_an_episode_that_does_not_end_is_cut_with_a_warning():
    env = DummyVecEnv([Endless for _ in range(2)])
    with pytest.warns(UserWarning, match="ended no episode within 40 steps"):
        model = model_on(env, max_episode_steps=40).learn(600)
    assert model._base_returns and all(0 < value < 100 for value in model._base_returns)


def test_a_callback_that_stops_keeps_what_was_learned():
    model = model_on(intrinsic_reward=["count"])
    before = model.policy.state_dict()["action_net.weight"].clone()
    model.learn(900, callback=At(17, lambda: False))  # in the second rollout
    assert model.num_timesteps == 34 and not torch.equal(before, model.policy.state_dict()["action_net.weight"])


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(intrinsic_gamma=1.5), "intrinsic_gamma"),
        (dict(max_episode_steps=0), "max_episode_steps"),
        (dict(use_sde=True), "does not support gSDE"),
        (dict(intrinsic_reward="rdn"), "Did you mean 'rnd'"),
        (dict(paper=dict(carry_over=2)), "carry_over"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(kwargs, message):
    with pytest.raises(ValueError, match=message):
        model_on(**kwargs)


# ---------------------------------------------------------------- learning


class Chain(gym.Env):
    """n states in a row, two actions, which of them leads on differs by state; 1 at the far end, within n + 9 steps."""

    def __init__(self, n):
        self.observation_space, self.action_space = spaces.Discrete(n), spaces.Discrete(2)
        self.n, self.onward = n, np.random.default_rng(0).integers(2, size=n)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action):
        self.state = max(0, self.state + (1 if action == self.onward[self.state] else -1))
        done = self.state == self.n - 1
        return self.state, float(done), done, False, {"is_success": done}


def success_on_a_chain(cls, n, steps, **kwargs):
    env = DummyVecEnv([lambda: Monitor(TimeLimit(Chain(n), n + 9)) for _ in range(8)])
    model = cls("MlpPolicy", env, n_steps=128, batch_size=128, seed=0, device="cpu", **kwargs).learn(steps)
    return float(np.mean(model.ep_success_buffer))


def test_it_solves_a_chain_that_ppo_does_not():
    """A uniformly random policy gets to the end in 2 of 1 000 000 episodes; PPO ends at 0."""
    assert success_on_a_chain(IRPO, 30, 60_000) > 0.9


def test_no_warning_with_all_defaults():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IRPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=8), device="cpu").learn(20_480)


def test_callbacks_sample_other_numbers_at_every_step():
    sampled = []

    class Sample(BaseCallback):
        def _on_step(self):
            sampled.append(np.random.rand())  # training itself samples none of these within a rollout
            return True

    model_on().learn(500, callback=Sample())
    assert len(set(sampled)) == len(sampled)


def test_nan_from_the_environment_is_an_error_in_the_base_policys_turn():
    model = model_on(toys(bad={"reward": 5}))
    with pytest.raises(ValueError, match="Environment 1 gave a non-finite reward"):
        model.learn(500)
    assert model._iteration == 0  # which is the base policy's; those of exploratory policies come later


def test_schedules_of_exploratory_policies_go_with_the_run():
    model = model_on()
    for progress in (0.7, 0.2):
        model._current_progress_remaining = progress
        assert {explorer._current_progress_remaining for explorer in model.explorers} == {progress}


def test_exploring_leaves_the_statistics_of_the_base_policy_alone(single_rollouts, monkeypatch):
    class Extractor(FlattenExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.norm = torch.nn.BatchNorm1d(self.features_dim)

        def forward(self, observations):
            return self.norm(super().forward(observations))

    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            explores = self.locals["self"] is not self.model
            seen.append((explores, self.model.policy.features_extractor.norm.num_batches_tracked.item()))

    monkeypatch.setattr("sb3_ext.irpo.irpo.verdict", lambda *returns: "alone")
    model_on(policy_kwargs=dict(features_extractor_class=Extractor)).learn(600, callback=Watch())
    pairs = [(a, b) for a, b in pairwise(seen) if a[0]]
    assert pairs and all(a[1] == b[1] for a, b in pairs)  # from an exploratory rollout to the next one nothing moved


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(2)])
@pytest.mark.parametrize("reward", ["auto", ["rnd", "rnd"], [["pseudo_counts", "pseudo_counts", "rnd"]]])
def test_the_table_of_the_log_prints_whatever_the_rewards_are_called(capsys, space, reward):
    if isinstance(space, spaces.Discrete) and reward != "auto":
        reward = ["count", "count"]
    model_on(toys(observation_space=space), intrinsic_reward=reward, verbose=1).learn(400)
    assert "exploration/" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_size_of_rewards_does_not_decide_whether_it_explores(factor):
    """Exploratory advantages of the first turn, with critics that say 0, are those of the same task with other rewards."""

    class Scaled(gym.RewardWrapper):
        def reward(self, reward):
            return self.factor * reward

    def advantages(factor):
        def make():
            env = Scaled(TimeLimit(Toy(), 12))
            env.factor = factor
            return Monitor(env)

        model, found = model_on(DummyVecEnv([make, make])), []
        for explorer in model.explorers:
            explorer.policy.value_net.weight.data.zero_()
            explorer.policy.value_net.bias.data.zero_()
            explorer.train = lambda buffer=explorer.rollout_buffer: found.append(buffer.advantages.copy())
        model.train = lambda: None
        model.learn(400)
        return found[0]

    np.testing.assert_allclose(advantages(factor), advantages(1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "kwargs", "timesteps", "least"),
    [("MountainCarContinuous-v0", {}, 100_000, 70), ("CliffWalking-v1", {"max_episode_steps": 200}, 200_000, -50)],
)
def test_it_finds_success_where_costs_teach_to_do_nothing(env_id, kwargs, timesteps, least):
    """PPO ends at 0 on the one and at -200 on the other: costs of actions, and falls, are all that it meets."""
    env = make_vec_env(env_id, n_envs=8, seed=0, env_kwargs=kwargs)
    model = IRPO("MlpPolicy", env, seed=0, device="cpu").learn(timesteps)
    best = max(evaluate_policy(model, env, n_eval_episodes=20, deterministic=arg_max)[0] for arg_max in (False, True))
    assert best > least


@pytest.mark.parametrize("name", ["extrinsic_coef", "gamma"])
def test_what_cannot_be_a_schedule_is_refused_as_one(name):
    with pytest.raises(ValueError, match=name):
        model_on(**{name: lambda left: 0.5})


@pytest.mark.parametrize(("best", "slow"), [(1.01, True), (2.0, False)], ids=["solved", "not solved"])
def test_a_solved_task_is_learned_from_slowly(monkeypatch, best, slow):
    model = model_on(intrinsic_reward="rnd")
    model._setup_learn(64)
    schedule = model._schedule
    schedule.lowest_mean, schedule.highest = 0.0, best
    seen = []
    monkeypatch.setattr(model, "train", lambda: seen.append(model.lr_schedule(1.0)))

    class Recorder:
        unfinished = ()

        def take_new(self):
            return [0.99, 1.01]

    model.rollout_buffer.advantages = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    model._learn_alone(Recorder())
    assert len(seen) == 1 and (seen[0] < model.learning_rate) is slow and model.lr_schedule(1.0) == model.learning_rate


def test_a_rollout_without_a_difference_in_returns_changes_nothing(monkeypatch):
    """Though earlier ones differed: what is left is the noise of the critic, and a solved task would be lost in it."""
    model = model_on(intrinsic_reward="rnd")
    model._setup_learn(64)
    model._base_returns, seen = [-100.0, *[-13.0] * 15], []
    monkeypatch.setattr(model, "train", lambda: seen.append(1))

    class Recorder:
        unfinished = ()

        def take_new(self):
            return [-13.0] * 20

    model._learn_alone(Recorder())
    assert seen == [] and model._base_returns == [-13.0] * 20
