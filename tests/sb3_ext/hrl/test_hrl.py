"""HRL: semi-Markov advantages, options that run their steps, and an SB3 algorithm throughout."""

import inspect
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import ExactLaplacian, RandomNetworkReward
from sb3_ext import HRL
from sb3_ext.common.vec_env import GymnasiumVecEnv, make_vec_env
from sb3_ext.hrl import OptionRolloutBuffer, semi_mdp_advantages

RANDOM = dict(intrinsic_reward="random", intrinsic_reward_kwargs=dict(n_rewards=2, hidden_sizes=(16,)))
SMALL = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu", **RANDOM)


class Line(gym.Env):
    """A point on a line, moved by the mean of the action; an episode is truncated after 12 steps, or terminates beyond 3."""

    def __init__(self, action_space=None, observation_space=None):
        self.action_space = action_space or spaces.Box(-1, 1, (2,))
        self.observation_space = observation_space or spaces.Box(-10, 10, (2,))

    def _see(self):
        point = np.array([self.x, self.t / 12], dtype=np.float32)
        return {"a": point, "b": point[:1]} if isinstance(self.observation_space, spaces.Dict) else point

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.normal()), 0
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x += float(np.mean(action))
        self.t += 1
        return self._see(), self.x, self.x > 3, self.t >= 12, {}


def lines(n_envs=3, **kwargs):
    return DummyVecEnv([lambda: Monitor(Line(**kwargs))] * n_envs)


def maze(n_envs=4):
    return make_vec_env("sparse/Maze1-v0", n_envs=n_envs)


def weights(model):
    return {name: value.clone() for part in ("policy", "options") for name, value in getattr(model, part).state_dict().items()}


# ---------------------------------------------------------------------- semi-Markov advantages


def naive_advantages(rewards, values, last_values, decided, done, gamma, gae_lambda):
    """Decision by decision, as the definition reads."""
    n_steps, n_envs = rewards.shape
    advantages = torch.zeros_like(rewards)
    for b in range(n_envs):
        starts = [t for t in range(n_steps) if decided[t, b]]
        for t in reversed(starts):
            reward, k = 0.0, 0
            while True:
                reward += gamma**k * rewards[t + k, b]
                k += 1
                if done[t + k - 1, b] or t + k == n_steps or decided[t + k, b]:
                    break
            goes_on = 0.0 if done[t + k - 1, b] else 1.0
            following = last_values[b] if t + k == n_steps else values[t + k, b]
            advantage = reward + goes_on * gamma**k * following - values[t, b]
            if t + k < n_steps:
                advantage += goes_on * gamma**k * gae_lambda * advantages[t + k, b]
            advantages[t, b] = advantage
    return advantages


