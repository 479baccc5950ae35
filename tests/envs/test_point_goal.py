"""PointGoalEnv: where the goal is, the reward for reaching it, and that the vectorised form equals single environments."""

import math
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.vector_forms import play_both

import envs  # noqa: F401 (registers sparse/…)
from envs.point_goal import PointGoalEnv, PointGoalVectorEnv
from envs.rendering import AGENT_COLOR, GOAL_COLOR

ID = "sparse/PointGoal-v0"
MODES = list(AutoresetMode)


def goal_of(env, radius=1.0):
    angle = env.unwrapped.goal_angle
    return radius * np.array([math.cos(angle), math.sin(angle)])


def towards(goal, observation, step_size=0.1):
    """The action that goes straight to the goal."""
    difference = (goal - observation) / step_size
    return (difference / max(1.0, np.abs(difference).max())).astype(np.float32)


# --- the task


@pytest.mark.parametrize("angle", np.linspace(0, 2 * math.pi, 9))
def test_straight_to_the_goal_earns_1_at_the_last_step(angle):
    env = gym.make(ID, goal_angle=angle)
    observation, info = env.reset(seed=0)
    assert observation.tolist() == [0, 0] and observation.dtype == np.float32
    assert info == {"is_success": False, "shaped_reward": 0.0}
    goal, steps = goal_of(env), []
    while not steps or not steps[-1][2]:
        steps.append(env.step(towards(goal, observation)))
        observation = steps[-1][0]
        reached = np.linalg.norm(observation - goal) <= 0.1
        assert steps[-1][1:4] == (float(reached), reached, False) and steps[-1][4]["is_success"] is bool(reached)
    assert len(steps) <= 10  # a radius in steps of a tenth, the diagonal ones longer
    covered = 1 - np.linalg.norm(observation - goal)
    assert sum(step[4]["shaped_reward"] for step in steps) == pytest.approx(covered, abs=1e-6)


def test_the_shaped_reward_is_the_distance_gained():
    env = gym.make(ID, goal_angle=1.0, max_episode_steps=30)
    env.action_space.seed(0)
    before, _ = env.reset(seed=0)
    for _ in range(30):
        after, _, _, _, info = env.step(env.action_space.sample())
        gained = np.linalg.norm(before - goal_of(env)) - np.linalg.norm(after - goal_of(env))
        assert info["shaped_reward"] == pytest.approx(gained, abs=1e-6)
        before = after


def test_no_observation_depends_on_the_goal():
    records = []
    for angle in (0.0, 2.0):
        env = gym.make(ID, goal_angle=angle)
        records.append([env.reset(seed=3)[0]] + [env.step(np.array([-0.6, -0.7]))[0] for _ in range(100)])
    assert np.array_equal(*records)


def test_the_point_stays_in_its_arena_and_the_velocity_is_clipped():
    env = gym.make(ID, goal_angle=math.pi)
    env.reset(seed=0)
    assert env.step(np.array([7.0, -3.0]))[0] == pytest.approx([0.1, -0.1])
    for _ in range(40):
        observation = env.step(np.array([7.0, -3.0]))[0]
    assert observation.tolist() == [1.5, -1.5] and env.observation_space.contains(observation)


