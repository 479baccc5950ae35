"""The grid mazes: their rules, and that the vectorised form equals single environments."""

import pickle
import re
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.grid_guide import Guide, distances_to_goal
from helpers.vector_forms import play_both
from stable_baselines3.common import env_util
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs
from envs.grid import GridMaze, GridMazeVectorEnv

IDS = [f"sparse/{name}-v0" for name in envs.GRID_LAYOUTS]
# (column, row) of start and goal, and the length of a shortest path.
TASKS = {
    "sparse/FourRooms0-v0": ((3, 9), (9, 3), 14),
    "sparse/FourRooms1-v0": ((7, 9), (11, 1), 12),
    "sparse/Maze0-v0": ((5, 9), (7, 3), 20),
    "sparse/Maze1-v0": ((9, 5), (1, 9), 20),
    "sparse/Maze2-v0": ((3, 5), (1, 5), 42),
    "sparse/GridLadder1-v0": ((1, 1), (11, 9), 20),
    "sparse/GridLadder2-v0": ((1, 1), (5, 7), 30),
    "sparse/GridLadder3-v0": ((1, 1), (11, 11), 34),
    "sparse/GridLadder4-v0": ((1, 1), (11, 11), 36),
    "sparse/GridLadder5-v0": ((1, 1), (11, 11), 40),
    "sparse/GridLadder6-v0": ((1, 1), (7, 10), 43),
}
HORIZONS = {"FourRooms": 100, "Maze": 200, "GridLadder": 200}
ROOM = ["######", "#S   #", "#   G#", "######"]  # 4 rows, 6 columns
MODES = list(AutoresetMode)


def horizon(env_id):
    return HORIZONS[re.fullmatch(r"sparse/([A-Za-z]+)\d+-v\d+", env_id)[1]]


@pytest.fixture(params=IDS)
def env_id(request):
    return request.param


def test_the_registered_ids_are_those_of_the_table():
    assert set(TASKS) == set(IDS)


def test_checkers_of_gymnasium_and_sb3_pass_without_warnings(env_id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_gymnasium(gym.make(env_id, render_mode="rgb_array").unwrapped)
        check_sb3(gym.make(env_id, render_mode="rgb_array"))
        check_sb3(gym.make(env_id, random_start=True))
    unexpected = [str(warning.message) for warning in caught]
    assert unexpected == []


@pytest.mark.parametrize("random_start", [False, True])
def test_two_rollouts_under_one_seed_are_equal(env_id, random_start):
    def rollout():
        env = gym.make(env_id, random_start=random_start)
        rng = np.random.default_rng(7)
        record = [env.reset(seed=3)]
        for _ in range(250):
            record.append(env.step(int(rng.integers(4))))
            if record[-1][2] or record[-1][3]:
                record.append(env.reset())
        return record

    assert data_equivalence(rollout(), rollout(), exact=True)


def test_frames(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    walls = env.unwrapped.layout.walls
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert first.shape[0] * walls.shape[1] == first.shape[1] * walls.shape[0]
    for action in range(4):
        moved = tuple(env.step(action)[0][:2]) != TASKS[env_id][0]
        assert np.array_equal(env.render(), first) is not moved  # one frame for each position
        env.reset()
    vector_env = gym.make_vec(env_id, num_envs=2, render_mode="rgb_array")
    vector_env.reset(seed=0)
    assert all(np.array_equal(frame, first) for frame in vector_env.render())


def test_start_and_goal(env_id):
    start, goal, _ = TASKS[env_id]
    observation, info = gym.make(env_id).reset(seed=0)
    assert observation.tolist() == [*start, *goal] and observation.dtype == np.float32
    assert info["is_success"] is False


def test_the_shortest_path_earns_1_at_its_last_step_and_ends_the_episode(env_id):
    env = gym.make(env_id)
    guide = Guide(env)
    observation, _ = env.reset(seed=0)
    assert guide.steps_left(observation) == TASKS[env_id][2]
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(guide.action(observation)))
        observation = steps[-1][0]
    _, rewards, terminated, truncated, infos = zip(*steps, strict=True)
    n = len(steps)
    assert n == TASKS[env_id][2]
    assert rewards == (0.0,) * (n - 1) + (1.0,) and all(type(reward) is float for reward in rewards)
    assert terminated == (False,) * (n - 1) + (True,) and not any(truncated)
    assert [info["is_success"] for info in infos] == list(terminated)
    assert tuple(observation[:2]) == TASKS[env_id][1]


def test_the_time_limit_truncates(env_id):
    env = gym.make(env_id)
    walls = env.unwrapped.layout.walls
    column, row = TASKS[env_id][0]
    into_a_wall = next(
        (a for a, (dx, dy) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]) if walls[row + dy, column + dx]), None
    )
    env.reset(seed=0)
    flags = []
    while not flags or not any(flags[-1]):
        # A start with no wall beside it (FourRooms0): back and forth.
        action = 2 * (len(flags) % 2) if into_a_wall is None else into_a_wall
        _, reward, terminated, truncated, info = env.step(action)
        flags.append((terminated, truncated))
        assert reward == 0 and info["is_success"] is False
    assert len(flags) == horizon(env_id) and flags[-1] == (False, True)


