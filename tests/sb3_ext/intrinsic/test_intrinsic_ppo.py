"""IntrinsicPPO: PPO to the bit without its intrinsic side, RND's returns with it, and an SB3 algorithm throughout."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.intrinsic_ppo_toys import DICT, IMAGE, SIZE, Place, Walk, assert_same, place_model, state_of, walks
from helpers.memory import Memory
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, make_intrinsic_reward
from irwrappers.transitions import TransitionRecorder
from sb3_ext import IntrinsicPPO
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.intrinsic.returns import ReturnRange, ReturnStd


@pytest.fixture(autouse=True)
def place_by_name(monkeypatch):
    monkeypatch.setitem(INTRINSIC_REWARDS, "place", Place)


# ---------------------------------------------------------------------- PPO


def cartpole():
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 3)


def pendulum():
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1", max_episode_steps=50))] * 2))


@pytest.mark.parametrize(
    ("make", "policy", "settings"),
    [
        (cartpole, "MlpPolicy", {}),
        (cartpole, "MlpPolicy", dict(target_kl=0.001, ent_coef=0.01, policy_kwargs=dict(net_arch=[8]))),
        (pendulum, "MlpPolicy", dict(clip_range_vf=0.1, learning_rate=lambda left: 1e-3 * left)),
        (pendulum, "MlpPolicy", dict(use_sde=True, sde_sample_freq=4, normalize_advantage=False)),
        (lambda: walks(observation_space=DICT, action_space=spaces.MultiBinary(2)), "MultiInputPolicy", {}),
        (lambda: walks(observation_space=IMAGE), "CnnPolicy", dict(policy_kwargs=dict(share_features_extractor=False))),
    ],
)
def test_without_its_intrinsic_side_it_is_ppo(make, policy, settings):
    settings = dict(n_steps=64, batch_size=32, n_epochs=3, seed=5) | settings
    steps = 4 * 64 * make().num_envs
    ppo = PPO(policy, make(), **settings).learn(steps)
    one_sided = dict(intrinsic_reward="place", extrinsic_coef=1, intrinsic_coef=0)
    ours = IntrinsicPPO(policy, make(), **one_sided, **settings).learn(steps)
    assert ppo._n_updates == ours._n_updates and ppo.num_timesteps == ours.num_timesteps
    assert set(state_of(ours)) - set(state_of(ppo)) == {"policy.intrinsic_value_net.weight", "policy.intrinsic_value_net.bias"}
    assert_same(state_of(ppo), state_of(ours))
    if isinstance(ppo.env, VecNormalize):
        np.testing.assert_array_equal(ppo.env.obs_rms.mean, ours.env.obs_rms.mean)
        assert ppo.env.ret_rms.var == ours.env.ret_rms.var


def test_without_its_extrinsic_side_the_environments_reward_teaches_nothing():
    weights = [state_of(place_model(walks(reward_scale=scale), extrinsic_coef=0).learn(200)) for scale in (0.0, 1.0)]
    assert_same(*weights)
    both = [state_of(place_model(walks(reward_scale=scale)).learn(200)) for scale in (0.0, 1.0)]
    assert not torch.equal(both[0]["policy.action_net.weight"], both[1]["policy.action_net.weight"])


# ---------------------------------------------------------------------- returns


class Keep(BaseCallback):
    """Transitions and advantages of the last rollout, before the buffer is shuffled."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.extrinsic = self.model.rollout_buffer.advantages.copy()


def test_intrinsic_returns_run_through_the_ends_of_episodes_and_extrinsic_ones_do_not():
    keep = Keep()
    model = place_model(walks(horizon=5), gae_lambda=1.0, intrinsic_gamma=0.9, extrinsic_coef=3, intrinsic_coef=0.5)
    model._setup_learn(64, keep)
    keep.init_callback(model)
    assert model.collect_rollouts(model.env, keep, model.rollout_buffer, 32)
    buffer, batch = model.rollout_buffer, model.intrinsic_reward.batches[-1]
    assert buffer.episode_starts.sum() > 8
    # By hand: rewards divided by their deviation, discounted to the end of the rollout and V_int there.
    raw = batch.next_observations[..., 0].numpy().astype(np.float64) ** 2
    returns, deviations = np.zeros(2), []
    for row in raw:
        returns = row + 0.9 * returns
        deviations.append(returns)
    rewards = raw / np.std(deviations)
    with torch.no_grad():
        value = lambda observations: model.policy.predict_intrinsic_values(torch.as_tensor(observations)).numpy()  # noqa: E731
        expected, following = [], value(model._last_obs)
        for row in rewards[::-1]:
            following = row + 0.9 * following
            expected.append(following)
        values = np.stack([value(row) for row in buffer.observations])
    np.testing.assert_allclose(buffer.intrinsic_returns, expected[::-1], rtol=1e-4)
    np.testing.assert_allclose(buffer.intrinsic_values, values, rtol=1e-4, atol=1e-6)
    combined = 3 * keep.extrinsic + 0.5 * (buffer.intrinsic_returns - values)
    np.testing.assert_allclose(buffer.advantages, combined, rtol=1e-4, atol=1e-4)


