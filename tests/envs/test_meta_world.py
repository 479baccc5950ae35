"""Meta-World: its own environments with one reward an episode and fixed tasks; its own experts solve all fifty."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_HIDDEN
from metaworld.policies import ENV_POLICY_MAP
from metaworld.sawyer_xyz_env import SawyerXYZEnv

import envs  # noqa: F401 (registers sparse/…)
from envs.catalogue import METAWORLD_TASKS
from envs.meta_world import MetaWorldTask
from envs.meta_world.fast_observation import _FastObservation

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (80, 4)).astype(np.float32)
# One with an object on the table, one that moves the model's bodies, one with two objects, one that steps MuJoCo at reset.
A_FEW = ["push", "door-open", "stick-pull", "box-close"]
# In the quick run these and every sixth; the rest, of the same code, with the slow ones.
EVERY = [
    pytest.param(name, marks=() if name in {*A_FEW, *METAWORLD_TASKS[::6]} else pytest.mark.slow) for name in METAWORLD_TASKS
]

pytestmark = pytest.mark.filterwarnings("ignore:Constant.s. may be too high:UserWarning")  # Meta-World's experts


def make(name, **kwargs):
    return gym.make(f"sparse/MetaWorld-{name}-v3", **kwargs)


def expert_return(env, after=0):
    """Meta-World's expert until the first reward, and ``after`` steps more."""
    expert = ENV_POLICY_MAP[f"{env.unwrapped.task_name}-v3"]()
    observation, info = env.reset(seed=0)
    assert info["is_success"] is False
    total = 0.0
    for _ in range(500):
        observation, reward, terminated, truncated, info = env.step(expert.get_action(observation).astype(np.float32))
        assert reward == (info["success"] if total == 0.0 else 0.0)
        total += reward
        assert info["is_success"] is bool(total)
        assert not terminated
        after -= total > 0
        if truncated or after < 0:
            break
    return total


@pytest.fixture(scope="module")
def reach():
    return make("reach")


@pytest.mark.parametrize("name", EVERY)
def test_observations_are_meta_worlds_own_bit_for_bit(name):
    """Those of its environment as it comes, in the same state: ours assembles them in fewer calls."""
    env = make(name)
    source = env.unwrapped.source
    original = next(parent for parent in type(source).__mro__ if parent.__module__.startswith("metaworld.envs"))
    env.reset(seed=0)
    for action in ACTIONS[:20]:
        observation = env.step(action)[0]
        assert np.array_equal(original._get_quat_objects(source), source._get_quat_objects())
        theirs = original._get_curr_obs_combined_no_goal(source)
        assert np.array_equal(theirs, source._get_curr_obs_combined_no_goal())
        assert np.allclose(observation[:18], theirs)  # which are clipped


@pytest.mark.parametrize("name", ["push", "pick-place"])
def test_what_the_gripper_touches_is_meta_worlds_own(name):
    env = make(name, goal_observable=True)
    source, expert = env.unwrapped.source, ENV_POLICY_MAP[f"{name}-v3"]()
    original = next(parent for parent in type(source).__mro__ if parent.__module__.startswith("metaworld.envs"))
    observation, _ = env.reset(seed=0)
    touched = []
    for _ in range(70):
        observation = env.step(expert.get_action(observation).astype(np.float32))[0]
        for geom in (source._get_id_main_object(), *range(0, source.model.ngeom, 7)):
            assert source.touching_object(geom) == original.touching_object(source, geom)
        touched.append(source.touching_main_object)
    assert 5 < sum(touched) < 65


class Contacts(list):
    """As MuJoCo's: one by one, or a column at a time."""

    def __getattr__(self, name):
        return np.array([getattr(contact, name) for contact in self])


def test_what_touches_with_both_pads_and_some_force_is_touched():
    """Whatever the contacts: those of a few geoms, of which 0 and 1 are the pads, with and without force."""
    rng, pads = np.random.default_rng(0), {"leftpad_geom": SimpleNamespace(id=0), "rightpad_geom": SimpleNamespace(id=1)}
    touched = []
    for _ in range(300):
        geoms = rng.integers(0, 4, (6, 2))
        contacts = Contacts(SimpleNamespace(geom1=a, geom2=b, efc_address=i) for i, (a, b) in enumerate(geoms))
        world = SimpleNamespace(data=SimpleNamespace(contact=contacts, efc_force=rng.integers(0, 2, 6), geom=pads.get))
        touched.append(_FastObservation.touching_object(world, 2))
        assert touched[-1] == SawyerXYZEnv.touching_object(world, 2)
    assert 20 < sum(touched) < 280


@pytest.mark.parametrize("name", EVERY)
def test_meta_worlds_expert_receives_one_reward(name, reach):
    env = make(name, goal_observable=True)
    assert env.observation_space == reach.observation_space
    assert env.observation_space.is_bounded()
    assert env.action_space == reach.action_space
    assert expert_return(env, after=30) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", METAWORLD_TASKS)
