"""The reward that LIRPG learns on a chain: against the known optimal advantage, and as the reward of a new agent."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from irwrappers import VecIntrinsicReward
from sb3_ext import FrozenReward

CHAIN = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "lirpg_chain.py"))


def test_the_optimal_advantage_is_what_a_wasted_step_costs():
    advantages, gamma = CHAIN["optimal_advantages"](), CHAIN["GAMMA"]
    distance = CHAIN["LENGTH"] - 1 - np.arange(CHAIN["LENGTH"] - 1)  # to the state with the reward
    values = gamma ** (distance - 1)
    np.testing.assert_allclose(advantages[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(advantages[:, 1], (gamma - 1) * values)
    np.testing.assert_allclose(advantages[1:, 0], (gamma**2 - 1) * values[1:])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_learned_reward_orders_actions_and_teaches_a_new_agent_in_half_of_the_steps(seed):
    model = CHAIN["learn_reward"](40_000, seed)
    correlation = spearmanr(CHAIN["learned_rewards"](model).ravel(), CHAIN["optimal_advantages"]().ravel())[0]
    learned = VecIntrinsicReward(CHAIN["chains"](), FrozenReward(model), extrinsic_coef=0.0, normalize_reward=False)
    alone, taught = (CHAIN["steps_to_learn"](env, seed + 100) for env in (CHAIN["chains"](), learned))
    print(f"seed {seed}: rank correlation {correlation:.3f}; PPO {alone} steps, with the learned reward {taught}")
    assert correlation >= 0.8
    assert taught <= alone / 2
