"""The vectorised MuJoCo mazes: equal to single environments, whatever the autoreset mode and the number of threads."""

import pickle
from itertools import count

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.ball_planner import towards
from helpers.vector_forms import play_both, reset_both

import envs  # noqa: F401 (registers sparse/…)
from envs.mujoco.ant_maze import AntMazeVectorEnv
from envs.mujoco.maze_maps import MAZE_MAPS
from envs.mujoco.point_maze import PointMaze, PointMazeVectorEnv

MODES = list(AutoresetMode)
CORRIDOR = ["11111", "1r0g1", "11111"]
OWN_MAP = [[1] * 7, [1, "r", 0, 0, 1, "g", 1], [1, 1, 1, 0, 0, 0, 1], [1] * 7]
TASKS = [f"sparse/{name}-v0" for name in MAZE_MAPS]


@pytest.mark.parametrize("kwargs", [{"num_envs": 0}, {"num_threads": 0}])
def test_a_vector_form_needs_an_environment_and_a_thread(kwargs):
    with pytest.raises(ValueError, match="must be at least 1"):
        AntMazeVectorEnv(**kwargs)


def make_both(task, num_envs, mode, max_episode_steps, **kwargs):
    vector = gym.make_vec(task, num_envs, max_episode_steps=max_episode_steps, autoreset_mode=mode, **kwargs)
    make = [lambda: gym.make(task, max_episode_steps=max_episode_steps, **kwargs)] * num_envs
    return vector, SyncVectorEnv(make, autoreset_mode=mode)


def compare(vector, singles, policy, steps, options=None):
    """Step both; return how many episodes ended in success and how many in all."""
    seeds = [17 * i + 1 for i in range(vector.num_envs)]
    successes = episodes = 0
    for _, rewards, terminated, truncated, _ in play_both(vector, singles, policy, steps, seeds, options, options):
        successes, episodes = successes + (rewards == 1).sum(), episodes + (terminated | truncated).sum()
    return successes, episodes


def half_guided(shape, towards_goal):
    """Random actions, held for 15 steps; every other environment is pulled towards the goal."""
    rng = np.random.default_rng(0)
    held = np.zeros(shape, np.float32)
    steps = count()

    def policy(observations):
        if next(steps) % 15 == 0:
            held[:] = rng.uniform(-1.2, 1.2, shape)  # beyond the bounds too: both clip
        actions = held.copy()
        for index in range(0, shape[0], 2):
            actions[index] = towards_goal(observations[index], held[index])
        return actions

    return policy


def pulled(observation, noise):
    return towards(observation, observation[-2:]) + 0.3 * noise


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maze_map", ["PointMaze1", OWN_MAP, CORRIDOR], ids=["PointMaze1", "own", "corridor"])
def test_point_mazes_equal_single_environments_over_1000_steps(maze_map, mode):
    vector, singles = make_both("sparse/PointMaze0-v0", 6, mode, 150, maze_map=maze_map, random_start=maze_map is not CORRIDOR)
    successes, episodes = compare(vector, singles, half_guided((6, 2), pulled), 1000)
    assert successes >= 5 and episodes > successes


@pytest.mark.parametrize("mode", MODES)
def test_ant_mazes_equal_single_environments_over_1000_steps(mode):
    # The start lies 6 to 10 m from a goal 7.5 m wide: some episodes reach it, others end in a fall or at the time limit.
    vector, singles = make_both(
        "sparse/AntMaze0-v0", 3, mode, 120, maze_map=["11111111", "1r0g0001", "11111111"], goal_radius=7.5
    )
    successes, episodes = compare(vector, singles, half_guided((3, 8), lambda observation, noise: noise), 1000)
    assert successes >= 5 and episodes >= successes + 10


@pytest.mark.parametrize("task", ["sparse/PointMaze0-v0", "sparse/AntMaze3-v0"])
def test_options_reach_the_environments_they_are_for(task):
    vector, singles = make_both(task, 4, AutoresetMode.DISABLED, 20, maze_map=OWN_MAP)
    policy = half_guided(vector.action_space.shape, lambda observation, noise: noise)
    options = {"random_start": True, "ignore_goal": True}
    compare(vector, singles, policy, 50, options)
    mask = np.array([True, False, True, False])
    for options in ({"reset_mask": mask}, {"reset_mask": ~mask, "goal_cell": (1, 3), "reset_cell": (1, 5)}):
        observations, _ = reset_both(vector, singles, options=options)
    cell_of = PointMaze(OWN_MAP).source.maze.cell_xy_to_rowcol
    if task == "sparse/PointMaze0-v0":
        assert [cell_of(observation[:2]).tolist() for observation in observations[1::2]] == [[1, 5]] * 2


@pytest.mark.parametrize("task", TASKS)
def test_a_pickled_vector_env_goes_on_as_the_original(task):
    vector = gym.make_vec(task, 3, max_episode_steps=30)
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (80, *vector.action_space.shape)).astype(np.float32)
    for action in actions[:20]:
        vector.step(action)
    again = pickle.loads(pickle.dumps(vector))
    for action in actions[20:]:
        assert data_equivalence(again.step(action), vector.step(action), exact=True)
    vector.close()


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("vector_env", [PointMazeVectorEnv, AntMazeVectorEnv])
def test_the_number_of_threads_changes_nothing(vector_env, num_threads):
    one, other = vector_env(7, max_episode_steps=40), vector_env(7, max_episode_steps=40, num_threads=num_threads)
    np.testing.assert_array_equal(one.reset(seed=0)[0], other.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-1, 1, one.action_space.shape).astype(np.float32)
        assert data_equivalence(one.step(actions), other.step(actions), exact=True)


@pytest.mark.parametrize("task", ["sparse/PointMaze0-v0", "sparse/AntMaze0-v0"])
def test_a_vector_env_renders_what_its_single_environments_render(task):
    vector, singles = make_both(task, 2, AutoresetMode.NEXT_STEP, 100, render_mode="rgb_array")
    vector.reset(seed=0)
    singles.reset(seed=0)
    for _ in range(3):
        actions = np.ones(vector.action_space.shape, np.float32)
        vector.step(actions)
        singles.step(actions)
    frames = vector.render()
    assert len(frames) == 2 and (frames[0] != frames[1]).any()
    for ours, theirs in zip(frames, singles.render(), strict=True):
        assert ours.dtype == np.uint8 and ours.shape == (480, 480, 3)
        # A single environment's frame shows its bodies one MuJoCo step (0.01 s) before its observation, ours at it.
        assert (ours != theirs).any(axis=-1).mean() < 0.01
    vector.close()
    singles.close()
