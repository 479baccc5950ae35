"""StateCount: exact and SimHash counts, the hash beneath, and sums of rewards."""

import copy
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import Concat, IntrinsicReward, StateCount, Sum, Transitions, make_intrinsic_reward
from irwrappers.intrinsic.counts import row_keys
from sb3_ext.common.vec_env import make_vec_env

GRID = spaces.Box(0, 10, (2,))
ACTIONS = spaces.Discrete(3)


def transitions(following, valid=None):
    """Steps that lead to ``following`` ``[T, B, …]`` or a dict of such."""
    first = next(iter(following.values())) if isinstance(following, dict) else following
    flags = torch.zeros(first.shape[:2], dtype=torch.bool)
    return Transitions(following, flags.long(), following, flags, flags, valid)


def cells(seed, n_steps=20, n_envs=5, size=4):
    return torch.randint(size, (n_steps, n_envs, 2), generator=torch.Generator().manual_seed(seed)).float()


def counted(table, following, valid=None):
    """The definition, one step after the other."""
    computed = np.zeros(following.shape[:2])
    for t, b in np.ndindex(computed.shape):
        if valid is None or valid[t, b]:
            table[tuple(following[t, b].flatten().tolist())] += 1
            computed[t, b] = table[tuple(following[t, b].flatten().tolist())] ** -0.5
    return torch.as_tensor(computed, dtype=torch.float32)


def test_the_reward_of_the_nth_visit_is_one_by_root_n():
    reward = StateCount(GRID, ACTIONS)
    one_place = transitions(torch.ones(3, 2, 2))
    expected = torch.arange(1, 7).float().rsqrt().view(3, 2)
    assert_close(reward.compute(one_place)[..., 0], expected)
    assert_close(reward.compute(one_place)[..., 0], expected)  # compute counts nothing
    reward.advance(one_place)
    assert_close(reward.compute(one_place)[..., 0], torch.arange(7, 13).float().rsqrt().view(3, 2))
    assert_close(reward.compute(transitions(torch.zeros(1, 1, 2))), torch.ones(1, 1, 1))


def test_counts_equal_a_dictionary_over_many_batches():
    reward, table = StateCount(GRID, ACTIONS), Counter()
    for seed in range(5):
        following = cells(seed, size=3 + 3 * seed)
        valid = torch.rand(20, 5, generator=torch.Generator().manual_seed(seed)) < 0.8
        batch = transitions(following, valid)
        assert_close(reward.compute(batch)[..., 0], counted(table, following, valid))
        reward.update(batch)
    states, visits = reward.table()
    assert sorted(visits.tolist()) == sorted(table.values())
    assert len(states) == reward.n_states == len(table) and states.diff().min() > 0


def test_batches_may_be_cut_anywhere():
    following = cells(0)
    whole, parts = StateCount(GRID, ACTIONS), StateCount(GRID, ACTIONS)
    computed = []
    for piece in following.split([1, 7, 0, 12]):
        computed.append(parts.compute(transitions(piece)))
        parts.advance(transitions(piece))
    assert torch.equal(torch.cat(computed), whole.compute(transitions(following)))
    whole.advance(transitions(following))
    assert all(torch.equal(one, other) for one, other in zip(whole.table(), parts.table(), strict=True))


def test_episodes_and_forgetting_leave_counts_alone():
    reward, batch = StateCount(GRID, ACTIONS), transitions(torch.ones(1, 1, 2))
    batch.terminated[:] = True
    reward.advance(batch)
    reward.forget()
    assert_close(reward.compute(batch).item(), 0.5**0.5)


def test_counts_load_into_a_new_module():
    reward, new = StateCount(GRID, ACTIONS), StateCount(GRID, ACTIONS)
    reward.advance(transitions(cells(0)))
    new.load_state_dict(copy.deepcopy(reward.state_dict()))
    assert torch.equal(new.compute(transitions(cells(1))), reward.compute(transitions(cells(1))))


@pytest.mark.parametrize("bits", [1, 8, 62])
def test_simhash_is_the_signs_of_the_projections(bits):
    reward = StateCount(GRID, ACTIONS, hash_bits=bits, normalize_observations=False)
    following, table = torch.randn(30, 4, 2, generator=torch.Generator().manual_seed(0)), Counter()
    signs = (following @ reward.projection > 0).float()
    assert_close(reward.compute(transitions(following))[..., 0], counted(table, signs))
    assert 1 < len(table) <= 2**bits


