"""LIRPG: its gradient against the matrix form, SB3's PPO and A2C without a learned reward, and SB3 throughout."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers.walk import assert_same, walks
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.func import functional_call

from irwrappers import VecIntrinsicReward
from sb3_ext import LIRPG, LIRPGA2C

SIZE = {LIRPG: dict(n_steps=32, batch_size=16, n_epochs=2), LIRPGA2C: dict(n_steps=8)}
BOTH = pytest.mark.parametrize("algorithm", [LIRPG, LIRPGA2C], ids=lambda algorithm: algorithm.__name__)


class Chain(gym.Env):
    """Twelve states in a row, left and right, paid once: at the end."""

    observation_space, action_space = spaces.Discrete(12), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(11))
        return self.state, {}

    def step(self, action):
        self.state = min(max(self.state + 2 * int(action) - 1, 0), 11)
        return self.state, float(self.state == 11), self.state == 11, False, {}


def make(algorithm, env=None, policy="MlpPolicy", seed=0, **kwargs):
    return algorithm(policy, env or walks(), seed=seed, device="cpu", **SIZE[algorithm] | kwargs)


def state_of(model):
    """Every number that learns."""
    tensors = []
    for part in model._get_torch_save_params()[0]:
        part = getattr(model, part) if "." not in part else model.policy.optimizer
        state = part.state_dict()
        rows = state["state"].values() if "param_groups" in state else [state]
        tensors += [torch.as_tensor(value).clone() for row in rows for value in row.values()]
    return tensors


# ---------------------------------------------------------------------- the gradient


def in_float64(model, monkeypatch):
    """The model, its optimisers and the rollout it has just collected, in double precision."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # preprocess_obs casts
    for part in (model.policy, model.reward_network, model.extrinsic_critic):
        part.double()
    for optimizer in (model.policy.optimizer, model.reward_optimizer, model.extrinsic_optimizer):
        for state in optimizer.state.values():
            state |= {key: value.double() for key, value in state.items() if key != "step"}
    rollout = model._rollout(10**6)
    rollout.samples = type(rollout.samples)(*(x.double() if x.is_floating_point() else x for x in rollout.samples))
    rollout.discount = rollout.discount.double()
    return rollout


def matrix_of(model, rollout):
    """``[n, n]``: (γλ)^(j − i) where step j follows i in the same episode of the same copy."""
    n_steps, n_copies = rollout.discount.shape
    done = np.concatenate([model.rollout_buffer.episode_starts[1:], model._last_episode_starts[None]])
    matrix = torch.zeros(n_steps * n_copies, n_steps * n_copies, dtype=torch.float64)
    for copy in range(n_copies):
        for i in range(n_steps):
            for j in range(i, n_steps):
                matrix[copy * n_steps + i, copy * n_steps + j] = (model.gamma * model.gae_lambda) ** (j - i)
                if done[j, copy]:
                    break
    return matrix


def evaluate(model, params, samples):
    """V^mix, log π and the mean entropy at other parameters of the policy."""

    class Evaluation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = model.policy

        def forward(self, observations, actions):
            return self.policy.evaluate_actions(observations, actions)

    named = {f"policy.{name}": value for name, value in params.items()}
    values, log_prob, entropy = functional_call(Evaluation(), named, (samples.observations, samples.actions))
    return values.flatten(), log_prob, entropy.mean()


def normalized(x):
    return (x - x.mean()) / (x.std() + 1e-8)


def clipped_surrogate(log_prob, samples, advantages):
    ratio = torch.exp(log_prob - samples.old_log_prob)
    return -torch.min(ratio * normalized(advantages), ratio.clamp(0.8, 1.2) * normalized(advantages)).mean()


def inner_loss(model, params, samples, mixed):
    values, log_prob, entropy = evaluate(model, params, samples)
    policy_loss = clipped_surrogate(log_prob, samples, mixed) if isinstance(model, PPO) else -(mixed * log_prob).mean()
    value_loss = (mixed + samples.old_values - values).square().mean()
    return policy_loss - model.ent_coef * entropy + model.vf_coef * value_loss


def outer_loss(model, params, samples):
    log_prob = evaluate(model, params, samples)[1]
    if isinstance(model, PPO):
        return clipped_surrogate(log_prob, samples, samples.extrinsic_advantages)
    return -(torch.exp(log_prob - samples.old_log_prob) * samples.extrinsic_advantages).mean()


