"""E3B, RIDE and RE3 against their definitions."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

from irwrappers import E3B, RE3, RIDE, Transitions

PLANE = spaces.Box(-10, 10, (3,))
ACTIONS = spaces.Discrete(3)


def walk(seed=0, n_steps=150, n_envs=4, ends=0.03, invalid=0.0, size=None):
    """Independent Gaussian states, or cells of a grid; an episode's first state is none of the one before."""
    generator = torch.Generator().manual_seed(seed)

    def sample():
        shape = (n_steps, n_envs, 3)
        return (
            torch.randn(shape, generator=generator)
            if size is None
            else torch.randint(size, shape, generator=generator).float()
        )

    following, starts = sample(), sample()
    done = torch.rand((n_steps, n_envs), generator=generator) < ends
    observations = torch.cat([starts[:1], torch.where(done[:-1, :, None], starts[1:], following[:-1])])
    valid = torch.rand((n_steps, n_envs), generator=generator) >= invalid if invalid else None
    return Transitions(observations, torch.zeros(n_steps, n_envs).long(), following, done, torch.zeros_like(done), valid)


def piece(batch, begin, end):
    return Transitions(*(None if value is None else value[begin:end] for value in vars(batch).values()))


def with_identity(reward):
    reward._encode = lambda observations: observations.float()
    return reward


# E3B


def e3b(**kwargs):
    return with_identity(E3B(PLANE, ACTIONS, latent_dim=3, normalize_observations=False, **kwargs))


@pytest.mark.parametrize("ridge", [0.01, 0.1, 5.0])
@pytest.mark.parametrize("invalid", [0.0, 0.2])
def test_e3b_equals_the_direct_inverse(ridge, invalid):
    batch = walk(invalid=invalid)
    computed = e3b(ridge=ridge).compute(batch)[..., 0]
    for b in range(batch.n_envs):
        covariance = ridge * torch.eye(3).double()
        for t in range(batch.n_steps):
            if batch.mask[t, b]:
                x, y = batch.observations[t, b].double(), batch.next_observations[t, b].double()
                covariance += torch.outer(x, x)
                assert_close(computed[t, b], (y @ torch.linalg.inv(covariance) @ y).float(), rtol=1e-5, atol=1e-7)
            else:
                assert computed[t, b] == 0
            if batch.done[t, b]:
                covariance = ridge * torch.eye(3).double()


def test_the_inverse_stays_one_over_ten_thousand_steps():
    batch = walk(n_steps=10_000, n_envs=1, ends=0.0)
    reward = e3b()
    reward.advance(batch)
    x = batch.observations[:, 0].double()
    assert_close(
        reward.inverse_covariance[0] @ (x.T @ x + 0.1 * torch.eye(3).double()), torch.eye(3).double(), atol=1e-9, rtol=0
    )


def test_e3b_of_one_hot_features_counts():
    """1 / (N + λ), N the visits before: the paper's own sanity check."""
    rows = torch.eye(3)[torch.tensor([0, 1, 0, 0, 2, 0])][:, None]
    flags = torch.zeros(5, 1, dtype=torch.bool)
    batch = Transitions(rows[:-1], flags.long(), rows[1:], flags, flags)
    expected = 1 / (torch.tensor([0, 1, 2, 0, 3]) + 0.1)
    assert_close(e3b().compute(batch)[:, 0, 0], expected)


# RIDE


def naive_ride(batch, features, capacity):
    computed = torch.zeros(batch.n_steps, batch.n_envs)
    for b in range(batch.n_envs):
        visited = []
        for t in range(batch.n_steps):
            if batch.mask[t, b]:
                visited = [*visited, tuple(batch.observations[t, b].tolist())][-capacity:]
                visits = 1 + visited.count(tuple(batch.next_observations[t, b].tolist()))
                impact = (features(batch.next_observations[t, b]) - features(batch.observations[t, b])).norm()
                computed[t, b] = impact / visits**0.5
            if batch.done[t, b]:
                visited = []
    return computed


@pytest.mark.parametrize("capacity", [1, 5, 1000])
@pytest.mark.parametrize("invalid", [0.0, 0.2])
def test_ride_is_impact_by_root_of_the_episodes_visits(capacity, invalid):
    reward, batch = RIDE(PLANE, ACTIONS, capacity=capacity), walk(size=2, invalid=invalid)
    reward.learn(walk(1, size=2))
    with torch.no_grad():
        expected = naive_ride(batch, lambda x: reward.encoder(reward.normalizer(x[None]))[0], capacity)
        assert_close(reward.compute(batch)[..., 0], expected, rtol=1e-4, atol=1e-6)


