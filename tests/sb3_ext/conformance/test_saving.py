"""What SB3 promises of saving, loading, parameters and copies holds for every algorithm."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.conformance import CASES, families, public_algorithms, supported
from helpers.walk import walks

from sb3_ext import LIRPGA2C

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
FAMILIES = pytest.mark.parametrize("make", families().values(), ids=families())


def same_parameters(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_parameters(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same_parameters(a, b)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other or (one != one and other != other)


def acts_alike(one, other, observations):
    actions = [model.predict(observations, deterministic=True)[0] for model in (one, other)]
    np.testing.assert_array_equal(*actions)


def test_every_algorithm_is_tested_here():
    tested = {case.algorithm for case in CASES.values()} | {type(make()) for make in families().values()}
    assert public_algorithms() == tested


def test_the_table_of_the_documentation_is_what_is_tested():
    """To write it anew: ``PYTHONPATH=tests python -c "from helpers.conformance import supported; print(supported())"``."""
    assert supported() in (Path(__file__).parents[3] / "docs" / "supported.md").read_text(encoding="utf-8")


@ALL
def test_a_saved_model_is_loaded_from_all_that_sb3_loads_from(case, tmp_path):
    env = case.make_env(2)
    model, memory = case.make(env).learn(case.steps), io.BytesIO()
    observations = env.reset()
    model.save(tmp_path / "path")
    model.save(str(tmp_path / "text.zip"))
    model.save(memory)
    memory.seek(0)
    for source in (tmp_path / "path", str(tmp_path / "path"), tmp_path / "text.zip", memory):
        loaded = case.algorithm.load(source, device="cpu")
        same_parameters(model.get_parameters(), loaded.get_parameters())
        acts_alike(model, loaded, observations)
    for env in (case.make_env(2), case.make_env(3)):
        loaded = case.algorithm.load(tmp_path / "path", env=env, device="cpu")
        assert loaded.num_timesteps == model.num_timesteps
        loaded.learn(case.steps, reset_num_timesteps=False)
        assert loaded.num_timesteps >= model.num_timesteps + case.steps
    without = case.algorithm.load(tmp_path / "path", device="cpu")
    without.set_env(case.make_env(2))
    without.learn(case.steps)


@ALL
def test_arguments_of_load_replace_saved_ones(case, tmp_path):
    model = case.make(policy_kwargs=dict(net_arch=[8]))
    model.save(tmp_path / "model")
    loaded = case.algorithm.load(
        tmp_path / "model", env=case.make_env(2), custom_objects={"learning_rate": 1e-5}, gamma=0.5, print_system_info=False
    )
    assert loaded.learning_rate == 1e-5 and loaded.gamma == 0.5
    same = model.policy_kwargs if case.algorithm is LIRPGA2C else dict(net_arch=[8])  # A2C adds its optimiser
    case.algorithm.load(tmp_path / "model", policy_kwargs=same)
    with pytest.raises(ValueError, match="policy kwargs"):
        case.algorithm.load(tmp_path / "model", policy_kwargs=dict(net_arch=[3]))


@ALL
def test_parameters_are_taken_over_and_wrong_ones_refused(case):
    one, other = case.make(), case.make(seed=1)
    other.set_parameters(one.get_parameters(), exact_match=True, device="cpu")
    same_parameters(one.get_parameters(), other.get_parameters())
    with pytest.raises(ValueError):
        other.set_parameters({"nothing": {}}, exact_match=True)
    with pytest.raises(ValueError):
        other.set_parameters({}, exact_match=True)


@ALL
def test_a_policy_is_saved_and_loaded_alone(case, tmp_path):
    env = case.make_env(2)
    model = case.make(env).learn(case.steps)
    observations = env.reset()
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    acts_alike(model.policy, policy, observations)


@ALL
def test_a_new_and_a_loaded_policy_can_be_copied(case, tmp_path):
    env = case.make_env(2)
    model = case.make(env)
    observations = env.reset()
    acts_alike(model.policy, copy.deepcopy(model.policy), observations)
    model.learn(case.steps).save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", device="cpu")
    acts_alike(loaded.policy, copy.deepcopy(loaded.policy), observations)


@ALL
def test_another_environment_must_have_the_same_spaces(case):
    model = case.make()
    model.set_env(case.make_env(2))
    model.learn(case.steps)
    with pytest.raises(ValueError, match=r"[Ss]pace"):
        model.set_env(walks(2, observation_space=None, action_space=model.observation_space))


@FAMILIES
def test_algorithms_of_families_save_and_load(make, tmp_path):
    model, memory = make().learn(1), io.BytesIO()
    model.save(tmp_path / "model")
    model.save(memory)
    memory.seek(0)
    for source in (tmp_path / "model", memory):
        same_parameters(model.get_parameters(), type(model).load(source, device="cpu").get_parameters())
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    same_parameters(model.policy.state_dict(), policy.state_dict())
    continued = type(model).load(tmp_path / "model", env=model.get_env(), device="cpu")
    steps = continued.num_timesteps
    assert continued.learn(1, reset_num_timesteps=False).num_timesteps > steps