def optimizer_step(model, params, gradients, moments):
    """One step of Adam or RMSprop after the clip, written out; ``moments`` of each parameter are replaced."""
    norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
    scale = model.max_grad_norm / (norm + 1e-6) if norm > model.max_grad_norm else 1.0
    group = model.policy.optimizer.param_groups[0]
    new = {}
    for name, value in params.items():
        g, state = scale * gradients[name], moments[name]
        if isinstance(model, PPO):
            second = g if model.second_moment_gradient else g.detach()
            t = int(state["step"]) + 1
            m, v = 0.9 * state["exp_avg"] + 0.1 * g, 0.999 * state["exp_avg_sq"] + 0.001 * second**2
            moments[name] = {"step": t, "exp_avg": m, "exp_avg_sq": v}
            step = m / (1 - 0.9**t) / (torch.sqrt(v / (1 - 0.999**t)) + group["eps"])
        else:
            second = g.detach() if model.second_moment_gradient is False else g
            v = 0.99 * state["square_avg"] + 0.01 * second**2
            step = g / (torch.sqrt(v) + group["eps"])
        new[name] = value - group["lr"] * step
    return new


def naive(model, rollout, minibatches):
    """∂(−J^ex)/∂η and θ′ from the matrix and autograd over a graph of everything."""
    samples, matrix = rollout.samples, matrix_of(model, rollout)
    advantages = samples.advantages + model.r_in_coef * matrix @ model.reward_network(samples.observations, samples.actions)
    params = dict(model.policy.named_parameters())
    moments = {name: model.policy.optimizer.state[value] for name, value in params.items()}
    for rows in minibatches:
        loss = inner_loss(model, params, samples.rows(rows), advantages[rows])
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = optimizer_step(model, params, dict(zip(params, gradients, strict=True)), moments)
    loss = outer_loss(model, params, samples.rows(torch.cat(minibatches)))
    return torch.autograd.grad(loss, list(model.reward_network.parameters())), params


