"""D_r and the loss that holds CLN's reward to the sums of extrinsic rewards; what the environment's reward reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make
from helpers.walk import walks
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import CLN
from sb3_ext.cln import MlpPolicy, SegmentBuffer
from sb3_ext.cln.segments import cut_into_segments, normalized_segments, segment_loss


@pytest.fixture
def without_regularizer(monkeypatch):
    """The reward network learns from the meta-gradient alone."""
    monkeypatch.setattr("sb3_ext.cln.reward_training.segment_loss", lambda learned, segments: 0 * learned.sum())


def test_segments_and_their_loss_by_hand():
    #  environment 0: an episode ends after step 2; environment 1: none ends. Segments of 4.
    rewards = torch.arange(12.0).view(2, 6)
    done = torch.zeros(2, 6, dtype=torch.bool)
    done[0, 2] = True
    observations = {"o": rewards[..., None] + 100}
    segments = cut_into_segments(observations, rewards[..., None], rewards, done, 4)
    assert segments.mask.sum(1).tolist() == [3, 3, 4, 2]
    assert segments.rewards.sum(1).tolist() == [0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8 + 9, 10 + 11]
    assert segments.observations["o"][3, :, 0].tolist() == [110, 111, 0, 0]
    assert segments.actions[2, :, 0].tolist() == [6, 7, 8, 9]
    # A reward of 1 a step is wrong by 0, 9, 26 and 19, whatever it is for padding.
    learned = torch.where(segments.mask, 1.0, 50.0)
    assert float(segment_loss(learned, segments)) == (0 + 9**2 + 26**2 + 19**2) / 4


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
    model = make(CLN, walks(n_envs=1, horizon=25), n_steps=40, segment_length=10)
    model.learn(40)
    ended = int(np.flatnonzero(np.append(model.rollout_buffer.episode_starts[1:, 0], model._last_episode_starts))[-1])
    assert model._ages.tolist() == [39 - ended]


def test_a_saved_buffer_of_another_size_is_refused():
    kept = cut_into_segments(torch.zeros(1, 40, 1), torch.zeros(1, 40, 1), torch.ones(1, 40), torch.zeros(1, 40) > 0, 4)
    small = SegmentBuffer(16, 4, torch.device("cpu"))
    small.add(kept)
    with pytest.raises(ValueError, match="capacity and length"):
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
    sampled = buffer.sample(100)
    assert sampled.mask.all() and torch.equal(sampled.rewards.sum(1), 2 * sampled.observations[:, 0, 0])
    again = SegmentBuffer(capacity=20, length=2, device=torch.device("cpu"))
    again.load_state_dict(buffer.state_dict())
    assert len(again) == 10 and again.n_seen == 40 and torch.equal(again._stored.mask, buffer._stored.mask)


def test_the_reward_network_learns_the_sums_of_segments():
    settings = dict(n_steps=128, batch_size=128, n_reward_steps=200, reward_learning_rate=3e-3, meta_coef=0)
    model = make(CLN, walks(4), segments_per_step=32, **settings)
    model.learn(4 * 128 * 3)
    segments = model.segments.sample(500)
    with torch.no_grad():
        flat = (x.flatten(0, 1) for x in (segments.observations, segments.actions))
        rewards = model.reward_network(*flat).view(segments.mask.shape)
    loss = float(segment_loss(rewards, segments))
    assert loss < 0.2 * float(segments.rewards.sum(1).var())


@pytest.mark.parametrize("terms", [("direct",), ("direct", "mixed", "reward")])
def test_the_meta_gradient_begins_with_the_first_reward(terms, tmp_path, without_regularizer):
    def eta():
        return model.policy.eta().detach().clone()

    model = make(CLN, walks(reward_scale=0.0), terms=terms)
    before = eta()
    model.learn(128)
    assert torch.equal(eta(), before)
    model.set_env(walks())
    model.learn(128)
    since = eta()
    assert not torch.equal(since, before)
    model.save(tmp_path / "model")
    model = CLN.load(tmp_path / "model", env=walks(reward_scale=0.0))
    model.learn(128)  # there has been a reward
    assert not torch.equal(eta(), since)


@pytest.mark.parametrize("named", [False, True])
def test_segments_are_kept_as_vecnormalize_was_given_them_and_sampled_under_its_present_statistics(named):
    space = spaces.Box(-10, 10, (3,))
    env = VecNormalize(walks(observation_space=spaces.Dict(o=space) if named else space), gamma=0.99)
    model = make(CLN, env, "MultiInputPolicy" if named else "MlpPolicy").learn(256)
    stored = model.segments.sample(5)
    sampled = normalized_segments(stored, env)
    seen, normalized = (part.observations["o"] if named else part.observations for part in (stored, sampled))
    both = stored.mask[:, 1]
    assert both.any() and torch.allclose(
        seen[both, 1, 0], stored.rewards[both, 0]
    )  # the reward of a step is the place it leads to
    scale = lambda rms: np.sqrt(rms.var + env.epsilon)  # noqa: E731
    statistics = env.obs_rms["o"] if named else env.obs_rms
    torch.testing.assert_close(normalized, ((seen - torch.tensor(statistics.mean)) / scale(statistics)).float())
    torch.testing.assert_close(sampled.rewards, (stored.rewards / scale(env.ret_rms)).float())


def test_without_a_regulariser_the_reward_moves_by_the_meta_gradient_alone(without_regularizer):
    model = make(CLN)
    before = {name: value.clone() for name, value in model.reward_network.named_parameters()}
    model.learn(64)
    moved = {name for name, value in model.reward_network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    still = make(CLN, meta_coef=0.0).learn(64)
    assert all(torch.equal(value, before[name]) for name, value in still.reward_network.named_parameters())


def test_the_environments_reward_reaches_the_policy_only_through_the_reward_network(without_regularizer):
    settings = dict(meta_coef=0.0)
    scaled = [make(CLN, walks(reward_scale=x), **settings).learn(128).policy.state_dict() for x in (0.5, 1.0)]
    assert all(torch.equal(scaled[0][name], scaled[1][name]) for name in scaled[0])
    extrinsic = make(CLN, extrinsic_coef=1.0, **settings).learn(128).policy.state_dict()
    assert not torch.equal(extrinsic["action_net.weight"], scaled[1]["action_net.weight"])


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize("settings", [{}, dict(ent_coef=0.01, clip_range_vf=0.2, target_kl=0.002)], ids=["plain", "all"])
def test_with_a_reward_of_0_it_is_sb3s_weight_for_weight(monkeypatch, action_space, settings):
    monkeypatch.setattr(CLN, "_noise", lambda self, n: torch.zeros(n, len(self.policy.eta())))
    monkeypatch.setattr(CLN, "_log_reward_steps", lambda *_: None)  # samples with NumPy's generator, as SB3's minibatches
    monkeypatch.setattr(SegmentBuffer, "add", lambda *_: None)  # so does this
    shared = dict(n_steps=32, batch_size=16, n_epochs=4, device="cpu", **settings)
    ours = CLN("MlpPolicy", walks(action_space=action_space), extrinsic_coef=1.0, n_reward_steps=0, **shared)
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