def test_moves_are_left_down_right_up_and_walls_hold(env_id):
    env = gym.make(env_id).unwrapped
    observations, next_states = env.transition_graph()
    for state, (x, y) in enumerate(observations[:, :2].astype(int)):
        for action, (dx, dy) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            column, row = x + dx, y + dy
            expected = (x, y) if env.layout.walls[row, column] else (column, row)
            assert tuple(observations[next_states[state, action], :2]) == tuple(expected)


def test_the_graph_is_a_copy_and_has_every_free_cell_once(env_id):
    env = gym.make(env_id).unwrapped
    observations, next_states = env.transition_graph()
    cells = {(column, row) for row, column in np.argwhere(~env.layout.walls).tolist()}
    assert {tuple(cell) for cell in observations[:, :2].astype(int).tolist()} == cells and len(cells) == len(observations)
    assert (distances_to_goal(observations, next_states) >= 0).all()
    observations += 1
    next_states += 1
    assert not np.array_equal(env.transition_graph()[0], observations)
    assert not np.array_equal(env.transition_graph()[1], next_states)


def test_the_spec_round_trips(env_id):
    env = gym.make(env_id, layout=ROOM, random_start=True)
    for spec in (env.spec, EnvSpec.from_json(env.spec.to_json())):
        again = gym.make(spec)
        assert again.unwrapped.random_start and again.spec.max_episode_steps == horizon(env_id)
        assert data_equivalence(again.reset(seed=5), env.reset(seed=5), exact=True)
        assert again.spec == env.spec


def test_pickling_keeps_the_state_and_the_generator(env_id):
    env = gym.make(env_id, random_start=True)
    env.reset(seed=11)
    env.step(0)
    again = pickle.loads(pickle.dumps(env))
    for action in (0, 1, 2, 3):
        assert data_equivalence(env.step(action), again.step(action), exact=True)
    assert data_equivalence(env.reset(), again.reset(), exact=True)

    vector_env = gym.make_vec(env_id, num_envs=3, random_start=True)
    vector_env.reset(seed=11)
    vector_env.step(np.array([0, 1, 2]))
    again = pickle.loads(pickle.dumps(vector_env))
    assert data_equivalence(vector_env.step(np.array([3, 2, 1])), again.step(np.array([3, 2, 1])), exact=True)
    assert data_equivalence(vector_env.reset(), again.reset(), exact=True)


# --- the vectorised form


