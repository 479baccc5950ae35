"""Fetch: Gymnasium-Robotics' own environments with a 0/1 reward and an end on success, and both tasks can be solved."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv
from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

import envs  # noqa: F401 (registers sparse/…)

CASES = [("sparse/FetchReach-v0", MujocoFetchReachEnv, 50), ("sparse/FetchPush-v0", MujocoFetchPushEnv, 200)]
IDS = [case[0] for case in CASES]


def toward(target, gripper):
    return np.append(np.clip((target - gripper) / 0.05, -1, 1), 0.0).astype(np.float32)


def reach(observation):
    return toward(observation[13:], observation[10:13])


def push(observation):
    """Above the block to its far side from the goal, down, and push."""
    gripper, block, goal = observation[:3], observation[25:28], observation[28:]
    direction = (goal - block)[:2] / np.linalg.norm((goal - block)[:2])
    offset = (gripper - block)[:2]
    along = offset @ direction
    across = np.linalg.norm(offset - along * direction)
    height = block[2]
    if along < -0.03 and across < 0.015 and gripper[2] < height + 0.03:  # behind it and down
        aim = block[:2] + direction * 0.03
    elif np.linalg.norm(offset + 0.08 * direction) < 0.015:  # behind it, still up
        aim = block[:2] - direction * 0.08
    else:
        aim = block[:2] - direction * 0.08
        height += 0.1
        if gripper[2] < height - 0.03:
            aim = gripper[:2]
    return toward(np.append(aim, height), gripper)


def play(env, policy, seed):
    observation, info = env.reset(seed=seed)
    assert info == {"is_success": False}
    rewards = []
    while True:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        assert reward == float(terminated) == float(info["is_success"])
        rewards.append(reward)
        if terminated or truncated:
            return rewards


def test_a_controller_reaches_every_goal():
    env = gym.make("sparse/FetchReach-v0")
    assert [sum(play(env, reach, seed)) for seed in range(50)] == [1.0] * 50


def test_a_scripted_pusher_pushes_nearly_every_block():
    env = gym.make("sparse/FetchPush-v0")
    assert np.mean([sum(play(env, push, seed)) for seed in range(40)]) >= 0.9


@pytest.mark.parametrize(("name", "source_class", "horizon"), CASES, ids=IDS)
def test_observations_rewards_and_success_are_the_sources(name, source_class, horizon):
    env, source = gym.make(name), source_class()
    rng = np.random.default_rng(0)
    ends = set()
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        expected, _ = source.reset(seed=seed)
        # Toward the goal with noise, so that some episodes succeed and some don't.
        policy = reach if source_class is MujocoFetchReachEnv and seed % 2 else lambda _: np.zeros(4)
        for step in range(1, horizon + 1):
            flat = np.concatenate([expected[key] for key in ("observation", "achieved_goal", "desired_goal")])
            np.testing.assert_array_equal(observation, flat)
            action = (policy(observation) + rng.uniform(-0.5, 0.5, 4)).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            expected, sparse, _, _, source_info = source.step(action)
            assert reward == sparse + 1
            assert terminated == info["is_success"] == bool(source_info["is_success"])
            assert truncated == (step == horizon)
            if terminated or truncated:
                ends.add(terminated)
                break
    assert False in ends
    assert (True in ends) == (source_class is MujocoFetchReachEnv)


def test_position_indices_are_the_gripper_and_the_block_relative_to_it():
    for name, _, _ in CASES:
        env = gym.make(name)
        observation, _ = env.reset(seed=3)
        position = observation[list(env.unwrapped.position_indices)]
        if "Reach" in name:
            np.testing.assert_array_equal(position, observation[:3])
        else:
            np.testing.assert_allclose(position, observation[25:28] - observation[:3], atol=1e-12)


@pytest.mark.parametrize("as_option", [True, False])
def test_a_random_start_is_anywhere_in_the_box_of_goals_but_not_at_the_goal(as_option):
    env = gym.make("sparse/FetchReach-v0", random_start=not as_option)
    options = {"random_start": True} if as_option else None
    starts = []
    for seed in range(60):
        observation, _ = env.reset(seed=seed, options=options)
        starts.append(observation[10:13])
        assert np.linalg.norm(observation[10:13] - observation[13:]) > 0.05
    offsets = np.array(starts) - env.unwrapped.source.initial_gripper_xpos
    assert (np.abs(offsets) < 0.17).all()
    assert (offsets.min(0) < -0.1).all()
    assert (offsets.max(0) > 0.1).all()
    again, _ = env.reset(seed=59, options=options)
    np.testing.assert_array_equal(again[10:13], starts[-1])


@pytest.mark.parametrize(("name", "policy"), [("sparse/FetchReach-v0", reach), ("sparse/FetchPush-v0", push)])
def test_an_ignored_goal_neither_gives_a_reward_nor_ends_the_episode(name, policy):
    env = gym.make(name)
    length = len(play(env, policy, 1))
    observation, _ = env.reset(seed=1, options={"ignore_goal": True})
    for _ in range(length):
        observation, reward, terminated, _, info = env.step(policy(observation))
        assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    assert sum(play(env, policy, 1)) == 1.0


def test_looking_does_not_change_the_trajectory():
    watched, unseen = gym.make("sparse/FetchPush-v0", render_mode="rgb_array"), gym.make("sparse/FetchPush-v0")
    watched.unwrapped.source.mujoco_renderer.render = lambda mode: np.zeros((2, 2, 3), np.uint8)  # works without OpenGL
    watched.reset(seed=0), unseen.reset(seed=0)
    for step in range(100):
        action = np.random.default_rng(step).uniform(-1, [1, 1, 0.2, 1]).astype(np.float32)
        np.testing.assert_array_equal(watched.step(action)[0], unseen.step(action)[0])
        watched.render()


@pytest.mark.parametrize(("name", "source_class", "horizon"), CASES, ids=IDS)
def test_bad_input_is_refused(name, source_class, horizon):
    with pytest.raises(ValueError, match="'depth'"):
        envs_class = type(gym.make(name).unwrapped)
        envs_class(render_mode="depth")
    env = gym.make(name)
    env.reset(seed=0)
    for action in (np.zeros(3), np.zeros((1, 4)), 0.0, [np.nan, 0, 0, 0], ["a"] * 4):
        with pytest.raises(ValueError, match="finite numbers of shape"):
            env.step(action)
