"""Extrinsic reward wrappers: their rewards, that shaping keeps policies optimal, and that vector forms equal n singles."""

import doctest
import importlib
import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from helpers.extrinsic_envs import FORMS, limited, potential

import envs  # noqa: F401
from irwrappers.extrinsic import (
    DelayedReward,
    EpisodicReward,
    PotentialShaping,
    SparseReward,
    SuccessSignal,
    VectorSparseReward,
    VectorSuccessSignal,
)


class Script(gym.Env):
    """Plays a list of (reward, terminated, success)."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, *steps):
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward, terminated, success = self.steps[self.at]
        self.at += 1
        return np.full(1, self.at, np.float32), reward, terminated, False, {"is_success": success, "other": 1}


def rewards_of(env, n):
    env.reset(seed=0)
    return [env.step(0)[1] for _ in range(n)]


# --- rewards


def test_sparse_reward_rewards_the_first_success_only():
    script = Script((5.0, False, False), (2.0, False, True), (-1.0, False, True), (3.0, True, False))
    env = SparseReward(script, reward=2.5)
    for _ in range(2):  # a new episode can succeed again
        env.reset()
        steps = [env.step(0) for _ in range(4)]
        assert [step[1] for step in steps] == [0.0, 2.5, 0.0, 0.0]
        assert [step[2] for step in steps] == [False, False, False, True]
        assert [step[4]["is_success"] for step in steps] == [False, True, True, True]  # at the end SB3 reads the last
        assert [step[4]["original_reward"] for step in steps] == [5.0, 2.0, -1.0, 3.0]


def test_sparse_reward_by_threshold_predicate_and_key():
    script = [(5.0, False, False), (2.0, False, True), (7.0, False, False), (3.0, True, False)]
    assert rewards_of(SparseReward(Script(*script), threshold=5.5), 4) == [0, 0, 1, 0]
    assert rewards_of(SparseReward(Script(*script), threshold=5.0), 4) == [1, 0, 0, 0]
    assert rewards_of(SparseReward(Script(*script), success="other"), 4) == [1, 0, 0, 0]
    seen = []

    def predicate(*step):
        seen.append(step)
        return step[2][0] == 3

    assert rewards_of(SparseReward(Script(*script), predicate=predicate), 4) == [0, 0, 1, 0]
    before, action, after, reward, terminated, truncated, info = seen[1]
    assert (before[0], action, after[0], reward, terminated, truncated) == (1, 0, 2, 2.0, False, False)
    assert info["is_success"] is True


def test_success_ends_the_episode_with_that_argument():
    env = SparseReward(Script((0.0, False, False), (0.0, False, True)), terminate_on_success=True)
    env.reset()
    assert [env.step(0)[1:4] for _ in range(2)] == [(0.0, False, False), (1.0, True, False)]


def test_episodic_reward_gives_the_return_at_termination_and_at_the_time_limit():
    script = [(1.0, False, False), (2.0, False, False), (4.0, True, False)]
    assert rewards_of(EpisodicReward(Script(*script)), 3) == [0.0, 0.0, 7.0]
    env = EpisodicReward(TimeLimit(Script(*script), 2))
    assert rewards_of(env, 2) == [0.0, 3.0] and rewards_of(env, 2) == [0.0, 3.0]
    env.reset(), env.step(0)  # left in the middle: nothing is carried over
    assert rewards_of(env, 2) == [0.0, 3.0]


def test_success_signal():
    """1 − 0.7 t/T with t = 0 in the first step, −0.2 without success, once an episode."""
    quiet = (0.0, False, False)
    steps = [quiet] * 3 + [(0.0, False, True)] * 2 + [(0.0, True, False)]
    assert rewards_of(SuccessSignal(Script(*steps), max_episode_steps=10), 6) == [0, 0, 0, 1 - 0.7 * 0.3, 0, 0]
    assert rewards_of(SuccessSignal(Script((0.0, True, True)), max_episode_steps=10), 1) == [1.0]
    assert rewards_of(SuccessSignal(Script(*[quiet] * 4, (0.0, True, False)), max_episode_steps=5), 5) == [0, 0, 0, 0, -0.2]
    late = SuccessSignal(Script(*[quiet] * 9, (0.0, True, True)), max_episode_steps=5)
    assert rewards_of(late, 10)[-1] == pytest.approx(0.3)
    assert rewards_of(SuccessSignal(TimeLimit(Script(*[quiet] * 9), 3), max_episode_steps=3), 3) == [0, 0, -0.2]


def test_success_signal_takes_the_horizon_from_the_spec():
    assert SuccessSignal(gym.make("sparse/Maze0-v0", max_episode_steps=17)).max_episode_steps == 17
    vector = gym.make_vec("sparse/Maze0-v0", num_envs=2, max_episode_steps=17)
    assert VectorSuccessSignal(vector).max_episode_steps == 17
    with pytest.raises(ValueError, match="max_episode_steps"):
        SuccessSignal(Script())


def test_success_signal_in_meta_world_where_success_ends_nothing():
    env = SuccessSignal(gym.make("sparse/MetaWorld-reach-v3", max_episode_steps=12))
    env.reset(seed=0)
    rewards = [env.step(np.zeros(4, np.float32))[1] for _ in range(12)]
    assert rewards == [0.0] * 11 + [-0.2]


# --- potential-based shaping


class Tabular(gym.Env):
    """A corridor of 6 cells with a hole at one end, a goal at the other, and a shortcut; ``options["state"]`` is the first."""

    observation_space = spaces.Discrete(6)
    action_space = spaces.Discrete(3)
    terminal = (0, 5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = (options or {}).get("state", 2)
        return self.state, {}

    def step(self, action):
        before, self.state = self.state, [self.state - 1, self.state + 1, self.state * 3 % 5 + 1][action]
        reward = {0: -1.0, 5: 1.0}.get(self.state, -0.01 * before)
        return self.state, reward, self.state in self.terminal, False, {}


PHI = np.array([3.0, -1.0, 0.5, 2.0, -4.0, 7.0])  # not zero in the terminal states: the wrapper's task
GAMMA = 0.9
INNER = [1, 2, 3, 4]


def tables(env):
    """R [S, A] and P [S, A, S] (rows of terminated steps are 0) of the inner states, read off the environment's steps."""
    rewards, transition = np.zeros((6, 3)), np.zeros((6, 3, 6))
    for state in INNER:
        for action in range(3):
            env.reset(options={"state": state})
            after, rewards[state, action], terminated, *_ = env.step(action)
            transition[state, action, after] = not terminated
    return rewards, transition


