"""PseudoCounts, NGU and the memory of running episodes beneath them."""

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

from irwrappers import E3B, NGU, RIDE, PseudoCounts, Transitions
from irwrappers.intrinsic.memory import look_back, nearest

LINE = spaces.Box(-10, 10, (2,))
ACTIONS = spaces.Discrete(3)
T, B = 150, 4  # more steps than are looked back on at once


def identity(reward):
    """Features that are the observations themselves."""
    reward._encode = lambda observations: observations.float()
    return reward


def line(**kwargs):
    return identity(PseudoCounts(LINE, ACTIONS, latent_dim=2, hidden_sizes=(8,), normalize_observations=False, **kwargs))


def episodes(seed=0, n_steps=T, n_envs=B, ends=0.05, size=6, invalid=0.0):
    """Random cells of a grid; episodes end at random, and the next one starts elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    following = torch.randint(size, (n_steps, n_envs, 2), generator=generator).float()
    starts = torch.randint(size, (n_steps, n_envs, 2), generator=generator).float()
    ended = torch.rand((n_steps, n_envs), generator=generator) < ends
    terminated = ended & (torch.rand((n_steps, n_envs), generator=generator) < 0.5)
    observations = torch.cat([starts[:1], torch.where(ended[:-1, :, None], starts[1:], following[:-1])])
    valid = torch.rand((n_steps, n_envs), generator=generator) >= invalid if invalid else None
    actions = torch.randint(3, (n_steps, n_envs), generator=generator)
    return Transitions(observations, actions, following, terminated, ended & ~terminated, valid)


def part(batch, steps):
    return Transitions(*(None if value is None else value[steps] for value in vars(batch).values()))


def split(batch, lengths):
    ends = np.cumsum(lengths)
    return [part(batch, slice(end - length, end)) for length, end in zip(lengths, ends, strict=True)]


def episode_memories(batch, capacity):
    """For each step, what its copy remembers of its episode: one list after the other, as one would write it down."""
    memories = [[None] * batch.n_envs for _ in range(batch.n_steps)]
    for b in range(batch.n_envs):
        memory = []
        for t in range(batch.n_steps):
            if batch.mask[t, b]:
                memory = [*memory, batch.observations[t, b]][-capacity:]
            memories[t][b] = memory
            if batch.done[t, b]:
                memory = []
    return memories


def naive_pseudo_counts(batch, k=10, epsilon=1e-3, xi=0.008, c=1e-3, maximum=8.0, capacity=500):
    """Algorithm 1 of the paper, copy by copy and step by step."""
    memories, computed = episode_memories(batch, capacity), torch.zeros(batch.n_steps, batch.n_envs)
    for b in range(batch.n_envs):
        seen = []
        for t in range(batch.n_steps):
            if not batch.mask[t, b]:
                continue
            squared = sorted(float((batch.next_observations[t, b] - m).square().sum()) for m in memories[t][b])[:k]
            seen += squared
            mean = sum(seen) / len(seen)
            normalized = [max(d / mean - xi, 0) if mean else 0.0 for d in squared]
            s = sum(epsilon / (d + epsilon) for d in normalized) ** 0.5 + c
            computed[t, b] = 0 if s > maximum else 1 / s
    return computed


# The kernel


def test_pseudo_counts_by_hand():
    """An episode at 0, 1, 0, 3 on a line. Neighbours' squared distances: of 1: {1}; of 0: {0, 1}; of 3: {9, 4, 9}."""
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])[:, None]
    flags = torch.zeros(3, 1, dtype=torch.bool)
    batch = Transitions(places[:-1], flags.long(), places[1:], flags, flags)

    def kernel(squared, mean):
        return 0.1 / (max(squared / mean - 0.5, 0) + 0.1)

    expected = [
        1 / (kernel(1, 1) ** 0.5 + 0.01),
        1 / ((kernel(0, 2 / 3) + kernel(1, 2 / 3)) ** 0.5 + 0.01),
        1 / ((kernel(9, 24 / 6) * 2 + kernel(4, 24 / 6)) ** 0.5 + 0.01),
    ]
    reward = line(epsilon=0.1, cluster_distance=0.5, constant=0.01)
    assert_close(reward.compute(batch)[:, 0, 0], torch.tensor(expected))
    # With two neighbours the last sum and the mean lose the farthest of the three.
    expected[2] = 1 / ((kernel(9, 15 / 5) + kernel(4, 15 / 5)) ** 0.5 + 0.01)
    assert_close(
        line(epsilon=0.1, cluster_distance=0.5, constant=0.01, n_neighbors=2).compute(batch)[:, 0, 0], torch.tensor(expected)
    )