def test_standing_still_has_no_impact():
    still, flags = torch.ones(9, 2, 3), torch.zeros(9, 2, dtype=torch.bool)
    assert (RIDE(PLANE, ACTIONS).compute(Transitions(still, flags.long(), still, flags, flags)) < 1e-5).all()


def test_both_models_of_ride_shape_its_features():
    reward, batch = RIDE(PLANE, ACTIONS), walk(n_steps=32)
    flat = Transitions(*(value.flatten(0, 1) for value in vars(batch).values() if value is not None))
    encoder = list(reward.encoder.parameters())
    for off in ("inverse_coef", "forward_coef"):
        alone = copy.deepcopy(reward)
        setattr(alone, off, 0.0)
        loss, _ = alone.loss(flat)
        gradients = torch.autograd.grad(loss, list(alone.encoder.parameters()), allow_unused=True)
        assert len(gradients) == len(encoder) and all(g is not None and g.abs().sum() > 0 for g in gradients)
    assert set(reward.learn(batch)) == {"loss", "inverse_loss", "forward_loss"}


# RE3


def re3(**kwargs):
    reward = RE3(PLANE, ACTIONS, normalize_observations=False, **({"latent_dim": 3} | kwargs))
    reward._encode = lambda batch: batch.next_observations.float()
    return reward


def leading_to(rows):
    flags = torch.zeros(rows.shape[:2], dtype=torch.bool)
    return Transitions(rows, flags.long(), rows, flags, flags)


def test_re3_by_hand():
    """On a line at 0, 1, 3, 10: the nearest and second nearest before each."""
    batch = leading_to(torch.tensor([[0.0], [1.0], [3.0], [10.0]])[:, None] * torch.tensor([1.0, 0.0, 0.0]))
    assert_close(re3(n_neighbors=1).compute(batch)[:, 0, 0].expm1(), torch.tensor([0.0, 1.0, 2.0, 7.0]))
    assert_close(re3(n_neighbors=2).compute(batch)[:, 0, 0].expm1(), torch.tensor([0.0, 1.0, 3.0, 9.0]))


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("capacity", [20, 137, 5000])
def test_re3_equals_sorting_all_distances(k, capacity):
    reward, batch = re3(n_neighbors=k, capacity=capacity), walk(invalid=0.2)
    reward.advance(walk(1, invalid=0.2))
    rows = list(walk(1, invalid=0.2).next_observations[walk(1, invalid=0.2).mask])
    for t in range(batch.n_steps):
        computed = reward.compute(batch)[t, :, 0] if t in (0, 1, 149) else None
        if computed is not None:
            stored = torch.stack(rows[-capacity:])
            distance = torch.cdist(batch.next_observations[t], stored, compute_mode="donot_use_mm_for_euclid_dist")
            expected = distance.sort().values[:, k - 1].log1p()
            assert_close(computed[batch.mask[t]], expected[batch.mask[t]], rtol=1e-4, atol=1e-5)
            assert (computed[~batch.mask[t]] == 0).all()
        rows += list(batch.next_observations[t][batch.mask[t]])


@pytest.mark.parametrize("lengths", [[1] * 150, [70, 1, 0, 79]])
@pytest.mark.parametrize("capacity", [50, 5000])
def test_re3_batches_may_be_cut_anywhere(lengths, capacity):
    whole, parts, batch = re3(capacity=capacity), re3(capacity=capacity), walk(invalid=0.1)
    computed, begin = [], 0
    for length in lengths:
        computed.append(parts.compute(piece(batch, begin, begin + length)))
        parts.advance(piece(batch, begin, begin + length))
        begin += length
    assert_close(torch.cat(computed), whole.compute(batch), rtol=1e-4, atol=1e-5)
    whole.advance(batch)
    assert torch.equal(whole.states, parts.states) and len(whole.states) == min(capacity, int(batch.mask.sum()))
    whole.forget()  # it is no memory of episodes
    assert torch.equal(whole.states, parts.states)


