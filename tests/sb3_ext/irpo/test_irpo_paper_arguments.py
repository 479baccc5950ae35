"""The paper's IRPO names wrong arguments and what does not fit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.irpo_toys import (
    HORIZON,
    MAZE,
    OBSERVATIONS,
    Counting,
    Toy,
    assert_same,
    maze_model,
    state_of,
    toy_model,
    toys,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext.common.episode_rollout import collect_episodes
from sb3_ext.common.vec_env import make_vec_env


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(learning_rate=-1e-3), "learning_rate must be a number.*got -0.001"),
        (dict(exploratory_learning_rate=0), "exploratory_learning_rate"),
        (dict(batch_size=0), "batch_size must be an integer"),
        (dict(n_exploratory_updates=0), "n_exploratory_updates"),
        (dict(n_exploratory_updates=1.5), "n_exploratory_updates must be an integer"),
        (dict(gamma=1.1), "gamma"),
        (dict(gae_lambda=float("nan")), "gae_lambda"),
        (dict(target_kl=0), "target_kl"),
        (dict(max_grad_norm=-1), "max_grad_norm"),
        (dict(surrogate="log-prob"), "surrogate must be one of 'ratio', 'log_prob'; got 'log-prob'"),
        (dict(weighting="max"), "weighting"),
        (dict(base_update="adam"), "base_update"),
        (dict(deploy="best"), "deploy"),
        (dict(intrinsic_reward="alo"), "Unknown intrinsic reward 'alo'.*Did you mean 'allo'"),
        (dict(intrinsic_reward="curiosity!"), "expected one of allo"),
        (dict(intrinsic_reward=[]), "Expected the name"),
        (dict(intrinsic_reward=["random"], intrinsic_reward_kwargs=dict(n_rewards=2)), "with a reward's name"),
        (dict(policy_kwargs=dict(share_features_extractor=True)), "share_features_extractor"),
        (dict(policy_kwargs=dict(use_sde=True)), "gSDE"),
        (dict(batch_size=4, n_critic_minibatches=5), "n_critic_minibatches"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(kwargs, message):
    env = Counting(make_vec_env(MAZE, n_envs=2))
    with pytest.raises(ValueError, match=message):
        maze_model(env=env, **kwargs)
    assert env.resets == env.steps == 0


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.Dict(a=spaces.Discrete(2)), spaces.MultiBinary([2, 2])])
def test_unsupported_action_spaces_are_refused(space):
    with pytest.raises((NotImplementedError, AssertionError, ValueError), match=r"(?i)action space|Box|only supports"):
        toy_model(toys(action_space=space))


@pytest.mark.parametrize("reward", ["laplacian", "allo", "random"])
@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_rewards_that_cannot_see_the_observations_say_so(policy, reward):
    with pytest.raises(ValueError, match="one-dimensional Box or Discrete"):
        toy_model(toys(observation_space=OBSERVATIONS[policy]), policy, reward=reward)


def test_laplacian_without_a_graph_says_so():
    with pytest.raises(ValueError, match="transition_graph"):
        toy_model(reward="laplacian").learn(1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"reward": 3}, "Environment 1 gave a non-finite reward at step 2"),
        ({"observation": 3}, "Environment 1 gave a non-finite observation at step 2"),
        ({"observation": 0}, "Environment 1 gave a non-finite observation after reset"),
        ({"observation": HORIZON}, "Environment 1 gave a non-finite observation at step 9"),  # seen only as a terminal one
    ],
    ids=["reward", "observation", "first observation", "terminal observation"],
)
def test_nan_from_the_environment_is_named(bad, message, normalize):
    env = toys(2, bad)
    model = toy_model(VecNormalize(env) if normalize else env)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        model.learn(1)
    assert_same(state_of(model), before)


def test_episodes_that_do_not_end_are_named():
    env = DummyVecEnv([Toy] * 2)
    nothing = np.zeros((2, 1), dtype=np.int64)
    observations, rewards, infos = env.reset(), np.zeros(2), [{}, {}]
    env.step = lambda actions: (observations, rewards, np.zeros(2, dtype=bool), infos)
    with pytest.raises(RuntimeError, match=r"(?s)environment 0 ended within.*time limit"):
        arguments = dict(n_policies=1, min_steps=1, device=torch.device("cpu"))
        collect_episodes(env, lambda _: (nothing, nothing[:, 0]), lambda _: True, **arguments)