def assert_steps_are_naive(model, expected, params):
    """The gradient that the reward network was given (it is clipped) and the policy after the update."""
    norm = torch.sqrt(sum(g.square().sum() for g in expected))
    scale = min(1.0, model.max_grad_norm / float(norm + 1e-6))
    largest = float(max(g.abs().max() for g in expected)) * scale
    assert largest > 1e-8, "there must be something to compare"
    for parameter, gradient in zip(model.reward_network.parameters(), expected, strict=True):
        assert float((parameter.grad - scale * gradient).abs().max()) < 1e-9 * largest
    for name, value in model.policy.named_parameters():
        torch.testing.assert_close(value.detach(), params[name].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_unroll", [1, 2])
@pytest.mark.parametrize("second_moment_gradient", [None, True])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_gradient_of_a_minibatch_is_that_of_the_matrix_form(monkeypatch, action_space, second_moment_gradient, n_unroll):
    settings = dict(r_ex_coef=0.5, r_in_coef=0.7, ent_coef=0.01, n_unroll=n_unroll)
    model = make(
        LIRPG, walks(action_space=action_space, horizon=9), **settings, second_moment_gradient=second_moment_gradient
    ).learn(
        128
    )  # so that the optimiser has moments
    rollout = in_float64(model, monkeypatch)
    minibatches = [torch.arange(k, 64, 5) for k in range(n_unroll)]
    expected, params = naive(model, rollout, minibatches)
    assert model._update(rollout, minibatches, 0.2, None, defaultdict(list))
    assert_steps_are_naive(model, expected, params)


@pytest.mark.parametrize("second_moment_gradient", [None, False])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_gradient_of_a2cs_form_is_that_of_the_matrix_form(monkeypatch, action_space, second_moment_gradient):
    settings = dict(gae_lambda=0.9, ent_coef=0.01, second_moment_gradient=second_moment_gradient)
    model = make(LIRPGA2C, walks(action_space=action_space, horizon=5), **settings).learn(64)
    rollout = in_float64(model, monkeypatch)
    expected, params = naive(model, rollout, [torch.arange(16)])
    monkeypatch.setattr(model, "_rollout", lambda chunk: rollout)
    model.train()
    assert_steps_are_naive(model, expected, params)


@BOTH
def test_every_return_of_a_truncated_episode_is_bootstrapped_with_its_own_critic(algorithm):
    model = make(algorithm, walks(horizon=5), gamma=0.9, gae_lambda=1.0, r_ex_coef=0.5, r_in_coef=2.0, n_steps=32)
    model.lr_schedule = model.reward_lr_schedule = lambda _: 0.0  # the critics stay those of the rollout
    model.learn(64)
    rollout, ends = model._rollout(7), {(t, copy): end for t, copy, end in model._recorder.truncated}
    done = np.concatenate([model.rollout_buffer.episode_starts[1:], model._last_episode_starts[None]]) > 0
    assert 0 < len(ends) < done.sum(), "episodes must end both ways"
    samples = rollout.samples
    with torch.no_grad():
        rewards = model.reward_network(samples.observations, samples.actions).view(2, 32).t().numpy()
        paid = rollout.discounted_sum.copy_by_copy(torch.as_tensor(rewards).t().flatten())
        mixed = samples.advantages + samples.old_values + 2 * paid
    extrinsic = np.stack(model._recorder.rewards)
    mixed_critic = lambda o: float(model.policy.predict_values(torch.as_tensor(o)[None]))  # noqa: E731
    extrinsic_critic = lambda o: float(model.extrinsic_critic(torch.as_tensor(o)[None]))  # noqa: E731
    for critic, paid, found in (
        (mixed_critic, 0.5 * extrinsic + 2 * rewards, mixed),
        (extrinsic_critic, extrinsic, samples.extrinsic_returns),
    ):
        for copy in range(2):
            following = critic(model._last_obs[copy])
            for t in reversed(range(32)):
                if done[t, copy]:
                    following = critic(ends[t, copy]) if (t, copy) in ends else 0.0
                following = float(paid[t, copy]) + 0.9 * following
                assert float(found[copy * 32 + t]) == pytest.approx(following, rel=1e-4, abs=1e-4)


# ---------------------------------------------------------------------- PPO and A2C where nothing is learned


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize(("algorithm", "sb3"), [(LIRPG, PPO), (LIRPGA2C, A2C)])
def test_without_a_learned_reward_it_is_sb3s_weight_for_weight(algorithm, sb3, action_space):
    env = partial(walks, action_space=action_space, normalize=True)
    settings = SIZE[algorithm] | dict(learning_rate=lambda left: 1e-3 * left, ent_coef=0.01)
    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", r_ex_coef=1.0, r_in_coef=0.0, **settings).learn(256)
    theirs = sb3("MlpPolicy", env(), seed=5, device="cpu", **settings).learn(256)
    assert_same(list(theirs.policy.state_dict().values()), list(ours.policy.state_dict().values()))


@pytest.mark.parametrize(("algorithm", "sb3"), [(LIRPG, PPO), (LIRPGA2C, A2C)])
@pytest.mark.parametrize("r_ex_coef", [0.0, 1.0])
def test_until_the_environment_pays_it_is_sb3s_weight_for_weight_on_its_share_of_a_bonus(algorithm, sb3, r_ex_coef, tmp_path):
    def env(pay=0.0):
        return VecIntrinsicReward(walks(pay=pay), "count", intrinsic_coef=0.1)

    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", r_ex_coef=r_ex_coef, **SIZE[algorithm])
    reward = ours.reward_network.head.weight.detach().clone()
    ours.learn(256)
    paid = VecIntrinsicReward(walks(pay=0.0), "count", intrinsic_coef=0.1 * r_ex_coef)
    theirs = sb3("MlpPolicy", paid, seed=5, device="cpu", **SIZE[algorithm]).learn(256)
    assert_same(list(theirs.policy.state_dict().values()), list(ours.policy.state_dict().values()))
    assert torch.equal(ours.reward_network.head.weight, reward)
    ours.set_env(env(pay=1.0))
    ours.learn(128)
    since = ours.reward_network.head.weight.detach().clone()
    assert not torch.equal(since, reward)
    ours.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env())
    loaded.learn(128)  # it was paid once
    assert not torch.equal(loaded.reward_network.head.weight, since)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize(
    ("algorithm", "sb3", "settings"),
    [
        (LIRPG, PPO, {}),
        (LIRPG, PPO, dict(clip_range_vf=0.2, ent_coef=0.01, target_kl=0.01, normalize_advantage=False)),
        (LIRPGA2C, A2C, dict(ent_coef=0.01)),
        (LIRPGA2C, A2C, dict(use_rms_prop=False, normalize_advantage=True, gae_lambda=0.9)),
    ],
)
def test_with_a_reward_of_0_its_own_update_is_sb3s(algorithm, sb3, settings, action_space):
    """What is summed in another order differs by rounding."""
    env = partial(walks, action_space=action_space)
    settings = SIZE[algorithm] | settings
    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", r_ex_coef=1.0, reward_learning_rate=0.0, **settings)
    torch.nn.init.zeros_(ours.reward_network.head.weight)
    torch.nn.init.zeros_(ours.reward_network.head.bias)
    ours.learn(256)
    theirs = sb3("MlpPolicy", env(), seed=5, device="cpu", **settings).learn(256)
    assert ours.num_timesteps == theirs.num_timesteps and ours._n_updates == theirs._n_updates
    for (name, value), expected in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=2e-5, msg=name)


