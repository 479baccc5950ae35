"""PointMaze and AntMaze: the maps, the goal and the fall, starts and options, and twins that equal single environments."""

import pickle
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
from helpers.ant_planner import walk

import envs  # noqa: F401 (registers sparse/…)
from envs.mujoco.ant_maze import AntMaze, AntMazeVectorEnv
from envs.mujoco.maze_maps import MAZE_MAPS, parse_maze_map
from envs.mujoco.point_maze import PointMaze, PointMazeVectorEnv

MODES = list(AutoresetMode)
CORRIDOR = ["11111", "1r0g1", "11111"]
OWN_MAP = [[1] * 7, [1, "r", 0, 0, 1, "g", 1], [1, 1, 1, 0, 0, 0, 1], [1] * 7]
MANY_WALLS = ["1" * 30, "1r0g" + "0" * 25 + "1", "1" * 30]  # more than AntMaze tries one by one
TASKS = [f"sparse/{name}-v0" for name in MAZE_MAPS]


# --- a planner for the ball


def shortest_path(env):
    """Points (x, y) to visit, from the agent's cell to the goal: the centres of a shortest path's cells, then the goal."""
    maze = env.source.maze
    start = tuple(maze.cell_xy_to_rowcol(env.body.data.qpos[:2]))
    goal = tuple(maze.cell_xy_to_rowcol(env.source.goal))
    came_from, queue = {start: None}, deque([start])
    while goal not in came_from:
        row, column = cell = queue.popleft()
        for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if neighbour not in came_from and maze.maze_map[neighbour[0]][neighbour[1]] != 1:
                came_from[neighbour] = cell
                queue.append(neighbour)
    path, cell = [], goal
    while cell is not None:
        path.append(maze.cell_rowcol_to_xy(cell))
        cell = came_from[cell]
    return [*path[::-1], env.source.goal.copy()]


def towards(observation, target):
    """A spring and a damper, as forces in [-1, 1]."""
    return np.clip(4.0 * (target - observation[:2]) - 0.8 * observation[2:4], -1, 1).astype(np.float32)


def follow(env, observation, path):
    """Play one episode along ``path``; returns its rewards and the last step's (terminated, truncated, info)."""
    rewards, path = [], list(path)
    while True:
        if len(path) > 1 and np.linalg.norm(path[0] - observation[:2]) < 0.2:
            path.pop(0)
        observation, reward, terminated, truncated, info = env.step(towards(observation, path[0]))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, terminated, truncated, info


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


# --- maps


@pytest.mark.parametrize(
    ("maze_map", "message"),
    [
        (["1111", "10g1", "1111"], "at least one start"),
        (["1111", "1r01", "1111"], "at least one goal"),
        (["1111", "1c01", "1111"], "only start is the only goal: 'c' at row 1, column 1"),
        (["11111", "1r1g1", "11111"], r"goal 'g' at row 1, column 3 cannot be reached from the start 'r' at row 1, column 1"),
        (["1111", "1r11", "11g1", "1111"], "row 2, column 2 cannot be reached"),  # a corner is no door
        (["11111", "1rg1r", "11111"], "border .* row 1, column 4 is 'r'"),
        (["11111", "1r0g1", "11011"], "border .* row 2, column 2 is 0"),
        (["11111", "1r0g1", "1111"], "row 0 has 5 cells, row 2 has 4"),
        ([[1, 1, 1], [1, "r"], [1, 1, 1]], "row 0 has 3 cells, row 1 has 2"),
        (["11111", "1rxg1", "11111"], "Unknown cell 'x' at row 1, column 2"),
        ([[1, 1, 1, 1], [1, "r", 2, 1], [1, 1, 1, 1]], "Unknown cell 2 at row 1, column 2"),
        ([[1, 1, 1], [1, None, 1], [1, 1, 1]], "Unknown cell None at row 1, column 1"),
        ([], "non-empty list of rows"),
        (7, "non-empty list of rows"),
        ("PointMaze7", "Did you mean 'PointMaze"),
        ("", "Unknown maze_map ''"),
    ],
)
@pytest.mark.parametrize("maze", [PointMaze, AntMazeVectorEnv])
def test_a_malformed_map_is_refused_with_the_place(maze, maze_map, message):
    with pytest.raises(ValueError, match=message):
        maze(maze_map=maze_map)


def test_a_map_may_be_a_name_rows_of_characters_rows_of_cells_or_lines():
    expected = [[1, 1, 1, 1], [1, "r", 1, 1], [1, 0, "g", 1], [1, 1, 1, 1]]
    for maze_map in ("AntMaze0", MAZE_MAPS["AntMaze0"], expected, "1111\n1r11\n10g1\n1111", np.array(expected)):
        assert parse_maze_map(maze_map) == expected


@pytest.mark.parametrize("name", MAZE_MAPS)
def test_the_papers_maps_have_one_start_and_one_goal_that_it_reaches(name):
    rows = "".join(MAZE_MAPS[name])
    assert rows.count("r") == rows.count("g") == 1 and "c" not in rows
    parse_maze_map(name)


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


@pytest.mark.parametrize("kwargs", [{"num_envs": 0}, {"num_threads": 0}])
def test_a_vector_form_needs_a_copy_and_a_thread(kwargs):
    with pytest.raises(ValueError, match="must be at least 1"):
        AntMazeVectorEnv(**kwargs)


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
def test_an_ignored_goal_neither_pays_nor_ends_for_one_episode(maze):
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


# --- n copies equal n single environments


