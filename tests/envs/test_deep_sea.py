"""Deep Sea: bsuite's rules by cases worked out by hand, and that the vectorised form equals single environments."""

import doctest
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.vector_forms import play_both
from stable_baselines3.common.env_checker import check_env as check_sb3

import envs.deep_sea
from envs.deep_sea import DeepSea, DeepSeaVectorEnv
from envs.rendering import AGENT_COLOR, GOAL_COLOR
from irwrappers import make_intrinsic_reward

ID = "sparse/DeepSea-v0"
MODES = list(AutoresetMode)


def play(env, moves, seed=None):
    """Play one episode of "L" and "R"; returns its steps, each with the cell (row, column) it led to, ``None`` at the end."""
    size, right = len(env.unwrapped.action_right), env.unwrapped.action_right
    observation, info = env.reset(seed=seed)
    assert info == {"is_success": False} and cell_of(observation, size) == (0, 0)
    row = column = 0
    steps = []
    for move in moves:
        action = right[row, column] if move == "R" else 1 - right[row, column]
        observation, *step = env.step(int(action))
        place = cell_of(observation, size)
        steps.append((place, *step))
        row, column = place or (None, None)
    return steps


def cell_of(observation, size):
    assert observation.shape == (size * size,) and observation.dtype == np.float32
    ones = np.flatnonzero(observation)
    assert (observation[ones] == 1).all() and len(ones) <= 1
    return divmod(int(ones[0]), size) if len(ones) else None


# --- the rules


@pytest.mark.parametrize("action_seed", [0, 1, 42])
@pytest.mark.parametrize(
    ("moves", "columns", "rewards", "success"),
    [
        ("RRR", [1, 2], [-0.01 / 3, -0.01 / 3, 1 - 0.01 / 3], True),  # the treasure, with the last step's cost
        ("RRL", [1, 2], [-0.01 / 3, -0.01 / 3, 0], False),  # to the left of it
        ("LRR", [0, 1], [0, -0.01 / 3, -0.01 / 3], False),  # one column short
        ("RLR", [1, 0], [-0.01 / 3, 0, -0.01 / 3], False),
        ("LLL", [0, 0], [0, 0, 0], False),  # the left edge holds, and costs nothing
    ],
)
def test_an_episode_by_hand(action_seed, moves, columns, rewards, success):
    env = gym.make(ID, size=3, action_seed=action_seed)
    steps = play(env, moves)
    assert [step[0] for step in steps] == [(1, columns[0]), (2, columns[1]), None]  # one row down a step, then nothing
    assert [step[1] for step in steps] == pytest.approx(rewards, abs=1e-15)
    assert [step[2] for step in steps] == [False, False, True] and not any(step[3] for step in steps)
    assert [step[4] for step in steps] == [{"is_success": False}] * 2 + [{"is_success": success}]


@pytest.mark.parametrize("size", [2, 5, 10, 23])
def test_every_policy_returns_what_its_moves_say(size):
    env = gym.make(ID, size=size)
    optimal = play(env, "R" * size)
    assert len(optimal) == size and optimal[-1][2] and optimal[-1][4]["is_success"]
    assert sum(step[1] for step in optimal) == pytest.approx(0.99)
    rng = np.random.default_rng(size)
    for _ in range(20):
        moves = "".join(rng.choice(["L", "R"], size))
        steps = play(env, moves)
        assert sum(step[1] for step in steps) == pytest.approx((moves == "R" * size) - 0.01 / size * moves.count("R"))
        assert [step[2] for step in steps] == [False] * (size - 1) + [True]


def test_action_seed_decides_which_action_is_right_and_nothing_else_does():
    assert np.array_equal(DeepSea().action_right, DeepSea(action_seed=42).action_right)
    tables = np.stack([DeepSea(20, seed).action_right for seed in range(50)])
    assert len(np.unique(tables.reshape(50, -1), axis=0)) == 50 and set(np.unique(tables)) == {0, 1}
    assert abs(tables.mean() - 0.5) < 5 * 0.5 / np.sqrt(tables.size)
    env = DeepSea(20, 3)
    env.reset(seed=9)
    assert np.array_equal(env.action_right, tables[3]) and np.array_equal(DeepSeaVectorEnv(2, 20, 3).action_right, tables[3])
    # bsuite 0.3.6: DeepSea(size=4, mapping_seed=42)._action_mapping
    assert DeepSea(4, 42).action_right.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0]]
    env.action_right[:] = 1  # an array of the caller's
    assert np.array_equal(env.action_right, tables[3])