def test_standing_still_has_reward_one_by_root_n():
    """All states in one cluster: K = 1 for each of up to k neighbours, so that the pseudo-count is the count."""
    still, flags = torch.ones(30, 2, 2), torch.zeros(30, 2, dtype=torch.bool)
    computed = line(n_neighbors=10).compute(Transitions(still, flags.long(), still, flags, flags))[..., 0]
    counts = torch.arange(1, 31).clamp(max=10).float()
    assert_close(computed, (1 / (counts.sqrt() + 1e-3))[:, None].expand(30, 2))


def test_what_is_too_similar_has_reward_zero():
    still, flags = torch.ones(30, 1, 2), torch.zeros(30, 1, dtype=torch.bool)
    computed = line(n_neighbors=20, max_similarity=3.0).compute(Transitions(still, flags.long(), still, flags, flags))
    assert (computed[:8] > 0).all() and (computed[8:] == 0).all()  # sqrt(9) + 0.001 > 3


def test_a_new_place_has_a_higher_reward_than_an_old_one():
    reward, batch = line(), episodes(ends=0.0, size=3)
    reward.advance(batch)
    far = part(batch, slice(0, 1))
    far.next_observations = far.next_observations + 8
    assert (reward.compute(far) > 3 * reward.compute(part(batch, slice(0, 1)))).all()


@pytest.mark.parametrize("capacity", [1, 7, 500])
@pytest.mark.parametrize("invalid", [0.0, 0.2])
def test_pseudo_counts_equal_algorithm_1(capacity, invalid):
    batch = episodes(invalid=invalid)
    computed = line(capacity=capacity).compute(batch)[..., 0]
    assert_close(computed, naive_pseudo_counts(batch, capacity=capacity), rtol=1e-4, atol=1e-5)


# The memory of running episodes, which all of them share


def quick(cls, **kwargs):
    torch.manual_seed(0)
    return cls(LINE, ACTIONS, latent_dim=4, hidden_sizes=(8,), **kwargs)


def quick_ngu(**kwargs):
    reward = quick(NGU, capacity=20, lifelong_kwargs=dict(hidden_sizes=(8,), latent_dim=4), **kwargs)
    reward.learn(episodes(7))
    return reward


EPISODIC = {
    "pseudo_counts": partial(quick, PseudoCounts, capacity=20),
    "ngu": quick_ngu,
    "e3b": partial(quick, E3B),
    "ride": partial(quick, RIDE, capacity=20),
}
everyone = pytest.mark.parametrize("name", EPISODIC)


@everyone
@pytest.mark.parametrize("invalid", [0.0, 0.2])
@pytest.mark.parametrize("lengths", [[T], [1] * T, [70, 1, 0, 79], [64, 64, 22]])
def test_batches_may_be_cut_anywhere(name, lengths, invalid):
    whole, parts, batch = EPISODIC[name](), EPISODIC[name](), episodes(invalid=invalid)
    computed = []
    for piece in split(batch, lengths):
        computed.append(parts.compute(piece))
        parts.advance(piece)
    assert_close(torch.cat(computed), whole.compute(batch), rtol=1e-4, atol=1e-5)
    whole.advance(batch)
    after = episodes(1)
    assert_close(parts.compute(after), whole.compute(after), rtol=1e-4, atol=1e-5)


