"""IRPO as an SB3 algorithm: repeatable, resumable, accountable, for every space, and able to solve a maze."""

import io
import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.irpo_toys import (
    ALLO_QUICK,
    MAZE,
    OBSERVATIONS,
    Change,
    Counting,
    assert_same,
    maze_model,
    paper_model,
    state_of,
    toy_model,
    toys,
)
from helpers.memory import Memory
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import ALLO, Concat, ExactLaplacian, RandomNetworkReward
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO
from sb3_ext.irpo.policy_rollouts import collect_policies

# ---------------------------------------------------------------------- repeating and accounting


def test_same_seed_same_weights_other_seed_others():
    one, again, other = (maze_model(seed=seed).learn(5000) for seed in (3, 3, 4))
    assert one._iteration >= 2
    assert_same(state_of(one), state_of(again))
    assert not torch.equal(state_of(one)["policy.base.action_net/weight"], state_of(other)["policy.base.action_net/weight"])


@pytest.mark.parametrize("n_envs", [1, 4, 6, 12])
def test_any_number_of_environments_learns(n_envs):
    """K = 6: 6 and 12 environments are stepped in parallel, with 1 and 4 the policies take turns."""
    env = Counting(make_vec_env(MAZE, n_envs=n_envs))
    model = maze_model(env=env)
    before = state_of(model)
    model.learn(1)
    assert model.num_timesteps == env.steps
    collections = 1 + (2 if n_envs % 6 == 0 else 6 * 2)
    assert env.resets == 1 + collections  # SB3's own at the start of learn(), then one for each collection
    assert env.steps >= 200 * (1 + 6 * 2)
    assert not torch.equal(
        before["policy.exploratory.action_net/weight"], model.policy.exploratory.as_dict()["action_net.weight"]
    )


def test_rollouts_follow_the_weights_that_they_are_given():
    policy, env = maze_model().policy, make_vec_env(MAZE, n_envs=2)
    for action in (0, 3):
        params = {name: value[None].clone() for name, value in policy.base.as_dict().items()}
        params["action_net.bias"][0, action] = 100.0
        rollout = collect_policies(env, policy, params, lambda _: True, 50, torch.Generator().manual_seed(0))
        assert (rollout.actions[rollout.valid] == action).all()


@pytest.mark.parametrize(("n_envs", "n_updates"), [(1, 1), (2, 3), (3, 1), (4, 3)])
def test_an_iteration_takes_one_and_k_n_batches(n_envs, n_updates):
    """Toy's episodes all last 10 steps and K = 2, so steps can be counted to the last one."""
    env = Counting(toys(n_envs))
    model = paper_model(
        "MlpPolicy",
        env,
        batch_size=120,
        n_exploratory_updates=n_updates,
        intrinsic_reward=Change(env.observation_space, env.action_space),
        seed=0,
    )
    model.learn(1)
    assert env.steps == model.num_timesteps == 120 * (1 + 2 * n_updates)
    assert model.intrinsic_reward.batches_seen == 1 + n_updates
    per_iteration = model.num_timesteps
    model.learn(2 * per_iteration + 1)
    assert model.num_timesteps == 3 * per_iteration
    model.learn(per_iteration, reset_num_timesteps=False)
    assert model.num_timesteps == 4 * per_iteration


def test_learn_overshoots_by_less_than_an_iteration():
    starts = []

    class Start(BaseCallback):
        def _on_rollout_start(self):
            starts.append(self.model.num_timesteps)

        def _on_step(self):
            return True

    model = maze_model().learn(8000, callback=Start())
    assert starts[0] == 0 and starts[-1] < 8000 <= model.num_timesteps  # an iteration begins only if steps are left
    assert model._iteration == len(starts) >= 2


def test_steps_of_allo_count_and_are_at_most_a_tenth():
    env = Counting(make_vec_env(MAZE, n_envs=4))
    fitted = []
    model = maze_model(env=env, intrinsic_reward="allo", intrinsic_reward_kwargs=ALLO_QUICK)

    class AtStart(BaseCallback):
        def _on_training_start(self):
            fitted.append((env.steps, self.model.num_timesteps))

        def _on_step(self):
            return True

    model.learn(8000, callback=AtStart())
    assert fitted[0][0] == fitted[0][1] and 400 < fitted[0][0] <= 800
    assert model.num_timesteps == env.steps
    model.learn(8000, callback=AtStart(), reset_num_timesteps=False)
    assert model.num_timesteps == env.steps and fitted[1][0] == env.steps - (model.num_timesteps - fitted[1][1])
    assert model.num_timesteps < 16_000 + 2 * 200 * 4 * 9  # nothing was fitted again


