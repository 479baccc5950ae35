"""Facts about every intrinsic reward; a new one is tested because it is in ``INTRINSIC_REWARDS``."""

import copy
import functools
import io
import subprocess
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, Concat, IntrinsicReward, RunningStd, Transitions, make_intrinsic_reward
from irwrappers.unique_rows import unique_rows

# Arguments that make a reward quick to fit; one that needs none need not be here.
WARM_UP = dict(warmup_steps=60)
WARMED_UP = ("rnd", "drnd", "icm", "disagreement", "ngu", "ride", "re3", "e3b", "pseudo_counts")
QUICK = dict.fromkeys(WARMED_UP, WARM_UP) | {
    "allo": dict(n_rewards=4, gradient_steps=10, hidden_sizes=(16,), n_walks=4),
    "random": dict(hidden_sizes=(32, 32)),
}
T, B = 12, 3


def make_env(n=2):
    return DummyVecEnv([lambda: gym.make("sparse/Maze1-v0")] * n)


def build(name, seed=0):
    torch.manual_seed(seed)
    env = make_env(1)
    if name == "concat":
        parts = ["laplacian", {"allo": QUICK["allo"]}, "laplacian"]
        return make_intrinsic_reward(parts, env.observation_space, env.action_space)
    return make_intrinsic_reward(name, env.observation_space, env.action_space, **QUICK.get(name, {}))


def fitted(name):
    reward = build(name)
    if reward.needs_fit:
        reward.fit(make_env(), 2000, seed=0)
    return reward


def random_steps(seed=0, n_steps=T, n_envs=B):
    """Uniformly random actions in Maze1, the observations before any reset."""
    return copy.deepcopy(_random_steps(seed, n_steps, n_envs))


@functools.cache
def _random_steps(seed, n_steps, n_envs):
    env, rng = make_env(n_envs), np.random.default_rng(seed)
    env.seed(seed)
    observations, steps = env.reset(), []
    for _ in range(n_steps):
        actions = rng.integers(4, size=n_envs)
        following, _, dones, infos = env.step(actions)
        last = np.stack([infos[i]["terminal_observation"] if dones[i] else following[i] for i in range(n_envs)])
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        steps.append((observations, actions, last, dones & ~truncated, truncated))
        observations = following
    return Transitions(*(torch.as_tensor(np.stack(part)) for part in zip(*steps, strict=True)))