@everyone
def test_episodes_that_end_take_their_memory_along(name):
    reward, batch = EPISODIC[name](), episodes(ends=0.0)
    batch.truncated[-1, :2] = True  # environments 0 and 1 start new episodes
    reward.advance(batch)
    fresh = EPISODIC[name]()
    for distances in ("distance_sum", "distance_count"):  # which are usual is remembered for longer
        if hasattr(reward, distances):
            setattr(fresh, distances, getattr(reward, distances).clone())
            fresh.embeddings, fresh.length = fresh.embeddings.new_zeros(B, 0, 4), fresh.length.new_zeros(B)
    after = episodes(1)
    assert_close(reward.compute(after)[:, :2], fresh.compute(after)[:, :2], rtol=1e-4, atol=1e-5)
    assert (reward.compute(after)[0, 2:] != fresh.compute(after)[0, 2:]).any()
    reward.forget()
    assert_close(reward.compute(after), fresh.compute(after), rtol=1e-4, atol=1e-5)


@everyone
def test_another_number_of_environments_starts_from_empty_memories(name):
    reward, fresh = EPISODIC[name](), EPISODIC[name]()
    reward.advance(episodes())
    assert_close(reward.compute(episodes(1, n_envs=3)), fresh.compute(episodes(1, n_envs=3)))
    reward.advance(episodes(1, n_envs=3))
    assert reward.compute(episodes(2, n_envs=3)).shape == (T, 3, 1)


@everyone
def test_memories_load_into_a_new_module(name):
    reward, new = EPISODIC[name](), EPISODIC[name]()
    reward.advance(episodes())
    new.load_state_dict(copy.deepcopy(reward.state_dict()))
    after = episodes(1)
    assert torch.equal(new.compute(after), reward.compute(after))
    new.load_state_dict(EPISODIC[name]().state_dict())  # an empty one into a full one
    assert torch.equal(new.compute(after), EPISODIC[name]().compute(after))


@everyone
def test_environments_are_independent(name):
    reward, batch = EPISODIC[name](), episodes()
    alone = Transitions(*(value[:, 2:3] for value in vars(batch).values() if value is not None))
    assert_close(reward.compute(alone), reward.compute(batch)[:, 2:3], rtol=1e-4, atol=1e-5)


@everyone
def test_what_an_episode_looks_back_on_is_bounded(name):
    reward = EPISODIC[name]()
    reward.advance(episodes(ends=0.0))
    stored = sum(getattr(reward, key).numel() for key in reward.resizable)
    reward.advance(episodes(1, ends=0.0))
    assert sum(getattr(reward, key).numel() for key in reward.resizable) == stored <= B * (20 * 4 + 10)


@everyone
def test_learning_lowers_the_loss_on_actions_that_show(name):
    """s′ = s + one step in the action's direction: inverse dynamics can be learned."""
    torch.manual_seed(0)
    reward = type(EPISODIC[name]())(LINE, ACTIONS, learning_rate=3e-3, n_epochs=3)
    generator = torch.Generator().manual_seed(0)
    moves = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0]])
    losses = []
    for _ in range(12):
        actions = torch.randint(3, (64, 8), generator=generator)
        places = torch.randn(64, 8, 2, generator=generator)
        flags = torch.zeros(64, 8, dtype=torch.bool)
        batch = Transitions(places, actions, places + moves[actions], flags, flags)
        losses.append(reward.learn(batch)["inverse_loss"])
    assert losses[0] > 0.8 and losses[-1] < 0.4 * losses[0]


def test_look_back_by_hand():
    """Two stored items and three steps, the second of which ends an episode; capacity 2."""
    stored, length = torch.tensor([[-1, 10, 11]]), torch.tensor([2])
    done, valid = torch.tensor([[False], [True], [False]]), torch.ones(3, 1, dtype=torch.bool)
    pool = look_back(stored, length, torch.tensor([[12], [13], [14]]), done, valid, capacity=2)
    seen = [pool.items[0][~hidden].tolist() for hidden in pool.hidden[0]]
    assert seen == [[11, 12], [12, 13], [14]]
    items, length = pool.remember()
    assert items.tolist() == [[14]] and length.tolist() == [1]
    done[2] = True
    items, length = look_back(stored, torch.tensor([2]), torch.tensor([[12], [13], [14]]), done, valid, 2).remember()
    assert items.shape == (1, 0) and length.tolist() == [0]


