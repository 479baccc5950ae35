"""Details of the rewards: steps that do not count, random walks, the Laplacian of walks, distinct rows."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize
from torch.testing import assert_close

import envs  # noqa: F401 (registers sparse/…)
import irwrappers.unique_rows
from irwrappers import ALLO, INTRINSIC_REWARDS, ExactLaplacian, Transitions, make_intrinsic_reward
from irwrappers.intrinsic.random_walks import WalkCollector, random_actions
from irwrappers.intrinsic.walk_laplacian import one_step_laplacian, whole_batch
from irwrappers.unique_rows import unique_rows
from sb3_ext.common.vec_env import make_vec_env

ROOM = ["######", "#S   #", "#   G#", "######"]
QUICK = {"hidden_sizes": (16, 16), "gradient_steps": 30, "n_walks": 40}
SMALL = {"allo": QUICK, "random": {"hidden_sizes": (32, 32)}}
everyone = pytest.mark.parametrize("name", sorted(INTRINSIC_REWARDS))


class CountSteps(VecEnvWrapper):
    timesteps = 0

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        self.timesteps += self.num_envs
        return self.venv.step_wait()


def spaces_of(env):
    return env.observation_space, env.action_space


def maze(n_envs=10, **kwargs):
    return CountSteps(make_vec_env("sparse/Maze1-v0", n_envs=n_envs, **kwargs))


def walk(env, n_walks=100, budget=20_000, seed=0):
    reward = ALLO(*spaces_of(env))
    reward._read_indices(env)
    collector = WalkCollector(env, seed)
    collector.collect(n_walks, budget)
    return collector.walks(reward.select, torch.device("cpu"))


# --- every reward


@everyone
def test_steps_reported_are_steps_taken(name):
    for budget in (10, 2_005):
        env = maze()
        reward = make_intrinsic_reward(name, *spaces_of(env), **SMALL.get(name, {}))
        assert reward.fit(env, budget, seed=0) == env.timesteps <= budget
        assert not reward.needs_fit


@everyone
def test_a_loaded_module_needs_no_fit(name):
    env = maze()
    reward, fresh, other = (make_intrinsic_reward(name, *spaces_of(env), **SMALL.get(name, {})) for _ in range(3))
    reward.fit(env, 2_000, seed=0)
    rooms = make_vec_env("sparse/FourRooms0-v0", n_envs=10)
    other.fit(rooms, 2_000, seed=1)
    for module in (fresh, other):
        module.load_state_dict(copy.deepcopy(reward.state_dict()), strict=True)
        assert not module.needs_fit
        steps = torch.tensor([[[9.0, 5, 1, 9]], [[9, 4, 1, 9]], [[9, 3, 1, 9]]])
        never = torch.zeros(2, 1, dtype=torch.bool)
        batch = Transitions(steps[:-1], torch.full((2, 1), 3), steps[1:], never, never)
        assert torch.equal(module.compute(batch), reward.compute(batch))


@everyone
def test_cuda_generators_are_left_alone(name, monkeypatch):
    """fork_rng(devices=[]) gives the CPU's generator back, not those that torch.manual_seed sets on CUDA devices."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    env = maze()
    make_intrinsic_reward(name, *spaces_of(env), **SMALL.get(name, {})).fit(env, 2_000, seed=0)
    assert seeded == []


@pytest.mark.parametrize(
    ("reward", "kwargs", "message"),
    [
        ("lapacian", {}, "Unknown intrinsic reward 'lapacian'.*Did you mean 'laplacian'"),
        ({"alo": {}}, {}, "Did you mean 'allo'"),
        (["random"], {"seed": 2}, r"\['seed'\]"),
        ({"random": {}}, {"seed": 2}, r"\['seed'\]"),
        ([], {}, "Expected the name of an intrinsic reward"),
        ({"random": {}, "allo": {}}, {}, "Expected the name of an intrinsic reward"),
        (3, {}, "Expected the name of an intrinsic reward"),
    ],
)
def test_make_errors(reward, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_intrinsic_reward(reward, *spaces_of(maze()), **kwargs)


# --- distinct rows


def assert_unique(x):
    rows, inverse = unique_rows(x)
    expected = torch.unique(x, dim=0)
    assert torch.equal(rows[inverse], x)
    assert torch.equal(torch.unique(rows, dim=0), expected) and len(rows) == len(expected)


def test_minus_zero_is_zero():
    for dtype in (torch.float32, torch.float64):
        assert_unique(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0], [-0.0, -0.0], [0.0, 0.0]], dtype=dtype))


