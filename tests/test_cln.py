"""CLN: the conditioned layer, the meta-gradient against finite differences, the regulariser, and SB3 throughout."""

from __future__ import annotations

from collections import defaultdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.walk import assert_same, walks
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import CLN
from sb3_ext.cln import ConditionalLayerNorm, MlpPolicy, SegmentBuffer
from sb3_ext.cln.cln import _linear
from sb3_ext.cln.segments import cut_into_segments, segment_loss
from sb3_ext.common import ppo_losses
from sb3_ext.lirpg.rollout import LearnedRewardRollout

SIZE = dict(n_steps=32, batch_size=16, n_epochs=2, n_reward_steps=3, segment_length=4, segments_per_step=5)


def cln(env=None, policy="MlpPolicy", seed=0, **kwargs):
    return CLN(policy, env or walks(), seed=seed, device="cpu", **SIZE | kwargs)


def state_of(model):
    """Every number that learns."""
    tensors = {}
    for name in ("policy", "extrinsic_critic"):
        tensors |= {f"{name}.{key}": value.clone() for key, value in getattr(model, name).state_dict().items()}
    for optimizer in (model.policy.optimizer, model.extrinsic_optimizer, model.reward_optimizer):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{id(optimizer)}.{index}.{key}": torch.as_tensor(x).clone() for key, x in moments.items()}
    return list(tensors.values())


# ---------------------------------------------------------------------- the layer


@pytest.mark.parametrize("film", [False, True])
def test_the_layer_is_its_formula(film):
    torch.manual_seed(0)
    layer = ConditionalLayerNorm(4, 3, film=film)
    torch.nn.init.normal_(layer.conditioner[0].weight)
    a, eta = torch.randn(5, 4), torch.randn(3)
    maps = layer.conditioner[0].weight @ eta + layer.conditioner[0].bias
    gate, shift = 1 / (1 + torch.exp(-maps[:4])), maps[4:]
    for row, result in zip(a, layer(a, eta), strict=True):
        mu, sigma = row.mean(), ((row - row.mean()) ** 2).mean().sqrt()
        expected = gate * row + shift if film else gate / sigma * (row - mu) + shift
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.gate(eta), gate)
    rows = torch.randn(5, 3)  # an η for each row
    torch.testing.assert_close(layer(a, rows), torch.cat([layer(a[i : i + 1], rows[i]) for i in range(5)]))


def test_the_layer_begins_close_to_neutral_for_every_eta():
    a = torch.randn(100, 64)
    for hidden in ((), (16,)):
        layer = ConditionalLayerNorm(64, 10, hidden)
        normalized = torch.nn.functional.layer_norm(a, (64,))
        for eta in (torch.zeros(10), torch.randn(10)):
            assert (layer(a, eta) - 0.88 * normalized).abs().mean() < 0.15


@pytest.mark.parametrize(("conditioning", "n_layers"), [("last", 1), ("all", 3)])
@pytest.mark.parametrize("film", [False, True])
def test_actions_depend_on_eta_and_values_do_not(conditioning, n_layers, film):
    arch = dict(net_arch=dict(pi=[16, 16, 8], vf=[16]))
    settings = dict(conditioning=conditioning, film=film, conditioner_arch=(8,), policy_kwargs=arch)
    model = cln(walks(action_space=spaces.Box(-1, 1, (2,))), **settings)
    policy, observations = model.policy, torch.randn(6, 3)
    assert len(policy.mlp_extractor.norms) == n_layers
    mean, value = policy.get_distribution(observations).distribution.mean, policy.predict_values(observations)
    action = model.predict(observations.numpy(), deterministic=True)[0]
    with torch.no_grad():
        model.reward_network.head.weight.add_(1.0)
    assert not torch.allclose(mean, policy.get_distribution(observations).distribution.mean)
    assert not np.allclose(action, model.predict(observations.numpy(), deterministic=True)[0])
    assert torch.equal(value, policy.predict_values(observations))


def test_collecting_is_noisy_and_predicting_is_not():
    model = cln(eta_noise=1.0)
    observations = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    seen = []

    class Look(EvalCallback):
        def _on_step(self):
            seen.append(self.model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs)
            self.noise = self.model.policy.collection_noise
            return True

    before = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs
    look = Look(walks(1))
    model.learn(64, look)
    assert all(torch.equal(before, probs) for probs in seen)
    assert look.noise.shape == (2, len(model.policy.eta())) and look.noise.std() > 0.8
    assert not torch.equal(look.noise[0], look.noise[1]) and model.policy.collection_noise is None


