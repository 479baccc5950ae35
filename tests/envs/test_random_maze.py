"""RandomMaze: that its mazes are solvable and as dense as asked, and that the vectorised form equals single environments."""

from collections import deque
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.vector_forms import play_both

import envs  # noqa: F401 (registers sparse/…)
from envs.grid import RandomMaze, RandomMazeVectorEnv
from envs.grid.maze_maker import MazeMaker
from envs.rendering import AGENT_COLOR, FLOOR_COLOR, GOAL_COLOR, WALL_COLOR

ID = "sparse/RandomMaze-v0"
MODES = list(AutoresetMode)
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # left, down, right, up as (column, row)
SHAPES = [(5, 5), (5, 9), (11, 11), (21, 7)]


def distances(walls, target):
    """Steps of a shortest path to ``target`` (column, row) from every free cell that has one: {(column, row): steps}."""
    distance, queue = {target: 0}, deque([target])
    while queue:
        column, row = queue.popleft()
        for dx, dy in MOVES:
            cell = column + dx, row + dy
            if not walls[cell[1], cell[0]] and cell not in distance:
                distance[cell] = distance[column, row] + 1
                queue.append(cell)
    return distance


def make_mazes(shape, density, n=30):
    """(walls, start, goal) of n mazes, cells as (column, row)."""
    maker = MazeMaker(shape, density)
    for seed in range(n):
        maze = maker.sample(np.random.default_rng(seed))
        start, goal = (divmod(cell, shape[1])[::-1] for cell in (maze.start, maze.goal))
        yield maze.walls.reshape(shape), start, goal


def guided(env, observation):
    """The move of a shortest path, from the observation alone."""
    place, goal = (tuple(int(x) for x in observation[i : i + 2]) for i in (0, 2))
    distance = distances(observation[4:].reshape(env.unwrapped.walls.shape).astype(bool), goal)
    beside = [(place[0] + dx, place[1] + dy) for dx, dy in MOVES]
    return next(move for move, cell in enumerate(beside) if distance.get(cell, np.inf) < distance[place])


# --- the mazes


