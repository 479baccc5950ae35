"""IntrinsicPPO takes PPO's arguments, and names wrong ones."""

import inspect
import re

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers.intrinsic_ppo_toys import IMAGE, Place, Walk, place_model, walks
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS
from sb3_ext import IntrinsicPPO
from sb3_ext.intrinsic.buffers import IntrinsicRolloutBuffer


@pytest.fixture(autouse=True)
def place_by_name(monkeypatch):
    monkeypatch.setitem(INTRINSIC_REWARDS, "place", Place)


# ---------------------------------------------------------------------- arguments


def test_arguments_are_those_of_ppo_in_its_order_and_ours_come_behind_by_keyword():
    theirs, ours = (list(inspect.signature(cls).parameters.values()) for cls in (PPO, IntrinsicPPO))
    shared, added = ours[: len(theirs)], ours[len(theirs) :]
    assert [p.name for p in shared] == [p.name for p in theirs]
    assert [p.kind for p in shared] == [p.kind for p in theirs]
    assert {mine.name for mine, its in zip(shared, theirs, strict=True) if mine.default != its.default} == {"n_steps"}
    assert {p.kind for p in added} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"intrinsic_reward", "intrinsic_reward_kwargs", "extrinsic_coef", "intrinsic_coef"} <= {p.name for p in added}


def test_every_argument_has_a_line_in_the_docstring():
    described = re.findall(r"^        (\w+): ", IntrinsicPPO.__doc__.split("Raises:")[0], re.MULTILINE)
    assert described == list(inspect.signature(IntrinsicPPO).parameters)


def test_positional_arguments_of_ppo_mean_the_same():
    given = [1e-3, 32, 16, 2, 0.9, 0.8, 0.1, None, False, 0.01, 0.4, 0.3, False, -1, None, None, 0.05]
    ours, theirs = IntrinsicPPO("MlpPolicy", walks(), *given, intrinsic_reward="place"), PPO("MlpPolicy", walks(), *given)
    for name in list(inspect.signature(PPO).parameters)[2 : 2 + len(given)]:
        if name not in ("clip_range", "rollout_buffer_class"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.clip_range(1) == theirs.clip_range(1)


@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 2048), (3, 682), (8, 256)])
def test_the_default_rollout_has_2048_transitions_whatever_the_number_of_environments(n_envs, n_steps, recwarn, tmp_path):
    model = IntrinsicPPO("MlpPolicy", walks(n_envs), intrinsic_reward="place")
    assert model.n_steps == model.rollout_buffer.buffer_size == n_steps
    assert not [warning for warning in recwarn if "mini-batch" in str(warning.message)]
    model.save(tmp_path / "model")
    assert IntrinsicPPO.load(tmp_path / "model", env=walks(16)).n_steps == 128
    assert IntrinsicPPO("MlpPolicy", walks(n_envs), n_steps=64, intrinsic_reward="place").n_steps == 64


def test_numbers_of_numpy_and_a_float_total_are_accepted():
    model = place_model(
        n_steps=np.int64(32), intrinsic_coef=np.float32(0.5), intrinsic_gamma=np.float64(0.9), warmup_steps=np.int32(8)
    )
    assert model.learn(1e2).num_timesteps == 128


def test_a_rollout_buffer_class_of_sb3_is_taken_and_one_without_intrinsic_values_is_not():
    model = place_model(rollout_buffer_class=RolloutBuffer)
    assert isinstance(model.rollout_buffer, IntrinsicRolloutBuffer)
    with pytest.raises(ValueError, match=r"IntrinsicRolloutBuffer, got Other"):
        place_model(rollout_buffer_class=type("Other", (RolloutBuffer,), {}))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(intrinsic_coef=-1), "intrinsic_coef must be a number in .0, inf., got -1"),
        (dict(extrinsic_coef="2"), "extrinsic_coef must be a number"),
        (dict(intrinsic_gamma=1.1), "intrinsic_gamma must be a number in .0, 1., got 1.1"),
        (dict(warmup_steps=0.5), "warmup_steps must be an integer"),
        (dict(intrinsic_reward="plaice"), "Unknown intrinsic reward 'plaice'.*Did you mean 'place'"),
        (dict(intrinsic_reward="random"), "opposite pairs that cancel.*IRPO"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        place_model(**arguments)


def test_an_sb3_policy_class_and_a_reward_for_other_observations_are_refused():
    from stable_baselines3.ppo import MlpPolicy

    with pytest.raises(ValueError, match="IntrinsicActorCriticPolicy, got ActorCriticPolicy"):
        IntrinsicPPO(MlpPolicy, walks(), intrinsic_reward="place")
    reward = Place(IMAGE, spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"built for Box\(0, 255, \(36, 36, 1\).*images as SB3 transposes"):
        IntrinsicPPO("CnnPolicy", walks(observation_space=IMAGE), intrinsic_reward=reward)


def test_observations_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="Environment 0 gave a non-finite observation at step 2 of the rollout"):
        place_model(walks(nan_at=3)).learn(64)
    with pytest.raises(ValueError, match="Environment 0 gave a non-finite reward at step 0"):
        place_model(walks(reward_scale=np.inf)).learn(64)


def test_intrinsic_rewards_that_are_not_finite_are_named():
    model = place_model()
    model.intrinsic_reward.compute = lambda batch: batch.next_observations[..., :1] / 0
    with pytest.raises(ValueError, match="Place gave NaN or infinite values"):
        model.learn(64)


def test_another_place_of_vec_normalize_is_noticed():
    space = spaces.Box(-10, 10, (3,))
    model = place_model(walks(observation_space=space)).learn(64)
    other = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(spaces.Box(-5, 5, (3,))), 10))] * 2)
    framed = VecNormalize(other)
    framed.observation_space = space
    model.env = framed
    with pytest.raises(ValueError, match="Put VecNormalize where it was"):
        model.learn(64)