def test_the_deviation_is_that_of_returns_along_time():
    rewards = torch.arange(12.0).view(6, 2, 1).square()
    returns, seen = np.zeros(2), []
    for row in rewards[..., 0].numpy():
        returns = 0.5 * returns + row
        seen.append(returns)
    whole, parts = ReturnStd(1, 0.5), ReturnStd(1, 0.5)
    whole.update(rewards)
    for part in rewards.split([1, 3, 2]):
        parts.update(part)
    assert float(whole.std) == pytest.approx(np.std(seen))
    assert float(parts.std) == pytest.approx(np.std(seen))


def test_the_range_is_that_of_returns_along_time_and_of_nothing():
    scale = ReturnRange(0.5)
    assert scale.scale == 1
    scale.update(torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))  # returns 0, 2; -1, 1
    assert scale.scale == 3
    scale.update(torch.tensor([[-1.0, 1.0]]))  # -1.5, 1.5
    assert scale.scale == 3.5
    scale.forget()
    scale.update(torch.tensor([[-1.0, 1.0]]))
    assert scale.scale == 3.5
    rare = ReturnRange(0.9)
    rare.update(torch.eye(100)[:, :1])  # one success in a hundred steps
    assert rare.scale == 1


def test_channels_are_divided_apart_weighted_and_summed():
    env = walks()
    reward = make_intrinsic_reward([{"place": {}}, {"place": {}}], env.observation_space, env.action_space)
    with pytest.raises(ValueError, match="a weight for each of 0_place_place, 1_place_place"):
        IntrinsicPPO("MlpPolicy", env, intrinsic_reward=reward, intrinsic_weights=[1.0], **SIZE)
    one = place_model(seed=1).learn(64)
    two = place_model(seed=1, intrinsic_reward=[{"place": {}}, {"place": {}}], intrinsic_weights=[0.25, 0.75]).learn(64)
    assert_same(state_of(one), state_of(two))


def test_the_reward_model_learns_after_it_has_computed():
    model = place_model()
    computed_at = []
    compute = model.intrinsic_reward.compute
    model.intrinsic_reward.compute = lambda batch: computed_at.append(int(model.intrinsic_reward.steps)) or compute(batch)
    model.learn(3 * 64)
    assert computed_at == [0, 64, 128]


# ---------------------------------------------------------------------- what the reward model sees


@pytest.mark.parametrize("observation_space", [None, DICT])
def test_it_sees_original_observations_beneath_vec_normalize(observation_space):
    kwargs = dict(observation_space=observation_space, horizon=4)
    if observation_space is not None:
        kwargs["observation_space"] = spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Box(-10, 10, (1,)))
    raw, normalized = walks(**kwargs), walks(**kwargs)
    normalized = VecNormalize(normalized, clip_obs=0.1)  # clipping can't be undone
    recorders = []
    for env in (raw, normalized):
        env.seed(3)
        recorder = TransitionRecorder(env, env.reset())
        for step in range(20):
            recorder.step(np.array([step % 3, 1]))
        recorders.append(recorder.transitions(torch.device("cpu")))
    expected, found = recorders
    flat = torch.utils._pytree.tree_leaves
    for one, other in zip(flat(vars(expected)), flat(vars(found)), strict=True):
        assert one is other is None or torch.equal(one, other)
    assert found.done.sum() >= 8 and found.truncated.any()
    part = found.observations["a"] if isinstance(found.observations, dict) else found.observations
    after = found.next_observations["a"] if isinstance(found.observations, dict) else found.next_observations
    goes_on = ~found.done[:-1]
    assert torch.equal(part[1:][goes_on], after[:-1][goes_on]) and not torch.equal(part[1:], after[:-1])
    assert normalized.obs_rms["a"].count > 40 if observation_space is not None else normalized.obs_rms.count > 40


def test_images_that_sb3_transposes_above_vec_normalize_reach_the_model_as_they_were():
    model = place_model(VecNormalize(walks(observation_space=IMAGE), norm_obs=False), "CnnPolicy").learn(64)
    assert model.observation_space.shape == (1, 36, 36)
    assert model.intrinsic_reward.batches[0].observations.shape == (32, 2, 36, 36, 1)