@pytest.mark.parametrize("gamma, gae_lambda", [(0.97, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_advantages_are_those_of_the_definition(gamma, gae_lambda):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    last_values = torch.randn(5, generator=generator, dtype=torch.float64)
    decided, done = torch.rand(2, 40, 5, generator=generator) < torch.tensor([0.3, 0.1])[:, None, None]
    decided[0] = True
    decided[1:] |= done[:-1]
    result = semi_mdp_advantages(rewards, values, last_values, decided, done, gamma, gae_lambda)
    expected = naive_advantages(rewards, values, last_values, decided, done, gamma, gae_lambda)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_buffer_yields_the_decisions_only_and_with_steps_of_one_is_sb3s():
    rng = np.random.default_rng(0)
    space = spaces.Box(-10, 10, (1,))
    ours = OptionRolloutBuffer(10, space, spaces.Discrete(7), device="cpu", n_envs=4, gamma=0.9, gae_lambda=0.8)
    sb3s = super(OptionRolloutBuffer, ours)
    dones = rng.random((11, 4)) < 0.2
    decided = rng.random((10, 4)) < 0.4
    decided[0] = True
    for t in range(10):
        number = np.arange(4) + 4 * t
        ours.decided[t] = decided[t]
        values, log_probs = torch.as_tensor(rng.normal(size=(2, 4)))
        ours.add(number[:, None], number % 7, rng.normal(size=4), dones[t], values, log_probs)
    sb3s.compute_returns_and_advantage(torch.ones(4), dones[10])
    expected, decided_before = ours.advantages.copy(), ours.decided.copy()
    ours.decided[:] = True
    ours.compute_returns_and_advantage(torch.ones(4), dones[10])
    np.testing.assert_allclose(ours.advantages, expected, rtol=1e-5, atol=1e-6)

    ours.decided = decided_before
    batches = list(ours.get(5))
    seen = np.concatenate([batch.observations[:, 0].numpy() for batch in batches]).astype(int)
    assert sorted(seen) == np.flatnonzero(decided).tolist()
    assert all(
        batch.actions.dtype == torch.int64 and (batch.actions == batch.observations[:, 0] % 7).all() for batch in batches
    )
    assert {len(batch.actions) for batch in batches} <= {4, 5}
    assert len(np.concatenate([batch.actions for batch in ours.get(None)])) == decided.sum()


# ---------------------------------------------------------------------- options run


def test_state_carries_an_option_for_its_steps():
    model = HRL("MlpPolicy", lines(), option_steps=4, seed=0, primitive_actions="random", **SMALL)
    option, single = 1, 2
    observations, state = model.env.reset(), None
    chosen = []
    for step in range(200):
        episode_start = None if step != 150 else np.array([True, False, False])
        before = state
        actions, state = model.predict(observations, state=state, episode_start=episode_start)
        assert actions.shape == (3, 2) and np.isin(state[0], [0, option, single]).all()
        if before is not None:
            runs = before[1] > 0
            runs &= ~episode_start if episode_start is not None else True
            assert (state[0][runs] == before[0][runs]).all() and (state[1][runs] == before[1][runs] - 1).all()
            began = state[0][~runs]
            assert (state[1][~runs] == np.where(began == single, 0, 3)).all()
            chosen += began.tolist()
    assert set(chosen) == {0, option, single}


def test_an_option_acts_as_its_policy_and_without_state_every_call_chooses():
    model = HRL("MlpPolicy", lines(), seed=0, **SMALL)
    observations = model.env.reset()
    tensors = torch.as_tensor(observations)
    for k in range(2):
        actions, (choices, remaining) = model.predict(observations, (np.full(3, k), np.full(3, 5)))
        expected = model.options[k].get_distribution(tensors).mode().detach().numpy().clip(-1, 1)
        np.testing.assert_allclose(actions, expected, atol=1e-6)
        assert (choices == k).all() and (remaining == 4).all()
    one, state = model.predict(observations[0], deterministic=True)
    assert one.shape == (2,) and state[0].shape == (1,)
    firsts = [model.predict(observations)[1][0] for _ in range(20)]
    assert len({tuple(first) for first in firsts}) > 1
    with pytest.raises(ValueError, match="state of 3 environments, got 2"):
        model.predict(observations, (np.zeros(2, dtype=int), np.zeros(2, dtype=int)))


def test_single_actions_of_a_discrete_space_are_all_there():
    model = HRL("MlpPolicy", maze(), seed=0, **SMALL)
    assert model.options.space.n == 2 + 4 and model.options.durations.tolist() == [10, 10, 1, 1, 1, 1]
    state = (np.array([2, 3, 4, 5]), np.ones(4, dtype=int))
    assert model.predict(model.env.reset(), state)[0].tolist() == [0, 1, 2, 3]
    assert HRL("MlpPolicy", maze(), primitive_actions="none", **SMALL).options.space.n == 2


def test_an_id_is_made_in_its_vectorised_form():
    model = HRL("MlpPolicy", "sparse/Maze1-v0", device="cpu")
    assert model.n_envs == 64 and isinstance(model.env.unwrapped, GymnasiumVecEnv) and model.n_options == 6


class Watch(BaseCallback):
    """What every step looked like."""

    def __init__(self):
        super().__init__()
        self.steps, self.locals_seen, self.rollouts = [], [], 0

    def _on_rollout_end(self):
        self.rollouts += 1

    def _on_step(self):
        self.steps.append(self.num_timesteps)
        if "decided" in self.locals:
            names = ("choices", "remaining", "decided", "dones")
            self.locals_seen.append({name: np.array(self.locals[name]) for name in names})
        return True


def test_in_a_rollout_only_environments_whose_option_is_over_choose():
    model = HRL("MlpPolicy", lines(), option_steps=5, seed=0, **SMALL | dict(n_steps=40))
    watch = Watch()
    model.learn(2000, callback=watch)
    seen = watch.locals_seen
    assert len(seen) > 300
    for t, (one, following) in enumerate(pairwise(seen), 1):
        over = (one["remaining"] == 1) | one["dones"] | (t % 40 == 0)
        assert (following["decided"] == over).all()
        assert (following["choices"][~over] == one["choices"][~over]).all()
    buffer = model.rollout_buffer
    assert 0 < len(buffer.actions) == buffer.decided.sum() < 120


# ---------------------------------------------------------------------- an SB3 algorithm


def test_every_step_is_counted_and_seen_once_in_option_training_too(tmp_path):
    model = HRL("MlpPolicy", maze(), seed=0, **SMALL)
    watch = Watch()
    evaluation = EvalCallback(maze(2), eval_freq=40, n_eval_episodes=1, verbose=0, best_model_save_path=str(tmp_path))
    checkpoints = CheckpointCallback(30, str(tmp_path))
    model.learn(1000, callback=[watch, evaluation, checkpoints], progress_bar=True)
    assert watch.steps == list(range(4, 1025, 4)) and model.num_timesteps == 1024
    assert watch.rollouts == 16 and model.n_trained_options == 2
    # 0.4 of 1000 steps for two options, in rollouts of 64 steps.
    assert len(watch.locals_seen) == (1024 - 448) / 4
    early = HRL.load(tmp_path / "rl_model_120_steps", env=maze())
    assert early.n_trained_options == 0 and early.num_timesteps == 120
    early.learn(880, reset_num_timesteps=False)
    assert early.n_trained_options == 2 and early.num_timesteps >= 1000


def test_fitting_counts_and_happens_once():
    small = dict(n_rewards=2, n_features=3, gradient_steps=5, hidden_sizes=(8,), n_walks=3)
    model = HRL("MlpPolicy", maze(), **SMALL | dict(intrinsic_reward="allo", intrinsic_reward_kwargs=small))
    watch = Watch()
    model.learn(3000, callback=watch)
    first = watch.steps[0]
    assert 4 < first <= 304 and watch.steps == list(range(first, model.num_timesteps + 1, 4))
    assert model.num_timesteps < 3000 + 64
    before = {name: value.clone() for name, value in model.options.state_dict().items()}
    model.learn(128)
    assert model.num_timesteps == 128  # neither reward nor options are trained again
    assert all(torch.equal(value, before[name]) for name, value in model.options.state_dict().items())


def test_saved_and_loaded_model_is_the_same_and_goes_on(tmp_path):
    env = lines()
    model = HRL("MlpPolicy", env, seed=1, **SMALL).learn(600)
    model.save(tmp_path / "model")
    loaded = HRL.load(tmp_path / "model", env=lines())
    observations = env.reset()
    ours, theirs = (m.predict(observations, deterministic=True, state=(np.arange(3) % 2, np.ones(3))) for m in (model, loaded))
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert all(torch.equal(value, weights(loaded)[name]) for name, value in weights(model).items())
    options = {name: value.clone() for name, value in loaded.options.state_dict().items()}
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps >= model.num_timesteps + 100
    assert all(torch.equal(value, options[name]) for name, value in loaded.options.state_dict().items())
    assert HRL.load(tmp_path / "model").predict(observations[0])[0].shape == (2,)


def test_same_seed_same_run():
    first, second, other = (weights(HRL("MlpPolicy", lines(), seed=s, **SMALL).learn(600)) for s in (3, 3, 4))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("primitive", ["random", "none"])
@pytest.mark.parametrize(
    "action_space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2), spaces.Discrete(3)], ids=str
)
def test_action_spaces(action_space, primitive):
    model = HRL("MlpPolicy", lines(action_space=action_space), primitive_actions=primitive, **SMALL).learn(500)
    assert model.action_space == action_space and model.policy.action_space == spaces.Discrete(2 + (primitive == "random"))
    evaluate_policy(model, lines(2, action_space=action_space), n_eval_episodes=3)


def test_dict_observations_and_normalised_ones():
    dict_space = spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Box(-10, 10, (1,)))
    reward = RandomNetworkReward(spaces.Box(-10, 10, (2,)), spaces.Box(-1, 1, (2,)), n_rewards=2)
    HRL(
        "MultiInputPolicy",
        lines(observation_space=dict_space),
        **SMALL | dict(intrinsic_reward="rnd", intrinsic_reward_kwargs={}),
    ).learn(300)
    env = VecNormalize(lines(), norm_obs=True)
    model = HRL("MlpPolicy", env, **SMALL | dict(intrinsic_reward=reward, intrinsic_reward_kwargs=None)).learn(300)
    assert env.obs_rms.count > 200 and model.original_observation_space == spaces.Box(-10, 10, (2,))


def test_option_training_raises_its_channel_and_leaves_the_rest_alone():
    """On the line, one option learns to go up and the other, with the opposite reward, down."""

    class Position(RandomNetworkReward):
        def compute(self, batch):
            moved = batch.next_observations[..., :1] - batch.observations[..., :1]
            return torch.cat([moved, -moved], dim=-1)

    env = lines(8)
    reward = Position(env.observation_space, env.action_space, n_rewards=2)
    options = dict(n_steps=64, batch_size=128, n_epochs=8, learning_rate=5e-3)
    kwargs = SMALL | dict(intrinsic_reward=reward, intrinsic_reward_kwargs=None, option_kwargs=options, option_fraction=1.0)
    model = HRL("MlpPolicy", env, seed=0, **kwargs)
    model.learn(4096)
    points = np.stack([np.linspace(-2, 2, 8), np.full(8, 0.3)], axis=1).astype(np.float32)
    up, down = (model.predict(points, (np.full(8, k), np.ones(8, dtype=int)))[0].mean() for k in range(2))
    assert up > 0.3 and down < -0.3


def test_learns_a_sparse_maze_from_options():
    """For this seed: with settings this small, two of the five that were tried (0 to 4) did not solve it."""
    model = HRL(
        "MlpPolicy", maze(32), n_steps=64, batch_size=256, option_kwargs=dict(batch_size=512), intrinsic_reward="laplacian",
        seed=0, device="cpu",
    )  # fmt: skip
    assert isinstance(model.intrinsic_reward, ExactLaplacian)
    model.learn(260_000)
    rewards, lengths = evaluate_policy(model, maze(8), n_eval_episodes=16, return_episode_rewards=True)
    assert np.mean(rewards) > 0.9 and np.mean(lengths) < 60


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(option_steps=0), "option_steps must be an integer in"),
        (dict(option_fraction=0.0), "option_fraction must be a number in"),
        (dict(fit_fraction=2.0), "fit_fraction must be a number in"),
        (dict(primitive_actions="some"), "primitive_actions must be one of"),
        (dict(primitive_actions="each"), "needs a Discrete action space"),
        (dict(use_sde=True), "does not support gSDE"),
        (dict(rollout_buffer_class=RolloutBuffer), "subclass of sb3_ext.hrl.buffers.OptionRolloutBuffer, got RolloutBuffer"),
        (dict(option_kwargs=dict(n_step=5)), "option_kwargs takes .* got 'n_step'"),
        (dict(intrinsic_reward="alo", intrinsic_reward_kwargs=None), "Did you mean 'allo'"),
    ],
)
def test_bad_arguments_are_named_before_anything_runs(arguments, message):
    with pytest.raises(ValueError, match=message):
        HRL("MlpPolicy", lines(), **SMALL | arguments)


def test_a_reward_for_other_spaces_is_refused():
    reward = RandomNetworkReward(spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="Different observation spaces"):
        HRL("MlpPolicy", lines(), **SMALL | dict(intrinsic_reward=reward, intrinsic_reward_kwargs=None))


def test_a_run_too_short_for_its_options_says_so():
    with pytest.warns(UserWarning, match="1 of 2 options were trained"):
        model = HRL("MlpPolicy", maze(), **SMALL).learn(64)
    model.learn(256, reset_num_timesteps=False)
    assert model.n_trained_options == 2


def test_the_arguments_of_ppo_come_first_in_its_order():
    ppo, ours = (list(inspect.signature(cls.__init__).parameters.values()) for cls in (PPO, HRL))
    assert [p.name for p in ours[: len(ppo)]] == [p.name for p in ppo]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(ppo) :])
