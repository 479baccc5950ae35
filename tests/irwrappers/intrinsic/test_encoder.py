"""Observation normalisation, encoders, and what every reward that learns by Adam has in common."""

import copy
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils._pytree import tree_map

from irwrappers import ICM, RND, Transitions
from irwrappers.intrinsic.encoder import Encoder, ObservationNormalizer, action_entries, encode_actions
from irwrappers.intrinsic.network_reward import check_finite, in_chunks

VECTOR = spaces.Box(-np.inf, np.inf, (3,))
IMAGE = spaces.Box(0, 255, (36, 44, 3), np.uint8)
FLIPPED = spaces.Box(0, 255, (3, 36, 44), np.uint8)


def images(n=5, seed=0):
    return torch.randint(256, (n, 36, 44, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def steps(observations, following, actions=None, n_envs=1):
    shape = (len(observations) // n_envs, n_envs)
    flags = torch.zeros(shape, dtype=torch.bool)
    actions = torch.zeros(len(observations), dtype=torch.long) if actions is None else actions
    return Transitions(*(x.unflatten(0, shape) for x in (observations, actions, following)), flags, flags)


# --- Normalisation


def test_statistics_are_those_of_everything_seen():
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(VECTOR)
    parts = [rng.normal(size=(n, 3)) * [1, 20, 0.01] + [5, -300, 0] for n in (1, 40, 7)]
    for part in parts:
        normalizer.update(torch.as_tensor(part).float())
    seen = np.concatenate(parts).astype(np.float32)
    torch.testing.assert_close(
        normalizer(torch.as_tensor(seen)).numpy(), ((seen - seen.mean(0)) / seen.std(0)).clip(-5, 5), atol=1e-3, rtol=1e-3
    )


def test_first_passes_then_clips_and_an_entry_that_never_changed_is_only_centred():
    normalizer = ObservationNormalizer(VECTOR, clip=2)
    x = torch.tensor([[50.0, 7.0, 0.0]])
    assert not normalizer.is_warm and torch.equal(normalizer(x), x)
    normalizer.update(torch.tensor([[1.0, 7.0, 0.0], [3.0, 7.0, 0.0]]))
    assert normalizer.is_warm
    assert normalizer(torch.tensor([[50.0, 7.0, 0.5], [-9.0, 8.0, 0.0]])).tolist() == [[2, 0, 0.5], [-2, 1, 0]]


def test_steps_outside_the_mask_are_not_taken_in():
    normalizer = ObservationNormalizer(VECTOR)
    x = torch.tensor([[1.0, 1, 1], [float("nan")] * 3, [3.0, 5, 9]])
    normalizer.update(x, torch.tensor([True, False, True]))
    assert normalizer.statistics["of_"].mean.tolist() == [2, 3, 5]


def test_statistics_of_images_in_parts_are_those_of_the_whole(monkeypatch):
    whole, parts = ObservationNormalizer(IMAGE), ObservationNormalizer(IMAGE)
    mask = torch.tensor([True, False, True, True, True])
    whole.update(images(), mask)
    monkeypatch.setattr("irwrappers.intrinsic.encoder.MOST_ENTRIES", 2 * 36 * 44 * 3)
    parts.update(images(), mask)
    torch.testing.assert_close(parts(images()), whole(images()))
    expected = (images()[mask].numpy() / 255).std(0).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(parts.statistics["of_"].std, expected, rtol=1e-5, atol=1e-6)


def test_float64_is_float32():
    normalizer = ObservationNormalizer(spaces.Box(-1, 1, (3,), np.float64))
    x = torch.rand(9, 3, dtype=torch.float64)
    normalizer.update(x)
    assert normalizer(x).dtype == torch.float32 and torch.equal(normalizer(x), normalizer(x.float()))


def test_without_normalisation_images_are_scaled_and_discrete_entries_one_hot():
    space = spaces.Dict(
        eye=IMAGE,
        room=spaces.Discrete(3, start=-1),
        keys=spaces.MultiDiscrete([2, 3], start=[1, 0]),
        lamps=spaces.MultiBinary(2),
        place=spaces.Box(-9, 9, (2,)),
    )
    observations = {
        "eye": images(1),
        "room": torch.tensor([1]),
        "keys": torch.tensor([[1, 2]]),
        "lamps": torch.tensor([[0, 1]]),
        "place": torch.tensor([[7.0, -2.0]]),
    }
    seen = ObservationNormalizer(space, enabled=False)(observations)
    torch.testing.assert_close(seen["eye"], images(1).permute(0, 3, 1, 2) / 255)
    assert seen["room"].tolist() == [[0, 0, 1]]
    assert seen["keys"].tolist() == [[1, 0, 0, 0, 1]]
    assert seen["lamps"].tolist() == [[0, 1]] and seen["place"].tolist() == [[7, -2]]
    stored = ObservationNormalizer(space["room"])  # SB3's buffers keep a Discrete observation as [n, 1]
    assert torch.equal(stored(torch.tensor([[1], [-1]])).flatten(1), stored(torch.tensor([1, -1])))


def test_normalizing_discrete_entries_only_means_nothing_to_warm_up():
    assert ObservationNormalizer(spaces.Discrete(3)).is_warm
    rnd = RND(spaces.Discrete(3), spaces.Discrete(2))
    assert not rnd.needs_fit and rnd.fit(gym.make("FrozenLake-v1"), 100) == 0


# --- Encoders


def test_images_are_seen_the_same_with_channels_first_or_last():
    rewards, batches = [], [(images(), images(seed=1)), (images().permute(0, 3, 1, 2), images(seed=1).permute(0, 3, 1, 2))]
    for space, (before, after) in zip((IMAGE, FLIPPED), batches, strict=True):
        torch.manual_seed(0)
        reward = ICM(space, spaces.Discrete(2))
        computed = [reward.compute(steps(before, after))]
        torch.manual_seed(1)
        reward.update(steps(before, after))
        rewards.append(torch.cat([*computed, reward.compute(steps(before, after))]))
    torch.testing.assert_close(*rewards)


@pytest.mark.parametrize("shape", [(7, 7, 3), (3, 20, 64), (64, 35, 1)])
def test_images_too_small_for_nature_cnn_are_flattened(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    with_more = spaces.Dict(eye=space, place=VECTOR, large=IMAGE)
    assert isinstance(RND(space, spaces.Discrete(2)).predictor.extractor, FlattenExtractor)
    extractors = RND(with_more, spaces.Discrete(2)).predictor.extractor.extractors
    assert isinstance(extractors["eye"], torch.nn.Flatten) and isinstance(extractors["large"], NatureCNN)
    image = torch.randint(256, (4, *shape), dtype=torch.uint8)
    for reward, following in ((space, image), (with_more, dict(eye=image, place=torch.zeros(4, 3), large=images(4)))):
        flags = torch.zeros(4, 1, dtype=torch.bool)
        following = tree_map(lambda x: x.unsqueeze(1), following)
        batch = Transitions(following, torch.zeros(4, 1, dtype=torch.long), following, flags, flags)
        assert RND(reward, spaces.Discrete(2)).compute(batch).shape == (4, 1, 1)


def test_an_encoder_is_an_extractor_and_a_perceptron():
    encoder = Encoder(VECTOR, 4, hidden_sizes=(8, 6), activation=torch.nn.Tanh)
    assert [type(layer).__name__ for layer in encoder.head] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert encoder(torch.zeros(5, 3)).shape == (5, 4)
    assert Encoder(VECTOR, 4, hidden_sizes=())(torch.zeros(5, 3)).shape == (5, 4)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (spaces.Discrete(3, start=5), [[5], [7]], [[1, 0, 0], [0, 0, 1]]),
        (spaces.Discrete(3, start=5), [5, 7], [[1, 0, 0], [0, 0, 1]]),
        (spaces.Discrete(3, start=5), [0, 1, 2], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),  # as SB3's policies act: a row each
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), [[1, 2], [2, 0]], [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]),
        (spaces.MultiBinary(2), [[0, 1]], [[0, 1]]),
        (spaces.Box(-9, 9, (1, 2)), [[[3.0, -1.0]]], [[3, -1]]),
        (spaces.Box(-9, 9, ()), [3.0, -1.0], [[3], [-1]]),
    ],
)
def test_actions_as_numbers(space, actions, expected):
    encoded = encode_actions(space, torch.as_tensor(actions))
    assert encoded.tolist() == expected and encoded.dtype == torch.float32
    assert action_entries(space, "It") == encoded.shape[1]