def rollout_both(vector_env, singles, guide, n_episodes, seed=20):
    """Step both until every environment ended ``n_episodes``; all they return must be equal. Return the number of successes.

    The first environment wanders into the time limit, the others find the goal now and then.
    """
    rng = np.random.default_rng(0)
    n, mode = singles.num_envs, singles.metadata["autoreset_mode"]
    ended, successes = np.zeros(n, dtype=int), 0

    def policy(observations):
        guided = (rng.random(n) < 0.8) & (np.arange(n) > 0)
        return np.where(guided, [guide.action(observation) for observation in observations], rng.integers(4, size=n))

    for _, rewards, terminated, truncated, info in play_both(vector_env, singles, policy, 10_000, seed):
        done = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and done.any():
            assert (info["final_info"]["is_success"] == terminated).all()
        elif not done.any():
            assert (info["is_success"] == terminated).all()
        ended += done
        successes += int(rewards.sum())
        if ended.min() >= n_episodes:
            return successes
    raise AssertionError("the episodes do not end")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("random_start", [False, True])
def test_the_vector_form_equals_single_environments(env_id, mode, random_start):
    n = 3
    kwargs = {"random_start": random_start}
    vector_env = gym.make_vec(env_id, num_envs=n, autoreset_mode=mode, **kwargs)
    assert isinstance(vector_env.unwrapped, GridMazeVectorEnv)
    make_one = partial(gym.make, env_id, disable_env_checker=True, **kwargs)
    singles = SyncVectorEnv([make_one] * n, autoreset_mode=mode)
    assert vector_env.observation_space == singles.observation_space
    assert vector_env.action_space == singles.action_space
    assert vector_env.single_observation_space == singles.single_observation_space
    assert rollout_both(vector_env, singles, Guide(make_one()), n_episodes=3) >= 3


@pytest.mark.parametrize("mode", MODES)
def test_environments_take_seeds_and_options_each_like_a_single_one(mode):
    n, steps = 4, 9
    vector_env = GridMazeVectorEnv(n, ROOM, random_start=True, max_episode_steps=steps, autoreset_mode=mode)
    make_one = partial(gym.make, "sparse/Maze2-v0", layout=ROOM, random_start=True, max_episode_steps=steps)
    singles = SyncVectorEnv([make_one] * n, autoreset_mode=mode)
    rng = np.random.default_rng(1)
    for seed, options in (([3, 1, 4, 1], None), (7, {"ignore_goal": True}), ([5, None, None, 9], {"random_start": True})):
        results = vector_env.reset(seed=seed, options=options), singles.reset(seed=seed, options=options)
        assert data_equivalence(*results, exact=True)
        for _ in range(steps - 1):
            actions = rng.integers(4, size=n)
            results = vector_env.step(actions), singles.step(actions)
            assert data_equivalence(*results, exact=True)
            if mode is AutoresetMode.DISABLED and (results[0][2] | results[0][3]).any():
                break
    with pytest.raises(ValueError, match="one seed for each of the 4 environments, got 2"):
        vector_env.reset(seed=[1, 2])


