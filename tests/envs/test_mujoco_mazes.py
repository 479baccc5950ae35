"""PointMaze and AntMaze: the source's physics, the goal and the fall, starts and options."""

import tempfile
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
from helpers.ant_planner import walk
from helpers.ball_planner import follow, shortest_path, towards

import envs  # noqa: F401 (registers sparse/…)
from envs.mujoco.ant_maze import AntMaze, AntMazeVectorEnv
from envs.mujoco.maze_maps import MAZE_MAPS, parse_maze_map
from envs.mujoco.point_maze import PointMaze

CORRIDOR = ["11111", "1r0g1", "11111"]
OWN_MAP = [[1] * 7, [1, "r", 0, 0, 1, "g", 1], [1, 1, 1, 0, 0, 0, 1], [1] * 7]
MANY_WALLS = ["1" * 30, "1r0g" + "0" * 25 + "1", "1" * 30]  # more than AntMaze tries one by one
TASKS = [f"sparse/{name}-v0" for name in MAZE_MAPS]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("maze_map", ["PointMaze0", "PointMaze1", OWN_MAP], ids=["0", "1", "own"])
def test_the_planned_path_through_a_point_maze_returns_1(maze_map, seed):
    env = gym.make("sparse/PointMaze1-v0", maze_map=maze_map)
    observation, info = env.reset(seed=seed)
    assert info == {"is_success": False}
    rewards, terminated, truncated, info = follow(env, observation, shortest_path(env.unwrapped))
    assert terminated and not truncated and info == {"is_success": True}
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


ANT_TASKS = [task for task in TASKS if "Ant" in task]


@pytest.mark.slow
@pytest.mark.parametrize("task", ANT_TASKS)
def test_the_ant_can_be_walked_to_the_goal(task):
    env = gym.make(task)
    env.reset(seed=0)
    assert walk(env, shortest_path(env.unwrapped)[1:]) == (1.0, {"is_success": True})


# --- wrong use


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"position_noise_range": 0.5}, "position_noise_range .* below 0.5 .* got 0.5"),
        ({"position_noise_range": -0.1}, "position_noise_range"),
        ({"goal_radius": 0.0}, "goal_radius must be positive"),
        ({"goal_radius": 50.0}, "goal_radius 50.0 .* within reach"),
        ({"render_mode": "ansi"}, "render_mode .* got 'ansi'"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    for maze in (PointMaze, AntMazeVectorEnv):
        with pytest.raises(ValueError, match=message):
            maze(**kwargs)


@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((8, 1)), 0.0, [np.nan] * 8, [np.inf, 0.0]])
def test_wrong_actions_raise(maze, action):
    env = maze()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected finite numbers of shape"):
        env.step(action)


def test_building_mazes_leaves_no_files_and_threads_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    maps = [CORRIDOR, OWN_MAP] * 4
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(PointMaze, maps))
    AntMazeVectorEnv(3)
    assert not list(tmp_path.iterdir())
    for env, maze_map in zip(built, maps, strict=True):
        walls = sum(cell in (1, "1") for row in maze_map for cell in row)
        assert env.body.model.ngeom == 2 + walls  # the ground and the ball


# --- the source's physics, goal and noise


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Makes the source's own environments, which leave a file each."""

    def make(source_class, maze_map):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return source_class(maze_map=parse_maze_map(maze_map), continuing_task=False)

    return make


def flat(observation):
    return np.concatenate([observation[key] for key in ("observation", "achieved_goal", "desired_goal")])


@pytest.mark.parametrize("maze_map", ["AntMaze0", "AntMaze1", MANY_WALLS], ids=["0", "1", "many walls"])
def test_an_ant_maze_is_the_sources_bit_for_bit_until_the_ant_falls(source, maze_map):
    env, reference = AntMaze(maze_map), source(AntMazeEnv, maze_map)
    rng = np.random.default_rng(0)
    for seed in (3, None, None):
        observation, _ = env.reset(seed=seed)
        assert observation.dtype == np.float64 and observation.shape == (109,)
        np.testing.assert_array_equal(observation, flat(reference.reset(seed=seed)[0]))
        for step in range(300):
            if step % 10 == 0:
                action = rng.uniform(-1, 1, 8).astype(np.float32)
            observation, reward, terminated, _, info = env.step(action)
            expected, expected_reward, at_goal, _, expected_info = reference.step(action)
            fallen = not 0.35 < observation[0] < 1.0
            np.testing.assert_array_equal(observation, flat(expected))
            assert (reward, terminated) == (expected_reward - fallen, at_goal or fallen)
            assert info["is_success"] == expected_info["success"]
            if terminated:
                break


@pytest.mark.parametrize("maze_map", ["PointMaze0", "PointMaze1"])
def test_a_point_maze_is_the_sources_up_to_round_off(source, maze_map):
    env, reference = PointMaze(maze_map), source(PointMazeEnv, maze_map)
    for seed in (3, None, None):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(observation, flat(reference.reset(seed=seed)[0]))
        path, terminated = shortest_path(env), False
        while not terminated:
            if len(path) > 1 and np.linalg.norm(path[0] - observation[:2]) < 0.2:
                path.pop(0)
            action = towards(observation, path[0])
            observation, reward, terminated, _, info = env.step(action)
            expected, expected_reward, at_goal, _, expected_info = reference.step(action)
            np.testing.assert_allclose(observation, flat(expected), rtol=0, atol=1e-8)
            assert (reward, terminated, info["is_success"]) == (expected_reward, at_goal, expected_info["success"])