# ---------------------------------------------------------------------- the meta-gradient


def prepared(monkeypatch, action_space, **kwargs):
    """A model in float64 with a minibatch of its own rollout, F of its transitions and noise."""
    model = cln(walks(action_space=action_space), eta_noise=0.05, ent_coef=0.01, **kwargs)
    model.learn(128)  # so that the optimiser has moments
    for norm in model.policy.mlp_extractor.norms:
        torch.nn.init.normal_(norm.conditioner[0].weight, std=0.2)
    rollout, taken = model._rollout()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # preprocess_obs casts
    model.policy.double()
    rollout.samples = type(rollout.samples)(*(x.double() if x.is_floating_point() else x for x in rollout.samples))
    rollout.discount = rollout.discount.double()
    if taken.is_floating_point():
        taken = taken.double()
    features = model._reward_features(rollout, taken)[1]
    rows = torch.arange(0, 64, 3)
    return model, rollout.samples.rows(rows), features[rows], model._noise(len(rows))


def extrinsic_loss(model, samples, features, noise, acting, seen, paying):
    """−J^EX after a step of Adam on −J^IN − entropy, written out; η that acts, that the step's policy sees, that pays."""
    policy, eta = model.policy, model.policy.eta()
    actor = policy.actor_parameters()
    if model._updates_policy:
        advantages = samples.advantages + features @ paying + ((features - features.mean(0)) * noise).sum(1)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_prob, entropy = policy.evaluate_actor(samples.observations, samples.actions, seen + noise)
        ratio = torch.exp(log_prob - samples.old_log_prob)
        loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean() - model.ent_coef * entropy.mean()
        gradients = torch.autograd.grad(loss, list(actor.values()))
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        scale = min(1.0, model.max_grad_norm / (float(norm) + 1e-6))
        before = {name: value.detach().clone() for name, value in actor.items()}
        group = policy.optimizer.param_groups[0]
        with torch.no_grad():
            for value, gradient in zip(actor.values(), gradients, strict=True):
                state = policy.optimizer.state[value]
                step = int(state["step"]) + 1
                m = 0.9 * state["exp_avg"] + 0.1 * scale * gradient
                # The second moment carries no gradient in the meta-gradient, and its state is the same for all η here.
                v = (0.999 * state["exp_avg_sq"] + 0.001 * model.second_gradient[id(value)] ** 2) / (1 - 0.999**step)
                value.sub_(group["lr"] * m / (1 - 0.9**step) / (v.sqrt() + group["eps"]))
    extrinsic = samples.extrinsic_advantages
    extrinsic = (extrinsic - extrinsic.mean()) / (extrinsic.std() + 1e-8)
    with torch.no_grad():
        log_prob, _ = policy.evaluate_actor(samples.observations, samples.actions, acting + noise)
        ratio = torch.exp(log_prob - samples.old_log_prob)
        result = -torch.min(ratio * extrinsic, ratio.clamp(0.8, 1.2) * extrinsic).mean()
        if model._updates_policy:
            for name, value in actor.items():
                value.copy_(before[name])
    assert torch.equal(eta, policy.eta())
    return float(result)


@pytest.mark.parametrize("terms", [("direct",), ("mixed",), ("reward",), ("direct", "mixed", "reward")], ids="+".join)
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_eta_gradient_of_a_minibatch_is_the_finite_difference(monkeypatch, action_space, terms):
    model, samples, features, noise = prepared(monkeypatch, action_space, terms=terms, reward_kwargs=dict(net_arch=[4]))
    meta = model._eta_gradient(samples, features, noise, 0.2)
    gradient, eta = meta.gradient["eta"], model.policy.eta()
    if meta.inner_gradients:  # as clipped: v is held fixed
        norm = torch.sqrt(sum(g.square().sum() for g in meta.inner_gradients[0].values()))
        scale = min(1.0, model.max_grad_norm / (float(norm) + 1e-6))
        actor = model.policy.actor_parameters()
        model.second_gradient = {id(actor[name]): scale * g for name, g in meta.inner_gradients[0].items()}
    expected, step = torch.zeros_like(eta), 1e-5
    for i in range(len(eta)):
        ends = []
        for sign in (1, -1):
            moved = eta.clone()
            moved[i] += sign * step
            etas = [moved if term in terms else eta for term in ("direct", "mixed", "reward")]
            ends.append(extrinsic_loss(model, samples, features, noise, *etas))
        expected[i] = (ends[0] - ends[1]) / (2 * step)
    scale = float(expected.abs().max())
    assert scale > 1e-7, "there must be something to differentiate"
    error = float((gradient - expected).abs().max()) / scale
    print(f"{'+'.join(terms)}: {error:.1e} of {scale:.1e}")
    assert error < 1e-5