def optimal_values(rewards, transition):
    values = np.zeros(6)
    for _ in range(1000):
        values = (rewards + GAMMA * transition @ values).max(1)
    return values


def test_shaping_moves_every_policys_values_by_the_potential():
    plain, transition = tables(Tabular())
    shaped, same = tables(PotentialShaping(Tabular(), lambda state: PHI[state], GAMMA))
    np.testing.assert_array_equal(transition, same)
    assert np.abs(plain - shaped).max() > 1  # the shaping is no small change
    rng = np.random.default_rng(0)
    for _ in range(20):
        policy = rng.dirichlet(np.ones(3), size=6)
        step = np.eye(6) - GAMMA * np.einsum("sa,sat->st", policy, transition)
        values, shaped_values = (np.linalg.solve(step, (policy * table).sum(1)) for table in (plain, shaped))
        np.testing.assert_allclose((shaped_values - values)[INNER], -PHI[INNER], atol=1e-12)
    values, shaped_values = optimal_values(plain, transition), optimal_values(shaped, transition)
    np.testing.assert_allclose((shaped_values - values)[INNER], -PHI[INNER], atol=1e-9)
    greedy, shaped_greedy = (
        (table + GAMMA * transition @ v).round(9)[INNER] for table, v in ((plain, values), (shaped, shaped_values))
    )
    np.testing.assert_array_equal(greedy == greedy.max(1, keepdims=True), shaped_greedy == shaped_greedy.max(1, keepdims=True))


@pytest.mark.parametrize("limit", [4, 5])
@pytest.mark.parametrize("terminates", [True, False])
def test_shaping_telescopes(limit, terminates):
    """Σ γᵗ F_t = −Φ(s₀) over a terminated episode, γᵀ Φ(s_T) − Φ(s₀) over a truncated one; both at once is terminated."""
    script = [(0.0, terminates and step == 3, False) for step in range(5)]
    phi = lambda observation: 2.0 + observation[0] ** 2  # noqa: E731
    env = PotentialShaping(TimeLimit(Script(*script), limit), phi, GAMMA)
    env.reset()
    total, steps, done = 0.0, 0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(0)
        assert info["original_reward"] == 0.0
        total += GAMMA**steps * reward
        steps, done = steps + 1, terminated or truncated
    assert terminated == terminates and steps == (4 if terminates else limit)
    assert total == pytest.approx(-2.0 if terminated else GAMMA**limit * (2.0 + limit**2) - 2.0)