def test_the_graph_has_every_cell_that_can_be_reached_and_the_end():
    env = gym.make(ID, size=4).unwrapped
    observations, next_states = env.transition_graph()
    assert observations.shape == (4 * 5 // 2 + 1, 16) and next_states.shape == (11, 2)
    index = {cell_of(observation, 4): i for i, observation in enumerate(observations)}
    assert set(index) == {(row, column) for row in range(4) for column in range(row + 1)} | {None}
    for cell, i in index.items():
        if cell is None:
            assert next_states[i].tolist() == [i, i]
            continue
        row, column = cell
        right = env.action_right[row, column]
        expected = [None] * 2 if row == 3 else [(row + 1, max(column - 1, 0)), (row + 1, column + 1)]
        assert [next_states[i, 1 - right], next_states[i, right]] == [index[place] for place in expected]
    for mine, theirs in zip(DeepSeaVectorEnv(2, 4).transition_graph(), (observations, next_states), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_reward_model_reads_the_graph():
    env = DeepSea(4)
    reward = make_intrinsic_reward("laplacian", env.observation_space, env.action_space, n_rewards=2)
    reward.fit(env)
    assert reward.states.shape == (11, 16)


# --- interface


def test_the_docstrings_example_runs():
    failed, attempted = doctest.testmod(envs.deep_sea)
    assert attempted and not failed


def test_checkers_pass_and_frames_show_the_agent_until_the_end():
    check_gymnasium(gym.make(ID, render_mode="rgb_array").unwrapped)
    check_sb3(gym.make(ID, size=5, render_mode="rgb_array"))
    env = gym.make(ID, size=3, render_mode="rgb_array")
    env.reset()
    frames = [env.render()]
    for _ in range(3):
        env.step(0)
        frames.append(env.render())
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 48, 3) for frame in frames)
    assert [bool((frame == AGENT_COLOR).all(-1).any()) for frame in frames] == [True, True, True, False]
    assert all((frame[-1, -1] == GOAL_COLOR).all() for frame in frames)
    vector_env = gym.make_vec(ID, num_envs=2, size=3, render_mode="rgb_array")
    vector_env.reset()
    assert all(np.array_equal(frame, frames[0]) for frame in vector_env.render())


@pytest.mark.parametrize("make", [DeepSea, partial(DeepSeaVectorEnv, 2)], ids=["single", "vector"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 1}, "size must be an integer of at least 2, .* got 1"),
        ({"size": 2.5}, "size must be an integer"),
        ({"action_seed": -1}, r"action_seed must be an integer from 0 to 4294967295, got -1"),
        ({"action_seed": None}, "action_seed must be an integer"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_bad_arguments_are_refused(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("action", [2, -1, 0.0, None, "right"])
def test_wrong_actions_raise(action):
    env = DeepSea()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an integer 0 or 1"):
        env.step(action)


@pytest.mark.parametrize(
    ("actions", "message"), [([0, 2], "action 2 of environment 1"), ([0.0, 1.0], "integer"), ([0], "shape")]
)
def test_wrong_actions_of_a_vector_form_raise(actions, message):
    env = DeepSeaVectorEnv(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)


# --- the vectorised form


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [None, 3])
def test_the_vector_form_equals_single_environments(mode, limit):
    n, kwargs = 4, {"size": 4, "action_seed": 5, "max_episode_steps": limit}
    vector_env = gym.make_vec(ID, num_envs=n, autoreset_mode=mode, **kwargs)
    assert isinstance(vector_env.unwrapped, DeepSeaVectorEnv)
    singles = SyncVectorEnv([partial(gym.make, ID, disable_env_checker=True, **kwargs)] * n, autoreset_mode=mode)
    assert vector_env.observation_space == singles.observation_space and vector_env.action_space == singles.action_space
    right = vector_env.unwrapped.action_right
    rng, total = np.random.default_rng(0), 0.0

    def mostly_to_the_right(observations):
        return np.where(rng.random(n) < 0.8, right.ravel()[observations.argmax(axis=1)], rng.integers(2, size=n))

    for _, rewards, *_ in play_both(vector_env, singles, mostly_to_the_right, 60, seed=3):
        total += rewards.clip(min=0).sum()
    assert (total > 3) == (limit is None)  # three steps do not reach the treasure of four
