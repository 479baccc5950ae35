"""Extrinsic reward wrappers around vector environments equal n wrapped single environments."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from helpers.extrinsic_envs import FORMS, LIMIT, limited

import envs  # noqa: F401
from irwrappers.extrinsic import (
    VectorPotentialShaping,
    VectorSparseReward,
)


def assert_same(ours, singles, where):
    assert data_equivalence(ours, singles, exact=True), (where, ours, singles)


def play_both(ours, singles, mode, steps, seed=0):
    """The same actions and resets in both, compared step by step; how many episodes ended."""
    n, ended, rng = ours.num_envs, 0, np.random.default_rng(seed)
    assert_same(ours.reset(seed=seed), singles.reset(seed=seed), "reset")
    for step in range(steps):
        actions = rng.integers(2, size=n)
        result, expected = ours.step(actions), singles.step(actions)
        assert_same(result, expected, step)
        assert result[1].dtype == np.float64
        mask = result[2] | result[3]
        ended += mask.sum()
        if mode is AutoresetMode.DISABLED and mask.any():
            mask |= rng.random(n) < 0.2  # some in the middle of their episodes
        elif mode is AutoresetMode.DISABLED or rng.random() < 0.8:
            continue
        else:  # now and then a reset by hand, of some in the middle of their episodes and some about to be reset anyway
            mask |= rng.random(n) < 0.5
        if mask.any():
            options = ({"reset_mask": mask.copy()} for _ in range(2))  # SyncVectorEnv takes the mask out
            assert_same(ours.reset(options=next(options)), singles.reset(options=next(options)), (step, "mask"))
    return ended


@pytest.mark.parametrize("as_dict", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_form_equals_wrapped_singles(mode, form, as_dict):
    single, vector = FORMS[form]
    make = lambda wrap=None: SyncVectorEnv([partial(limited, wrap, as_dict)] * 5, autoreset_mode=mode)  # noqa: E731
    if form == "ending" and mode is AutoresetMode.NEXT_STEP:
        with pytest.raises(ValueError, match=r"NEXT_STEP can't reset a sub-environment .* Expected SAME_STEP or DISABLED"):
            vector(make())
        return
    assert play_both(vector(make()), make(single), mode, steps=150) > 50


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("copy", [True, False])
def test_a_shared_buffer_of_observations_is_not_taken_for_the_past(mode, copy):
    make = lambda wrap=None, copy=True: SyncVectorEnv([partial(limited, wrap)] * 3, copy, autoreset_mode=mode)  # noqa: E731
    single, vector = FORMS["predicate"]
    play_both(vector(make(copy=copy)), make(single), mode, steps=60)


@pytest.mark.parametrize("form", ["key", "signal", "shaped", "ending"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_form_around_a_native_vector_environment(mode, form):
    single, vector = FORMS[form]
    if form == "shaped":
        single, vector = (partial(cls, potential=lambda o: -np.abs(o[..., :2] - o[..., 2:]).sum(-1)) for cls in FORMS[form])
    if form == "ending" and mode is AutoresetMode.NEXT_STEP:
        return
    layout = ["######", "#S G #", "######"]
    arguments = {"layout": layout, "max_episode_steps": LIMIT, "random_start": True}
    ours = vector(gym.make_vec("sparse/Maze0-v0", num_envs=4, autoreset_mode=mode, **arguments))
    singles = SyncVectorEnv([lambda: single(gym.make("sparse/Maze0-v0", **arguments))] * 4, autoreset_mode=mode)
    rng, total = np.random.default_rng(0), 0.0
    np.testing.assert_array_equal(ours.reset(seed=0)[0], singles.reset(seed=0)[0])
    for _ in range(120):
        actions = rng.integers(4, size=4)
        result, expected = ours.step(actions), singles.step(actions)
        for index in range(4):
            np.testing.assert_array_equal(result[index], expected[index])
        for infos, others in ((result[4], expected[4]), (result[4].get("final_info", {}), expected[4].get("final_info", {}))):
            for key in ("original_reward", "is_success"):
                np.testing.assert_array_equal(infos.get(key, np.zeros(4)), others.get(key, np.zeros(4)))
        total += np.abs(result[1]).sum()
        done = result[2] | result[3]
        if mode is AutoresetMode.DISABLED and done.any():
            ours.reset(options={"reset_mask": done.copy()}), singles.reset(options={"reset_mask": done.copy()})
    assert total > 3


def test_ending_episodes_of_worker_processes():
    single, vector = FORMS["ending"]
    workers = AsyncVectorEnv([limited] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    singles = SyncVectorEnv([partial(limited, single)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        assert play_both(vector(workers), singles, AutoresetMode.SAME_STEP, steps=40) > 10
    finally:
        workers.close()


def test_ending_episodes_needs_environments_that_can_be_reset_alone():
    with pytest.raises(ValueError, match="independent_envs"):
        VectorSparseReward(gym.make_vec("CartPole-v1", num_envs=2), threshold=1.0, terminate_on_success=True)


def test_says_so_when_a_function_does_not_take_batches():
    vector = VectorPotentialShaping(SyncVectorEnv([limited] * 3), lambda o: float(np.sum(o)))
    with pytest.raises(ValueError, match="potential must give 3 finite numbers"):
        vector.reset()
    vector = VectorSparseReward(SyncVectorEnv([limited] * 3), predicate=lambda *step: True)
    vector.reset()
    with pytest.raises(ValueError, match=r"must return \(3,\) truth values"):
        vector.step(np.zeros(3, int))
