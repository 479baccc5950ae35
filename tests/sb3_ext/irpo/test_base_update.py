"""The base policy's update once it has solved its task."""

import numpy as np
import pytest
from helpers.irpo_toys import toys
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.irpo.base_update import steady_advantages


def collected(env=None):
    model = PPO("MlpPolicy", env or toys(), n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    _, callback = model._setup_learn(32)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
    return model


@pytest.mark.parametrize(("spread", "divisor"), [(11, 11), (100, 50)])  # in deviations
def test_advantages_are_centred_and_divided_by_the_spread_or_fifty_deviations(spread, divisor):
    model = collected()
    before = model.rollout_buffer.advantages.copy()
    deviation = before.std()
    with steady_advantages(model, 0.5 * deviation, spread * deviation):
        assert not model.normalize_advantage
        assert model.rollout_buffer.advantages == pytest.approx((before - before.mean()) / (divisor * deviation), rel=1e-4)
    assert model.normalize_advantage


@pytest.mark.parametrize(
    ("gain", "spread", "normalize"),
    [(0.5, 100, False), (0.5, 9, True), (1.6, 1000, True), (-0.1, 100, True), (np.inf, np.inf, True)],
    ids=["not normalised", "gain above a share of the spread", "gain above the advantages", "a record", "nothing known"],
)
def test_otherwise_it_is_ppos_update(gain, spread, normalize):
    model = collected()
    model.normalize_advantage = normalize
    before = model.rollout_buffer.advantages.copy()
    with steady_advantages(model, gain * before.std(), spread * before.std()):
        assert np.array_equal(model.rollout_buffer.advantages, before) and model.normalize_advantage is normalize


def test_gain_and_spread_are_in_the_unit_of_normalised_rewards():
    model = collected(VecNormalize(toys()))
    unit = float(np.sqrt(model.env.ret_rms.var + model.env.epsilon))
    before = model.rollout_buffer.advantages.copy()
    deviation = before.std()
    with steady_advantages(model, 0.5 * deviation * unit, 11 * deviation * unit):
        assert model.rollout_buffer.advantages == pytest.approx((before - before.mean()) / (11 * deviation), rel=1e-4)
    with steady_advantages(model, 1.6 * deviation * unit, 100 * deviation * unit):
        assert model.normalize_advantage


def test_an_error_leaves_the_argument_as_it_was():
    model = collected()
    with pytest.raises(RuntimeError), steady_advantages(model, 0.0, 1.0):
        raise RuntimeError
    assert model.normalize_advantage
