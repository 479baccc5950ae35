"""The base policy's update once it has solved its task."""

import numpy as np
import pytest
import torch
from helpers.irpo_toys import toys
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.irpo.base_update import slow_if_solved


def collected(env=None):
    model = PPO("MlpPolicy", env or toys(), n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    _, callback = model._setup_learn(32)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
    return model


def rate(model):
    """The learning rate of an update, as PPO sets and logs it."""
    model._update_learning_rate(model.policy.optimizer)
    return model.policy.optimizer.param_groups[0]["lr"] / 3e-4


@pytest.mark.parametrize(("gain", "spread", "factor"), [(0.05, 11, 1 / 11), (0.5, 100, 1 / 50)])
def test_the_learning_rate_is_reduced_by_the_spread_in_deviations_or_fifty(gain, spread, factor):
    """Gain and spread in deviations of the advantages."""
    model = collected()
    deviation = model.rollout_buffer.advantages.std()
    with slow_if_solved(model, gain * deviation, spread * deviation):
        assert rate(model) == pytest.approx(factor, rel=1e-4)
    assert rate(model) == 1


def test_an_update_then_changes_the_policy_by_that_much_less():
    """What smaller advantages do not bring about, since Adam divides gradients by their size."""
    steps = []
    for spread in (1.0, 1000.0):  # of deviations: below 20 the gain is no trifle
        model = collected()
        deviation = model.rollout_buffer.advantages.std()
        before = torch.cat([value.detach().flatten().clone() for value in model.policy.parameters()])
        with slow_if_solved(model, 0.4 * deviation, spread * deviation):
            model.train()
        after = torch.cat([value.detach().flatten() for value in model.policy.parameters()])
        steps.append((after - before).norm().item())
    assert steps[1] == pytest.approx(steps[0] / 50, rel=0.1)


@pytest.mark.parametrize(
    ("gain", "spread"),
    [(0.5, 9), (1.6, 1000), (-0.1, 100), (np.inf, np.inf)],
    ids=["gain above a share of the spread", "gain above the advantages", "a record", "nothing known"],
)
def test_otherwise_it_is_ppos_update(gain, spread):
    model = collected()
    deviation = model.rollout_buffer.advantages.std()
    with slow_if_solved(model, gain * deviation, spread * deviation):
        assert rate(model) == 1


def test_gain_and_spread_are_in_the_unit_of_normalised_rewards():
    model = collected(VecNormalize(toys()))
    unit = float(np.sqrt(model.env.ret_rms.var + model.env.epsilon))
    deviation = model.rollout_buffer.advantages.std()
    with slow_if_solved(model, 0.05 * deviation * unit, 11 * deviation * unit):
        assert rate(model) == pytest.approx(1 / 11, rel=1e-4)
    with slow_if_solved(model, 1.6 * deviation * unit, 100 * deviation * unit):
        assert rate(model) == 1


def test_an_error_leaves_the_schedule_as_it_was():
    model = collected()
    schedule = model.lr_schedule
    with pytest.raises(RuntimeError), slow_if_solved(model, 0.0, 1.0):
        raise RuntimeError
    assert model.lr_schedule is schedule