def test_updates_before_a_reward_step_are_the_same_however_many():
    """With a reward that is fixed, ``n_unroll`` only groups PPO's minibatches."""
    models = [make(LIRPG, reward_learning_rate=0.0, n_unroll=n).learn(192) for n in (1, 3)]
    for one, other in zip(*(model.policy.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_environments_reward_reaches_the_policy_only_through_the_learned_one():
    fixed = dict(reward_learning_rate=0.0)
    one, same = (make(LIRPG, walks(pay=pay), **fixed).learn(128).policy for pay in (0.5, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    other = make(LIRPG, walks(pay=1.0), r_ex_coef=1.0, **fixed).learn(128).policy
    assert not torch.equal(same.action_net.weight, other.action_net.weight)


# ---------------------------------------------------------------------- an SB3 algorithm

OBSERVATIONS = {
    "box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "dict": ("MultiInputPolicy", spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))),
}
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]


# Observations and actions hardly meet in the code: every kind of action with a vector, two with the others.
SPACES = [(name, action_space) for name in OBSERVATIONS for action_space in (ACTIONS if name == "box" else ACTIONS[::3])]


@BOTH
@pytest.mark.parametrize(("observations", "action_space"), SPACES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_every_space_learns_saves_and_loads(algorithm, observations, action_space, tmp_path):
    policy, observation_space = OBSERVATIONS[observations]
    env = partial(walks, observation_space=observation_space, action_space=action_space)
    before = make(algorithm, env(2), policy)
    model = make(algorithm, env(2), policy).learn(64)
    for name in ("policy", "reward_network", "extrinsic_critic"):
        pairs = zip(getattr(before, name).parameters(), getattr(model, name).parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env(3))
    assert_same(state_of(model), state_of(loaded))
    observation = env(2).reset()
    actions = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(actions, loaded.predict(observation, deterministic=True)[0])
    rewards = model.intrinsic_rewards(observation, actions)
    assert rewards.shape == (2,) and (np.abs(rewards) < 1).all()
    np.testing.assert_array_equal(rewards, loaded.intrinsic_rewards(observation, actions))
    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 64 + 96
    assert not torch.equal(next(loaded.reward_network.parameters()), next(model.reward_network.parameters()))


@BOTH
def test_a_loaded_model_continues_as_the_saved_one(algorithm, tmp_path):
    model = make(algorithm, walks(normalize=True)).learn(128)
    model.save(tmp_path / "model")
    model.env.save(tmp_path / "statistics")
    loaded = algorithm.load(tmp_path / "model", env=VecNormalize.load(tmp_path / "statistics", walks()))
    for one in (model, loaded):
        one._last_obs = None  # from a reset
        one.set_random_seed(7)
        one.learn(192, reset_num_timesteps=False)
    assert_same(state_of(model), state_of(loaded))


@BOTH
def test_parameters_of_one_model_fit_another(algorithm):
    one, other = make(algorithm).learn(64), make(algorithm, seed=1)
    other.set_parameters(one.get_parameters())
    assert_same(state_of(one), state_of(other))
    assert {"policy", "reward_network", "reward_optimizer", "extrinsic_critic"} <= one.get_parameters().keys()


@BOTH
def test_same_seed_same_weights_other_seed_others(algorithm):
    one, again, other = (state_of(make(algorithm, seed=seed).learn(128)) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (LIRPG, dict(use_sde=True, sde_sample_freq=4)),
        (LIRPG, dict(clip_range_vf=0.2, target_kl=1e-6, n_unroll=2)),
        (LIRPG, dict(n_unroll=5, learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: left)),
        (LIRPG, dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD), normalize_advantage=False)),
        (LIRPG, dict(reward_kwargs=dict(net_arch=[], squash=False), policy_kwargs=dict(net_arch=dict(pi=[], vf=[8])))),
        (LIRPGA2C, dict(use_sde=True)),
        (LIRPGA2C, dict(use_rms_prop=False, r_ex_coef=0.0, r_in_coef=1.0)),
    ],
)
def test_settings_run(algorithm, settings):
    model = make(algorithm, walks(action_space=spaces.Box(-1, 1, (2,))), **settings).learn(192)
    assert all(torch.isfinite(value).all() for value in state_of(model))


def test_target_kl_stops_the_updates():
    model = make(LIRPG, target_kl=1e-9, n_unroll=2, learning_rate=0.01)
    before = [value.clone() for value in model.reward_network.parameters()]
    model.learn(64)  # the first minibatch's KL is 0, that of the second, in the same group, is not
    assert model._n_updates == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.reward_network.parameters(), strict=True))