def test_many_rows_and_nearby_floats():
    generator = torch.Generator().manual_seed(0)
    assert_unique(torch.randint(-5, 6, (100_000, 3), generator=generator).float())
    assert len(unique_rows(torch.tensor([[1.0], [1.0 + 2**-23], [1.0 - 2**-24], [1e-40], [0.0]]))[0]) == 5


def test_hash_collisions_fall_back_to_the_exact_way(monkeypatch):
    monkeypatch.setattr(irwrappers.unique_rows, "_words", lambda x: torch.zeros(x.shape, dtype=torch.int64))
    assert_unique(torch.randint(0, 3, (200, 2), generator=torch.Generator().manual_seed(1)).float())


# --- walks and pairs


@pytest.mark.parametrize("n_envs", [1, 8])
def test_walks_on_cartpole_never_pair_states_across_an_episodes_end(n_envs):
    """x′ = x + 0.02 ẋ and θ′ = θ + 0.02 θ̇ between rows of one walk; states that end episodes end walks."""
    walks = walk(make_vec_env("CartPole-v1", n_envs=n_envs))
    positions, number = walks.positions, walks.same_walk
    before, after, together = positions[:-1], positions[1:], number[1:] == number[:-1]
    stays = (before == after).all(-1)
    error = (after[..., [0, 2]] - before[..., [0, 2]] - 0.02 * before[..., [1, 3]]).abs().amax(-1)
    assert (stays | (error < 1e-5))[together].all() and (error[~together] > 1e-3).float().mean() > 0.9
    ends = torch.cat([~together, torch.ones(1, n_envs, dtype=torch.bool)])
    starts = torch.cat([torch.ones(1, n_envs, dtype=torch.bool), ~together])
    assert (positions[starts].abs() <= 0.05).all()
    fallen = (positions[..., 0].abs() > 2.4) | (positions[..., 2].abs() > 12 * 2 * np.pi / 360)
    assert fallen[ends].sum() > 70 and not fallen[~ends].any()


def test_transition_frequencies_by_hand():
    """A walk 0 → 1 → 0 → 2: from 0 to 1 and 2 with ½ each, from 1 to 0, from 2 nothing; then made symmetric."""
    index = torch.tensor([[0], [1], [0], [2]])
    laplacian = one_step_laplacian(3, index, torch.zeros(4, 1, dtype=torch.int64))
    assert laplacian.tolist() == [[1, -0.75, -0.25], [-0.75, 0.75, 0], [-0.25, 0, 0.25]]
    cut = one_step_laplacian(3, index, torch.tensor([[0], [0], [1], [1]]))  # no step from 1 to 0
    assert cut.tolist() == [[0.5, -0.25, -0.25], [-0.25, 0.25, 0], [-0.25, 0, 0.25]]


def test_the_discounted_chain_takes_a_geometric_number_of_steps():
    chain = torch.tensor([[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]], dtype=torch.float64)
    batch = whole_batch(torch.arange(3.0)[:, None], torch.eye(3, dtype=torch.float64) - chain, 0.5)
    pairs = sum(0.5 ** (k + 1) * torch.linalg.matrix_power(chain, k + 1) for k in range(60)).float() / 3
    u = torch.tensor([[0.3, 1.0], [-2.0, 0.5], [0.7, 4.0]])
    expected = sum(pairs[i, j] * (u[i] - u[j]).square().sum() for i in range(3) for j in range(3))
    assert_close(batch.smoothness(u), expected)


@pytest.mark.parametrize("exhaustive", [0, 1024])
@pytest.mark.parametrize("discount", [0.0, 0.99])
def test_every_discount_that_is_accepted_trains(discount, exhaustive):
    env = maze(env_kwargs={"layout": ROOM})
    allo = ALLO(*spaces_of(env), discount=discount, exhaustive=exhaustive, **QUICK)
    allo.fit(env, 4_000)
    assert allo.features(torch.tensor([[1.0, 1.0]])).isfinite().all()