@pytest.mark.parametrize("r_in_coef", [1.0, 0.5])
def test_advantages_are_linear_in_eta(r_in_coef):
    """Â of rewards r_φ(s, a; η) + base, from SB3's own buffer paid with r_φ, is base + F η."""
    model = cln(walks(horizon=7), gamma=0.9, gae_lambda=0.8, learning_rate=0.0, r_in_coef=r_in_coef)
    model.learn(64)
    rollout, taken = model._rollout()
    x, features = model._reward_features(rollout, taken)
    eta = torch.randn(len(model.policy.eta()))
    rewards = r_in_coef * (x @ eta).view(2, 32).t().numpy()
    buffer = model.rollout_buffer
    last_values = model.policy.predict_values(torch.as_tensor(model._last_obs)).detach()
    buffer.rewards += rewards  # beside the bootstraps of truncated episodes
    buffer.compute_returns_and_advantage(last_values, model._last_episode_starts)
    found = rollout.samples.advantages + features @ eta
    np.testing.assert_allclose(found.view(2, 32).t(), buffer.advantages, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(x @ model.policy.eta(), model.reward_network(rollout.samples.observations, taken))
    noise = torch.randn(64, len(eta))
    by_hand = torch.stack([features[i] @ eta + (features[i] - features.mean(0)) @ noise[i] for i in range(64)])
    torch.testing.assert_close(_linear(features, features.mean(0), eta, noise), by_hand, atol=1e-4, rtol=1e-4)


def test_extrinsic_advantages_are_those_of_the_extrinsic_critic():
    model = cln(walks(horizon=7), gamma=0.9, gae_lambda=1.0)
    model.learn(64)
    rollout, _ = model._rollout()
    rewards, done = model._rewards_and_ends()
    ends = dict(((i, t), end) for t, i, end in model._recorder.truncated)
    critic = lambda o: float(model.extrinsic_critic(torch.as_tensor(o)[None]).detach())  # noqa: E731
    for copy in range(2):
        following = critic(model._last_obs[copy])
        for t in reversed(range(32)):
            if done[copy, t]:
                following = critic(ends[copy, t]) if (copy, t) in ends else 0.0
            following = float(rewards[copy, t]) + 0.9 * following
            assert float(rollout.samples.extrinsic_returns[copy * 32 + t]) == pytest.approx(following, rel=1e-4, abs=1e-4)


# ---------------------------------------------------------------------- the regulariser


def test_segments_and_their_loss_by_hand():
    #  copy 0: an episode ends after step 2; copy 1: none ends. Segments of 4.
    rewards = torch.arange(12.0).view(2, 6)
    done = torch.zeros(2, 6, dtype=torch.bool)
    done[0, 2] = True
    observations = {"o": rewards[..., None] + 100}
    segments = cut_into_segments(observations, rewards[..., None], rewards, done, 4)
    assert segments.mask.sum(1).tolist() == [3, 3, 4, 2]
    assert segments.rewards.sum(1).tolist() == [0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8 + 9, 10 + 11]
    assert segments.observations["o"][3, :, 0].tolist() == [110, 111, 0, 0]
    assert segments.actions[2, :, 0].tolist() == [6, 7, 8, 9]
    # A reward of 1 a step is wrong by 0, 9, 26 and 19, whatever it pays for padding.
    paid = torch.where(segments.mask, 1.0, 50.0)
    assert float(segment_loss(paid, segments)) == (0 + 9**2 + 26**2 + 19**2) / 4


def test_segments_begin_anew_after_every_episode():
    done = torch.tensor([[True, True, False, False, False, True, False]])
    segments = cut_into_segments(torch.arange(7.0)[None, :, None], torch.zeros(1, 7, 1), torch.ones(1, 7), done, 3)
    assert segments.mask.sum(1).tolist() == [1, 1, 3, 1, 1]
    assert segments.observations[2, :, 0].tolist() == [2, 3, 4]


def test_segments_go_on_with_the_episode_that_a_rollout_begins_within():
    done = torch.zeros(2, 6, dtype=torch.bool)
    done[1, 1] = True
    rows = torch.arange(12.0).view(2, 6)
    segments = cut_into_segments(rows[..., None], rows[..., None], rows, done, 4, age=torch.tensor([6, 3]))
    assert segments.rewards.sum(1).tolist() == [0 + 1, 2 + 3 + 4 + 5, 6, 7, 8 + 9 + 10 + 11]
    model = cln(walks(n_envs=1, horizon=25), n_steps=40, segment_length=10)
    model.learn(40)
    ended = int(np.flatnonzero(np.append(model.rollout_buffer.episode_starts[1:, 0], model._last_episode_starts))[-1])
    assert model._ages.tolist() == [39 - ended]


def test_a_saved_buffer_of_another_size_is_refused():
    kept = cut_into_segments(torch.zeros(1, 40, 1), torch.zeros(1, 40, 1), torch.ones(1, 40), torch.zeros(1, 40) > 0, 4)
    small = SegmentBuffer(16, 4, torch.device("cpu"))
    small.add(kept)
    with pytest.raises(ValueError, match="segment_buffer_size"):
        SegmentBuffer(400, 4, torch.device("cpu")).load_state_dict(small.state_dict())


def test_the_buffer_keeps_all_segments_and_then_a_uniform_sample():
    np.random.seed(0)
    kept = np.zeros(40)
    for _ in range(400):
        buffer = SegmentBuffer(capacity=20, length=2, device=torch.device("cpu"))
        for start in range(0, 40, 5):  # 40 segments, five at a time
            values = torch.arange(start, start + 5.0)
            rewards = values[:, None].expand(5, 2)
            buffer.add(cut_into_segments(rewards[..., None], rewards[..., None], rewards, torch.zeros(5, 2).bool(), 2))
            assert len(buffer) == min(start + 5, 10)
            if start == 5:
                assert sorted(buffer._stored.observations[:, 0, 0].tolist()) == list(range(10))
        kept[buffer._stored.observations[:, 0, 0].long().numpy()] += 1
    assert buffer.n_seen == 40 and kept.sum() == 4000
    assert np.abs(kept - 100).max() < 40  # each is kept with probability 1/4: deviation 8.7
    drawn = buffer.sample(100)
    assert drawn.mask.all() and torch.equal(drawn.rewards.sum(1), 2 * drawn.observations[:, 0, 0])
    again = SegmentBuffer(capacity=20, length=2, device=torch.device("cpu"))
    again.load_state_dict(buffer.state_dict())
    assert len(again) == 10 and again.n_seen == 40 and torch.equal(again._stored.mask, buffer._stored.mask)


def test_the_reward_network_learns_the_sums_of_segments():
    settings = dict(n_steps=128, batch_size=128, n_reward_steps=200, reward_learning_rate=3e-3, meta_coef=0)
    model = cln(walks(4), segments_per_step=32, **settings)
    model.learn(4 * 128 * 3)
    segments = model.segments.sample(500)
    with torch.no_grad():
        flat = (x.flatten(0, 1) for x in (segments.observations, segments.actions))
        rewards = model.reward_network(*flat).view(segments.mask.shape)
    loss = float(segment_loss(rewards, segments))
    assert loss < 0.2 * float(segments.rewards.sum(1).var())


@pytest.mark.parametrize("terms", [("direct",), ("direct", "mixed", "reward")])
def test_the_meta_gradient_begins_when_the_environment_pays_for_the_first_time(terms, tmp_path):
    def eta():
        return model.policy.eta().detach().clone()

    model = cln(walks(pay=0.0), terms=terms, regularizer_coef=0.0)
    before = eta()
    model.learn(128)
    assert torch.equal(eta(), before)
    model.set_env(walks())
    model.learn(128)
    since = eta()
    assert not torch.equal(since, before)
    model.save(tmp_path / "model")
    model = CLN.load(tmp_path / "model", env=walks(pay=0.0))
    model.learn(128)  # it was paid once
    assert not torch.equal(eta(), since)


@pytest.mark.parametrize("named", [False, True])
def test_segments_are_kept_as_vecnormalize_was_given_them_and_drawn_under_its_present_statistics(named):
    space = spaces.Box(-10, 10, (3,))
    env = VecNormalize(walks(observation_space=spaces.Dict(o=space) if named else space), gamma=0.99)
    model = cln(env, "MultiInputPolicy" if named else "MlpPolicy").learn(256)
    state = np.random.get_state()
    stored, drawn = model.segments.sample(5), (np.random.set_state(state), model._sample_segments())[1]
    seen, normalized = (part.observations["o"] if named else part.observations for part in (stored, drawn))
    both = stored.mask[:, 1]
    assert both.any() and torch.allclose(seen[both, 1, 0], stored.rewards[both, 0])  # a step is paid where it leads to
    scale = lambda rms: np.sqrt(rms.var + env.epsilon)  # noqa: E731
    statistics = env.obs_rms["o"] if named else env.obs_rms
    torch.testing.assert_close(normalized, ((seen - torch.tensor(statistics.mean)) / scale(statistics)).float())
    torch.testing.assert_close(drawn.rewards, (stored.rewards / scale(env.ret_rms)).float())


def test_without_a_regulariser_the_reward_moves_by_the_meta_gradient_alone():
    model = cln(regularizer_coef=0.0)
    before = {name: value.clone() for name, value in model.reward_network.named_parameters()}
    model.learn(64)
    moved = {name for name, value in model.reward_network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    still = cln(regularizer_coef=0.0, meta_coef=0.0).learn(64)
    assert all(torch.equal(value, before[name]) for name, value in still.reward_network.named_parameters())


def test_the_environments_reward_reaches_the_policy_only_through_the_reward_network():
    settings = dict(meta_coef=0.0, regularizer_coef=0.0)
    paid = [cln(walks(pay=pay), **settings).learn(128).policy.state_dict() for pay in (0.5, 1.0)]
    assert all(torch.equal(paid[0][name], paid[1][name]) for name in paid[0])
    extrinsic = cln(r_ex_coef=1.0, **settings).learn(128).policy.state_dict()
    assert not torch.equal(extrinsic["action_net.weight"], paid[1]["action_net.weight"])


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize("settings", [{}, dict(ent_coef=0.01, clip_range_vf=0.2, target_kl=0.002)], ids=["plain", "all"])
def test_with_a_reward_of_0_it_is_sb3s_weight_for_weight(monkeypatch, action_space, settings):
    monkeypatch.setattr(CLN, "_noise", lambda self, n: torch.zeros(n, len(self.policy.eta())))
    monkeypatch.setattr(CLN, "_log_change_of_policy", lambda *_: None)  # draws from NumPy's generator, as SB3's minibatches
    monkeypatch.setattr(SegmentBuffer, "add", lambda *_: None)  # so does this
    shared = dict(n_steps=32, batch_size=16, n_epochs=4, device="cpu", **settings)
    ours = CLN("MlpPolicy", walks(action_space=action_space), r_ex_coef=1.0, n_reward_steps=0, **shared)
    sb3s = PPO(MlpPolicy, walks(action_space=action_space), **shared)
    for part in (ours.policy.reward_network.head.weight, ours.policy.reward_network.head.bias):
        torch.nn.init.zeros_(part)
    start = {name: value.clone() for name, value in ours.policy.state_dict().items()}
    for model in (ours, sb3s):
        model.policy.load_state_dict(start)
        model.set_random_seed(5)
        model.learn(192)
    for (name, mine), other in zip(ours.policy.state_dict().items(), sb3s.policy.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_each_transition_is_paid_with_the_eta_that_its_policy_sees(monkeypatch):
    """In one minibatch of a rollout: the advantages' part of ε′ is F ε′ of the same ε′ that the policy sees."""
    model = cln(n_epochs=1, batch_size=64, normalize_advantage=False, learning_rate=0.0)
    model.learn(64)
    rollout, taken = model._rollout()
    _, features = model._reward_features(rollout, taken)
    eta, seen = model.policy.eta(), {}
    monkeypatch.setattr(CLN, "_noise", lambda self, n: 0.3 * torch.randn(n, len(eta)))
    loss, evaluate = ppo_losses.policy_loss, model.policy.evaluate_actions
    monkeypatch.setattr(ppo_losses, "policy_loss", lambda r, a, c: loss(r, seen.setdefault("advantages", a), c))
    monkeypatch.setattr(model.policy, "evaluate_actions", lambda o, a, e: evaluate(o, a, seen.setdefault("eta", e)))
    monkeypatch.setattr(LearnedRewardRollout, "minibatches", lambda self, _: iter([torch.arange(64)]))
    model._policy_steps(rollout, features, rollout.samples.old_values, 0.2, None, defaultdict(list))
    paid = features @ eta + ((features - features.mean(0)) * (seen["eta"] - eta)).sum(1)
    torch.testing.assert_close(seen["advantages"], rollout.samples.advantages + paid)


# ---------------------------------------------------------------------- an SB3 algorithm

OBSERVATIONS = {
    "box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "dict": ("MultiInputPolicy", spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))),
}
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]
ALL_TERMS = ("direct", "mixed", "reward")


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
def test_every_space_learns_saves_and_loads(observations, action_space, tmp_path):
    policy, observation_space = OBSERVATIONS[observations]
    if observations != "box" and not isinstance(action_space, (spaces.Discrete, spaces.Box)):
        pytest.skip("observations and actions do not meet in the code")
    make = lambda n: walks(n, observation_space=observation_space, action_space=action_space)  # noqa: E731
    model = cln(make(2), policy, terms=ALL_TERMS).learn(128)
    model.save(tmp_path / "model")
    loaded = CLN.load(tmp_path / "model", env=make(3))
    assert_same(state_of(model), state_of(loaded))
    assert len(model.segments) == len(loaded.segments) > 0
    observation = make(2).reset()
    actions = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(actions, loaded.predict(observation, deterministic=True)[0])
    rewards = model.intrinsic_rewards(observation, actions)
    assert rewards.shape == (2,)
    np.testing.assert_array_equal(rewards, loaded.intrinsic_rewards(observation, actions))
    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128 + 96 and len(loaded.segments) > len(model.segments)


def test_a_loaded_model_continues_as_the_saved_one(tmp_path):
    model = cln(walks(normalize=True)).learn(128)
    model.save(tmp_path / "model")
    model.env.save(tmp_path / "statistics")
    loaded = CLN.load(tmp_path / "model", env=VecNormalize.load(tmp_path / "statistics", walks()))
    for one in (model, loaded):
        one._last_obs = None  # from a reset
        one.set_random_seed(7)
        one.learn(192, reset_num_timesteps=False)
    assert_same(state_of(model), state_of(loaded))


def test_the_policy_alone_loads_with_its_reward_network(tmp_path):
    model = cln(conditioning="all", conditioner_arch=(4,), reward_kwargs=dict(net_arch=[8])).learn(64)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    observation = walks(2).reset()
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    assert torch.equal(policy.eta(), model.policy.eta())


def test_same_seed_same_weights_other_seed_others():
    one, again, other = (state_of(cln(seed=seed).learn(128)) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        dict(use_sde=True, sde_sample_freq=4, terms=ALL_TERMS),
        dict(
            clip_range_vf=0.2, target_kl=1e-6, learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: left
        ),
        dict(n_reward_steps=0, eta_noise=0.0),
        dict(film=True, conditioning="all", normalize_advantage=False, r_ex_coef=0.5, r_in_coef=0.5),
        dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD), terms=("reward",)),
    ],
)
def test_settings_run(settings):
    model = cln(walks(action_space=spaces.Box(-1, 1, (2,))), **settings).learn(128)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