def same(a, b):
    """Whether two state dicts, or anything in them, are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(a == b))


def part_of(batch, steps=slice(None), indices=slice(None)):
    return Transitions(*(value[steps, indices] for value in vars(batch).values() if value is not None))


MEMORYLESS = ["allo", "laplacian", "random", "rnd", "drnd", "icm", "disagreement", "constant", "concat"]
SHARED = {"count", "re3", "noise"}  # visits in one environment count in all; noise depends on the step alone
everyone = pytest.mark.parametrize("name", [*INTRINSIC_REWARDS, "concat"])


@everyone
def test_shape_type_and_names(name):
    reward, batch = fitted(name), random_steps()
    computed = reward.compute(batch)
    assert computed.shape == (T, B, reward.n_rewards)
    assert computed.dtype == torch.float32 and not computed.requires_grad and computed.isfinite().all()
    assert len(set(reward.channel_names)) == reward.n_rewards


@everyone
def test_compute_changes_nothing(name):
    reward, batch = fitted(name), random_steps()
    before = copy.deepcopy(reward.state_dict())
    inputs = {key: value.clone() for key, value in vars(batch).items() if value is not None}
    generator = torch.get_rng_state()
    assert torch.equal(reward.compute(batch), reward.compute(batch))
    assert torch.equal(generator, torch.get_rng_state())
    assert same(reward.state_dict(), before)
    assert all(torch.equal(value, vars(batch)[key]) for key, value in inputs.items())


@pytest.mark.parametrize("name", [name for name in [*INTRINSIC_REWARDS, "concat"] if name not in SHARED])
def test_environments_are_independent(name):
    # The reward in one environment does not depend on which others are in the batch.
    reward, batch = fitted(name), random_steps()
    whole = reward.compute(batch)
    one_by_one = torch.cat([reward.compute(part_of(batch, indices=slice(b, b + 1))) for b in range(B)], 1)
    torch.testing.assert_close(one_by_one, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MEMORYLESS)
def test_a_reward_without_memory_does_not_depend_on_how_time_is_split(name):
    reward, batch = fitted(name), random_steps()
    reward.update(batch)
    halves = [reward.compute(part_of(batch, steps=steps)) for steps in (slice(0, 5), slice(5, T))]
    torch.testing.assert_close(torch.cat(halves), reward.compute(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["allo", "laplacian", "random"])
def test_differences_come_in_pairs_and_telescope(name):
    reward, batch = fitted(name), random_steps()
    computed = reward.compute(batch)
    torch.testing.assert_close(computed[..., 0::2], -computed[..., 1::2])  # −phi_i and +phi_i
    ends = Transitions(batch.observations[:1], batch.actions[:1], batch.next_observations[-1:], *[batch.terminated[:1]] * 2)
    torch.testing.assert_close(computed.sum(0), reward.compute(ends)[0], atol=1e-4, rtol=1e-4)  # no episode ends in 12 steps


@everyone
def test_a_memory_goes_on_from_one_batch_to_the_next(name):
    # Row 0 of a batch comes after the last row of the one before: with `advance` in between, halves equal the whole.
    reward, batch = fitted(name), random_steps()
    first, second = (part_of(batch, steps=steps) for steps in (slice(0, 5), slice(5, T)))
    whole = reward.compute(batch)
    halves = [reward.compute(first)]
    reward.advance(first)
    halves.append(reward.compute(second))
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-5, rtol=1e-5)


@everyone
def test_forget_ends_the_running_episodes_only(name):
    reward, batch = fitted(name), random_steps()
    reward.update(batch)
    reward.forget()
    once = copy.deepcopy(reward.state_dict())
    reward.forget()
    assert same(reward.state_dict(), once)
    assert reward.compute(part_of(batch, indices=slice(0, 2))).shape == (
        T,
        2,
        reward.n_rewards,
    )  # fewer environments


@everyone
def test_state_dict_makes_a_new_module_the_old_one(name):
    reward, batch = fitted(name), random_steps()
    reward.update(batch)
    file = io.BytesIO()
    torch.save(reward.state_dict(), file)
    file.seek(0)
    new = build(name, seed=1)
    new.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not new.needs_fit
    assert same(new.state_dict(), reward.state_dict())
    assert torch.equal(new.compute(batch), reward.compute(batch))
    for seed in range(3):  # more than once: two modules may share nothing of their optimisers
        logs = []
        for module in (new, reward):
            torch.manual_seed(seed)
            logs.append(module.update(random_steps(seed + 1)))
        assert logs[0] == pytest.approx(logs[1], nan_ok=True, rel=0, abs=0)
        assert same(new.state_dict(), reward.state_dict())
    assert torch.equal(new.compute(batch), reward.compute(batch))


def with_garbage(batch, garbage, n_valid):
    """The first ``n_valid`` steps count; the others are ``garbage``, as is what led to them."""
    valid = (torch.arange(T) < n_valid)[:, None].expand(T, B).clone()
    fields = {
        name: torch.where(valid[..., None], getattr(batch, name).float(), garbage)
        for name in ("observations", "next_observations")
    }
    return Transitions(
        fields["observations"], batch.actions, fields["next_observations"], batch.terminated, batch.truncated, valid
    )


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name != "laplacian"])  # it refuses unknown states
@pytest.mark.parametrize("n_valid", [0, 7])
def test_nothing_is_learned_from_invalid_steps(name, n_valid):
    states, computed = [], []
    for garbage in (1e6, float("nan")):
        reward, batch = fitted(name), with_garbage(random_steps(), garbage, n_valid)
        computed.append(reward.compute(batch)[:n_valid])
        torch.manual_seed(0)
        reward.update(batch)
        reward.forget()
        states.append(copy.deepcopy(reward.state_dict()))
    assert all(same(state, states[0]) for state in states)
    assert all(torch.equal(other, computed[0]) for other in computed)


@everyone
@pytest.mark.parametrize("what", ["observations", "next_observations"])
def test_what_is_not_finite_is_refused_or_changes_nothing(name, what):
    reward, batch = fitted(name), random_steps()
    setattr(batch, what, getattr(batch, what).float())
    getattr(batch, what)[3, 1, 0] = float("nan")
    before = copy.deepcopy(reward.state_dict())
    try:
        reward.update(batch)
    except ValueError as error:
        assert "NaN" in str(error) and what in str(error)
        assert same(reward.state_dict(), before)
    else:
        assert all_finite(reward.state_dict()), "NaN was learned in silence"


def all_finite(x):
    if isinstance(x, torch.Tensor):
        return not x.is_floating_point() or not bool(x.isnan().any())
    if isinstance(x, dict):
        x = list(x.values())
    return all(map(all_finite, x)) if isinstance(x, (list, tuple)) else True


@everyone
def test_deep_copies_and_pickles(name):
    reward, batch = fitted(name), random_steps()
    for twin in (copy.deepcopy(reward), cloudpickle.loads(cloudpickle.dumps(reward))):
        assert torch.equal(twin.compute(batch), reward.compute(batch))
        assert not twin.needs_fit


@everyone
def test_same_seed_same_reward(name):
    first, second, batch = fitted(name), fitted(name), random_steps()
    assert torch.equal(first.compute(batch), second.compute(batch))


@everyone
def test_update_returns_numbers_to_log(name):
    logged = fitted(name).update(random_steps())
    assert all(isinstance(key, str) and np.isfinite(value) for key, value in logged.items())


@everyone
def test_fit_takes_a_single_environment_and_counts_steps(name):
    reward = build(name)
    steps = reward.fit(gym.make("sparse/Maze1-v0"), 1000, seed=0)
    assert isinstance(steps, int) and 0 <= steps <= 1000
    assert not reward.needs_fit


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if build(name).needs_fit])
def test_fit_says_what_it_takes(name):
    with pytest.raises(TypeError, match=r"GridMazeVectorEnv.*GymnasiumVecEnv"):
        build(name).fit(gym.make_vec("sparse/Maze1-v0", num_envs=2), 1000)
    with pytest.raises(TypeError, match="str"):
        build(name).fit("sparse/Maze1-v0", 1000)


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


# Composition


def test_concat_is_its_parts_side_by_side():
    env, batch = make_env(), random_steps()
    parts = [fitted("laplacian"), fitted("random")]
    both = Concat(parts)
    assert both.n_rewards == sum(part.n_rewards for part in parts)
    assert torch.equal(both.compute(batch), torch.cat([part.compute(batch) for part in parts], -1))
    assert not both.needs_fit and both.fit(env, 1000) == 0
    with pytest.raises(ValueError, match="at least one"):
        Concat([])


def test_concat_logs_each_part_under_its_own_name():
    class Counting(IntrinsicReward):
        n_rewards = 1

        def update(self, batch):
            return {"steps": float(batch.n_steps * batch.n_envs)}

    space = make_env().observation_space
    logged = Concat([Counting(space, spaces.Discrete(4)), Counting(space, spaces.Discrete(4))]).update(random_steps())
    assert len(logged) == 2 and set(logged.values()) == {float(T * B)}


def test_concat_stays_within_the_budget():
    env = make_env()
    parts = [{"allo": QUICK["allo"] | {"n_walks": 1000}}] * 2
    both = make_intrinsic_reward(parts, env.observation_space, env.action_space)
    assert 0 < both.fit(env, 1000, seed=0) <= 1000


def test_by_name_by_instance_by_list():
    env = make_env()
    space = (env.observation_space, env.action_space)
    instance = build("random")
    assert make_intrinsic_reward(instance, *space) is instance
    mixed = make_intrinsic_reward(["laplacian", {"random": {"n_rewards": 2}}, instance], *space)
    assert mixed.n_rewards == 6 + 2 + instance.n_rewards
    with pytest.raises(ValueError, match=r"'alo'.*allo.*Did you mean 'allo'"):
        make_intrinsic_reward("alo", *space)
    with pytest.raises(ValueError, match="n_rewards"):
        make_intrinsic_reward(instance, *space, n_rewards=2)
    with pytest.raises(ValueError, match=r"\[\]"):
        make_intrinsic_reward([], *space)


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


def test_import_is_light():
    code = (
        "import sys, irwrappers; "
        "heavy = {'envs', 'sb3_ext', 'mujoco', 'metaworld', 'minigrid', 'rl_zoo3', 'sb3_contrib', 'ray'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Running deviation, distinct rows


def test_running_std_equals_numpy_on_everything_seen():
    rng, std, parts = np.random.default_rng(0), RunningStd(3), []
    for shape in ((7, 2), (1, 1), (40, 3), (0, 2)):
        parts.append(1e3 + rng.normal(size=(*shape, 3)) * [1, 10, 0.01])
        std.update(torch.as_tensor(parts[-1]))
    seen = np.concatenate([part.reshape(-1, 3) for part in parts])
    np.testing.assert_allclose(std.std, seen.std(0), rtol=1e-9)
    np.testing.assert_allclose(std.mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std.count, len(seen))
    x = torch.ones(2, 3)
    torch.testing.assert_close(std.normalize(x), x / torch.as_tensor(seen.std(0), dtype=torch.float32), rtol=1e-5, atol=0)


def test_running_std_counts_each_channel_by_its_mask():
    rng, std = np.random.default_rng(0), RunningStd(2)
    x, mask = rng.normal(size=(6, 4, 2)), rng.random((6, 4, 2)) < 0.5
    mask[..., 1] = False
    std.update(torch.as_tensor(x), torch.as_tensor(mask))
    assert std.std[0] == pytest.approx(x[..., 0][mask[..., 0]].std())
    assert std.std[1] == 1 and std.count[1] == 0  # nothing seen


def test_running_std_ignores_whatever_lies_under_the_mask():
    std = RunningStd(1)
    std.update(torch.tensor([[1.0], [float("nan")], [float("inf")], [3.0]]), torch.tensor([[True], [False], [False], [True]]))
    assert std.mean.item() == 2 and std.std.item() == 1


def test_running_std_takes_a_mask_without_the_channel_axis_expanded():
    std = RunningStd(2)
    std.update(torch.tensor([[1.0, 10.0], [3.0, 30.0], [9.0, 9.0]]), torch.tensor([[True], [True], [False]]))
    assert std.std.tolist() == [1, 10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(1, 1), (500, 2), (5000, 4), (300, 40), (0, 3)])
def test_unique_rows_equals_torch(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2 if dtype == torch.bool else 12, shape, generator=generator).to(dtype)
    rows, inverse = unique_rows(x)
    assert torch.equal(rows[inverse], x)
    if len(x):
        assert torch.equal(torch.unique(rows, dim=0), torch.unique(x, dim=0))
        assert len(rows) == len(torch.unique(x, dim=0))


def test_unique_rows_of_continuous_states():
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    rows, inverse = unique_rows(torch.cat([x, x[:100]]))
    assert len(rows) == 1000 and torch.equal(inverse[1000:], inverse[:100])