def test_simhash_counts_neighbours_together_and_more_bits_tell_more_apart():
    rng = torch.Generator().manual_seed(0)
    following = torch.randn(200, 5, 2, generator=rng)
    found = []
    for bits in (4, 16, 48):
        reward = StateCount(GRID, ACTIONS, hash_bits=bits)
        reward.update(transitions(following))
        found.append(reward.n_states)
    assert found == sorted(set(found)) and found[0] <= 2**4
    nearby = transitions(following + 1e-6 * torch.randn(following.shape, generator=rng))
    assert (reward.compute(nearby) < 1).float().mean() > 0.99
    exact = StateCount(GRID, ACTIONS)
    exact.update(transitions(following))
    assert (exact.compute(nearby) == 1).float().mean() > 0.9


def test_simhash_keeps_the_statistics_it_began_with():
    reward = StateCount(GRID, ACTIONS, hash_bits=8)
    assert reward.needs_fit and not StateCount(GRID, ACTIONS).needs_fit
    reward.update(transitions(cells(0)))
    assert not reward.needs_fit
    mean, states = reward.normalizer.state_dict(), reward.table()[0]
    reward.update(transitions(100 + cells(1)))
    assert all(torch.equal(value, mean[key]) for key, value in reward.normalizer.state_dict().items())
    assert torch.isin(states, reward.table()[0]).all()


def test_fit_takes_the_steps_it_says():
    env = make_vec_env("MountainCar-v0", n_envs=4)
    reward = StateCount(env.observation_space, env.action_space, hash_bits=8, warmup_steps=100)
    assert reward.fit(env, 1000, seed=0) == 100 and not reward.needs_fit
    assert reward.fit(env, 1000, seed=0) == 0  # fixed for good
    with pytest.raises(ValueError, match=r"4 environments.*3 steps"):
        StateCount(env.observation_space, env.action_space, hash_bits=8).fit(env, 3)


@pytest.mark.parametrize("bits", [0, 63, -1])
def test_hash_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=rf"\[1, 62\] or None.*got {bits}"):
        StateCount(GRID, ACTIONS, hash_bits=bits)


def test_numbers_that_are_not_finite_are_refused():
    reward = StateCount(GRID, ACTIONS)
    with pytest.raises(ValueError, match=r"StateCount.*NaN"):
        reward.advance(transitions(torch.full((1, 1, 2), torch.nan)))
    assert reward.n_states == 0


SPACES = {
    "vector": spaces.Box(-1, 1, (3,)),
    "float64": spaces.Box(-1, 1, (3,), np.float64),
    "image": spaces.Box(0, 255, (5, 3, 3), np.uint8),
    "int": spaces.Box(-5, 5, (3,), np.int32),
    "discrete": spaces.Discrete(9, start=-2),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "multibinary": spaces.MultiBinary(9),
    "dict": spaces.Dict(where=spaces.Box(-1, 1, (2,)), room=spaces.Discrete(3)),
}


@pytest.mark.parametrize("kind", SPACES)
def test_equal_observations_and_no_others_share_a_key(kind):
    space = SPACES[kind]
    space.seed(0)
    samples = [space.sample() for _ in range(50)]
    samples += samples[:20]
    if isinstance(space, spaces.Dict):
        columns = {key: torch.as_tensor(np.array([x[key] for x in samples])) for key in space.spaces}
        rows = [tuple(float(v) for key in space.spaces for v in np.ravel(x[key])) for x in samples]
    else:
        columns = torch.as_tensor(np.array(samples))
        rows = [tuple(np.ravel(x).tolist()) for x in samples]
    keys = row_keys(space, columns).tolist()
    assert len(keys) == 70 and len(set(keys)) == len(set(rows))
    assert all((keys[i] == keys[j]) == (rows[i] == rows[j]) for i in range(70) for j in range(i))


