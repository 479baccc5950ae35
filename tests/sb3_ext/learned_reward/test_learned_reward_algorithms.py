"""What LIRPG, LIRPGA2C and CLN have in common: SB3's signature, spaces, saving, seeds, logs, arguments; and the rooms."""

from __future__ import annotations

import ast
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.learned_rewards import ACTIONS, OBSERVATIONS, SIZE, make, state_of
from helpers.memory import logging_to_memory
from helpers.walk import assert_same, walks
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

import sb3_ext
from sb3_ext import CLN, LIRPG, LIRPGA2C

ALL = pytest.mark.parametrize("algorithm", SIZE, ids=lambda algorithm: algorithm.__name__)
TERMS = {LIRPG: {}, LIRPGA2C: {}, CLN: dict(terms=("direct", "mixed", "reward"))}
# Observations and actions hardly meet in the code: every kind of action with a vector, two with the others.
SPACES = [(name, action_space) for name in OBSERVATIONS for action_space in (ACTIONS if name == "box" else ACTIONS[::3])]


@pytest.mark.parametrize(("algorithm", "sb3"), [(LIRPG, PPO), (LIRPGA2C, A2C), (CLN, PPO)])
def test_the_arguments_of_sb3s_algorithm_come_first_and_ours_by_keyword(algorithm, sb3):
    theirs = list(inspect.signature(sb3).parameters.values())
    ours = list(inspect.signature(algorithm).parameters.values())
    for mine, their in zip(ours, theirs, strict=False):
        assert (mine.name, mine.default, mine.kind) == (their.name, their.default, their.kind)
    added = ours[len(theirs) :]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in added)
    shared = {"extrinsic_coef", "intrinsic_coef", "reward_learning_rate", "reward_network_kwargs"}
    assert shared <= {parameter.name for parameter in added}


@pytest.mark.parametrize(("room", "others"), [("lirpg", ["cln"]), ("cln", ["lirpg"]), ("learned_reward", ["cln", "lirpg"])])
def test_no_room_of_a_learned_reward_imports_from_an_algorithm_of_another(room, others):
    """Nor from ``sb3_ext`` itself, which imports them all."""
    forbidden = [f"sb3_ext.{other}" for other in others]
    paths = sorted((Path(sb3_ext.__file__).parent / room).glob("*.py"))
    assert paths
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "sb3_ext" not in names, path
            assert not any(f"{name}.".startswith(f"{package}.") for name in names for package in forbidden), path


@ALL
@pytest.mark.parametrize(("observations", "action_space"), SPACES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_every_space_learns_saves_and_loads(algorithm, observations, action_space, tmp_path):
    policy, observation_space = OBSERVATIONS[observations]
    env = partial(walks, observation_space=observation_space, action_space=action_space)
    before = make(algorithm, env(2), policy, **TERMS[algorithm])
    model = make(algorithm, env(2), policy, **TERMS[algorithm]).learn(128)
    for name in ("policy", "reward_network", "extrinsic_critic"):
        pairs = zip(getattr(before, name).parameters(), getattr(model, name).parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env(3))
    assert_same(state_of(model), state_of(loaded))
    observation = env(2).reset()
    actions = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(actions, loaded.predict(observation, deterministic=True)[0])
    rewards = model.intrinsic_rewards(observation, actions)
    assert rewards.shape == (2,)
    assert algorithm is CLN or (np.abs(rewards) < 1).all()
    np.testing.assert_array_equal(rewards, loaded.intrinsic_rewards(observation, actions))
    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128 + 96
    assert not torch.equal(next(loaded.reward_network.parameters()), next(model.reward_network.parameters()))


@ALL
def test_a_loaded_model_continues_as_the_saved_one(algorithm, tmp_path):
    model = make(algorithm, walks(normalize=True)).learn(128)
    model.save(tmp_path / "model")
    model.env.save(tmp_path / "statistics")
    loaded = algorithm.load(tmp_path / "model", env=VecNormalize.load(tmp_path / "statistics", walks()))
    if algorithm is CLN:
        model.save_replay_buffer(tmp_path / "segments")
        loaded.load_replay_buffer(tmp_path / "segments")
    for one in (model, loaded):
        one._last_obs = None  # from a reset
        one.set_random_seed(7)
        one.learn(192, reset_num_timesteps=False)
    assert_same(state_of(model), state_of(loaded))


@ALL
def test_same_seed_same_weights_other_seed_others(algorithm):
    one, again, other = (state_of(make(algorithm, seed=seed).learn(128)) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


OWN_LOGS = {
    "lirpg": "reward_mean reward_std extrinsic_loss meta_gradient_norm",
    "cln": "extrinsic_return intrinsic_return regularizer_loss gate_mean meta_gradient_norm kl_of_reward_steps",
}


@ALL
def test_callbacks_logs_and_progress_bar(algorithm, tmp_path):
    model = make(algorithm, walks(normalize=True))
    memory = logging_to_memory(model)
    callbacks = [CheckpointCallback(32, tmp_path), EvalCallback(walks(1, normalize=True), eval_freq=40, verbose=0)]
    model.learn(128, callbacks, log_interval=1, progress_bar=True)
    written = memory.latest()
    room = "cln" if algorithm is CLN else "lirpg"
    assert {f"{room}/{name}" for name in OWN_LOGS[room].split()} <= written.keys()
    names = "value_loss entropy_loss explained_variance learning_rate reward_learning_rate n_updates"
    names += " extrinsic_value_loss extrinsic_explained_variance"
    names += "" if algorithm is LIRPGA2C else " policy_gradient_loss approx_kl clip_fraction clip_range loss"
    assert {f"train/{name}" for name in names.split()} <= written.keys()
    assert all(np.isfinite(value) for value in written.values())
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == 2
    algorithm.load(next(tmp_path.glob("rl_model_*_steps.zip")), env=walks()).learn(64)
    make(algorithm, tensorboard_log=str(tmp_path / "tb")).learn(64)
    assert list((tmp_path / "tb" / f"{algorithm.__name__}_1").glob("events.out*"))


@ALL
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(extrinsic_coef=-1), "extrinsic_coef must be a number in .0, inf., got -1"),
        (dict(intrinsic_coef="1"), "intrinsic_coef must be a number in .0, inf., got '1'"),
        (dict(extrinsic_coef=0, intrinsic_coef=0), "extrinsic_coef and intrinsic_coef are both 0"),
        (dict(reward_learning_rate=-1e-3), "reward_learning_rate must be a number in .0, inf., got -0.001"),
        (dict(reward_network_kwargs=[64]), "reward_network_kwargs must be None or a dict of RewardNetwork's arguments.*.64."),
        (dict(reward_network_kwargs=dict(layers=3)), "reward_network_kwargs=.'layers': 3. do not fit RewardNetwork"),
    ],
)
def test_wrong_arguments_are_named(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, **arguments)


@ALL
@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_rewards_that_are_not_finite_are_named(algorithm, scale):
    with pytest.raises(ValueError, match="NaN or infinite rewards"):
        make(algorithm, walks(reward_scale=scale)).learn(64)


@ALL
def test_schedules_reach_their_optimisers(algorithm):
    model = make(algorithm, learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: 1e-2 * left)
    model.learn(128)
    optimizers = (model.policy.optimizer, model.extrinsic_optimizer, model.reward_optimizer)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.0, 0.0, 0.0]
    model.learn(192, reset_num_timesteps=False)  # of 320 in all
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == pytest.approx([0.0, 0.0, 0.0])