# ---------------------------------------------------------------------- spaces

ACTION_SPACES = {
    "box": spaces.Box(-0.5, 0.5, (2,)),
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
}


def check_learns_and_saves(model):
    before = state_of(model)
    model.learn(1)
    changed = [name for name, value in state_of(model).items() if name in before and not torch.equal(value, before[name])]
    assert any("policy.base." in name for name in changed) and any("policy.critics." in name for name in changed)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file)
    assert_same(state_of(model), state_of(loaded))
    observation = model.env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert np.array_equal(action, loaded.predict(observation, deterministic=True)[0])
    assert all(model.action_space.contains(a) for a in action)


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_action_spaces(name, bootstrap):
    """Toy asserts that each action is in the space."""
    check_learns_and_saves(toy_model(toys(action_space=ACTION_SPACES[name]), bootstrap_truncated=bootstrap))


@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_image_and_dict_observations(policy, bootstrap):
    check_learns_and_saves(toy_model(toys(observation_space=OBSERVATIONS[policy]), policy, bootstrap_truncated=bootstrap))


def test_discrete_observations():
    check_learns_and_saves(toy_model(toys(observation_space=spaces.Discrete(2)), reward="random"))


def test_pendulum():
    env = make_vec_env("Pendulum-v1", n_envs=6, seed=0)
    model = paper_model("MlpPolicy", env, batch_size=200, n_exploratory_updates=2, intrinsic_reward="random", seed=0)
    model.learn(1)
    assert model.num_timesteps == 1200 + 2 * 1200  # episodes of 200 steps
    assert model.policy.base.as_dict()["log_std"].isfinite().all()


def test_dict_observations_with_vec_normalize():
    env = VecNormalize(toys(observation_space=OBSERVATIONS["MultiInputPolicy"]), norm_obs_keys=["position"])
    model = toy_model(env, "MultiInputPolicy").learn(200)
    assert env.obs_rms["position"].count == pytest.approx(200, abs=10)
    assert all(batch.observations["position"].diff(dim=-1).sub(1).abs().max() < 1e-4 for batch in model.intrinsic_reward.seen)


# ---------------------------------------------------------------------- arguments

COMBINATIONS = list(
    itertools.product(
        ("ratio", "log_prob"), ("softmax", "ema", "argmax", "uniform"), ("trust_region", "sgd"), ("best_exploratory", "base")
    )
)


@pytest.mark.parametrize(("surrogate", "weighting", "base_update", "deploy"), COMBINATIONS)
def test_every_combination_runs(surrogate, weighting, base_update, deploy):
    model = toy_model(surrogate=surrogate, weighting=weighting, base_update=base_update, deploy=deploy)
    before = model.policy.base.as_dict()["action_net.weight"].clone()
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    (logged,) = memory.written
    base, exploratory = model.policy.base.as_dict(), model.policy.exploratory.as_dict()
    assert not torch.equal(before, base["action_net.weight"])
    weights = [logged["weight/0_change_0"], logged["weight/1_change_1"]]
    assert sum(weights) == pytest.approx(1)
    if weighting in ("argmax", "uniform"):
        assert sorted(weights) == ([0.0, 1.0] if weighting == "argmax" else [0.5, 0.5])
    if base_update == "trust_region":
        assert 0 < logged["train/kl_divergence"] <= model.paper.target_kl
    deployed = model.policy.action_net.weight
    best = int(np.argmax([logged["extrinsic_return/0_change_0"], logged["extrinsic_return/1_change_1"]]))
    if deploy == "base":
        assert torch.equal(deployed, base["action_net.weight"])
    elif weighting != "ema":  # which tracks step rewards
        assert torch.equal(deployed, exploratory["action_net.weight"][best])


def test_softmax_weights_are_those_of_the_returns():
    model, memory = toy_model(temperature=3.0), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    returns = torch.tensor([memory.written[0][f"extrinsic_return/{k}_change_{k}"] for k in range(2)])
    weights = torch.tensor([memory.written[0][f"weight/{k}_change_{k}"] for k in range(2)])
    torch.testing.assert_close(weights, torch.softmax(returns / 3.0, 0))


def test_without_a_reward_nothing_is_learned():
    """Where no policy has a reward the base policy stays: advantages of zeros, normalised, would be noise."""
    model = maze_model()
    before = model.policy.base.as_dict()["action_net.weight"].clone()
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    assert memory.written[0]["rollout/best_return"] == 0.0  # two small updates do not get through the maze
    assert torch.equal(before, model.policy.base.as_dict()["action_net.weight"])
    assert memory.written[0]["train/irpo_gradient_norm"] == memory.written[0]["train/kl_divergence"] == 0.0