def test_keys_do_not_depend_on_how_numbers_are_stored():
    space = spaces.Box(-5, 5, (2,), np.float64)
    rows = torch.tensor([[1.5, -0.0], [0.25, 2.0]])
    assert torch.equal(row_keys(space, rows), row_keys(space, rows.double() + 0.0))
    assert torch.equal(
        row_keys(spaces.Discrete(3), torch.tensor([0, 2])), row_keys(spaces.Discrete(3), torch.tensor([[0], [2]]))
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_a_million_grid_points_have_a_million_keys(dtype):
    """Structured inputs, which defeat hashes that merely add up multiples."""
    axis = torch.arange(100)
    points = torch.cartesian_prod(axis, axis, axis).to(torch.as_tensor(np.zeros(1, dtype)).dtype)
    assert len(row_keys(spaces.Box(0, 255, (3,), dtype), points).unique()) == 100**3


def test_counts_in_a_maze_equal_the_cells_walked_over():
    env = make_vec_env("sparse/Maze1-v0", n_envs=3)
    reward, table = StateCount(env.observation_space, env.action_space), Counter()
    env.seed(0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        following = torch.as_tensor(env.step(rng.integers(4, size=3))[0])[None]
        assert_close(reward.compute(transitions(following))[..., 0], counted(table, following))
        reward.advance(transitions(following))


# Sums


class Constant(IntrinsicReward):
    def __init__(self, values):
        super().__init__(GRID, ACTIONS)
        self.values, self.n_rewards, self.advanced = torch.as_tensor(values, dtype=torch.float32), len(values), 0

    def compute(self, batch):
        return self.values.expand(batch.n_steps, batch.n_envs, -1)

    def learn(self, batch):
        return {"steps": float(batch.n_steps)}

    def advance(self, batch):
        self.advanced += 1


def test_sum_is_the_weighted_sum_of_each_channel():
    batch = transitions(cells(0))
    parts = [Constant([1.0, 10.0]), Constant([2.0, -1.0])]
    both = Sum(parts, weights=[0.5, 3.0])
    assert both.n_rewards == 2 and both.channel_names == ("sum_0", "sum_1")
    assert_close(both.compute(batch), torch.tensor([6.5, 2.0]).expand(20, 5, 2))
    assert_close(Sum(parts).compute(batch), torch.tensor([3.0, 9.0]).expand(20, 5, 2))
    assert both.update(batch) == {"0_constant/steps": 20.0, "1_constant/steps": 20.0}
    assert [part.advanced for part in parts] == [1, 1]
    assert Sum([Constant([1.0])]).channel_names == ("sum",)


def test_sum_goes_into_concat_and_state_dicts():
    arguments = GRID, ACTIONS
    both = Sum([StateCount(*arguments), StateCount(*arguments, hash_bits=4, normalize_observations=False)], [1.0, 2.0])
    mixed = make_intrinsic_reward([both, "count"], *arguments)
    assert isinstance(mixed, Concat) and mixed.n_rewards == 2
    mixed.advance(transitions(cells(0)))
    new = make_intrinsic_reward([copy.deepcopy(both), "count"], *arguments)
    new.load_state_dict(mixed.state_dict())
    assert torch.equal(new.compute(transitions(cells(1))), mixed.compute(transitions(cells(1))))


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([], None, "Sum needs at least one"),
        ([Constant([1.0]), Constant([1.0, 2.0])], None, r"\[1, 2\]; Concat"),
        ([Constant([1.0])], [1.0, 2.0], r"each of its 1 rewards, got \[1.0, 2.0\]"),
        ([Constant([1.0])], [float("nan")], "finite"),
    ],
)
def test_sums_that_make_no_sense(parts, weights, message):
    with pytest.raises(ValueError, match=message):
        Sum(parts, weights)


def test_a_large_table_counts_as_a_dictionary_does_and_old_files_load():
    reward, rng, seen = StateCount(spaces.Discrete(6000), spaces.Discrete(2)), np.random.default_rng(0), Counter()
    for _ in range(40):  # so that new states are merged several times
        places = rng.integers(0, 6000, (64, 8))
        expected = []
        for place in places.flatten().tolist():
            seen[place] += 1
            expected.append(seen[place] ** -0.5)
        batch = transitions(torch.as_tensor(places))
        assert_close(reward.compute(batch).flatten(), torch.tensor(expected))
        reward.advance(batch)
    assert len(reward.states) > 0 and reward.n_states == len(seen)
    old = StateCount(spaces.Discrete(6000), spaces.Discrete(2))
    states, visits = reward.table()
    old.load_state_dict({"states": states, "visits": visits})
    assert torch.equal(old.compute(batch), reward.compute(batch))


def test_it_warns_where_nearly_every_state_is_new(monkeypatch):
    monkeypatch.setattr("irwrappers.intrinsic.counts.MANY_VISITS", 1000)
    reward = StateCount(spaces.Discrete(10_000), spaces.Discrete(2))
    with pytest.warns(UserWarning, match=r"1024 of 1024 visits led to a new state.*hash_bits"):
        reward.advance(transitions(torch.arange(1024).view(128, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward.advance(transitions(torch.arange(2000, 3024).view(128, 8)))
