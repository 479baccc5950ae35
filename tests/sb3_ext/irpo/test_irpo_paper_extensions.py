"""What IRPO can do beyond the paper: blends, batches used again, exploratory policies carried over."""

import io

import numpy as np
import pytest
import torch
from helpers.irpo_toys import (
    ALLO_QUICK,
    MAZE,
    At,
    Change,
    Counting,
    assert_same,
    interrupt,
    maze_model,
    paper_model,
    state_of,
    toy_model,
    toys,
)
from helpers.memory import Memory
from stable_baselines3.common.logger import Logger

from irwrappers import Concat, ExactLaplacian
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO
from sb3_ext.irpo.gradient import SurrogateBatch, surrogate_gradient
from sb3_ext.irpo.gradient_weights import (
    BLENDS,
    blend_gradients,
    cosine,
    direct_run,
    share_of_direct,
)


def tree(*vectors):
    """Gradients with a matrix and a bias from vectors of 5 numbers."""
    rows = torch.tensor(vectors, dtype=torch.float64)
    stacked = {"weight": rows[:, :4].view(-1, 2, 2), "bias": rows[:, 4:]}
    return stacked if len(vectors) > 1 else {name: value[0] for name, value in stacked.items()}


ONE, OTHER = (3.0, 0.0, 0.0, 0.0, 4.0), (0.0, 2.0, 0.0, 0.0, 0.0)


def test_a_blend_turns_from_one_direction_to_the_other():
    irpo, direct, zero = tree(ONE), tree(OTHER), tree([0.0] * 5)
    assert cosine(irpo, direct) == 0 and cosine(irpo, irpo) == pytest.approx(1) and cosine(irpo, zero) == 0
    for share, length in ((0.0, 5.0), (1.0, 2.0)):
        result = blend_gradients(irpo, direct, share)
        aim = direct if share else irpo
        assert cosine(result, aim) == pytest.approx(1)
        assert sum(float(v.square().sum()) for v in result.values()) ** 0.5 == pytest.approx(length)
    half = blend_gradients(irpo, direct, 0.5)
    assert cosine(half, irpo) == pytest.approx(cosine(half, direct)) == pytest.approx(0.5**0.5)
    assert blend_gradients(irpo, zero, 0.9) is irpo and blend_gradients(zero, direct, 0.1) is direct


def test_shares_of_the_true_gradient():
    irpo, direct, against = tree(ONE), tree(OTHER), tree([-x for x in ONE])
    sixty = tree([x / 2 + 5 * y * 3**0.5 / 4 for x, y in zip(ONE, OTHER, strict=True)])  # 60° from ONE

    def share(blend, progress=0.0, direct=direct, halves=(direct, direct)):
        return share_of_direct(blend, progress, 0.5, irpo, direct, halves)

    assert [share("exponential", p) for p in (0, 0.5, 1)] == [0, 0.5, 0.75]
    assert share("agreement") == pytest.approx(1) and share("agreement", halves=(irpo, against)) == 0
    assert share("agreement", halves=(irpo, sixty)) == pytest.approx(0.5)


def test_runs_on_the_true_gradient_double_while_exploration_finds_nothing_better():
    assert direct_run(4, 0.0, 0.0) == direct_run(4, 0.5, 0.6) == 0
    assert [direct_run(run, 0.6, 0.6) for run in (0, 1, 2, 16, 32)] == [1, 2, 4, 32, 32]


@pytest.mark.parametrize("blend", BLENDS)
def test_every_blend_runs_and_logs(blend):
    model, memory = toy_model(blend=blend, blend_start=0.3), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(400)
    assert len(memory.written) >= 4
    if blend in ("exponential", "agreement"):
        assert all(0 <= logged["train/direct_share"] <= 1 for logged in memory.written)
    explored = ["rollout/best_return" in logged for logged in memory.written]
    if blend == "abrupt":  # from 0.3 of training on, one batch an iteration
        assert explored[:2] == [True, True] and not any(explored[2:]) and len(explored) == 2 + 10
    elif blend != "switch":
        assert all(explored)