@pytest.mark.parametrize(
    ("make", "kind", "n_rewards"),
    [
        (lambda o, a: "random", RandomNetworkReward, 6),
        (lambda o, a: ExactLaplacian(o, a, n_rewards=2), ExactLaplacian, 2),
        (lambda o, a: ["laplacian", "random"], Concat, 12),
        (lambda o, a: ["laplacian", {"random": {"n_rewards": 2}}], Concat, 8),
        (lambda o, a: {"laplacian": {"n_rewards": 4}}, ExactLaplacian, 4),
        (lambda o, a: [ExactLaplacian(o, a, n_rewards=1), Change(o, a)], Concat, 3),
    ],
    ids=["name", "instance", "names", "list with mapping", "mapping", "list of instances"],
)
def test_forms_of_the_intrinsic_reward(make, kind, n_rewards):
    env = make_vec_env(MAZE, n_envs=2)
    model = maze_model(env=env, intrinsic_reward=make(env.observation_space, env.action_space))
    assert isinstance(model.intrinsic_reward, kind) and model.n_exploratory == n_rewards
    assert len(set(model.intrinsic_reward.channel_names)) == n_rewards
    if n_rewards <= 4:
        check_runs = model.learn(1)
        assert check_runs._iteration == 1
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert IRPO.load(file).n_exploratory == n_rewards


# ---------------------------------------------------------------------- logs, and learning


def test_logs(capsys):
    memory = Memory()
    model = maze_model(verbose=1, intrinsic_reward_kwargs=dict(n_rewards=2), n_envs=4)
    model.learn(1)  # to the terminal too: SB3's table refuses names that are equal once cut
    assert "base_return" in capsys.readouterr().out
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    (logged,) = memory.written
    expected = {f"train/{name}" for name in ("temperature", "direct_gradient_norm", "irpo_gradient_norm", "kl_divergence")}
    expected |= {f"train/{name}" for name in ("line_search_steps", "is_line_search_success", "n_updates", "value_loss")}
    expected |= {
        "train/learning_rate",
        "rollout/base_return",
        "rollout/best_return",
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
    }
    expected |= {"rollout/success_rate", "time/iterations", "time/fps", "time/time_elapsed", "time/total_timesteps"}
    expected |= {
        f"{kind}/{channel}"
        for kind in ("extrinsic_return", "intrinsic_return", "weight")
        for channel in ("0_-phi_1", "1_+phi_1")
    }
    assert expected <= logged.keys(), expected - logged.keys()
    assert all(np.isfinite(value) for value in logged.values())
    assert logged["time/total_timesteps"] == model.num_timesteps


def test_direct_gradient_is_that_of_the_base_policy_before_its_step():
    """The logged norm does not depend on how far the base policy then moves."""
    norms = []
    for target_kl in (1e-6, 0.5):
        memory = Memory()
        model = toy_model(target_kl=target_kl)
        model.set_logger(Logger(None, [memory]))
        model.learn(1)
        norms.append(memory.written[0]["train/direct_gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_intrinsic_reward_logs_are_kept():
    memory = Memory()
    model = toy_model()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    assert memory.written[0]["intrinsic/batches_seen"] == pytest.approx(2.0)  # mean of 1, 2, 3


LEARNING_STEPS = 2_000_000


def test_irpo_solves_a_sparse_maze():
    """Maze1, where an untrained policy never meets the goal."""
    model = paper_model(
        "MlpPolicy",
        make_vec_env(MAZE, n_envs=126),
        batch_size=4096,
        target_kl=0.01,
        intrinsic_reward="laplacian",
        seed=0,
    )
    model.learn(LEARNING_STEPS)
    returns, _ = evaluate_policy(model, make_vec_env(MAZE, n_envs=4, seed=1), n_eval_episodes=20, return_episode_rewards=True)
    assert np.mean(np.array(returns) > 0) >= 0.99


def test_allo_is_an_instance_of_the_default():
    env = make_vec_env(MAZE, n_envs=2)
    assert isinstance(paper_model("MlpPolicy", env, seed=0).intrinsic_reward, ALLO)


def test_a_second_learn_begins_with_a_fresh_schedule():
    seen = []
    model = maze_model(target_kl=lambda progress: seen.append(progress) or 1e-3)
    model.learn(5000).learn(5000)
    assert min(seen) > 0 and max(seen) <= 1
