"""Facts about every intrinsic reward; a new one is tested because it is in ``INTRINSIC_REWARDS``."""

import copy
import io
import subprocess
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.random_steps import B, T, build, fitted, random_steps

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, Transitions


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
SHARED = {"count", "visits", "re3", "noise"}  # visits in one environment count in all; noise depends on the step alone
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


def test_import_is_light():
    code = (
        "import sys, irwrappers; "
        "heavy = {'envs', 'sb3_ext', 'mujoco', 'metaworld', 'minigrid', 'rl_zoo3', 'sb3_contrib', 'ray'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