# --- Rewards that learn


def learner(**kwargs):
    torch.manual_seed(0)
    return ICM(VECTOR, spaces.Discrete(2), batch_size=16, **kwargs)


def random_batch(seed=0, n=40):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, 3, generator=generator)
    return steps(x, y, torch.randint(2, (n,), generator=generator), n_envs=4)


def train(reward, seed, n=3):
    for k in range(n):
        torch.manual_seed(seed + k)
        log = reward.update(random_batch(seed + k))
    return log


@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: cloudpickle.loads(cloudpickle.dumps(x))],
    ids=["deepcopy", "pickle", "cloudpickle"],
)
def test_a_copy_learns_on_like_the_original_and_apart_from_it(twin_of):
    reward, batch = learner(), random_batch()
    train(reward, 0)
    twin, before = twin_of(reward), reward.compute(batch)
    log = train(twin, 5)
    assert torch.equal(reward.compute(batch), before) and not torch.equal(twin.compute(batch), before)
    assert train(reward, 5) == log
    assert torch.equal(reward.compute(batch), twin.compute(batch))


def test_optimiser_state_is_loaded_and_not_shared():
    reward = learner()
    train(reward, 0)
    state = copy.deepcopy(reward.state_dict())
    loaded = learner()
    loaded.load_state_dict(reward.state_dict())
    log = train(reward, 5)  # moves on alone; were Adam's averages shared, it would move those of `loaded` too
    assert train(loaded, 5) == log
    forgetful = learner()
    optimizer_of_a_new_one = forgetful.get_extra_state()
    forgetful.load_state_dict(state | {"_extra_state": optimizer_of_a_new_one})
    assert train(forgetful, 5) != log  # so the optimiser does matter