def test_discrete_observations_with_unequal_episodes():
    env = make_vec_env("FrozenLake-v1", n_envs=3)
    allo = ALLO(*spaces_of(env), **QUICK)
    assert allo.fit(env, 600, seed=0) <= 600
    observations, flags = torch.arange(15).reshape(5, 3), torch.zeros(5, 3, dtype=torch.bool)
    rewards = allo.compute(Transitions(observations, torch.zeros(5, 3), observations + 1, flags, flags))
    assert rewards.shape == (5, 3, 6) and rewards.isfinite().all() and (rewards[..., 0] != 0).any()


@pytest.mark.parametrize("wrap", [VecNormalize, lambda env: VecMonitor(VecNormalize(env))], ids=["outermost", "inside"])
def test_walks_see_original_observations_through_vec_normalize(wrap):
    expected, env = walk(maze()), wrap(maze())
    env.reset()
    normalize = env if isinstance(env, VecNormalize) else env.venv
    before = normalize.obs_rms.mean.copy(), normalize.obs_rms.count, normalize.ret_rms.count
    walks = walk(env)
    assert torch.equal(walks.same_walk, expected.same_walk) and torch.equal(walks.positions, expected.positions)
    assert np.array_equal(normalize.obs_rms.mean, before[0])
    assert (normalize.obs_rms.count, normalize.ret_rms.count) == before[1:] and normalize.training


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([2, 5, 3], start=[1, 0, -1]),
        spaces.MultiBinary(4),
        spaces.Box(np.float32([-1, 0]), np.float32([1, 5])),
    ],
    ids=["discrete", "multidiscrete", "multibinary", "box"],
)
def test_random_actions_are_uniform(space):
    actions = random_actions(space, 4_000, np.random.default_rng(0))
    assert all(space.contains(action) for action in actions)
    if isinstance(space, spaces.Box):
        np.testing.assert_allclose(actions.mean(0), (space.low + space.high) / 2, atol=0.1)
        return
    for column in actions.reshape(4_000, -1).T:
        values, counts = np.unique(column, return_counts=True)
        assert (abs(counts / 4_000 - 1 / len(values)) < 0.04).all()


def test_random_actions_of_an_unbounded_box_say_what_is_wrong():
    with pytest.raises(ValueError, match="Box"):
        random_actions(spaces.Box(-np.inf, np.inf, (2,)), 2, np.random.default_rng(0))


# --- ALLO on random batches


def groups(eigenvalues, gap=0.05):
    """Consecutive eigenvalues in groups, cut where the next one is more than ``gap`` larger."""
    cuts = [j for j in range(1, len(eigenvalues)) if eigenvalues[j] > (1 + gap) * max(eigenvalues[j - 1], 1e-6)]
    return [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, len(eigenvalues)], strict=True)]


def cosines(env, n=6, seed=0, timesteps=500_000, **kwargs):
    exact, allo = ExactLaplacian(*spaces_of(env)), ALLO(*spaces_of(env), **kwargs)
    exact.fit(env)
    assert allo.fit(env, timesteps, seed=seed) <= timesteps
    with torch.no_grad():
        u = allo.features(exact.states).double()
    basis = exact.phi.double() / len(exact.states) ** 0.5
    group_of = {i: group for group in groups(exact.eigenvalues.tolist()) for i in group}
    return [((basis[:, group_of[i]].mT @ u[:, i]).norm() / u[:, i].norm()).item() for i in range(1, n + 1)]


def test_groups_are_cut_at_gaps():
    assert groups([0.0, 0.1, 0.104, 0.108, 0.2, 0.22]) == [[0], [1, 2, 3], [4], [5]]


def test_untrained_features_are_not_eigenvectors():
    assert min(cosines(maze(), timesteps=4_000, **QUICK)) < 0.9


def test_one_gymnasium_environment_is_enough():
    env = gym.make("Pendulum-v1")
    allo = ALLO(*spaces_of(env), **QUICK)
    assert allo.fit(env, 500) == 500 and not allo.needs_fit


def test_allo_learns_from_minibatches():
    """What a large or continuous state space gets: random pairs, not all of them."""
    kwargs = {
        "exhaustive": 0,
        "gradient_steps": 2500,
        "learning_rate": 2e-3,
        "n_features": 4,
        "n_rewards": 4,
        "agreement": 0.99,
    }
    assert min(cosines(maze(100), n=2, timesteps=200_000, hidden_sizes=(64, 64), **kwargs)) >= 0.95