def test_the_expert_solves_other_tasks_of_the_same_name(name):
    returns = [expert_return(make(name, goal_observable=True, task_seed=seed)) for seed in range(1, 10)]
    assert sum(returns) >= 8


@pytest.mark.parametrize("name", A_FEW)
def test_a_task_seed_is_meta_worlds_own(name):
    env = make(name, task_seed=3)
    source = ALL_V3_ENVIRONMENTS_GOAL_HIDDEN[f"{name}-v3-goal-hidden"](seed=3)
    assert env.unwrapped.rand_vec == source._last_rand_vec.tolist()
    np.testing.assert_array_equal(env.reset(seed=0)[0], source.reset()[0])
    for action in ACTIONS:
        observation, reward, terminated, truncated, info = env.step(action)
        expected, shaped, _, _, source_info = source.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert (terminated, truncated) == (False, False)
        assert reward == source_info["success"] == 0.0
        assert info == {**source_info, "shaped_reward": shaped, "is_success": False}


def rollout(env, seed=0):
    return np.array([env.reset(seed=seed)[0], *(env.step(action)[0] for action in ACTIONS)])


@pytest.mark.parametrize("name", A_FEW)
def test_a_task_is_fixed_by_its_seed_and_not_by_what_went_before(name):
    env = make(name, task_seed=1)
    first = rollout(env, seed=0)
    np.testing.assert_array_equal(rollout(env, seed=7), first)
    np.testing.assert_array_equal(rollout(make(name, task_seed=1), seed=8), first)
    assert not np.array_equal(rollout(make(name, task_seed=2)), first)


@pytest.mark.parametrize("name", A_FEW)
def test_resampling_follows_the_reset_seed_and_gives_the_task_that_its_numbers_give(name):
    env = make(name, resample_task=True)
    assert env.unwrapped.rand_vec is None
    first = rollout(env, seed=5)
    sampled = env.unwrapped.rand_vec
    env.reset()
    assert env.unwrapped.rand_vec != sampled
    np.testing.assert_array_equal(rollout(env, seed=5), first)
    given = make(name, rand_vec=sampled)
    assert given.unwrapped.rand_vec == sampled
    np.testing.assert_array_equal(rollout(given), first)


def test_the_goal_is_hidden_unless_asked_for():
    hidden, shown = rollout(make("reach")), rollout(make("reach", goal_observable=True))
    np.testing.assert_array_equal(hidden[:, :36], shown[:, :36])
    assert not hidden[:, 36:].any()
    np.testing.assert_array_equal(shown[:, 36:], np.tile(make("reach").unwrapped.rand_vec[3:], (len(shown), 1)))


def test_numpys_global_generator_is_neither_used_nor_moved():
    def play():
        env = make("push", resample_task=True)
        return np.array([rollout(make("push")), rollout(env), rollout(env, seed=1)])

    np.random.seed(0)
    first = play()
    assert np.random.random() == np.random.RandomState(0).random()
    np.random.seed(1)
    np.testing.assert_array_equal(play(), first)


@pytest.mark.parametrize("horizon", [None, 30, 600])
def test_an_episode_is_as_long_as_gym_make_says(horizon):
    env = make("reach", max_episode_steps=horizon)
    env.reset(seed=0)
    for _ in range(1, horizon or 500):
        assert env.step(np.zeros(4, np.float32))[2:4] == (False, False)
    assert env.step(np.zeros(4, np.float32))[2:4] == (False, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task_name": "raech"}, "Did you mean 'reach'"),
        ({"task_name": "door-opne-v3"}, "Did you mean 'door-open'"),
        ({"task_name": "?"}, "Meta-World has assembly, basketball"),
        ({"task_seed": -1}, "got -1"),
        ({"task_seed": 0.5}, "got 0.5"),
        ({"rand_vec": [0.0, 0.6, 0.02]}, "6 numbers"),
        ({"rand_vec": [0.0, 0.6, 0.02, 0.0, 9.0, 0.1]}, "0.9"),
        ({"rand_vec": [0.0, 0.6, 0.02, 0.0, float("nan"), 0.1]}, "6 numbers"),
        ({"rand_vec": [0.0, 0.7, 0.02, 0.0, 0.8, 0.1]}, "too close"),
        ({"rand_vec": [0.0, 0.6, 0.02, 0.0, 0.8, 0.1], "task_seed": 1}, "leave out task_seed=1"),
        ({"rand_vec": [0.0, 0.6, 0.02, 0.0, 0.8, 0.1], "resample_task": True}, "resample_task=True"),
        ({"camera_name": "corner9"}, "corner2"),
        ({"render_mode": "ansi"}, "'ansi'"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MetaWorldTask(**kwargs)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 4)), 0.0, [np.nan, 0, 0, 0], ["a"] * 4])
def test_bad_actions_are_refused(action, reach):
    reach.reset(seed=0)
    with pytest.raises(ValueError, match="finite numbers of shape"):
        reach.step(action)