def test_switch_explores_not_while_the_base_policy_is_the_best(monkeypatch):
    monkeypatch.setattr("sb3_ext.irpo.paper.direct_run", lambda last, base, best: 2)
    model, memory = toy_model(blend="switch"), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(300)
    explored = ["rollout/best_return" in logged for logged in memory.written]
    assert explored == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(("updates", "each", "batches"), [(4, 1, 4), (4, 2, 2), (4, 3, 2), (4, 4, 1), (3, 9, 1)])
def test_updates_per_batch_save_batches(updates, each, batches):
    env = Counting(toys(2))
    reward = Change(env.observation_space, env.action_space)
    settings = dict(batch_size=20, n_exploratory_updates=updates, updates_per_batch=each, intrinsic_reward=reward)
    paper_model("MlpPolicy", env, seed=0, **settings).learn(1)
    assert env.steps == 20 * (1 + 2 * batches)


def test_exploratory_policies_are_carried_over_until_there_is_a_reward():
    model = maze_model(carry_over=0.5, exploratory_learning_rate=0.1)
    starts = []
    collect = model._collect

    def spy(params, rollouts, callback):
        starts.append({name: value.clone() for name, value in params.items()})
        return collect(params, rollouts, callback)

    model._collect = spy
    model.learn(1)
    assert model._carries and len(starts) == 3  # the base policy's batch and two of the exploratory ones
    theta, ended = model.policy.base.as_dict(), model.policy.exploratory.as_dict()
    expected = {name: value + 0.5 * (ended[name] - value) for name, value in theta.items()}
    expected = {name: value.clone() for name, value in expected.items()}
    model.learn(1, reset_num_timesteps=False)
    assert len(starts) == 3 + 4
    for name, value in starts[4].items():
        torch.testing.assert_close(value, expected[name])


def test_the_base_policy_moves_to_the_first_exploratory_policy_with_a_reward():
    """A reward only far enough to the right in Toy: that of the base policy is removed by hand."""
    model, memory = toy_model(carry_over=1.0), Memory()
    model.set_logger(Logger(None, [memory]))
    collect, n_batches = model._collect, []

    def first_without_reward(params, rollouts, callback):
        batch = collect(params, rollouts, callback)
        n_batches.append(batch)
        if len(n_batches) == 1:
            batch.rollout.rewards.zero_()
        return batch

    model._collect = first_without_reward
    model.learn(1)
    returns = [memory.written[0][f"extrinsic_return/{k}_change_{k}"] for k in range(2)]
    best = int(np.argmax(returns))
    assert not model._carries and memory.written[0]["train/kl_divergence"] > 0
    # The stored policies are one extrinsic step further than where the base policy moved to.
    for name, value in model.policy.base.as_dict().items():
        step = model.policy.exploratory.as_dict()[name][best] - value
        assert step.abs().max() <= model.paper.exploratory_learning_rate * model.max_grad_norm + 1e-6


