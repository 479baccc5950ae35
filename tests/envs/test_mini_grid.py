"""MiniGrid's tasks: the source's own episodes, seen by an MLP or a CNN, a reward of 0/1, and every kind of task solved."""

import doctest
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator
from helpers.mini_grid_planner import DONE, FORWARD, LEFT, solve
from minigrid.core.constants import COLOR_NAMES
from minigrid.wrappers import OneHotPartialObsWrapper, RGBImgPartialObsWrapper

import envs.mini_grid
from envs.catalogue import MINIGRID_HORIZONS
from envs.mini_grid import FlatView, MiniGridTask, PixelView

# In these MiniGrid puts a ball onto the box with the key in 2 to 9 % of the episodes (corrected in -v1), which then have no
# solution; the planner gives up one in 70 of the largest maze's, -v1's too.
SOMETIMES_UNSOLVABLE = {f"MiniGrid-ObstructedMaze-{name}-v0" for name in ("1Q", "2Dlhb", "2Q", "Full")}
# What the mission says, beyond what it always says: dimensions of its one-hot blocks.
MISSION_SIZES = {
    "BlockedUnlockPickup": 6 + 2,
    "Fetch": 5 + 6 + 2,
    "GoToDoor": 6,
    "GoToObject": 6 + 3,
    "KeyCorridor": 6,
    "LockedRoom": 6 + 6 + 6,
    "PutNear": 6 + 3 + 6 + 3,
    "UnlockPickup": 6,
}


def source(name):
    """MiniGrid's environment, without gym.make's wrappers."""
    spec = gym.spec(name)
    return load_env_creator(spec.entry_point)(**spec.kwargs)


class Recorder(gym.Wrapper):
    """Keeps what was done and seen in this episode."""

    def reset(self, **kwargs):
        self.actions, self.steps = [], []
        return super().reset(**kwargs)

    def step(self, action):
        result = super().step(action)
        self.actions.append(action)
        self.steps.append(result)
        return result


@pytest.mark.parametrize("name", MINIGRID_HORIZONS)
def test_a_planner_solves_it_and_the_source_agrees(name):
    """Return 1 and success at the last step only; the same actions give the same reward and end in MiniGrid."""
    env = Recorder(gym.make(f"sparse/{name}"))
    timed, original = gym.make(f"sparse/{name}", reward="time"), source(name)
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        solve(env)
        rewards = [step[1] for step in env.steps]
        assert env.steps[-1][2] and sum(rewards) == rewards[-1] == 1.0
        assert [step[4]["is_success"] for step in env.steps] == [False] * (len(rewards) - 1) + [True]

        np.testing.assert_array_equal(timed.reset(seed=seed)[0], first)
        original.reset(seed=seed)
        for action, (observation, _, terminated, _, info) in zip(env.actions, env.steps, strict=True):
            _, expected, ended, out_of_time, _ = original.step(action)
            timed_observation, timed_reward, timed_end, timed_out, timed_info = timed.step(action)
            np.testing.assert_array_equal(timed_observation, observation)
            assert (timed_reward, timed_end, timed_out) == (expected, ended, out_of_time)
            assert (terminated, info["is_success"], timed_info["is_success"]) == (ended, expected > 0, expected > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MINIGRID_HORIZONS) - SOMETIMES_UNSOLVABLE - {"MiniGrid-ObstructedMaze-Full-v1"}))
def test_a_planner_solves_every_episode(name):
    env = gym.make(f"sparse/{name}")
    for seed in range(100):
        env.reset(seed=seed)
        assert solve(env)[1] == 1.0, seed


@pytest.mark.parametrize("name", MINIGRID_HORIZONS)
def test_the_views_are_the_sources_own(name):
    """In random play: flat = OneHotPartialObsWrapper + direction + mission, rgb = RGBImgPartialObsWrapper, also in batches."""
    flat, rgb, original = gym.make(f"sparse/{name}"), gym.make(f"sparse/{name}", obs="rgb"), source(name)
    one_hot, pixels = OneHotPartialObsWrapper(original), RGBImgPartialObsWrapper(original, tile_size=8)
    mission_size = next((size for kind, size in MISSION_SIZES.items() if name.startswith(f"MiniGrid-{kind}")), 0)
    assert flat.observation_space.shape == (980 + 4 + mission_size,)
    rng, raw, vectors, pictures = np.random.default_rng(0), [], [], []
    for seed in range(3):
        vector, picture, view = flat.reset(seed=seed)[0], rgb.reset(seed=seed)[0], original.reset(seed=seed)[0]
        for _ in range(15):
            np.testing.assert_array_equal(vector[:980], one_hot.observation(view)["image"].ravel())
            np.testing.assert_array_equal(vector[980:984], np.eye(4)[view["direction"]])
            np.testing.assert_array_equal(picture, pixels.observation(view)["image"])
            for record, value in ((raw, view), (vectors, vector), (pictures, picture)):
                record.append(value)
            action = int(rng.choice(original.action_space.n))
            (vector, *_), (picture, *_), (view, _, ended, *_) = flat.step(action), rgb.step(action), original.step(action)
            if ended:
                break
    columns = np.stack([view["image"] for view in raw]), *([view[key] for view in raw] for key in ("direction", "mission"))
    mission_space = original.observation_space["mission"]
    np.testing.assert_array_equal(FlatView(mission_space)(*columns), vectors)
    np.testing.assert_array_equal(PixelView(mission_space)(*columns), pictures)


