"""The chain: only the right action in every state reaches its end."""

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401


def play(env, actions):
    """Reward and states of the episode that these actions give."""
    observation, _ = env.reset(seed=0)
    states = [int(observation.argmax())]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        states.append(int(observation.argmax()))
        if terminated or truncated:
            break
    return reward, states


@pytest.mark.parametrize("length", [3, 20, 50])
def test_the_right_actions_reach_the_end_in_length_minus_1_steps_and_a_constant_one_never_does(length):
    env = gym.make("sparse/Chain-v0", length=length, max_episode_steps=length + 9)
    _, next_states = env.unwrapped.transition_graph()
    right = [int(np.flatnonzero(next_states[state] == state + 1)[0]) for state in range(length - 1)]
    assert play(env, right) == (1.0, list(range(length)))
    for action in (0, 1):
        reward, states = play(env, [action] * (length + 9))
        assert reward == 0 and len(states) == length + 10 and max(states) < length - 1


def test_the_meaning_of_the_actions_is_the_seeds():
    graphs = [gym.make("sparse/Chain-v0", action_seed=seed).unwrapped.transition_graph()[1] for seed in (0, 0, 1)]
    assert np.array_equal(graphs[0], graphs[1]) and not np.array_equal(graphs[0], graphs[2])


def test_five_mistakes_are_forgiven_and_six_are_not():
    env = gym.make("sparse/Chain-v0", length=20, action_seed=None)
    for mistakes, reward in ((5, 1.0), (6, 0.0)):
        actions = [1] + [0, 1] * mistakes + [1] * 18  # each mistake costs two steps
        assert len(actions) == 19 + 2 * mistakes and play(env, actions)[0] == reward


def test_scalar_observations():
    env = gym.make("sparse/Chain-v0", length=5, action_seed=None, observation="scalar", max_episode_steps=14)
    assert env.reset()[0].tolist() == [0.0] and env.step(1)[0].tolist() == [0.25]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 2}, "length must be an integer of at least 3, got 2"),
        ({"observation": "hot"}, "observation must be one of"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make("sparse/Chain-v0", **kwargs)