@pytest.mark.parametrize(("n", "k"), [(3, 5), (40, 3), (200, 10), (37, 1), (203, 7)])
def test_nearest_equals_sorting_all_distances(n, k):
    generator = torch.Generator().manual_seed(n)
    queries, items = torch.randn(2, 9, 3, generator=generator), torch.randn(2, n, 3, generator=generator)
    hidden = torch.rand(2, 9, n, generator=generator) < 0.4
    hidden[0, 0] = True  # nothing to be seen
    hidden[0, 1, 2:] = True
    squared = (queries[:, :, None] - items[:, None]).square().sum(-1)
    assert_close(nearest(queries, items, k).sort().values, squared.sort().values[..., :k])
    squared = squared.masked_fill(hidden, torch.inf)
    assert_close(nearest(queries, items, k, hidden).sort().values, squared.sort().values[..., :k])


# Never Give Up


def test_ngu_is_the_episodic_reward_scaled_by_clipped_novelty():
    reward = quick_ngu(max_scale=1.5)
    batch = episodes(3, size=12)  # partly cells that were not learned from
    error = reward.lifelong.compute(batch)
    alpha = 1 + (error - reward.error.mean) / reward.error.std
    expected = PseudoCounts.compute(reward, batch) * alpha.clamp(1, 1.5).float()
    assert_close(reward.compute(batch), expected)
    assert 0.05 < (alpha > 1).float().mean() < 0.95 and (alpha > 1.5).any()


def test_ngu_scales_up_only_what_no_episode_has_shown():
    torch.manual_seed(0)
    reward = NGU(LINE, ACTIONS, lifelong_kwargs=dict(learning_rate=1e-3, update_proportion=1.0))
    for seed in range(5):
        reward.update(episodes(seed, size=3))
    known, unknown = episodes(9, size=3), episodes(9, size=3)
    unknown.next_observations = unknown.next_observations + 6
    scale = [reward.compute(batch) / PseudoCounts.compute(reward, batch) for batch in (known, unknown)]
    assert scale[0].mean() < 1.2 and 2 < scale[1].min() <= scale[1].max() <= 5


def test_errors_are_taken_before_learning_from_them():
    reward, batch = quick(NGU), episodes()
    before = reward.lifelong.compute(batch)
    assert_close(reward.compute(batch), PseudoCounts.compute(reward, batch))  # nothing to compare with: scale 1
    reward.learn(batch)
    assert_close(reward.error.mean.float(), before.mean((0, 1)))
    assert_close(reward.error.std.float(), before.std((0, 1), correction=0))


def test_one_fit_warms_up_both_parts():
    env = gym.make("MountainCar-v0")
    reward = NGU(env.observation_space, env.action_space, warmup_steps=200)
    assert reward.needs_fit
    assert reward.fit(env, 1000, seed=0) == 200
    assert not reward.needs_fit
    both = reward.normalizer.state_dict(), reward.lifelong.normalizer.state_dict()
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])
    both[0]["statistics.of_.mean"].add_(1)
    assert not torch.equal(both[0]["statistics.of_.mean"], both[1]["statistics.of_.mean"])  # each goes on by itself


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (PseudoCounts, {"n_neighbors": 0}, "n_neighbors.*got 0"),
        (PseudoCounts, {"capacity": -1}, "capacity.*got -1"),
        (PseudoCounts, {"cluster_distance": -0.1}, "cluster_distance.*got -0.1"),
        (PseudoCounts, {"latent_dim": 0}, "latent_dim.*got 0"),
        (NGU, {"max_scale": 0.5}, "max_scale.*got 0.5"),
        (RIDE, {"forward_coef": 0}, "forward_coef.*got 0"),
        (E3B, {"ridge": 0.0}, "ridge.*got 0.0"),
    ],
)
def test_arguments_out_of_range(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cls(LINE, ACTIONS, **kwargs)


@everyone
def test_numbers_that_are_not_finite_do_not_reach_the_memory(name):
    reward, batch = EPISODIC[name](), episodes()
    before = copy.deepcopy({key: getattr(reward, key) for key in reward.resizable})
    batch.observations[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"NaN"):
        reward.advance(batch)
    assert all(torch.equal(getattr(reward, key), value) for key, value in before.items())