COMPILED = [
    (spaces.Box(-1, 1, (2,)), {}),
    (spaces.Box(-1, 1, (2,)), dict(n_unroll=2, clip_range_vf=0.2, use_sde=True)),
    (spaces.Discrete(3), dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD))),
]


@pytest.mark.parametrize("by", ["written down", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("action_space", "settings"), COMPILED)
def test_compiled_updates_are_those_that_are_not(action_space, settings, by, monkeypatch, tmp_path):
    if by == "written down":  # the graph is run as it is; the C++ compiler takes a minute
        monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    # Compiled, sums are taken in another order, and Adam divides round-off by small gradients: steps are of 3e-3.
    # 24 does not divide the rollout: the last minibatch of an epoch is smaller. Schedules change numbers that are compiled in.
    changing = dict(learning_rate=lambda left: 1e-3 + 2e-3 * left, clip_range=lambda left: 0.1 + 0.1 * left)
    settings = changing | dict(batch_size=24, ent_coef=0.01, reward_kwargs=dict(net_arch=[8])) | settings
    plain, compiled = (make(LIRPG, walks(action_space=action_space), compile=c, **settings).learn(192) for c in (False, True))
    before = make(LIRPG, walks(action_space=action_space), **settings)
    for a, b in zip(state_of(plain), state_of(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 if by == "written down" else 1e-3)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(state_of(plain), state_of(before), strict=False))
    compiled.save(tmp_path / "model")
    loaded = LIRPG.load(tmp_path / "model", env=walks(action_space=action_space))
    assert loaded.compile and loaded._compiled is None


def test_without_a_compiler_compile_says_so_before_work_starts(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler on a CPU, and there is no 'no-such-compiler'"):
        make(LIRPG, compile=True)
    make(LIRPG)
    with pytest.raises(ValueError, match="compile must be True or False, got 1"):
        make(LIRPG, compile=1)


def test_schedules_reach_their_optimisers():
    model = make(LIRPG, learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: 1e-2 * left)
    model.learn(128)
    optimizers = (model.policy.optimizer, model.extrinsic_optimizer, model.reward_optimizer)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.0, 0.0, 0.0]
    model.learn(192, reset_num_timesteps=False)  # of 320 in all
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == pytest.approx([0.0, 0.0, 0.0])


class Memory(KVWriter):
    def __init__(self):
        self.written = {}

    def write(self, key_values, key_excluded, step=0):
        self.written |= key_values

    def close(self):
        pass


@BOTH
def test_callbacks_logs_and_progress_bar(algorithm, tmp_path):
    model, memory = make(algorithm, walks(normalize=True)), Memory()
    model.set_logger(Logger(None, [memory]))
    callbacks = [CheckpointCallback(32, tmp_path), EvalCallback(walks(1, normalize=True), eval_freq=40, verbose=0)]
    model.learn(128, callbacks, log_interval=1, progress_bar=True)
    names = "reward_mean reward_std extrinsic_loss extrinsic_value_loss gradient_norm explained_variance"
    assert {f"lirpg/{name}" for name in names.split()} <= memory.written.keys()
    names = "value_loss entropy_loss explained_variance learning_rate reward_learning_rate n_updates"
    assert {f"train/{name}" for name in names.split()} <= memory.written.keys()
    assert all(np.isfinite(value) for value in memory.written.values())
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == 2
    algorithm.load(next(tmp_path.glob("rl_model_*_steps.zip")), env=walks()).learn(64)
    make(algorithm, tensorboard_log=str(tmp_path / "tb")).learn(64)
    assert list((tmp_path / "tb" / f"{algorithm.__name__}_1").glob("events.out*"))


# ---------------------------------------------------------------------- bad input


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(r_ex_coef=-1), "r_ex_coef must be a number in .0, inf., got -1"),
        (dict(r_in_coef="1"), "r_in_coef must be a number in .0, inf., got '1'"),
        (dict(r_ex_coef=0, r_in_coef=0), "r_ex_coef and r_in_coef are both 0"),
        (dict(reward_learning_rate=-1e-3), "reward_learning_rate must be a number in .0, inf., got -0.001"),
        (dict(extrinsic_vf_coef=-1), "extrinsic_vf_coef must be a number in .0, inf., got -1"),
        (dict(reward_kwargs=[64]), "reward_kwargs must be a dict of RewardNetwork's arguments or None, got .64."),
        (dict(reward_kwargs=dict(layers=3)), "reward_kwargs=.'layers': 3. do not fit RewardNetwork"),
        (dict(second_moment_gradient="yes"), "second_moment_gradient must be True, False or None, got 'yes'"),
        (dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad)), "must be Adam, .* got Adagrad"),
    ],
)
def test_wrong_arguments_are_named(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, **arguments)