SETTINGS = {
    "switch": dict(blend="switch"),
    "agreement": dict(blend="agreement"),
    "carried": dict(carry_over=0.9, exploratory_learning_rate=0.1),
    "used again": dict(updates_per_batch=2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_saved_model_continues_as_the_unbroken_run(name):
    def short_maze():
        return make_vec_env(MAZE, n_envs=12, env_kwargs={"max_episode_steps": 25})

    def model():
        return maze_model(env=short_maze(), batch_size=25, **SETTINGS[name])

    unbroken = model().learn(2000)
    first = model()
    with pytest.raises(KeyboardInterrupt):
        first.learn(2000, callback=At(130, interrupt))
    assert 0 < first._iteration < unbroken._iteration
    file = io.BytesIO()
    first.save(file)
    file.seek(0)
    loaded = IRPO.load(file, env=short_maze())
    loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
    assert loaded.n_exploratory == unbroken.n_exploratory
    assert_same(state_of(loaded), state_of(unbroken))


@pytest.mark.parametrize("split", [True, False])
def test_the_merged_base_batch_is_that_of_all_its_transitions(split):
    """Divided, K policies have a sixth of the environments each; otherwise each of them has all."""
    layout = ["######", "#S   #", "# ## #", "#   G#", "######"]  # environments have enough at different times
    env = make_vec_env(MAZE, n_envs=12, env_kwargs={"layout": layout})
    model = maze_model(env=env, batch_size=30 if split else 1000)
    batches = []
    collect = model._collect
    model._collect = lambda *arguments: batches.append(collect(*arguments)) or batches[-1]
    model.learn(1)
    batch, policy, n_policies = batches[0], model.policy, model.n_exploratory
    theta = {name: value[:1].double()[0] for name, value in policy.exploratory.as_dict().items()}  # any policy but the one
    merged, rollout = batch.as_one_policy(), batch.rollout
    assert rollout.n_policies == (n_policies if split else 1) and merged.n_policies == 1
    valid = rollout.valid.flatten()
    assert 0 < valid.double().mean() < 1 and torch.equal(merged.valid[0], valid)
    if not split:
        assert torch.equal(merged.old_log_prob[0], batch.old_log_prob[0])
        assert torch.equal(merged.pairs.index[0], batch.pairs.index[0])
        assert all(torch.equal(one[0], all_[0]) for one, all_ in zip(merged.pairs.rows, batch.pairs.rows, strict=True))

    # Each policy's advantages, and the same written down where the transitions lie in the rollout.
    advantages = torch.randn(batch.valid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    laid_out = batch.unflat(advantages)  # [T, K, n]
    laid_out = laid_out.flatten(1) if split else laid_out.mean(1)
    torch.testing.assert_close(batch.merged(advantages)[0], laid_out.flatten())
    observations = rollout.observations.flatten(0, 1)[valid].double()
    actions = rollout.actions.flatten(0, 1)[valid]
    old = (
        batch.unflat(batch.old_log_prob.gather(1, batch.pairs.index)).flatten(1)[:, : rollout.valid.shape[1]].flatten()[valid]
    )

    def written_out(params):
        log_prob = policy.distribution.log_prob(policy.actor(params, observations), actions)
        return (torch.exp(log_prob - old) * laid_out.flatten()[valid]).mean()

    surrogate = SurrogateBatch(*(x[0] for x in as_doubles(merged.surrogate(batch.merged(advantages)))))
    gradient = surrogate_gradient(theta, surrogate, actor=policy.actor, distribution=policy.distribution)
    for name, value in torch.func.grad(written_out)(theta).items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-9, atol=1e-12)

    with torch.no_grad():
        base = {name: value.double() for name, value in policy.base.as_dict().items()}
        outputs = (policy.actor(params, observations) for params in (base, theta))
        mean_kl = policy.distribution.kl_divergence(*outputs).mean()
        share = merged.states.add_up(merged.valid.double())[0] / merged.valid.sum()
        rows = merged.states.rows[0].double()
        outputs = (policy.actor(params, rows) for params in (base, theta))
        torch.testing.assert_close((policy.distribution.kl_divergence(*outputs) * share).sum(), mean_kl, rtol=1e-9, atol=1e-12)
    assert mean_kl > 0


def as_doubles(batch):
    return [x.double() if x.is_floating_point() else x for x in batch]


def test_select_is_part_of_a_reward():
    env = make_vec_env(MAZE, n_envs=2)
    spaces = env.observation_space, env.action_space
    whole = Concat([ExactLaplacian(*spaces, n_rewards=4), Change(*spaces)])
    part = whole.only([4, 1]).only([1, 0]).only([1])
    assert part.n_rewards == 1 and part.channels == [4] and part.channel_names == (whole.channel_names[4],)
    with pytest.raises(ValueError, match="0 to 5, got \\[6\\]"):
        whole.only([6])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(updates_per_batch=0), "updates_per_batch must be an integer"),
        (dict(updates_per_batch=2, surrogate="log_prob"), 'use surrogate="ratio"'),
        (dict(carry_over=1.5), "carry_over"),
        (dict(blend="linear"), "blend must be one of 'abrupt'.*got 'linear'"),
        (dict(blend_start=0), "blend_start"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        maze_model(**kwargs)


def test_the_temperature_of_ema_falls_after_the_fit():
    temperatures = []
    model = maze_model(
        weighting="ema",
        temperature_decay=1.0,
        fit_fraction=0.5,
        intrinsic_reward="allo",
        intrinsic_reward_kwargs=ALLO_QUICK,
        n_envs=8,
    )
    weights = model._weights
    model._weights = lambda returns: (temperatures.append(weights(returns)[1]), weights(returns))[1]
    model.learn(20_000)
    assert model._fit_share > 0.3
    assert temperatures[0] == pytest.approx(1.0) and sorted(temperatures, reverse=True) == temperatures
