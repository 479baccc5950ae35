"""Dropout and batch normalisation of learned rewards."""

import numpy as np
import pytest
from helpers.conformance import CASES, Dropout
from stable_baselines3.common.callbacks import BaseCallback

LEARNED = {name: case for name, case in CASES.items() if name in ("LIRPG", "LIRPGA2C", "CLN")}


@pytest.mark.parametrize("case", LEARNED.values(), ids=LEARNED)
def test_a_learned_reward_is_the_same_twice_and_its_networks_train_in_training_mode(case):
    env = case.make_env(2)
    model = case.make(env, policy_kwargs=dict(features_extractor_class=Dropout)).learn(case.steps)
    observations, actions = np.repeat(env.reset(), 8, 0), np.repeat(model.predict(env.reset())[0], 8, 0)
    model._set_training_mode(True)
    first, second = (model.intrinsic_rewards(observations, actions) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.reward_network.training and model.extrinsic_critic.training
    model.collect_rollouts(model.env, NoCallback().init_for(model), model.rollout_buffer, model.n_steps)
    assert not model.reward_network.training and not model.extrinsic_critic.training


class NoCallback(BaseCallback):
    def init_for(self, model):
        self.init_callback(model)
        return self

    def _on_step(self):
        return True
