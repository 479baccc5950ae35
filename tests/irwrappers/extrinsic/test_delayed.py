"""Delayed rewards: when they are given, that nothing is lost, and that the vector form equals single environments."""

import doctest
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env

import envs
import irwrappers.extrinsic
from irwrappers import DelayedReward, VectorDelayedReward

DELAYED = sorted(envs.CATALOGUE["delayed MuJoCo"].horizons)


class RandomRewards(gym.Env):
    """Random rewards of either sign; a step ends the episode with probability 1/8."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=1), {"draw": self.np_random.random()}

    def step(self, action):
        reward = self.np_random.normal() + action
        return self.np_random.normal(size=1), reward, bool(self.np_random.random() < 1 / 8), False, {"action": action}


def limited(delay=None, steps=12):
    env = TimeLimit(RandomRewards(), steps)
    return env if delay is None else DelayedReward(env, delay)


def play(env, actions, seed=0):
    """Reward, end of the episode and info of each step, with resets."""
    env.reset(seed=seed)
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        yield reward, terminated or truncated, info
        if terminated or truncated:
            env.reset()


@pytest.mark.parametrize("delay", [1, 2, 5, 20])
def test_gives_the_sum_every_delay_steps_and_the_rest_at_the_end(delay):
    actions = np.random.default_rng(0).integers(2, size=300)
    expected, step, episodes = [], 0, 0
    for (given, done, info), (reward, also_done, _) in zip(
        play(limited(delay), actions), play(limited(), actions), strict=True
    ):
        assert done == also_done and info["undelayed_reward"] == reward
        expected.append(reward)
        step += 1
        due = done or step % delay == 0
        assert given == (pytest.approx(sum(expected), abs=1e-12) if due else 0.0)
        expected = [] if due else expected
        step = 0 if done else step
        episodes += done
    assert episodes > 20


def test_a_reset_in_the_middle_drops_what_is_owed():
    env = limited(delay=3, steps=100)
    env.reset(seed=1)
    env.step(0), env.step(0)
    env.reset(seed=1)
    rewards = [env.step(0)[1] for _ in range(3)]
    env.reset(seed=1)
    assert rewards == [env.step(0)[1] for _ in range(3)] and rewards[:2] == [0.0, 0.0] != rewards[2:]


def vector(mode, delay=None):
    return SyncVectorEnv([partial(limited, delay)] * 5, autoreset_mode=mode)


@pytest.mark.parametrize("delay", [1, 3, 20])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_form_equals_wrapped_singles(mode, delay):
    ours, singles = VectorDelayedReward(vector(mode), delay), vector(mode, delay)
    rng = np.random.default_rng(0)
    assert data_equivalence(ours.reset(seed=3), singles.reset(seed=3), exact=True)
    for step in range(300):
        actions = rng.integers(2, size=5)
        result, expected = ours.step(actions), singles.step(actions)
        assert data_equivalence(result, expected, exact=True), (step, result, expected)
        mask = result[2] | result[3]
        if mode is AutoresetMode.DISABLED and mask.any():
            mask |= rng.random(5) < 0.2  # some in the middle of their episodes
        elif mode is AutoresetMode.SAME_STEP or rng.random() < 0.9:
            continue  # in NEXT_STEP, now and then a reset by hand of just those that would be reset by themselves
        if mask.any():
            options = ({"reset_mask": mask.copy()} for _ in range(2))  # SyncVectorEnv takes the mask out
            assert data_equivalence(ours.reset(options=next(options)), singles.reset(options=next(options)), exact=True)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_form_around_a_native_vector_environment(mode):
    """The natively vectorised mazes speak the same protocol."""
    ours = VectorDelayedReward(gym.make_vec("sparse/Maze0-v0", num_envs=3, max_episode_steps=7, autoreset_mode=mode), 4)
    singles = SyncVectorEnv(
        [lambda: DelayedReward(gym.make("sparse/Maze0-v0", max_episode_steps=7), 4)] * 3, autoreset_mode=mode
    )
    rng = np.random.default_rng(0)
    ours.reset(seed=0), singles.reset(seed=0)
    for _ in range(60):
        actions = rng.integers(4, size=3)
        result, expected = ours.step(actions), singles.step(actions)
        for index in range(4):
            np.testing.assert_array_equal(result[index], expected[index])
        np.testing.assert_array_equal(
            result[4].get("undelayed_reward", np.zeros(3)), expected[4].get("undelayed_reward", np.zeros(3))
        )
        done = result[2] | result[3]
        if mode is AutoresetMode.DISABLED and done.any():
            ours.reset(options={"reset_mask": done.copy()}), singles.reset(options={"reset_mask": done.copy()})


def test_vector_form_wants_to_know_the_autoreset_mode():
    env = vector(AutoresetMode.NEXT_STEP)
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        VectorDelayedReward(env)


@pytest.mark.parametrize("delay", [0, -3, 2.0, True, "20", None])
@pytest.mark.parametrize("make", [partial(DelayedReward, RandomRewards()), partial(VectorDelayedReward, vector("NextStep"))])
def test_refuses_other_delays(make, delay):
    with pytest.raises(ValueError, match=r"delay must be an integer in .1, inf. .* got"):
        make(delay=delay)


@pytest.mark.parametrize("name", DELAYED)
def test_delayed_mujoco_has_the_returns_of_gymnasium(name):
    """Whole episodes under random actions: equal dynamics, equal returns, a reward every 20 steps and at the end."""
    env, source = gym.make(name), gym.make(name.removeprefix("delayed/"))
    env.action_space.seed(0)
    observation, other = env.reset(seed=5)[0], source.reset(seed=5)[0]
    given, immediate_sum, steps, done = 0.0, 0.0, 0, False
    while not done:
        action = env.action_space.sample()
        np.testing.assert_array_equal(observation, other)
        observation, reward, terminated, truncated, info = env.step(action)
        other, immediate, *also_done, _ = source.step(action)
        steps, given, immediate_sum, done = steps + 1, given + reward, immediate_sum + immediate, terminated or truncated
        assert [terminated, truncated] == also_done and info["undelayed_reward"] == immediate
        assert reward == 0 or steps % 20 == 0 or done
    assert immediate_sum != 0 and given == pytest.approx(immediate_sum, rel=1e-12, abs=1e-12)


def test_the_rest_is_given_at_the_time_limit_too():
    env = gym.make("delayed/HalfCheetah-v5", max_episode_steps=27)  # never falls
    env.action_space.seed(0)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(27)]
    rewards, immediate = np.array([(reward, info["undelayed_reward"]) for _, reward, _, _, info in steps]).T
    np.testing.assert_array_equal(np.flatnonzero(rewards), [19, 26])
    np.testing.assert_allclose(rewards[[19, 26]], [immediate[:20].sum(), immediate[20:].sum()])


@pytest.mark.parametrize("name", DELAYED)
def test_delayed_mujoco_is_made_again_from_its_spec(name):
    spec = gym.make(name).spec
    for env in (gym.make(spec), gym.make(EnvSpec.from_json(spec.to_json()))):
        assert env.spec == spec and isinstance(env, DelayedReward) and env.delay == 20
    singles = gym.make_vec(name, num_envs=2, vectorization_mode="sync").envs
    assert all(isinstance(env, DelayedReward) and isinstance(env.env, TimeLimit) for env in singles)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Box observation space|.*symmetric and normalized")
        check_env(gym.make(name))


def test_the_docstrings_examples():
    failed, attempted = doctest.testmod(irwrappers.extrinsic)
    assert attempted > 0 and failed == 0