def test_a_step_that_only_reset_is_not_learned_from():
    class OnlyReset(DummyVecEnv):
        def step_wait(self):
            observations, rewards, dones, infos = super().step_wait()
            infos[1]["reset_step"] = True
            return observations, rewards, dones, infos

    model = place_model(OnlyReset([Walk] * 2)).learn(64)
    batch = model.intrinsic_reward.batches[0]
    assert batch.valid[:, 0].all() and not batch.valid[:, 1].any()
    assert float(model.intrinsic_return.running.mean) == pytest.approx(_mean_return(batch) / 2, rel=1e-4)


def _mean_return(batch):
    returns, total = 0.0, []
    for row in batch.next_observations[:, 0, 0].double().square():
        returns = float(row) + 0.99 * returns
        total.append(returns)
    return np.mean(total)


class NeedsSteps(Place):
    def __init__(self, *args):
        super().__init__(*args)
        self.budget = None

    @property
    def needs_fit(self):
        return self.budget is None

    def fit(self, env, total_timesteps, seed=None, progress_bar=False):
        self.budget = total_timesteps
        env.reset()
        for _ in range(total_timesteps // env.num_envs):
            env.step(np.zeros(env.num_envs, dtype=int))
        return total_timesteps // env.num_envs * env.num_envs


@pytest.mark.parametrize(("warmup_steps", "budget"), [(10_000, 64), (20, 20), (0, 0)])
def test_the_warm_up_counts_and_is_at_most_a_tenth_of_the_run(warmup_steps, budget):
    env = walks()
    model = place_model(env, intrinsic_reward=NeedsSteps(env.observation_space, env.action_space), warmup_steps=warmup_steps)
    model.learn(640)
    assert model.intrinsic_reward.budget == budget
    assert model.num_timesteps == budget + 64 * -(-(640 - budget) // 64)
    assert model.intrinsic_reward.batches[0].observations.shape[0] == 32
    model.learn(64, reset_num_timesteps=False)
    assert model.intrinsic_reward.budget == budget


def test_episodes_are_forgotten_with_the_reset_of_learn():
    model = place_model().learn(64)
    assert model.intrinsic_reward.forgotten == 1
    model.learn(64, reset_num_timesteps=False)  # goes on where it was
    assert model.intrinsic_reward.forgotten == 1
    model.learn(64)
    assert model.intrinsic_reward.forgotten == 2


def test_same_seed_same_weights_other_seed_others():
    one, again, other = (state_of(place_model(seed=seed).learn(200)) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not torch.equal(one["policy.intrinsic_value_net.weight"], other["policy.intrinsic_value_net.weight"])


def test_callbacks_logs_and_progress_bar(tmp_path):
    env = walks(reward_scale=1.0)
    model = place_model(env, tensorboard_log=str(tmp_path / "tb"), clip_range_vf=0.2, intrinsic_coef=lambda left: left)
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    callbacks = [CheckpointCallback(64, tmp_path), EvalCallback(walks(1), eval_freq=50, n_eval_episodes=1, verbose=0)]
    model.learn(256, callbacks, progress_bar=True)
    logged = {key: value for written in memory.written for key, value in written.items()}
    expected = {"reward_mean", "return_std", "explained_variance", "coef", "steps"}
    assert {f"intrinsic/{name}" for name in expected} <= logged.keys()
    names = "value_loss intrinsic_value_loss policy_gradient_loss entropy_loss approx_kl clip_fraction loss explained_variance"
    names += " n_updates clip_range clip_range_vf learning_rate"
    assert {f"train/{name}" for name in names.split()} <= logged.keys()
    assert [written["intrinsic/coef"] for written in memory.written if "intrinsic/coef" in written] == [1.0, 0.75, 0.5, 0.25]
    returns = [info["r"] for info in model.ep_info_buffer]
    assert logged["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns))
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == 2
    tensorboard = place_model(tensorboard_log=str(tmp_path / "tb")).learn(64)
    assert tensorboard.logger.dir and list((tmp_path / "tb" / "IntrinsicPPO_1").glob("events.out*"))


def test_a_callback_stops_it_in_the_middle_of_a_rollout():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 5

    model = place_model().learn(1000, Stop())
    assert model.num_timesteps == 10 and not model.intrinsic_reward.batches


# ---------------------------------------------------------------------- learning


@pytest.mark.slow
def test_it_solves_a_maze_that_a_random_walk_does_not():
    """Maze2: the shortest path has 42 moves and a random walk takes it in 3 of 100 000 episodes."""
    env = make_vec_env("sparse/Maze2-v0", n_envs=64, seed=0)
    settings = dict(n_steps=128, batch_size=2048, n_epochs=4, gamma=0.999, ent_coef=0.005)
    model = IntrinsicPPO("MlpPolicy", env, intrinsic_reward="count", seed=0, device="cpu", **settings)
    model.learn(1_200_000)
    assert np.mean(model.ep_success_buffer) >= 0.7
