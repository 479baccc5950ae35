"""Laplacian eigenfunctions: the exact ones against hand-worked graphs, ALLO's against the exact ones."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import ALLO, ExactLaplacian, Transitions
from irwrappers.intrinsic.allo import _Training
from irwrappers.intrinsic.laplacian import laplacian_eigenvectors
from irwrappers.intrinsic.random_walks import WalkCollector
from sb3_ext.common.vec_env import make_vec_env

CHAIN = np.array([[0, 1], [0, 2], [1, 2]])  # left, right; a wall at either end
MAZES = ["FourRooms0", "Maze0", "Maze1", "Maze2"]
QUICK = dict(n_rewards=4, gradient_steps=20, hidden_sizes=(16,), n_walks=20)


class Chain(gym.Env):
    """A corridor of cells in a row; observation (cell, 5), the second entry never changing."""

    def __init__(self, length=3, horizon=20):
        self.length, self.horizon = length, horizon
        self.observation_space = spaces.Box(0, 10, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.options_seen = []

    def transition_graph(self):
        cells = np.arange(self.length)
        observations = np.stack([cells, np.full(self.length, 5)], 1).astype(np.float32)
        return observations, np.stack([np.maximum(cells - 1, 0), np.minimum(cells + 1, self.length - 1)], 1)

    def _observation(self):
        return np.array([self.cell, 5], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options_seen.append(options or {})
        self.cell, self.t = int(self.np_random.integers(self.length)), 0
        return self._observation(), {}

    def step(self, action):
        self.cell = int(np.clip(self.cell + 2 * action - 1, 0, self.length - 1))
        self.t += 1
        return self._observation(), 0.0, False, self.t >= self.horizon, {}


def dummy(make, n=2):
    return DummyVecEnv([make] * n)


def step_of(observation, next_observation):
    """One step of one copy."""
    flags = torch.zeros(1, 1, dtype=torch.bool)
    pair = [torch.as_tensor(x, dtype=torch.float32)[None, None] for x in (observation, next_observation)]
    return Transitions(pair[0], torch.zeros(1, 1), pair[1], flags, flags)


def collect_walks(env, n_walks=10**9, max_timesteps=10**6, select=lambda x: x.float(), seed=0):
    collector = WalkCollector(env, seed)
    collector.collect(n_walks, max_timesteps)
    return collector.walks(select, torch.device("cpu"))


def cosines(estimate, exact, eigenvalues, n=6):
    """|cos| of estimated eigenvectors 1 … n with the span of those exact ones within 5 % of each other, cut at a gap."""
    found, first = [], 1
    while first <= n:
        last = first
        while last + 1 < len(eigenvalues) and eigenvalues[last + 1] <= 1.05 * eigenvalues[last]:
            last += 1
        basis, _ = np.linalg.qr(exact[:, first : last + 1])
        for i in range(first, min(last, n) + 1):
            found.append(np.linalg.norm(basis.T @ estimate[:, i]) / np.linalg.norm(estimate[:, i]))
        first = last + 1
    return np.array(found)


def allo_against_exact(name, n_envs=50, budget=400_000, seed=0, **kwargs):
    env = make_vec_env(f"sparse/{name}-v0", n_envs)
    exact = ExactLaplacian(env.observation_space, env.action_space, n_rewards=12)
    exact.fit(env)
    allo = ALLO(env.observation_space, env.action_space, n_rewards=12, **kwargs)
    taken = allo.fit(env, budget, seed=seed)
    assert 0 < taken <= budget and allo.fit_info["walk_steps"] == taken
    with torch.no_grad():
        estimate = allo.features(exact.states).numpy()
    return cosines(estimate, exact.phi.numpy(), exact.eigenvalues.numpy()), taken


# The exact form


def test_three_state_chain_by_hand():
    # L = 1/2 [[1, -1, 0], [-1, 2, -1], [0, -1, 1]] has eigenvalues 0, 1/2, 3/2 and eigenvectors 1, (1, 0, -1), (1, -2, 1).
    eigenvalues, phi = laplacian_eigenvectors(CHAIN)
    np.testing.assert_allclose(eigenvalues, [0, 0.5, 1.5], atol=1e-12)
    hand = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]).T / np.sqrt([1, 2 / 3, 2])
    np.testing.assert_allclose(np.abs(phi), np.abs(hand), atol=1e-12)
    np.testing.assert_allclose(phi[:, 2], -hand[:, 2], atol=1e-12)  # the largest entry is positive
    np.testing.assert_allclose((phi**2).mean(0), 1, atol=1e-12)


def test_chain_has_cosine_eigenvectors():
    # A path of S cells: eigenvalues 1 - cos(pi k / S), eigenvectors cos(pi k (x + 1/2) / S).
    cells, size = np.arange(9), 9
    eigenvalues, phi = laplacian_eigenvectors(np.stack([np.maximum(cells - 1, 0), np.minimum(cells + 1, 8)], 1))
    k = np.arange(size)
    np.testing.assert_allclose(eigenvalues, 1 - np.cos(np.pi * k / size), atol=1e-12)
    expected = np.cos(np.pi * k * (cells[:, None] + 0.5) / size)
    overlap = (phi * expected).sum(0) / np.linalg.norm(expected, axis=0) / np.sqrt(size)
    np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-10)


def test_constant_comes_first_even_when_the_graph_falls_apart():
    # Two rooms with no door: eigenvalue 0 twice. phi_0 is the constant, phi_1 distinguishes the rooms.
    _, phi = laplacian_eigenvectors(np.array([[1, 0], [0, 1], [2, 3], [2, 4], [3, 4]]))
    np.testing.assert_allclose(phi[:, 0], 1, atol=1e-9)
    np.testing.assert_allclose(phi.T @ phi / 5, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(np.abs(phi[:, 1]), np.sqrt([1.5, 1.5, 2 / 3, 2 / 3, 2 / 3]), atol=1e-9)
    assert phi[0, 1] * phi[2, 1] < 0


def test_constant_comes_first_among_cells_with_no_way_out():
    _, phi = laplacian_eigenvectors(np.arange(4)[:, None])
    np.testing.assert_allclose(phi[:, 0], 1, atol=1e-9)
    np.testing.assert_allclose(phi.T @ phi / 4, np.eye(4), atol=1e-9)


@pytest.mark.parametrize("name", MAZES)
def test_maze_eigenvectors_solve_the_eigenvalue_problem(name):
    env = dummy(lambda: gym.make(f"sparse/{name}-v0"), 1)
    reward = ExactLaplacian(env.observation_space, env.action_space)
    assert reward.fit(env) == 0
    observations, next_states = env.env_method("transition_graph")[0]
    phi, eigenvalues = reward.phi.double(), reward.eigenvalues.double()
    # (L phi)(s) is the mean over actions of phi(s) - phi(s'), for moves come in pairs here.
    mean_next = phi[torch.as_tensor(next_states)].mean(1)
    torch.testing.assert_close(phi - mean_next, phi * eigenvalues, atol=1e-5, rtol=0)
    assert (eigenvalues.diff() >= -1e-6).all() and eigenvalues[0].abs() < 1e-6 < eigenvalues[1]
    torch.testing.assert_close(phi[:, 0], torch.ones(len(observations)).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(phi.T @ phi / len(observations), torch.eye(len(observations)).double(), atol=1e-5, rtol=0)


def test_channels_by_hand():
    # phi_1 = ±sqrt(3/2) (1, 0, -1), phi_2 = sqrt(1/2) (-1, 2, -1); channels -phi_1, +phi_1, -phi_2, +phi_2.
    env = dummy(Chain, 1)
    reward = ExactLaplacian(env.observation_space, env.action_space, n_rewards=4)
    reward.fit(env)
    assert reward.channel_names == ("-phi_1", "+phi_1", "-phi_2", "+phi_2")
    computed = reward.compute(step_of([0, 5], [1, 5]))[0, 0]
    sign = torch.sign(reward.phi[0, 1])
    expected = torch.stack([sign * 1.5**0.5, -sign * 1.5**0.5, torch.tensor(-3 * 0.5**0.5), torch.tensor(3 * 0.5**0.5)])
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=0)


def test_odd_number_of_channels_ends_on_a_minus():
    env = dummy(Chain, 1)
    reward = ExactLaplacian(env.observation_space, env.action_space, n_rewards=3)
    reward.fit(env)
    assert reward.channel_names == ("-phi_1", "+phi_1", "-phi_2")
    assert reward.compute(step_of([0, 5], [1, 5])).shape == (1, 1, 3)


def test_exact_errors_say_what_is_wrong():
    env = dummy(Chain, 1)
    reward = ExactLaplacian(env.observation_space, env.action_space, n_rewards=2)
    with pytest.raises(RuntimeError, match="fit"):
        reward.compute(step_of([0, 5], [1, 5]))
    reward.fit(env)
    with pytest.raises(ValueError, match=r"7\.0.*3 states"):
        reward.compute(step_of([0, 5], [7, 5]))
    with pytest.raises(ValueError, match="more than 4 states"):
        ExactLaplacian(env.observation_space, env.action_space, n_rewards=8).fit(env)
    with pytest.raises(ValueError, match="do not distinguish"):
        ExactLaplacian(env.observation_space, env.action_space, n_rewards=2, indices=(1,)).fit(env)
    pendulum = dummy(lambda: gym.make("Pendulum-v1"), 1)
    with pytest.raises(ValueError, match=r"transition_graph.*ALLO"):
        ExactLaplacian(pendulum.observation_space, pendulum.action_space).fit(pendulum)


# ALLO


# Environment steps of walks that may be needed out of 400 000.
MOST_STEPS = {"FourRooms0": 128_000, "Maze0": 32_000, "Maze1": 16_000, "Maze2": 16_000}


def test_allo_finds_the_eigenvectors_of_maze_v1():
    found, taken = allo_against_exact("Maze1", budget=200_000, gradient_steps=2000, agreement=0.99)
    assert found.min() >= 0.99 and taken <= 16_000, (found, taken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MAZES)
def test_allo_finds_the_eigenvectors_in_fewer_steps_than_it_may_take(name, seed):
    found, taken = allo_against_exact(name, seed=seed, agreement=0.99)
    assert found.min() >= 0.99 and taken <= MOST_STEPS[name], (found, taken)
    found, fewer = allo_against_exact(name, seed=seed)
    assert found.min() >= 0.97 and fewer <= min(taken, 32_000), (found, fewer)


@pytest.mark.slow
def test_allo_on_random_batches_finds_the_eigenvectors():
    # The form for continuous states, in which every step samples a batch of pairs as in the paper.
    found, taken = allo_against_exact("Maze1", exhaustive=0, batch_size=1024, gradient_steps=5000)
    assert found.min() >= 0.98 and taken < 400_000, (found, taken)


def fitted(env=None, budget=20_000, **kwargs):
    env = env or make_vec_env("sparse/Maze1-v0", 10)
    allo = ALLO(env.observation_space, env.action_space, **QUICK | dict(n_walks=10**6) | kwargs)
    return allo.fit(env, budget, seed=0), allo


def test_the_budget_is_a_cap_and_full_agreement_takes_all_of_it():
    for exhaustive in (1024, 0):
        assert fitted(agreement=1.0, exhaustive=exhaustive)[0] == 20_000
        assert fitted(budget=1000, exhaustive=exhaustive)[0] == 1000
        assert fitted(agreement=0.01, exhaustive=exhaustive)[0] == 8000  # two agreements are three stages


@pytest.mark.parametrize(("exhaustive", "most"), [(1024, 70), (0, 105)])
def test_stages_train_for_half_as_long_again_at_most(exhaustive, most, monkeypatch):
    taken, train = [], _Training.train

    def counted(self, n_steps, **kwargs):
        taken.append(n_steps)
        train(self, n_steps, **kwargs)

    monkeypatch.setattr(_Training, "train", counted)
    assert fitted(budget=128_000, exhaustive=exhaustive, agreement=0.9999999, gradient_steps=70)[0] == 128_000
    assert sum(taken) == most, taken


def test_states_seen_for_the_first_time_are_no_agreement():
    # Walks begin at one end and take long to see the other: what agrees where they have been is no map of the whole.
    class Left(Chain):
        def reset(self, *, seed=None, options=None):
            observation = super().reset(seed=seed, options=options)[0]
            self.cell = 0
            return observation * [0, 1], {}

    taken, allo = fitted(dummy(lambda: Left(100, 10**6), 2), budget=500_000, n_rewards=2)
    assert taken > 8000 and allo.high[0] >= 90 and allo.fit_info["agreement"] >= 0.95, (taken, allo.high)


@pytest.mark.parametrize("name", ["MountainCarContinuous-v0", "Pendulum-v1", "CartPole-v1", "FrozenLake-v1"])
def test_allo_on_others_environments_repeats_and_leaves_the_global_generators_alone(name):
    def train(seed):
        env = dummy(lambda: gym.make(name), 3)
        allo = ALLO(env.observation_space, env.action_space, **QUICK)
        assert 0 < allo.fit(env, 1000, seed=seed) <= 1000
        return torch.cat([value.double().flatten() for value in allo.state_dict().values()])

    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = train(3)
    assert torch.equal(first, train(3))
    assert not torch.equal(first, train(4))
    assert np.array_equal(np_state, np.random.get_state()[1])
    assert torch.equal(torch_state, torch.get_rng_state())
    assert first.isfinite().all()


def test_an_entry_that_never_changed_in_the_walks_does_not_explode_when_it_does():
    env = dummy(Chain)
    allo = ALLO(env.observation_space, env.action_space, **QUICK)
    allo.fit(env, 500, seed=0)
    phi = allo.features(torch.tensor([[1.0, 5.0], [1.0, 6.0]]))
    assert phi.abs().max() < 100


def test_walks_start_with_the_options_and_leave_none_behind():
    env = dummy(Chain)
    allo = ALLO(env.observation_space, env.action_space, **QUICK)
    assert allo.fit(env, 10_000, seed=0) == 20 * 20  # n_walks episodes of 20 steps
    asked = {"random_start": True, "ignore_goal": True}
    assert [options for options in env.envs[0].options_seen if options].count(asked) >= 10
    env.reset()
    assert env.envs[0].options_seen[-1] == {}


def test_walks_pass_over_the_goal_and_are_cut_where_an_episode_ends():
    env = make_vec_env("sparse/Maze1-v0", 4)
    goal = env.reset()[0, 2:]
    walks = collect_walks(env, 40)
    assert walks.timesteps == 40 * 200
    assert (walks.positions[..., :2] == torch.as_tensor(goal)).all(-1).any()  # been at the goal …
    for column in range(4):
        _, lengths = torch.unique_consecutive(walks.same_walk[:, column], return_counts=True)
        assert (lengths[:-1] == 201).all()  # … and went on for all 200 steps
    jump = (walks.positions[1:, :, :2] - walks.positions[:-1, :, :2]).abs().sum(-1)
    assert (jump[walks.same_walk[1:] == walks.same_walk[:-1]] <= 1).all()
    assert (jump[walks.same_walk[1:] != walks.same_walk[:-1]] > 1).any()


def test_walks_hold_the_terminal_observation_of_an_early_end():
    env = dummy(lambda: gym.make("CartPole-v1"), 1)
    walks = collect_walks(env, 30)
    x, angle = walks.positions[:, 0, 0], walks.positions[:, 0, 2]
    fallen = (x.abs() > 2.4) | (angle.abs() > 12 * np.pi / 180)
    number = walks.same_walk[:, 0]
    ends = torch.cat([number[1:] != number[:-1], torch.tensor([False])])
    assert ends.sum() == 30  # the last walk only has its first observation
    assert torch.equal(fallen, ends)


def test_two_rows_of_a_walk_are_as_many_steps_apart_as_rows():
    # Whenever the episodes of the environments end; the observation here counts the steps since the reset.
    class Clock(Chain):
        def _observation(self):
            return np.array([self.t, 5], np.float32)

        def reset(self, *, seed=None, options=None):
            self.t = 0
            observation = super().reset(seed=seed, options=options)[0]
            self.horizon = int(self.np_random.integers(2, 9))
            return observation * [0, 1], {}

    env = dummy(Clock, 5)
    walks = collect_walks(env, 60)
    same = walks.same_walk[1:] == walks.same_walk[:-1]
    assert (walks.positions[1:, :, 0] - walks.positions[:-1, :, 0])[same].eq(1).all()
    assert (walks.positions[1:, :, 0][~same] == 0).all()
    assert walks.last.diff(dim=0).ge(0).all() and (walks.last[-1] == len(walks.last) - 1).all()
    assert walks.positions[..., 0].numel() > 0.8 * walks.timesteps


def test_vecnormalize_is_seen_through_and_left_alone():
    plain = dummy(lambda: gym.make("sparse/Maze1-v0"))
    normalized = VecNormalize(dummy(lambda: gym.make("sparse/Maze1-v0")))
    normalized.reset()
    count, mean = normalized.obs_rms.count, normalized.obs_rms.mean.copy()
    states = []
    for env in (plain, normalized):
        allo = ALLO(env.observation_space, env.action_space, **QUICK)
        allo.fit(env, 2000, seed=0)
        states.append(allo.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert normalized.obs_rms.count == count and np.array_equal(normalized.obs_rms.mean, mean)
    assert normalized.training


def test_allo_reads_where_the_agent_is_from_the_environment():
    env = dummy(lambda: gym.make("sparse/Maze1-v0"))
    seen, chosen = (ALLO(env.observation_space, env.action_space, **QUICK, indices=i) for i in (None, (1,)))
    for allo in (seen, chosen):
        allo.fit(env, 500, seed=0)
    assert seen.indices.tolist() == [0, 1]
    assert chosen.indices.tolist() == [1]


def test_allo_errors_say_what_is_wrong():
    env = dummy(Chain)
    allo = ALLO(env.observation_space, env.action_space, **QUICK)
    with pytest.raises(RuntimeError, match="fit"):
        allo.compute(step_of([0, 5], [1, 5]))
    with pytest.raises(ValueError, match=r"2 environments.*1 steps"):
        allo.fit(env, 1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_features", 2),
        ("discount", 1.0),
        ("discount", -0.1),
        ("n_walks", 0),
        ("gradient_steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("dual_learning_rate", -1.0),
        ("max_dual", 0.0),
        ("barrier", 0.0),
        ("barrier_growth", -1.0),
        ("max_barrier", 1.0),
        ("max_grad_norm", 0.0),
        ("hidden_sizes", (16, 0)),
        ("indices", (0, 2)),
        ("agreement", 1.5),
        ("indices", ()),
        ("n_rewards", 0),
    ],
)
def test_allo_names_a_bad_argument_and_its_value(argument, value):
    arguments = {"n_rewards": 4, argument: value}
    with pytest.raises(ValueError) as error:
        ALLO(Chain().observation_space, Chain().action_space, **arguments)
    assert argument.rstrip("s") in str(error.value)
    shown = value if not isinstance(value, tuple) else value[-1:]
    assert str(shown).strip("(),") in str(error.value)