@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
def test_starts_and_goals_lie_within_the_noise_around_their_cells(maze):
    env = maze(CORRIDOR, position_noise_range=0.1)
    size = env.source.maze.maze_size_scaling
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert np.abs(observation[-4:-2] - [-size, 0]).max() <= 0.1 * size
        assert np.abs(observation[-2:] - [size, 0]).max() <= 0.1 * size
    np.testing.assert_array_equal(observation[list(maze.position_indices)], observation[-4:-2])


@pytest.mark.parametrize(("distance", "success"), [(0.40, True), (0.50, False)])
@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
def test_the_goal_is_reached_within_its_radius(maze, distance, success):
    env = maze(CORRIDOR)
    env.reset(seed=0)
    put(env, env.source.goal - [distance, 0.0])
    observation, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert (reward, terminated, truncated, info) == (float(success), success, False, {"is_success": success})
    assert np.linalg.norm(observation[-4:-2] - observation[-2:]) == pytest.approx(distance, abs=0.02)


def put(env, position, height=None):
    qpos = env.body.data.qpos.copy()
    qpos[:2] = position
    if height is not None:
        qpos[2] = height
    env.body.set_state(qpos, np.zeros_like(env.body.data.qvel))


def test_a_wider_goal_is_reached_earlier():
    lengths = []
    for radius in (0.45, 0.8):
        env = gym.make("sparse/PointMaze0-v0", goal_radius=radius)
        observation, _ = env.reset(seed=1)
        rewards, *_ = follow(env, observation, shortest_path(env.unwrapped))
        assert sum(rewards) == 1
        lengths.append(len(rewards))
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize(
    ("height", "at_goal", "reward", "terminated"),
    [(0.55, False, 0, False), (0.3, False, -1, True), (1.1, False, -1, True), (0.55, True, 1, True), (1.1, True, 0, True)],
)
def test_a_torso_outside_its_heights_is_a_fall(height, at_goal, reward, terminated):
    env = AntMaze(CORRIDOR)
    env.reset(seed=0)
    put(env, env.source.goal if at_goal else [0.0, 0.0], height)
    observation, *outcome, info = env.step(np.zeros(8, np.float32))
    assert (0.35 < observation[0] < 1.0) == (height == 0.55)
    assert outcome == [reward, terminated, False] and info == {"is_success": at_goal}


# --- options


@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
def test_random_starts_are_uniform_over_the_free_cells_and_off_the_goal(maze):
    env = maze("PointMaze0", random_start=True)
    cell_of, map_ = env.source.maze.cell_xy_to_rowcol, env.source.maze.maze_map
    free = {(row, column) for row in range(5) for column in range(6) if map_[row][column] != 1}

    def starts(options, n=900):
        counts = dict.fromkeys(free, 0)
        for _ in range(n):
            goal, start = env.sample_episode(env.np_random, options)
            counts[tuple(cell_of(start).tolist())] += 1
            assert options or np.linalg.norm(goal - start) > env.goal_radius
        return counts

    env.reset(seed=0)
    off_goal = starts({})
    assert off_goal.pop((1, 3)) == 0
    anywhere = starts({"ignore_goal": True})
    for counts in (off_goal, anywhere):
        expected = 900 / len(counts)
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 30  # 8 or 9 degrees of freedom: beyond it once in a thousand runs, and the seed is fixed


@pytest.mark.parametrize("goal_radius", [0.45, 0.9])
def test_a_random_start_never_lies_within_the_goal(goal_radius):
    env = PointMaze("PointMaze1", random_start=True, goal_radius=goal_radius)
    for seed in range(300):
        observation, _ = env.reset(seed=seed)
        assert np.linalg.norm(observation[:2] - observation[-2:]) > goal_radius


@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
def test_an_ignored_goal_neither_gives_a_reward_nor_ends_for_one_episode(maze):
    env = maze(CORRIDOR)
    zero = np.zeros(env.action_space.shape, np.float32)
    for options, success in (({"random_start": True, "ignore_goal": True}, False), (None, True)):
        env.reset(seed=0, options=options)
        put(env, env.source.goal)
        assert env.step(zero)[1:] == (float(success), success, False, {"is_success": success})


@pytest.mark.parametrize("maze", [PointMaze, AntMaze])
def test_the_sources_own_options_choose_cells(maze):
    env = maze(OWN_MAP)
    observation, _ = env.reset(seed=0, options={"goal_cell": (2, 5), "reset_cell": np.array([1, 3])})
    cell_of = env.source.maze.cell_xy_to_rowcol
    assert cell_of(observation[-2:]).tolist() == [2, 5] and cell_of(observation[-4:-2]).tolist() == [1, 3]
    for options, message in (
        ({"goal_cell": (0, 0)}, "row 0, column 0 is wall"),
        ({"reset_cell": (1, -1)}, "row 1, column -1 is wall or off the map"),
        ({"reset_cell": 3}, "must be a cell"),
        ({"goal_cell": (1, 1)}, "the only start"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