def test_potential_may_be_a_tensors_number_but_must_be_finite():
    network = torch.nn.Linear(1, 1)
    env = PotentialShaping(Script((0.0, False, False)), lambda o: network(torch.as_tensor(o)).detach(), 1.0)
    env.reset()
    assert env.step(0)[1] == pytest.approx(network.weight.item(), abs=1e-6)
    for bad in (np.nan, np.inf, np.zeros(2)):
        with pytest.raises(ValueError, match="potential must give a finite number"):
            PotentialShaping(Script(), lambda _, bad=bad: bad).reset()


# --- what they have in common


def test_the_original_reward_is_the_environments_beneath_any_number_of_wrappers():
    env = DelayedReward(SparseReward(EpisodicReward(Script((5.0, False, False), (2.0, True, True)))), delay=2)
    env.reset()
    infos = [env.step(0)[4] for _ in range(2)]
    assert [info["original_reward"] for info in infos] == [5.0, 2.0]
    assert [info["undelayed_reward"] for info in infos] == [0.0, 1.0]


@pytest.mark.parametrize("form", ["delayed", "episodic", "shaped", "key", "predicate", "signal"])
def test_specs_make_the_same_environment_again(form):
    env = FORMS[form][0](gym.make("CartPole-v1", max_episode_steps=20))
    again = gym.make(env.spec)
    assert type(again) is type(env) and again.spec == env.spec
    if form in ("shaped", "predicate"):
        with pytest.raises(TypeError, match="JSON"):  # Gymnasium's: a function has no JSON
            env.spec.to_json()
    else:
        assert gym.make(EnvSpec.from_json(env.spec.to_json())).spec == env.spec
        assert json.loads(env.spec.to_json())["additional_wrappers"][0]["entry_point"].startswith("irwrappers.extrinsic")


def test_registrations_may_name_every_wrapper():
    module = importlib.import_module("irwrappers.extrinsic")
    assert all(getattr(module, name).__name__ == name for name in module.__all__)
    assert gym.make("delayed/Hopper-v5").spec.additional_wrappers


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("form", ["episodic", "shaped", "key", "signal"])
def test_gymnasium_accepts_them(form):
    single = FORMS[form][0]
    if form == "shaped":
        single = partial(PotentialShaping, potential=lambda o: float(o.sum()))
    check_env(single(gym.make("sparse/Maze0-v0").unwrapped), skip_render_check=True)


BAD = [
    (SparseReward, {"success": "is_success", "threshold": 1.0}, "one of success, threshold and predicate"),
    (SparseReward, {"success": 3}, "success must be the name"),
    (SparseReward, {"threshold": np.nan}, "threshold must be a finite number"),
    (SparseReward, {"predicate": "reached"}, "predicate must be a function"),
    (SparseReward, {"reward": "1"}, "reward must be a finite number"),
    (SuccessSignal, {"max_episode_steps": 0}, "max_episode_steps must be an integer in .1, inf."),
    (SuccessSignal, {"max_episode_steps": 2.5}, "max_episode_steps must be an integer in .1, inf."),
    (PotentialShaping, {"potential": 1.0}, "potential must be a function"),
    (PotentialShaping, {"potential": potential, "gamma": 1.1}, r"gamma must be a number in \[0, 1\]"),
    (PotentialShaping, {"potential": potential, "gamma": np.nan}, r"gamma must be a number in \[0, 1\]"),
]


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(("wrapper", "arguments", "message"), BAD)
def test_refuses(wrapper, arguments, message, vector):
    env = limited()
    if vector:
        wrapper = getattr(importlib.import_module("irwrappers.extrinsic"), f"Vector{wrapper.__name__}")
        env = SyncVectorEnv([limited])
    with pytest.raises(ValueError, match=message):
        wrapper(env, **arguments)


def test_says_so_when_the_success_key_is_missing():
    env = SparseReward(Script((0.0, False, False)), success="succes")
    env.reset()
    with pytest.raises(ValueError, match=r"'succes' is not an entry .* which has \['is_success', 'other'\]"):
        env.step(0)
    vector = VectorSparseReward(SyncVectorEnv([limited] * 2), success="succes")
    vector.reset()
    with pytest.raises(ValueError, match=r"'succes' is not an entry .* which has \['is_success', 'score', 'word'\]"):
        vector.step(np.zeros(2, int))


@pytest.mark.parametrize("module", ["", ".delayed", ".shaping", ".signal", ".sparse"])
def test_the_docstrings_examples(module):
    failed, attempted = doctest.testmod(importlib.import_module(f"irwrappers.extrinsic{module}"))
    assert attempted > 0 and failed == 0