class Memory(KVWriter):
    def __init__(self):
        self.written = {}

    def write(self, key_values, key_excluded, step=0):
        self.written |= key_values

    def close(self):
        pass


def test_callbacks_logs_and_progress_bar(tmp_path):
    model = cln(walks(normalize=True), tensorboard_log=str(tmp_path / "tb"))
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(192, [CheckpointCallback(32, tmp_path)], progress_bar=True)
    names = "extrinsic_return intrinsic_return regularizer_loss gate_mean meta_gradient_norm kl_of_reward_steps"
    assert {f"cln/{name}" for name in names.split()} <= memory.written.keys()
    names = "value_loss extrinsic_value_loss policy_gradient_loss entropy_loss approx_kl loss explained_variance learning_rate"
    assert {f"train/{name}" for name in names.split()} <= memory.written.keys()
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == 3
    CLN.load(next(tmp_path.glob("rl_model_*_steps.zip")), env=walks()).learn(64)
    cln(tensorboard_log=str(tmp_path / "tb")).learn(64)
    assert list((tmp_path / "tb" / "CLN_1").glob("events.out*"))


def test_logged_returns_are_those_of_episodes_across_rollouts():
    """With the reward network paying 1 a step, intrinsic returns are lengths; extrinsic ones are the Monitor's."""
    env = walks(1, horizon=11)
    model = cln(env, n_steps=16, batch_size=16, n_reward_steps=0, policy_kwargs={})
    with torch.no_grad():
        model.reward_network.head.weight.zero_()
        model.reward_network.head.bias.fill_(1.0)
    episodes = []
    for _ in range(8):
        model.ep_info_buffer = None
        model.learn(16, reset_num_timesteps=False)
        finished = [(info["r"], info["l"]) for info in model.ep_info_buffer]
        if finished:
            logged = model.logger.name_to_value
            assert (logged["cln/extrinsic_return"], logged["cln/intrinsic_return"]) == pytest.approx(
                np.mean(finished, 0), rel=1e-4
            )
        episodes += finished
    assert len(episodes) > 8


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(terms=("direct", "rewards")), "each of terms must be one of 'direct', 'mixed', 'reward'; got 'rewards'"),
        (dict(n_reward_steps=-1), "n_reward_steps must be an integer in .0, inf., got -1"),
        (dict(meta_coef=-1), "meta_coef must be a number"),
        (dict(segment_length=0), "segment_length must be an integer in .1"),
        (dict(segment_buffer_size=3), "segment_buffer_size must be an integer in .4, inf., got 3"),
        (dict(conditioning="first"), "conditioning must be one of 'last', 'all'; got 'first'"),
        (dict(r_in_coef=0), "r_ex_coef and r_in_coef are both 0"),
        (dict(reward_kwargs=dict(layers=3)), "reward_kwargs=.'layers': 3. do not fit RewardNetwork"),
        (dict(policy_kwargs=dict(net_arch=dict(vf=[64]))), "a hidden layer of the actor.* has none"),
        (dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad), terms=("mixed",)), "must be Adam, .* got Adagrad"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        cln(**arguments)


