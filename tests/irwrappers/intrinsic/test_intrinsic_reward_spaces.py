"""Every intrinsic reward takes every space, or refuses it by name."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.random_steps import QUICK
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, Transitions, make_intrinsic_reward

# Every kind of observation and action


class Noise(gym.Env):
    """Anything may follow anything."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space, self.steps = observation_space, action_space, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 0.0, False, self.steps == 5, {}


OBSERVATIONS = {
    "vector": spaces.Box(-1, 1, (3,)),
    "float64": spaces.Box(-1, 1, (3,), np.float64),
    "image": spaces.Box(0, 255, (36, 40, 3), np.uint8),
    "image_channels_first": spaces.Box(0, 255, (3, 36, 40), np.uint8),
    "dict": spaces.Dict(where=spaces.Box(-1, 1, (2,)), room=spaces.Discrete(3, start=1), seen=spaces.MultiBinary(2)),
    "discrete": spaces.Discrete(5, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 4], start=[1, 0]),
    "multibinary": spaces.MultiBinary(4),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 2, (2,)),
    "matrix": spaces.Box(-2, 2, (2, 2)),
    "number": spaces.Box(-2, 2, ()),
}


def sampled(space, n_steps, n_envs):
    """``[T, B, …]`` of samples of ``space``."""
    if isinstance(space, spaces.Dict):
        return {key: sampled(part, n_steps, n_envs) for key, part in space.spaces.items()}
    rows = [[space.sample() for _ in range(n_envs)] for _ in range(n_steps)]
    return torch.as_tensor(np.array(rows))


def sampled_steps(observation_space, action_space, n_steps=4, n_envs=2):
    for space in (observation_space, action_space):
        space.seed(0)
    flags = torch.zeros(n_steps, n_envs, dtype=torch.bool)
    observations, following = (sampled(observation_space, n_steps, n_envs) for _ in range(2))
    return Transitions(observations, sampled(action_space, n_steps, n_envs), following, flags, flags)


def works_or_is_refused(name, observation_space, action_space):
    try:
        reward = make_intrinsic_reward(name, observation_space, action_space, **QUICK.get(name, {}))
    except ValueError as error:
        assert str(observation_space) in str(error) or str(action_space) in str(error)
        return False
    if name == "laplacian":
        return False  # asks the environment for its transition graph
    reward.fit(DummyVecEnv([lambda: Noise(observation_space, action_space)] * 2), 100, seed=0)
    assert not reward.needs_fit
    batch = sampled_steps(observation_space, action_space)
    assert all(np.isfinite(value) for value in reward.update(batch).values())
    computed = reward.compute(batch)
    assert computed.shape == (4, 2, reward.n_rewards) and computed.dtype == torch.float32 and computed.isfinite().all()
    return True


VECTORS_ONLY = {"allo", "laplacian", "random"}


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("name", INTRINSIC_REWARDS)
def test_every_kind_of_observation(name, kind):
    worked = works_or_is_refused(name, OBSERVATIONS[kind], spaces.Discrete(3))
    assert worked or name in VECTORS_ONLY


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("name", INTRINSIC_REWARDS)
def test_every_kind_of_action(name, kind):
    worked = works_or_is_refused(name, OBSERVATIONS["vector"], ACTIONS[kind])
    assert worked or name in VECTORS_ONLY


@pytest.mark.parametrize("name", sorted(INTRINSIC_REWARDS.keys() - {"noise", "constant"}))  # which look at nothing
def test_observations_that_no_extractor_takes_are_named(name):
    for space in (spaces.Text(5), spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), spaces.MultiDiscrete([[2, 2], [2, 2]])):
        with pytest.raises(ValueError) as error:
            make_intrinsic_reward(name, space, spaces.Discrete(2))
        assert str(space) in str(error.value)


@pytest.mark.parametrize(
    "space", [spaces.Dict(a=spaces.Box(0, 1, (2,))), spaces.Box(0, 255, (84, 84, 3), np.uint8)], ids=["dict", "image"]
)
@pytest.mark.parametrize("name", ["allo", "laplacian", "random"])
def test_spaces_that_do_not_fit_are_named(name, space):
    with pytest.raises(ValueError) as error:
        make_intrinsic_reward(name, space, spaces.Discrete(2))
    assert str(space) in str(error.value)


def test_discrete_observations_are_one_hot():
    space = spaces.Discrete(5, start=2)
    reward = make_intrinsic_reward("random", space, spaces.Discrete(2), hidden_sizes=(8,), indices=range(5))
    flags = torch.zeros(1, 3, dtype=torch.bool)
    observations, following = torch.tensor([[2, 3, 6]]), torch.tensor([[3, 3, 2]])
    computed = reward.compute(Transitions(observations, torch.zeros(1, 3), following, flags, flags))
    eye = torch.eye(5)
    expected = (reward.network(eye[[1, 1, 0]]) - reward.network(eye[[0, 1, 4]]))[:, 1]
    torch.testing.assert_close(computed[0, :, 1], expected)
    with_axis = Transitions(observations[..., None], torch.zeros(1, 3), following[..., None], flags, flags)
    torch.testing.assert_close(reward.compute(with_axis), computed)  # SB3 stores them [T, B, 1]