@pytest.mark.parametrize(("dim", "k"), [(1, 3), (2, 3), (3, 10)])
def test_the_estimate_of_a_gaussians_entropy(dim, k):
    """Kozachenko & Leonenko: H ≈ d · mean log ‖y − y_k‖ + log V_d + ψ(n) − ψ(k), here ½ d log(2πe) for a standard Gaussian."""
    generator = torch.Generator().manual_seed(0)
    n = 5000
    cloud = torch.nn.functional.pad(torch.randn(n, dim, generator=generator), (0, 3 - dim))
    fresh = torch.nn.functional.pad(torch.randn(1, 2000, dim, generator=generator), (0, 3 - dim))
    reward = re3(n_neighbors=k, capacity=n)
    reward.advance(leading_to(cloud[:, None]))
    distance = reward.compute(leading_to(fresh))[0, :, 0].expm1().double()
    volume = np.pi ** (dim / 2) / torch.tensor(dim / 2 + 1.0).lgamma().exp().item()
    entropy = (
        dim * distance.log().mean()
        + np.log(volume)
        + torch.digamma(torch.tensor(float(n)))
        - torch.digamma(torch.tensor(float(k)))
    )
    assert entropy.item() == pytest.approx(dim / 2 * np.log(2 * np.pi * np.e), abs=0.1)


def test_a_wider_cloud_has_a_higher_reward():
    rows = torch.randn(200, 4, 3, generator=torch.Generator().manual_seed(0))
    narrow, wide = (re3().compute(leading_to(scale * rows)).mean() for scale in (0.1, 1.0))
    assert wide > 2 * narrow


def test_the_random_encoder_never_learns_and_keeps_its_inputs():
    reward = RE3(PLANE, ACTIONS)
    before = copy.deepcopy(reward.encoder.state_dict())
    assert reward.needs_fit and not any(p.requires_grad for p in reward.parameters())
    reward.update(walk())
    assert not reward.needs_fit
    warm = copy.deepcopy(reward.normalizer.state_dict())
    reward.update(leading_to(5 + walk().next_observations))
    assert all(torch.equal(value, before[key]) for key, value in reward.encoder.state_dict().items())
    assert all(torch.equal(value, warm[key]) for key, value in reward.normalizer.state_dict().items())


def test_states_stored_under_another_normalisation_go():
    reward = RE3(PLANE, ACTIONS)
    reward.advance(walk())
    assert len(reward.states) == 600
    reward.learn(walk())
    assert len(reward.states) == 0


def test_re3_states_load_into_a_new_module():
    reward, new = RE3(PLANE, ACTIONS), RE3(PLANE, ACTIONS)
    reward.update(walk())
    new.load_state_dict(copy.deepcopy(reward.state_dict()))
    assert not new.needs_fit and torch.equal(new.compute(walk(1)), reward.compute(walk(1)))


def test_re3_fit_and_bad_arguments():
    env = gym.make("MountainCar-v0")
    reward = RE3(env.observation_space, env.action_space, warmup_steps=150)
    assert reward.fit(env, 1000, seed=0) == 150 and not reward.needs_fit
    for kwargs, message in (({"n_neighbors": 0}, "n_neighbors"), ({"capacity": 2}, "at least n_neighbors, got 2 and 3")):
        with pytest.raises(ValueError, match=message):
            RE3(PLANE, ACTIONS, **kwargs)
    with pytest.raises(ValueError, match=r"NaN"):
        reward.advance(leading_to(torch.full((1, 1, 2), torch.nan)))


IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
MIXED = spaces.Dict(where=spaces.Box(-1, 1, (2,)), camera=IMAGE)


@pytest.mark.parametrize("cls", [E3B, RIDE, RE3])
@pytest.mark.parametrize("space", [IMAGE, MIXED], ids=["image", "dict"])
def test_images_and_dicts_have_the_same_rewards_in_one_batch_or_two(cls, space):
    torch.manual_seed(0)
    reward = cls(space, ACTIONS)
    space.seed(0)

    def sample(part):
        if isinstance(part, spaces.Dict):
            return {key: sample(inner) for key, inner in part.spaces.items()}
        return torch.as_tensor(np.array([[part.sample() for _ in range(2)] for _ in range(6)]))

    observations, following = sample(space), sample(space)
    flags = torch.zeros(6, 2, dtype=torch.bool)
    batch = Transitions(observations, flags.long(), following, flags, flags)
    reward.update(batch)
    reward.forget()

    def cut(steps):
        trees = (value if isinstance(value, dict) else {"": value} for value in vars(batch).values() if value is not None)
        parts = [{key: x[steps] for key, x in tree.items()} for tree in trees]
        return Transitions(*(tree[""] if "" in tree else tree for tree in parts))

    whole = reward.compute(batch)
    first = reward.compute(cut(slice(0, 2)))
    reward.advance(cut(slice(0, 2)))
    assert_close(torch.cat([first, reward.compute(cut(slice(2, 6)))]), whole, rtol=1e-4, atol=1e-5)