def test_reset_mask_resets_those_environments_only():
    vector_env = gym.make_vec("sparse/Maze1-v0", num_envs=3, max_episode_steps=4, autoreset_mode=AutoresetMode.DISABLED)
    start, _ = vector_env.reset(seed=0)
    for _ in range(2):
        moved = vector_env.step(np.full(3, 3))[0]
    observation, info = vector_env.reset(options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(observation, np.where([[False], [True], [False]], start, moved))
    assert info["_is_success"].tolist() == [False, True, False]
    vector_env.step(np.zeros(3, dtype=int))
    truncated = vector_env.step(np.zeros(3, dtype=int))[3]
    assert truncated.tolist() == [True, False, True]  # the environment that was reset alone has its own clock
    with pytest.raises(RuntimeError, match=r"Environments \[0, 2\] are done"):
        vector_env.step(np.zeros(3, dtype=int))
    for mask in ([True, False, True], np.array([1, 0, 1]), np.array([True, False])):
        with pytest.raises(ValueError, match=r"reset_mask.*shape \(3,\)"):
            vector_env.reset(options={"reset_mask": mask})


# --- where episodes start


def assert_uniform(starts, cells):
    """Pearson's chi-squared statistic within five standard deviations of its mean; nothing but ``cells`` sampled."""
    counts = dict.fromkeys(cells, 0)
    for cell in map(tuple, starts.astype(int).tolist()):
        counts[cell] += 1
    expected, freedom = len(starts) / len(cells), len(cells) - 1
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def free_cells(env):
    return [(column, row) for row, column in np.argwhere(~env.unwrapped.layout.walls).tolist()]


def test_random_start_is_uniform_over_free_cells_without_the_goal(env_id):
    env = gym.make(env_id, random_start=True, disable_env_checker=True).unwrapped
    env.reset(seed=1)
    starts = np.stack([env.reset()[0][:2] for _ in range(4000)])
    goal = TASKS[env_id][1]
    assert_uniform(starts, [cell for cell in free_cells(env) if cell != goal])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_random_start_holds_under_autoreset(env_id, mode):
    # One step an episode: every step (every other in NEXT_STEP mode) shows a start.
    vector_env = gym.make_vec(env_id, num_envs=50, random_start=True, max_episode_steps=1, autoreset_mode=mode)
    vector_env.reset(seed=1)
    starts = []
    while len(starts) < 100:
        observation, _, terminated, truncated, _ = vector_env.step(np.zeros(50, dtype=int))
        if mode is AutoresetMode.SAME_STEP or not (terminated | truncated).any():
            starts.append(observation[:, :2])
    goal = TASKS[env_id][1]
    assert_uniform(np.concatenate(starts), [cell for cell in free_cells(vector_env) if cell != goal])


def test_reset_options_last_for_one_episode(env_id):
    env = gym.make(env_id)
    guide, (start, goal, _) = Guide(env), TASKS[env_id]
    env.reset(seed=2)
    starts = np.stack([env.reset(options={"random_start": True, "ignore_goal": True})[0][:2] for _ in range(4000)])
    assert_uniform(starts, free_cells(env))  # the goal is a cell like others when it does not count

    observation, _ = env.reset(options={"ignore_goal": True})
    assert tuple(observation[:2]) == start
    while tuple(observation[:2]) != goal:
        observation, reward, terminated, truncated, info = env.step(guide.action(observation))
        assert (reward, terminated, truncated, info["is_success"]) == (0.0, False, False, False)
    observation, reward, terminated, _, _ = env.step(guide.action(observation))  # and one may walk on
    assert reward == 0 and not terminated

    observation, _ = env.reset()
    assert tuple(observation[:2]) == start
    while not terminated:
        observation, reward, terminated, _, info = env.step(guide.action(observation))
    assert reward == 1 and info["is_success"] is True


# --- wrong use


@pytest.mark.parametrize("action", [4, -1, 1.5, "left", None, np.array([1])], ids=repr)
def test_wrong_actions_raise(action):
    env = GridMaze()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Invalid action .*0 \(left\), 1 \(down\), 2 \(right\) or 3 \(up\)"):
        env.step(action)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 4, 1], "Invalid action 4 of environment 1"),
        ([0, 0, -1], "Invalid action -1 of environment 2"),
        ([0, 1], r"shape \(3,\), got shape \(2,\)"),
        ([[0], [1], [2]], r"shape \(3,\), got shape \(3, 1\)"),
        ([0.0, 1.0, 2.0], "got shape .* of float64"),
    ],
)
def test_wrong_actions_of_a_vector_form_raise(actions, message):
    vector_env = GridMazeVectorEnv(3)
    vector_env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        vector_env.step(np.array(actions))


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        GridMaze(render_mode="human")
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        GridMazeVectorEnv(0)


# --- processes


def test_subprocesses_give_the_trajectories_of_this_process():
    # The module goes with the id, because a worker starts without our imports.
    env_id, actions = "envs:sparse/FourRooms1-v0", np.random.default_rng(0).integers(4, size=(120, 2))
    record = []
    for vec_env_cls in (None, SubprocVecEnv):
        env = env_util.make_vec_env(env_id, n_envs=2, seed=4, vec_env_cls=vec_env_cls, env_kwargs={"random_start": True})
        record.append([env.reset()])
        for action in actions:
            observations, rewards, dones, infos = env.step(action)
            record[-1] += [observations, rewards, dones, np.array([info["is_success"] for info in infos])]
        env.close()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(*record, strict=True))