def test_n_unroll_must_be_a_positive_integer():
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=f"n_unroll must be an integer in .1, inf., got {wrong}"):
            make(LIRPG, n_unroll=wrong)


# ---------------------------------------------------------------------- learning


def probability_of_right(model):
    """The least over the chain's states."""
    with torch.no_grad():
        return float(model.policy.get_distribution(torch.arange(11)).distribution.probs[:, 1].min())


@pytest.mark.parametrize(
    ("algorithm", "settings", "steps"),
    [
        (LIRPG, dict(n_steps=64, batch_size=64, n_epochs=10, reward_learning_rate=1e-3, learning_rate=1e-3), 4000),
        (LIRPGA2C, dict(n_steps=16, r_ex_coef=0.0, r_in_coef=1.0, extrinsic_vf_coef=0.5), 8000),
    ],
)
def test_it_learns_a_chain_from_its_own_reward(algorithm, settings, steps):
    env = DummyVecEnv([lambda: TimeLimit(Chain(), 60)] * 4)
    model = make(algorithm, env, gamma=0.95, ent_coef=0.01, **settings).learn(steps)
    rewards = model.intrinsic_rewards(np.arange(11).repeat(2), np.tile([0, 1], 11)).reshape(11, 2)
    # A policy paid by a reward that does not learn is as likely to walk to the left.
    assert probability_of_right(model) > 0.8
    assert (rewards[:, 1] > rewards[:, 0]).all()


@BOTH
def test_the_reward_network_begins_as_the_policys_networks_do(algorithm):
    def is_orthogonal(policy_kwargs, **reward_kwargs):
        weight = make(algorithm, policy_kwargs=policy_kwargs, reward_kwargs=reward_kwargs).reward_network.hidden[-2].weight
        return torch.allclose(weight @ weight.T, 2 * torch.eye(len(weight)), atol=1e-5)

    assert is_orthogonal({})
    assert not is_orthogonal(dict(ortho_init=False))
    assert not is_orthogonal({}, ortho_init=False)


@pytest.mark.parametrize("algorithm", [LIRPG, LIRPGA2C])
def test_what_is_frozen_after_construction_stays(algorithm):
    model = make(algorithm)
    model.policy.mlp_extractor.requires_grad_(False)
    before = model.policy.mlp_extractor.policy_net[0].weight.clone()
    model.learn(64)
    assert torch.equal(model.policy.mlp_extractor.policy_net[0].weight, before)


def test_a_bonus_beneath_vecnormalize_leaves_the_extrinsic_reward_in_its_units():
    recorded = []
    for coef in (None, 0.0):
        env = walks() if coef is None else VecIntrinsicReward(walks(), "constant", intrinsic_coef=coef)
        model = make(LIRPG, VecNormalize(env), n_steps=64).learn(64)
        recorded.append(np.stack(model._recorder.rewards))
    np.testing.assert_allclose(recorded[0], recorded[1], rtol=1e-5)


def test_rewards_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="NaN or infinite rewards"):
        make(LIRPG, walks(pay=float("nan"))).learn(64)