@pytest.mark.parametrize("density", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_free_cell_is_connected_and_the_start_is_far_from_the_goal(shape, density):
    for walls, start, goal in make_mazes(shape, density):
        assert walls[[0, -1]].all() and walls[:, [0, -1]].all() and not walls[1::2, 1::2].any()
        distance = distances(walls, start)
        assert set(distance) == {(column, row) for row, column in np.argwhere(~walls).tolist()}
        rooms = sorted(distance[column, row] for row in range(1, shape[0], 2) for column in range(1, shape[1], 2))
        assert start != goal and distance[goal] >= rooms[len(rooms) // 2] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_density_1_is_a_perfect_maze_and_0_an_empty_hall(shape):
    for walls, _, _ in make_mazes(shape, 1.0):
        free = ~walls
        ways = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
        assert ways == free.sum() - 1  # connected without a circle: one path between any two cells
    for walls, _, _ in make_mazes(shape, 0.0):
        assert not walls[1:-1, 1:-1].any()


@pytest.mark.parametrize("density", [0.25, 0.5, 0.9])
def test_density_is_the_share_of_inner_walls_kept(density):
    rooms = 5 * 7
    in_a_perfect_maze = (5 * 6 + 4 * 7) - (rooms - 1)
    for walls, _, _ in make_mazes((11, 15), density):
        assert walls[1::2, 2:-1:2].sum() + walls[2:-1:2, 1::2].sum() == round(density * in_a_perfect_maze)
        posts = np.argwhere(np.ones((4, 6))) * 2 + 2
        for row, column in posts:
            assert walls[row, column] == any(walls[row + dy, column + dx] for dx, dy in MOVES)


def test_starts_goals_and_walls_are_anywhere():
    mazes = list(make_mazes((7, 7), 1.0, n=400))
    rooms = {(column, row) for row in (1, 3, 5) for column in (1, 3, 5)}
    assert {start for _, start, _ in mazes} == rooms and {goal for _, _, goal in mazes} >= rooms - {(3, 3)}
    open_share = 1 - np.mean([walls for walls, _, _ in mazes], axis=0)
    between_rooms = np.concatenate([open_share[1::2, 2:-1:2].ravel(), open_share[2:-1:2, 1::2].ravel()])
    assert between_rooms.sum() == pytest.approx(8) and between_rooms.min() > 0.3 and between_rooms.max() < 0.9


# --- which maze an episode has


def test_the_reset_seed_decides_the_maze_and_maze_seed_fixes_that_one():
    env = gym.make(ID)
    first, _ = env.reset(seed=5)
    again = [env.reset()[0] for _ in range(20)]
    assert len({observation.tobytes() for observation in [first, *again]}) == 21
    assert np.array_equal(env.reset(seed=5)[0], first)
    fixed = gym.make(ID, maze_seed=5)
    assert all(np.array_equal(fixed.reset(seed=seed)[0], first) for seed in (0, 1, None))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_mazes_to_learn_in_are_those_of_the_seeds_given(mode):
    expected = {gym.make(ID).reset(seed=seed)[0].tobytes() for seed in range(10, 15)}
    env = gym.make(ID, maze_seed=list(range(10, 15)))
    env.reset(seed=0)
    assert {env.reset()[0].tobytes() for _ in range(100)} == expected
    vector_env = gym.make_vec(ID, num_envs=8, maze_seed=range(10, 15), max_episode_steps=1, autoreset_mode=mode)
    vector_env.reset(seed=0)
    seen = set()
    for _ in range(40):
        observation, _, terminated, truncated, _ = vector_env.step(np.zeros(8, dtype=int))
        if mode is AutoresetMode.SAME_STEP or not (terminated | truncated).any():
            seen |= {row.tobytes() for row in observation}
    assert seen == expected


def test_the_spec_round_trips_with_its_mazes():
    env = gym.make(ID, size=[7, 9], density=0.5, maze_seed=[3, 4], observe_map=False)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(again.reset(seed=2), env.reset(seed=2), exact=True)


# --- an episode


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_a_shortest_path_read_from_the_observation_earns_1_at_its_last_step(seed, density):
    env = gym.make(ID, density=density)
    observation, info = env.reset(seed=seed)
    assert observation.dtype == np.float32 and info == {"is_success": False}
    walls = env.unwrapped.walls
    assert np.array_equal(observation[4:].reshape(walls.shape), walls)
    start, goal = (tuple(int(x) for x in observation[i : i + 2]) for i in (0, 2))
    n = distances(walls, start)[goal]
    for step in range(1, n + 1):
        observation, reward, terminated, truncated, info = env.step(guided(env, observation))
        assert (reward, terminated, truncated, info) == (float(step == n), step == n, False, {"is_success": step == n})
    assert tuple(observation[:2]) == goal == tuple(observation[2:4])


def test_the_horizon_leaves_time_for_every_default_maze():
    longest = max(distances(walls, start)[goal] for walls, start, goal in make_mazes((11, 11), 1.0, n=300))
    assert longest <= 48 < gym.spec(ID).max_episode_steps  # 25 rooms in a row are the longest way there can be


@pytest.mark.parametrize("observe_map", [True, False])
def test_the_graph_is_that_of_the_current_maze(observe_map):
    env = gym.make(ID, observe_map=observe_map, density=0.6).unwrapped
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        observations, next_states = env.transition_graph()
        assert observations.shape == (len(observations), 4 + 121 * observe_map) and observations.dtype == np.float32
        assert {tuple(cell) for cell in observations[:, :2]} == {(x, y) for y, x in np.argwhere(~env.walls).tolist()}
        assert (observations[:, 2:] == first[2:]).all()
        state = int(np.flatnonzero((observations == first).all(axis=1))[0])
        env.reset(seed=seed, options={"ignore_goal": True})
        for action in np.random.default_rng(seed).integers(4, size=300):
            state = next_states[state, action]
            assert np.array_equal(env.step(action)[0], observations[state])


def test_without_the_map_an_observation_says_where_one_is_and_where_the_goal_is():
    seen, unseen = (gym.make(ID, observe_map=shown).reset(seed=3)[0] for shown in (True, False))
    assert unseen.shape == (4,) and np.array_equal(seen[:4], unseen)


def test_frames():
    env = gym.make(ID, size=(7, 9), render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    frame, walls = env.render(), env.unwrapped.walls
    tile = frame.shape[0] // 7
    assert frame.shape == (7 * tile, 9 * tile, 3) and frame.dtype == np.uint8
    corners, centres = frame[::tile, ::tile], frame[tile // 2 :: tile, tile // 2 :: tile]
    assert np.array_equal((corners == WALL_COLOR).all(axis=2), walls)
    x, y, goal_x, goal_y = observation[:4].astype(int)
    assert (corners[y, x] == FLOOR_COLOR).all() and (centres[y, x] == AGENT_COLOR).all()
    assert (corners[goal_y, goal_x] == GOAL_COLOR).all()
    vector_env = gym.make_vec(ID, num_envs=2, size=(7, 9), render_mode="rgb_array")
    vector_env.reset(seed=[1, 1])
    assert all(np.array_equal(image, frame) for image in vector_env.render())


# --- where episodes start


def test_random_starts_are_uniform_over_free_cells_without_the_goal():
    env = gym.make(ID, maze_seed=0, random_start=True, size=7).unwrapped
    env.reset(seed=1)
    free = {(x, y) for y, x in np.argwhere(~env.walls).tolist()}
    goal = tuple(env.reset()[0][2:4])
    for options, cells in ((None, free - {goal}), ({"ignore_goal": True}, free)):
        starts = [tuple(env.reset(options=options)[0][:2]) for _ in range(4000)]
        counts = np.array([starts.count(cell) for cell in cells])
        expected = 4000 / len(cells)
        assert counts.sum() == 4000
        assert ((counts - expected) ** 2 / expected).sum() < len(cells) + 5 * np.sqrt(2 * len(cells))


def test_reset_options_last_for_one_episode():
    env = gym.make(ID, maze_seed=2).unwrapped
    start = env.reset(seed=0)[0]
    starts = {tuple(env.reset(options={"random_start": True})[0][:2]) for _ in range(50)}
    assert len(starts) > 20
    observation, _ = env.reset(options={"ignore_goal": True})
    assert np.array_equal(observation, start)
    while tuple(observation[:2]) != tuple(observation[2:4]):
        observation, reward, terminated, _, info = env.step(guided(env, observation))
        assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    assert np.array_equal(env.reset()[0], start)
    terminated = False
    observation = start
    while not terminated:
        observation, reward, terminated, _, _ = env.step(guided(env, observation))
    assert reward == 1


# --- the vectorised form


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"random_start": True, "density": 0.5},
        {"maze_seed": 3, "random_start": True},
        {"maze_seed": range(4), "observe_map": False},
    ],
    ids=str,
)
def test_the_vector_form_equals_single_environments(mode, kwargs):
    n = 4
    kwargs = {"size": (5, 7), "max_episode_steps": 25, **kwargs}
    vector_env = gym.make_vec(ID, num_envs=n, autoreset_mode=mode, **kwargs)
    assert isinstance(vector_env.unwrapped, RandomMazeVectorEnv)
    singles = SyncVectorEnv([partial(gym.make, ID, disable_env_checker=True, **kwargs)] * n, autoreset_mode=mode)
    assert vector_env.observation_space == singles.observation_space
    assert vector_env.action_space == singles.action_space
    rng, ends = np.random.default_rng(0), np.zeros(2, dtype=int)
    for seed, options in ((20, None), ([3, None, 4, 1], {"ignore_goal": True}), (None, {"random_start": True})):
        for _, _, terminated, truncated, _ in play_both(
            vector_env, singles, lambda _: rng.integers(4, size=n), 150, seed, options
        ):
            ends += [terminated.sum(), truncated.sum()]
    assert ends.min() >= 5  # both ways to end an episode were seen


def test_environments_share_a_graph_only_in_one_maze():
    shared = gym.make_vec(ID, num_envs=3, maze_seed=7).unwrapped.transition_graph()
    assert data_equivalence(shared, gym.make(ID, maze_seed=7).unwrapped.transition_graph(), exact=True)
    for maze_seed in (None, [7, 8]):
        with pytest.raises(ValueError, match=r"The 3 environments have mazes of their own.*Give maze_seed an integer"):
            gym.make_vec(ID, num_envs=3, maze_seed=maze_seed).unwrapped.transition_graph()


# --- wrong use


@pytest.mark.parametrize("make", [RandomMaze, partial(RandomMazeVectorEnv, 2)], ids=["single", "vector"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 10}, "size must be an odd number of at least 5.*got 10"),
        ({"size": 3}, "size must be an odd number of at least 5.*got 3"),
        ({"size": (11, 8)}, r"or two, \(rows, columns\).*got \(11, 8\)"),
        ({"size": (11,)}, r"got \(11,\)"),
        ({"size": "large"}, "got 'large'"),
        ({"density": 1.5}, r"density.*in \[0, 1\]; got 1.5"),
        ({"density": float("nan")}, "got nan"),
        ({"density": "half"}, "got 'half'"),
        ({"maze_seed": -1}, "maze_seed must be an integer of at least 0, several of them, or None; got -1"),
        ({"maze_seed": []}, r"got \[\]"),
        ({"maze_seed": [0.5]}, r"got \[0.5\]"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_wrong_arguments_raise(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("action", [4, -1, 1.5, "left", None, np.array([1])], ids=repr)
def test_wrong_actions_raise(action):
    env = RandomMaze()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Invalid action .*0 \(left\), 1 \(down\), 2 \(right\) or 3 \(up\)"):
        env.step(action)


@pytest.mark.parametrize("actions", [[0, 4, 1], [0, 0, -1], [0, 1], [[0], [1], [2]], [0.0, 1.0, 2.0]], ids=str)
def test_wrong_actions_of_a_vector_form_raise(actions):
    env = RandomMazeVectorEnv(3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Invalid action .* of environment|of shape \(3,\), got shape"):
        env.step(np.array(actions))


def test_before_the_first_reset_there_is_no_maze_to_ask_for():
    with pytest.raises(RuntimeError, match=r"no maze before the first reset: call reset\(\), or give maze_seed"):
        RandomMaze().transition_graph()
