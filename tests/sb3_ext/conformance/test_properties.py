"""Any spaces, rewards, episode lengths, faults and arguments: training ends with finite weights, or in an error of ours.

``IRW_EXAMPLES=300`` draws that many cases for each algorithm and reward (the default is a few). A case that has failed once
stands among the explicit examples.
"""

import os
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.conformance import CASES
from helpers.odd_env import OddEnv, Oddity
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from irwrappers import INTRINSIC_REWARDS, VecIntrinsicReward
from sb3_ext import MetaRewardPPO

EXAMPLES = int(os.environ.get("IRW_EXAMPLES", "6"))
OURS = [str(Path(__file__).parents[3] / name) for name in ("sb3_ext", "irwrappers", "envs", "tests")]
PROPERTY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking a case takes longer than reading it
    suppress_health_check=list(HealthCheck),
)

small = st.integers(1, 3)
boxes = st.builds(
    lambda shape, low, dtype: spaces.Box(low, 2 * abs(low), shape, dtype),
    st.sampled_from([(1,), (3,), (2, 2), ()]),
    st.sampled_from([-1.0, -1e6, -1e30]),
    st.sampled_from([np.float32, np.float64]),
)
discrete = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), small, st.sampled_from([0, 0, 0, 1])),
    st.builds(lambda sizes: spaces.MultiDiscrete(sizes), st.lists(small, min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, small),
)
images = st.just(spaces.Box(0, 255, (36, 36, 1), np.uint8))
observation_spaces = st.one_of(
    boxes, discrete, images, st.builds(lambda a, b: spaces.Dict(a=a, b=b), boxes, st.one_of(discrete, images))
)
action_spaces = st.one_of(
    discrete,
    st.builds(lambda n: spaces.Box(-1, 1, (n,)), small),
    st.just(spaces.Box(-3, 1, (2, 2))),
    st.just(spaces.Box(0, 3, (2,), np.int64)),
)
rewards = st.lists(
    st.sampled_from(
        [0.0, 1.0, -1.0, 1e-30, 1e6, -1e30, 1e38, float("nan"), float("inf"), np.float64(2), np.float32(0.5), 3, True]
    ),
    min_size=1,
    max_size=3,
)
oddities = st.builds(
    Oddity,
    rewards.map(tuple),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([None, None, None, "nan observation", "inf observation", "no end"]),
    st.integers(0, 5),
)


def policy_for(space):
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if space.dtype == np.uint8 and space.shape == (36, 36, 1) else "MlpPolicy"


def env_of(observation_space, action_space, oddity, n_envs=2):
    return DummyVecEnv([lambda: Monitor(OddEnv(observation_space, action_space, oddity))] * n_envs)


def finite_or_ours(run):
    """Call ``run``, which returns tensors: they are finite, or the error was raised by our code or by a check of SB3's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tensors = run()
        except (ValueError, TypeError, AssertionError, NotImplementedError, RuntimeError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            ours = last.filename.startswith(tuple(OURS))
            theirs = "stable_baselines3" in last.filename and isinstance(error, (AssertionError, NotImplementedError))
            assert ours or theirs, f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            return
    assert all(torch.isfinite(value).all() for value in tensors if value.is_floating_point())


ON_ANY_SPACE = {name: case for name, case in CASES.items() if case.algorithm is not MetaRewardPPO}


@pytest.mark.parametrize("case", ON_ANY_SPACE.values(), ids=ON_ANY_SPACE)
def test_an_algorithm_in_any_environment(case):
    @PROPERTY
    @given(observation_spaces, action_spaces, oddities)
    def check(observation_space, action_space, oddity):
        def run():
            model = case.make(env_of(observation_space, action_space, oddity), policy_for(observation_space))
            if case.algorithm.__name__ == "IRPO" and case.settings.get("paper") is None:
                model.max_episode_steps = 50
            model.learn(case.steps)
            return list(model.policy.state_dict().values())

        finite_or_ours(run)

    check()


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name not in ("laplacian", "allo")])
def test_a_reward_in_any_environment(name):
    @PROPERTY
    @given(observation_spaces, discrete, oddities)
    def check(observation_space, action_space, oddity):
        def run():
            env = VecIntrinsicReward(env_of(observation_space, action_space, oddity), name, learn_every=8, warmup_steps=8)
            env.reset()
            received = []
            for _ in range(24):
                _, reward, _, _ = env.step(np.stack([action_space.sample() for _ in range(2)]))
                received.append(torch.as_tensor(reward))
            return received

        finite_or_ours(run)

    check()


numbers = st.sampled_from(
    [0, 1, -1, 2, 0.5, -0.5, 1e-12, 1e12, float("nan"), float("inf"), None, "a", True, [], np.float32(0.1)]
)
ARGUMENTS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef",
    "max_grad_norm", "target_kl", "intrinsic_coef", "extrinsic_coef", "intrinsic_gamma", "intrinsic_reward", "seed",
)  # fmt: skip


@pytest.mark.parametrize("case", ON_ANY_SPACE.values(), ids=ON_ANY_SPACE)
def test_an_algorithm_with_any_argument(case):
    import inspect

    names = [name for name in ARGUMENTS if name in inspect.signature(case.algorithm).parameters]

    @PROPERTY
    @example("n_steps", 0).via("fails in torch")
    @given(st.sampled_from(names), numbers)
    def check(name, value):
        if name not in names or (name in ("n_steps", "n_epochs") and value == 1e12):  # which is a matter of patience
            return

        def run():
            model = case.make(**{name: value}).learn(case.steps)
            return list(model.policy.state_dict().values())

        finite_or_ours(run)

    check()