def test_the_mission_names_the_target():
    env = gym.make("sparse/MiniGrid-PutNear-8x8-N3-v0")
    kinds = ["key", "ball", "box"]
    for seed in range(50):
        mission, game = env.reset(seed=seed)[0][984:], env.unwrapped.minigrid
        moved, near = np.split(mission, [9])
        for block, colour, kind in ((moved, game.moveColor, game.move_type), (near, game.target_color, game.target_type)):
            np.testing.assert_array_equal(np.flatnonzero(block), [COLOR_NAMES.index(colour), 6 + kinds.index(kind)])


@pytest.mark.parametrize("name", [name for name in MINIGRID_HORIZONS if "Fetch" in name or "LockedRoom" in name])
def test_missions_differ_exactly_where_their_codes_do(name):
    env = gym.make(f"sparse/{name}")
    seen = set()
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        seen.add((env.unwrapped.minigrid.mission, observation[984:].tobytes()))
    assert len(seen) == len({text for text, _ in seen}) == len({code for _, code in seen}) > 20


def test_a_collision_ends_the_episode_without_a_reward():
    for reward, expected in (("success", 0.0), ("time", -1.0)):
        env = gym.make("sparse/MiniGrid-Dynamic-Obstacles-5x5-v0", reward=reward)
        env.reset(seed=0)
        env.step(LEFT)  # to the wall
        _, got, terminated, _, info = env.step(FORWARD)
        assert (got, terminated, info) == (expected, True, {"is_success": False})


def test_lava_and_a_wrong_door_end_the_episode_without_a_reward():
    env = gym.make("sparse/MiniGrid-DistShift1-v0")
    env.reset(seed=0)
    env.step(FORWARD)
    assert env.step(FORWARD)[1:] == (0.0, True, False, {"is_success": False})
    env = gym.make("sparse/MiniGrid-GoToDoor-8x8-v0")
    env.reset(seed=0)
    assert env.step(DONE)[1:] == (0.0, True, False, {"is_success": False})


@pytest.mark.parametrize("steps", [7, 100, 130])
@pytest.mark.parametrize("reward", ["success", "time"])
def test_the_time_limit_is_what_gym_make_says(steps, reward):
    """Shorter and longer than MiniGrid's 100 steps; success counts at the last of them, at never less than 0.1."""
    env = gym.make("sparse/MiniGrid-Empty-5x5-v0", max_episode_steps=steps, reward=reward)
    env.reset(seed=0)
    flags = [env.step(LEFT)[1:4] for _ in range(steps)]
    assert flags == [(0.0, False, False)] * (steps - 1) + [(0.0, False, True)]
    env.reset(seed=0)
    route = [FORWARD, FORWARD, 1, FORWARD, FORWARD]
    for action in [DONE] * (steps - len(route)) + route:
        _, received, terminated, _, info = env.step(action)
    assert terminated and info["is_success"]
    assert received == (1.0 if reward == "success" else pytest.approx(1 - 0.9 * min(steps, 100) / 100))


def test_the_generator_is_one():
    """Setting ``np_random`` has the effect that it has in MiniGrid."""
    env = MiniGridTask("MiniGrid-FourRooms-v0")
    observations = []
    for _ in range(2):
        env.np_random = np.random.default_rng(7)
        observations.append([env.reset()[0] for _ in range(3)])
    np.testing.assert_array_equal(*observations)
    assert env.np_random is env.minigrid.np_random


@pytest.mark.parametrize("action", [-1, 7, 1.0, [1], np.array([1]), "left", None])
def test_refuses_other_actions(action):
    env = MiniGridTask("MiniGrid-Empty-5x5-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an integer from 0 to 6"):
        env.step(action)


def test_dynamic_obstacles_have_three_actions():
    env = MiniGridTask("MiniGrid-Dynamic-Obstacles-6x6-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="from 0 to 2"):
        env.step(3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task_name": "MiniGrid-DoorKey-7x7-v0"}, "Did you mean 'MiniGrid-DoorKey-8x8-v0' or"),
        ({"task_name": "chess"}, "`python -m envs` lists them"),
        ({"obs": "image"}, "obs must be one of 'flat', 'rgb', got 'image'"),
        ({"reward": "dense"}, "reward must be one of 'success', 'time', got 'dense'"),
        ({"render_mode": "ansi"}, "render_mode must be None or 'rgb_array'"),
    ],
)
def test_refuses_other_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MiniGridTask(**{"task_name": "MiniGrid-Empty-5x5-v0", **kwargs})


def test_rl_zoo3_does_not_take_it_for_minigrids_own():
    assert not [name for name in MINIGRID_HORIZONS if "minigrid" in gym.spec(f"sparse/{name}").entry_point]


def test_makes_no_noise():
    code = "import gymnasium, envs; gymnasium.make('sparse/MiniGrid-Empty-5x5-v0').reset(seed=0)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == result.stderr == ""


def test_the_docstrings_examples():
    failed, attempted = doctest.testmod(envs.mini_grid)
    assert attempted > 0 and failed == 0