def test_adam_moves_with_the_parameters():
    reward = learner()
    train(reward, 0)
    reward.to(torch.float64)
    for parameter, state in reward._optimizer.state.items():
        assert parameter.dtype == torch.float64 == state["exp_avg"].dtype == state["exp_avg_sq"].dtype
        assert state["step"].dtype == torch.float32  # Adam's own
    reward.to("meta")
    assert all(state["exp_avg"].is_meta and state["step"].device.type == "cpu" for state in reward._optimizer.state.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_reward_learns_on_where_it_is_moved():
    reward, moved = learner(), learner()
    train(reward, 0), train(moved, 0)
    moved.to("cuda")
    batch = random_batch()
    on_gpu = Transitions(*(None if x is None else x.cuda() for x in vars(batch).values()))
    reward.update(batch), moved.update(on_gpu)
    assert moved.compute(on_gpu).is_cuda
    torch.testing.assert_close(moved.compute(on_gpu).cpu(), reward.compute(batch), atol=1e-3, rtol=1e-2)


def test_a_step_is_one_of_adams_with_the_gradient_clipped():
    reward, batch = learner(max_grad_norm=0.01, learning_rate=1e-2, normalize_observations=False), random_batch(n=12)
    twin = copy.deepcopy(reward)
    reward.update(batch)
    flat = Transitions(*(x.flatten(0, 1) for x in vars(batch).values() if x is not None))
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    twin.loss(flat)[0].backward()
    assert torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01) > 0.01
    optimizer.step()
    torch.testing.assert_close(dict(reward.named_parameters()), dict(twin.named_parameters()), atol=1e-5, rtol=1e-4)


def test_every_step_is_seen_once_an_epoch():
    reward, seen = learner(n_epochs=2), []
    loss = reward.loss
    reward.loss = lambda batch: (seen.append(batch.actions + 10 * batch.truncated), loss(batch))[1]
    batch = random_batch()
    batch.actions = torch.arange(40).view(10, 4) % 2
    batch.valid = torch.rand(10, 4) < 0.7
    reward.update(batch)
    assert [len(x) for x in seen[: len(seen) // 2]] == [len(x) for x in batch.actions[batch.valid].split(16)]
    assert sum(x.sum() for x in seen) == 2 * batch.actions[batch.valid].sum()


def test_warm_up_takes_at_most_its_steps_and_sees_original_observations():
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 4)
    reward = RND(env.observation_space, env.action_space, warmup_steps=100)
    assert reward.needs_fit and reward.fit(env, 10_000, seed=0) == 100 and not reward.needs_fit
    assert reward.normalizer.statistics["of_"].count[0] == 100
    assert RND(env.observation_space, env.action_space).fit(env, 11, seed=0) == 8
    with pytest.raises(ValueError, match=r"4 environments.*3 steps"):
        RND(env.observation_space, env.action_space).fit(env, 3)
    assert RND(env.observation_space, env.action_space, warmup_steps=1).fit(env, 50) == 4


def test_numbers_that_are_not_finite_are_named_before_anything_is_learned():
    reward, batch = learner(), random_batch()
    train(reward, 0)
    before = copy.deepcopy(reward.state_dict())
    for name, value in (("observations", float("nan")), ("next_observations", float("-inf"))):
        bad = copy.deepcopy(batch)
        getattr(bad, name)[3, 2, 0] = value
        with pytest.raises(ValueError, match=rf"ICM.* {name} .*: 1 of 120"):
            reward.update(bad)
    assert all(torch.equal(value, before[key]) for key, value in reward.state_dict().items() if key != "_extra_state")
    with pytest.raises(ValueError, match=r"RND.*observations"):
        check_finite({"a": torch.ones(2), "b": torch.tensor([1e300], dtype=torch.float64)}, "RND")  # infinite in float32


def test_chunks_are_the_whole():
    x, y = torch.randn(10, 3), {"a": torch.randn(10, 2)}
    whole = in_chunks(lambda x, y: x.sum(1) * y["a"][:, 0], x, y, rows=3)
    torch.testing.assert_close(whole, x.sum(1) * y["a"][:, 0])
    assert in_chunks(lambda x: x.sum(1), torch.zeros(0, 3)).shape == (0,)