@pytest.mark.parametrize("task_seed", range(3))
def test_a_random_policy_finds_the_goal_now_and_then(task_seed):
    n = 2000
    env = gym.make_vec(ID, num_envs=n, task_seed=task_seed, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    found = np.zeros(n, dtype=bool)
    for _ in range(100):  # later episodes of an environment that found it do not count
        found |= env.step(rng.uniform(-1, 1, (n, 2)).astype(np.float32))[2]
    assert 0.005 < found.mean() < 0.05


# --- which goal


def test_environments_of_one_task_seed_share_the_goal_whatever_the_reset_seed():
    angles = set()
    for seed in range(5):
        env = gym.make(ID, task_seed=4)
        env.reset(seed=seed)
        env.reset()
        angles.add(env.unwrapped.goal_angle)
    assert len(angles) == 1
    assert len({PointGoalEnv(task_seed=seed).goal_angle for seed in range(50)}) == 50


def test_resampled_goals_are_uniform_on_the_circle_and_follow_the_reset_seed():
    env = PointGoalEnv(resample_task=True)
    env.reset(seed=8)
    angles = [env.goal_angle]
    for _ in range(3999):
        env.reset()
        angles.append(env.goal_angle)
    env.reset(seed=8)
    assert env.goal_angle == angles[0]
    counts = np.histogram(angles, 20, (0, 2 * math.pi))[0]
    assert counts.sum() == 4000 and ((counts - 200) ** 2 / 200).sum() < 19 + 5 * math.sqrt(38)


def test_a_batch_of_tasks():
    angles = np.linspace(0, 5, 6)
    env = PointGoalVectorEnv(6, goal_angle=angles, max_episode_steps=100)
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    observations, _ = env.reset(seed=0)
    found = np.zeros(6, dtype=bool)
    for _ in range(10):
        actions = np.stack([towards(goal, observation) for goal, observation in zip(goals, observations, strict=True)])
        observations, _, terminated, _, _ = env.step(actions)
        assert (np.linalg.norm(observations - goals, axis=1) <= 0.1)[terminated].all()
        found |= terminated
    assert found.all()
    with pytest.raises(ValueError, match="one for each of the 6 environments, got 2"):
        PointGoalVectorEnv(6, goal_angle=[0.0, 1.0])


# --- where episodes start


def test_random_starts_fill_the_arena_but_for_the_goal():
    env = gym.make(ID, random_start=True, goal_angle=0.5).unwrapped
    env.reset(seed=1)
    starts = np.stack([env.reset()[0] for _ in range(4000)])
    assert np.linalg.norm(starts - goal_of(env), axis=1).min() > 0.1
    counts = np.histogram2d(starts[:, 0], starts[:, 1], 3, [[-1.5, 1.5]] * 2)[0]
    area = np.ones((3, 3))
    area[2, 1] -= math.pi * 0.1**2 / 2  # the goal lies on the border of two tiles, about half of it in each
    area[2, 2] -= math.pi * 0.1**2 / 2
    expected = 4000 * area / area.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 8 + 5 * math.sqrt(16)


def test_reset_options_last_for_one_episode():
    env = gym.make(ID, goal_angle=0.0, goal_radius=0.9).unwrapped
    env.reset(seed=2)
    starts = np.stack([env.reset(options={"random_start": True, "ignore_goal": True})[0] for _ in range(500)])
    assert np.linalg.norm(starts - goal_of(env), axis=1).min() < 0.5  # the goal is a place like others when it does not count
    env.reset(options={"ignore_goal": True})
    for _ in range(30):
        _, reward, terminated, _, info = env.step(np.array([0.5, 0.0]))
        assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    assert env.reset()[0].tolist() == [0, 0]
    env.step(np.array([1.0, 0.0]))
    assert env.step(np.array([1.0, 0.0]))[1:3] == (1.0, True)


# --- the vectorised form


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs", [{}, {"random_start": True}, {"resample_task": True}, {"random_start": True, "resample_task": True}], ids=str
)
def test_the_vector_form_equals_single_environments(mode, kwargs):
    n = 4
    kwargs = {"goal_radius": 0.9, "step_size": 0.2, "max_episode_steps": 12, **kwargs}
    vector_env = gym.make_vec(ID, num_envs=n, autoreset_mode=mode, **kwargs)
    assert isinstance(vector_env.unwrapped, PointGoalVectorEnv)
    singles = SyncVectorEnv([partial(gym.make, ID, disable_env_checker=True, **kwargs)] * n, autoreset_mode=mode)
    assert vector_env.observation_space == singles.observation_space
    assert vector_env.action_space == singles.action_space
    rng, ends = np.random.default_rng(0), np.zeros(2, dtype=int)
    drifts = rng.uniform(-1.2, 1.2, (n, 2))

    def policy(_):
        return (drifts + rng.uniform(-1, 1, (n, 2))).astype(np.float32)

    for seed, options in ((20, None), ([3, None, 4, 1], {"ignore_goal": True}), (None, {"random_start": True})):
        for _, _, terminated, truncated, _ in play_both(vector_env, singles, policy, 80, seed, options):
            ends += [terminated.sum(), truncated.sum()]
            done = terminated | truncated
            drifts[done] = rng.uniform(-1.2, 1.2, (int(done.sum()), 2))
    assert ends.min() >= 10  # both ways to end an episode were seen


# --- frames


def test_frames_show_the_point_and_the_goal():
    kwargs = {"goal_angle": math.pi / 2, "render_mode": "rgb_array"}
    env = gym.make(ID, **kwargs)
    env.reset(seed=0)

    def centre(frame, colour):  # (x, y) in the arena
        rows, columns = np.nonzero((frame == colour).all(axis=2))
        return np.array([columns.mean(), -rows.mean()]) / (frame.shape[0] - 1) * 3 + [-1.5, 1.5]

    first = env.render()
    assert first.dtype == np.uint8 and centre(first, AGENT_COLOR) == pytest.approx([0, 0], abs=0.02)
    assert centre(first, GOAL_COLOR) == pytest.approx([0, 1], abs=0.02)
    for _ in range(5):
        observation = env.step(np.array([1.0, -0.5]))[0]
    assert centre(env.render(), AGENT_COLOR) == pytest.approx(observation, abs=0.02)
    vector_env = gym.make_vec(ID, num_envs=2, **kwargs)
    vector_env.reset(seed=0)
    assert all(np.array_equal(frame, first) for frame in vector_env.render())


# --- wrong use


@pytest.mark.parametrize("make", [PointGoalEnv, partial(PointGoalVectorEnv, 2)], ids=["single", "vector"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"radius": 0}, "radius must be a positive number, got 0"),
        ({"goal_radius": math.nan}, "goal_radius must be a positive number, got nan"),
        ({"step_size": "fast"}, "step_size must be a positive number, got 'fast'"),
        ({"goal_radius": 2.0}, r"goal_radius must be below radius.*goal_radius=2.0 and radius=1.0"),
        ({"goal_angle": math.inf}, "goal_angle must be a finite number of radians or None, got inf"),
        ({"goal_angle": "north"}, "goal_angle must be a finite number of radians or None, got 'north'"),
        ({"goal_angle": 1.0, "resample_task": True}, "leave out goal_angle=1.0"),
        ({"task_seed": -1}, "task_seed must be an integer of at least 0, got -1"),
        ({"task_seed": None}, "task_seed must be an integer of at least 0, got None"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_wrong_arguments_raise(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("action", [0.5, [0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]], [math.nan, 0], ["a", "b"], None], ids=repr)
def test_wrong_actions_raise(action):
    env = PointGoalEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Invalid action .*finite numbers of shape"):
        env.step(action)


@pytest.mark.parametrize("actions", [np.zeros(2), np.zeros((3, 1)), np.full((3, 2), math.inf), np.full((3, 2), "a")])
def test_wrong_actions_of_a_vector_form_raise(actions):
    env = PointGoalVectorEnv(3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got shape|of environment 0; expected finite numbers"):
        env.step(actions)