def assert_same_step(ours, theirs):
    for mine, reference in zip(ours[:4], theirs[:4], strict=True):
        np.testing.assert_array_equal(mine, reference)
    for key, values in theirs[4].items():
        if key == "final_obs":
            for mine, reference in zip(ours[4][key], values, strict=True):
                np.testing.assert_array_equal(mine, reference)
        elif key == "final_info":
            np.testing.assert_array_equal(ours[4][key]["is_success"], values["is_success"])
        else:
            np.testing.assert_array_equal(ours[4][key], values, err_msg=key)


def twins(task, num_envs, mode, max_episode_steps, **kwargs):
    vector = gym.make_vec(task, num_envs, max_episode_steps=max_episode_steps, autoreset_mode=mode, **kwargs)
    make = [lambda: gym.make(task, max_episode_steps=max_episode_steps, **kwargs)] * num_envs
    return vector, SyncVectorEnv(make, autoreset_mode=mode)


def compare(vector, singles, policy, steps, options=None):
    """Step both through ``steps`` steps with resets; returns how many episodes ended in success and in all."""
    seeds = [17 * i + 1 for i in range(vector.num_envs)]
    observations, _ = vector.reset(seed=seeds, options=options)
    np.testing.assert_array_equal(observations, singles.reset(seed=seeds, options=options)[0])
    successes = episodes = 0
    for step in range(steps):
        actions = policy(step, observations)
        ours, theirs = vector.step(actions), singles.step(actions)
        assert_same_step(ours, theirs)
        done = ours[2] | ours[3]
        successes, episodes = successes + (ours[1] == 1).sum(), episodes + done.sum()
        observations = ours[0]
        if vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED and done.any():
            observations, _ = vector.reset(options={"reset_mask": done.copy(), **(options or {})})
            reset, _ = singles.reset(options={"reset_mask": done.copy(), **(options or {})})
            np.testing.assert_array_equal(observations, reset)
    return successes, episodes


def half_guided(shape, towards_goal):
    """Random actions, held for 15 steps; every other copy is drawn towards the goal."""
    rng = np.random.default_rng(0)
    held = np.zeros(shape, np.float32)

    def policy(step, observations):
        if step % 15 == 0:
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
def test_point_maze_copies_equal_single_environments_over_1000_steps(maze_map, mode):
    vector, singles = twins("sparse/PointMaze0-v0", 6, mode, 150, maze_map=maze_map, random_start=maze_map is not CORRIDOR)
    successes, episodes = compare(vector, singles, half_guided((6, 2), pulled), 1000)
    assert successes >= 5 and episodes > successes


@pytest.mark.parametrize("mode", MODES)
def test_ant_maze_copies_equal_single_environments_over_1000_steps(mode):
    # The start lies 6 to 10 m from a goal 7.5 m wide: some episodes reach it, others end in a fall or at the time limit.
    vector, singles = twins("sparse/AntMaze0-v0", 3, mode, 120, maze_map=["11111111", "1r0g0001", "11111111"], goal_radius=7.5)
    successes, episodes = compare(vector, singles, half_guided((3, 8), lambda observation, noise: noise), 1000)
    assert successes >= 5 and episodes >= successes + 10


@pytest.mark.parametrize("task", ["sparse/PointMaze0-v0", "sparse/AntMaze3-v0"])
def test_options_reach_the_copies_they_are_for(task):
    vector, singles = twins(task, 4, AutoresetMode.DISABLED, 20, maze_map=OWN_MAP)
    policy = half_guided(vector.action_space.shape, lambda observation, noise: noise)
    options = {"random_start": True, "ignore_goal": True}
    compare(vector, singles, policy, 50, options)
    mask = np.array([True, False, True, False])
    for options in ({"reset_mask": mask}, {"reset_mask": ~mask, "goal_cell": (1, 3), "reset_cell": (1, 5)}):
        ours, theirs = vector.reset(options=dict(options)), singles.reset(options=dict(options))
        np.testing.assert_array_equal(ours[0], theirs[0])
    cell_of = PointMaze(OWN_MAP).source.maze.cell_xy_to_rowcol
    if task == "sparse/PointMaze0-v0":
        assert [cell_of(observation[:2]).tolist() for observation in ours[0][1::2]] == [[1, 5]] * 2


@pytest.mark.parametrize("task", TASKS)
def test_a_pickled_vector_env_goes_on_as_the_original(task):
    vector = gym.make_vec(task, 3, max_episode_steps=30)
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (80, *vector.action_space.shape)).astype(np.float32)
    for action in actions[:20]:
        vector.step(action)
    copy = pickle.loads(pickle.dumps(vector))
    for action in actions[20:]:
        assert_same_step(copy.step(action), vector.step(action))
    vector.close()


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("vector_env", [PointMazeVectorEnv, AntMazeVectorEnv])
def test_the_number_of_threads_changes_nothing(vector_env, num_threads):
    one, other = vector_env(7, max_episode_steps=40), vector_env(7, max_episode_steps=40, num_threads=num_threads)
    np.testing.assert_array_equal(one.reset(seed=0)[0], other.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-1, 1, one.action_space.shape).astype(np.float32)
        assert_same_step(one.step(actions), other.step(actions))


@pytest.mark.parametrize("task", ["sparse/PointMaze0-v0", "sparse/AntMaze0-v0"])
def test_a_vector_env_renders_what_its_single_environments_render(task):
    vector, singles = twins(task, 2, AutoresetMode.NEXT_STEP, 100, render_mode="rgb_array")
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