def test_an_sb3_policy_class_and_rewards_that_are_not_finite_are_refused():
    from stable_baselines3.ppo import MlpPolicy

    with pytest.raises(ValueError, match=r"derived from .*CLNPolicy, got ActorCriticPolicy"):
        CLN(MlpPolicy, walks())
    with pytest.raises(ValueError, match="NaN or infinite rewards"):
        cln(walks(pay=np.inf)).learn(64)


# ---------------------------------------------------------------------- learning


def test_it_learns_cartpole_from_its_own_reward():
    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 4)
    settings = dict(n_steps=256, batch_size=128, n_epochs=6, learning_rate=2e-3, n_reward_steps=24)
    model = CLN("MlpPolicy", env, seed=0, device="cpu", **settings)
    model.learn(24_576)
    lengths = [info["l"] for info in model.ep_info_buffer][-20:]
    assert np.mean(lengths) > 300  # a policy that does not learn stays at 22
    # A reward left as it was drawn may pay for staying alive too, but not as much as the environment: 54 for 500 steps.
    logged = model.logger.name_to_value
    assert logged["cln/intrinsic_return"] == pytest.approx(logged["cln/extrinsic_return"], rel=0.1)


def test_a_model_loaded_without_a_reset_goes_on_within_its_episodes(tmp_path):
    model = cln(walks(horizon=25), n_steps=40).learn(80)
    model.save(tmp_path / "model")
    loaded = CLN.load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert loaded._ages.tolist() == model._ages.tolist() and loaded._ages.any()
    loaded.learn(80, reset_num_timesteps=False)
