"""VecIntrinsicReward and IntrinsicRewardWrapper: rewards, the steps they are computed from, their scale, and evaluation."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.bonus_toys import SMALL, Line, Position, TwoChannels, lines, maze, quick, rollout, wrapped
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import (
    INTRINSIC_REWARDS,
    IntrinsicRewardCallback,
    IntrinsicRewardWrapper,
    VecIntrinsicReward,
)

# Rewards


def test_sum_of_both_parts_and_the_monitor_keeps_the_environments_return():
    env = wrapped(intrinsic_coef=0.5, extrinsic_coef=2.0)
    rewards, dones, infos = rollout(env, [[1, 2], [1, 2], [1, 1], [1, 1]])
    x = np.array([[1, 2], [2, 4], [3, 1], [4, 2]])
    np.testing.assert_allclose(rewards, 2 * x + 0.5 * x)
    assert rewards.dtype == np.float32
    assert [info["reward_extrinsic"] for info in infos[1]] == [2, 4] == [info["reward_intrinsic"] for info in infos[1]]
    assert dones[3, 0] and infos[3][0]["episode"]["r"] == 10 and infos[3][0]["intrinsic_episode"] == {"r": 10, "l": 4}
    assert dones[1, 1] and infos[1][1]["episode"]["r"] == 6 and infos[1][1]["intrinsic_episode"] == {"r": 6, "l": 2}
    assert "intrinsic_episode" not in infos[0][0]


def test_batches_follow_each_other_and_end_in_terminal_observations():
    env = wrapped(lines(2, limit=3), learn_every=4)
    rollout(env, [[2, 1], [2, 1], [1, 1], [1, 0], [0, 0]])
    (batch,) = env.intrinsic_reward.learned
    assert batch.observations[..., 0].T.tolist() == [[0, 2, 0, 1], [0, 1, 2, 0]]
    assert batch.next_observations[..., 0].T.tolist() == [[2, 4, 1, 2], [1, 2, 3, 0]]
    assert batch.actions.T.tolist() == [[2, 2, 1, 1], [1, 1, 1, 0]]
    assert batch.terminated.T.tolist() == [[False, True, False, False], [False] * 4]
    assert batch.truncated.T.tolist() == [[False] * 4, [False, False, True, False]]
    assert len(env.intrinsic_reward.advanced) == 5 and env.intrinsic_reward.advanced[4].terminated.shape == (1, 2)


def test_weights_of_channels():
    rewards, _, _ = rollout(wrapped(reward=TwoChannels, extrinsic_coef=0), [[1, 2]])
    assert rewards.tolist() == [[11, 22]]
    rewards, _, _ = rollout(wrapped(reward=TwoChannels, extrinsic_coef=0, intrinsic_weights=[3, -0.5]), [[1, 2]])
    assert rewards.tolist() == [[-2, -4]]
    with pytest.raises(ValueError, match=r"weights must be 2 finite numbers.*\[1\]"):
        wrapped(reward=TwoChannels, intrinsic_weights=[1])


def test_signed_pairs_cancel_and_are_refused_without_weights():
    with pytest.raises(ValueError, match=r"RandomNetworkReward.*cancel.*intrinsic_weights=\[1, 0, 0, 0, 0, 0\]"):
        VecIntrinsicReward(maze(), "random")
    with pytest.raises(ValueError, match=r"Concat.*0_randomnetworkreward_-phi_1.*cancel"):
        VecIntrinsicReward(maze(), ["random", {"random": {"n_rewards": 1}}])


@pytest.mark.parametrize("episodic", [False, True])
def test_divided_by_the_deviation_of_the_discounted_return_along_time(episodic):
    env = wrapped(reward=TwoChannels, normalize_reward=True, gamma=0.9, episodic=episodic, extrinsic_coef=0, clip_reward=None)
    actions = np.random.default_rng(0).integers(3, size=(30, 2))
    rewards, dones, infos = rollout(env, actions)
    positions = np.array([[info["reward_extrinsic"] for info in row] for row in infos])
    running, seen, expected = np.zeros(2), [np.zeros(2)], []
    for x, done in zip(positions, dones, strict=True):
        running = 0.9 * running + x
        seen.append(running)
        expected.append(2 * x / (np.std(seen) + 1e-8))  # the second channel is ten times the first: on its scale the same
        running = np.where(done, 0, running) if episodic else running
    assert dones.any()
    np.testing.assert_allclose(rewards, expected, rtol=1e-4)


def test_a_first_bonus_has_a_scale_and_outliers_are_clipped():
    env = wrapped(lines(1, length=1000), normalize_reward=True, extrinsic_coef=0, clip_reward=1.5)
    rewards, _, _ = rollout(env, [[1], [0], [0]])
    assert rewards[0, 0] == 1.5  # {0, 1} has deviation 1/2
    env = wrapped(lines(1, length=1000), normalize_reward=True, extrinsic_coef=0)
    assert rollout(env, [[0], [0]])[0].tolist() == [[0], [0]]  # no bonus at all: 0, not 0 / 0


def test_schedules():
    def ratios(coef, total_timesteps=None):
        env = wrapped(lines(2, length=1000), extrinsic_coef=0, intrinsic_coef=coef, total_timesteps=total_timesteps)
        rewards, _, infos = rollout(env, np.ones((6, 2), dtype=int))
        return (rewards / [[info["reward_intrinsic"] for info in row] for row in infos])[:, 0].tolist()

    assert ratios(0.25) == ratios("0.25") == [0.25] * 6
    assert ratios("lin_1.0", 8) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])  # two environments: 8 steps are over after 4
    assert ratios(lambda progress: progress**2, 4) == pytest.approx([1, 0.25, 0, 0, 0, 0])
    for changing in ("lin_0.1", lambda progress: 1.0):
        with pytest.raises(ValueError, match="total_timesteps"):
            wrapped(intrinsic_coef=changing)
    for wrong in ("fast", "lin_", float("nan"), None, True):
        with pytest.raises(ValueError, match="coef"):
            wrapped(intrinsic_coef=wrong, total_timesteps=10)


@pytest.mark.parametrize(
    "argument",
    [
        dict(learn_every=0), dict(learn_every=1.5), dict(gamma=1.0), dict(clip_reward=0.0), dict(warmup_steps=-1),
        dict(total_timesteps=0), dict(extrinsic_coef=float("inf")),
    ],
)  # fmt: skip
def test_wrong_numbers_are_named(argument):
    (name, value), *_ = argument.items()
    with pytest.raises(ValueError, match=f"{name} must be .* got {value!r}"):
        wrapped(**argument)


def test_unknown_names_and_other_spaces():
    with pytest.raises(ValueError, match="Did you mean 'random'"):
        VecIntrinsicReward(maze(), "randm")
    reward = Position(spaces.Box(-1, 1, (3,)), spaces.Discrete(3))
    for make in (lambda: VecIntrinsicReward(lines(), reward), lambda: IntrinsicRewardWrapper(Line(), reward)):
        with pytest.raises(ValueError, match=r"observation spaces.*\(3,\).*\(1,\)"):
            make()


# Both wrappers


@pytest.mark.parametrize("name", INTRINSIC_REWARDS)
def test_one_environment_has_the_rewards_of_the_gymnasium_wrapper(name):
    # Three episodes of ten steps, the reward fitted and learning on the way.
    def make():
        return gym.make("sparse/Maze1-v0", max_episode_steps=10)

    arguments = dict(intrinsic_reward_kwargs=quick(name), learn_every=8, warmup_steps=200, seed=3, device="cpu")
    venv, env = DummyVecEnv([make]), IntrinsicRewardWrapper(make(), name, **arguments)
    vector = VecIntrinsicReward(venv, name, **arguments)
    venv.seed(5)
    env.reset(seed=5)
    actions = np.random.default_rng(0).integers(4, size=(30, 1))
    rewards, dones, infos = rollout(vector, actions)
    for t in range(30):
        _, reward, terminated, truncated, info = env.step(actions[t, 0])
        assert reward == rewards[t, 0] and (terminated or truncated) == dones[t, 0]
        for key in ("reward_extrinsic", "reward_intrinsic"):
            assert info[key] == infos[t][0][key]
        if terminated or truncated:
            assert info["intrinsic_episode"] == infos[t][0]["intrinsic_episode"]
            env.reset()
    assert env.pop_logs() == vector.pop_logs()
    assert np.isfinite(rewards).all()


class EndsInBothWays(gym.Wrapper):
    """Truncates every terminated episode, as Gymnasium's TimeLimit does unless rl_zoo3, which patches it, was imported."""

    def step(self, action):
        observation, reward, terminated, _, info = self.env.step(action)
        return observation, reward, terminated, terminated, info


def test_an_end_that_is_both_is_a_terminal_state():
    env = EndsInBothWays(Line(length=2))
    single = IntrinsicRewardWrapper(env, Position(env.observation_space, env.action_space), learn_every=2)
    single.reset()
    assert [single.step(1)[2:4] for _ in range(2)] == [(False, False), (True, True)]
    (batch,) = single.intrinsic_reward.learned
    assert batch.terminated.tolist() == [[False], [True]] and not batch.truncated.any()


def test_gymnasium_wrapper_is_rebuilt_from_its_spec():
    env = IntrinsicRewardWrapper(gym.make("MountainCar-v0"), {"random": {"n_rewards": 1}}, intrinsic_coef=0.1, seed=0)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, IntrinsicRewardWrapper) and again.bonus.intrinsic_coef == 0.1
    assert torch.equal(again.intrinsic_reward.network[0].weight, env.intrinsic_reward.network[0].weight)


# Evaluation


def test_no_bonus_no_learning_and_no_fitting_in_evaluation():
    env = VecIntrinsicReward(
        maze(), "allo", intrinsic_weights=[1] + [0] * 5, training=False, extrinsic_coef=3.0, learn_every=1
    )
    rewards, _, infos = rollout(env, np.zeros((4, 3), dtype=int))
    assert env.intrinsic_reward.needs_fit and env.num_warmup_steps == 0 and not rewards.any()
    assert infos[0][0]["reward_intrinsic"] == 0 and env.bonus.num_steps == 0
    env = wrapped(learn_every=2)
    env.training = False
    rewards, dones, infos = rollout(env, [[2, 2], [2, 2]])
    assert rewards.tolist() == [[2, 2], [4, 4]] and dones[1].all() and "intrinsic_episode" not in infos[1][0]
    assert not env.intrinsic_reward.learned and not env.intrinsic_reward.advanced
    env.training = True
    with pytest.raises(RuntimeError, match="reset"):
        env.step([0, 0])
    assert rollout(env, [[1, 1]])[0].tolist() == [[2, 2]]


# Warm-up


def test_warm_up_leaves_the_environment_as_it_was_seeded():
    actions = np.random.default_rng(0).uniform(-2, 2, size=(20, 2, 1)).astype(np.float32)

    def observe(wrap):
        env = wrap(make_vec_env("Pendulum-v1", n_envs=2))
        env.seed(7)
        return [env.reset()] + [env.step(action)[0] for action in actions], env

    kwargs = dict(intrinsic_reward_kwargs=SMALL["allo"], warmup_steps=1000, seed=0)
    plain, _ = observe(lambda env: env)
    observed, env = observe(lambda env: VecIntrinsicReward(env, "allo", **kwargs))
    np.testing.assert_array_equal(plain, observed)
    assert 0 < env.num_warmup_steps <= 1000 and not env.intrinsic_reward.needs_fit
    taken = env.num_warmup_steps
    env.reset()
    assert env.num_warmup_steps == taken  # once


@pytest.mark.parametrize("name", INTRINSIC_REWARDS)
def test_torchs_generator_is_left_alone(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    env = VecIntrinsicReward(maze(), name, intrinsic_reward_kwargs=quick(name), learn_every=4, warmup_steps=300, seed=1)
    rollout(env, np.zeros((9, 3), dtype=int))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_it_follows_sb3s():
    seeds = []
    for seed in (0, 0, 1):
        set_random_seed(seed)
        seeds.append(VecIntrinsicReward(maze(), "count").bonus.seed)
    assert seeds[0] == seeds[1] != seeds[2]


def test_coefficient_zero_is_plain_ppo_weight_for_weight():
    def train(wrap):
        model = PPO("MlpPolicy", wrap(make_vec_env("CartPole-v1", n_envs=2)), n_steps=64, batch_size=32, seed=0, device="cpu")
        return model.learn(256).policy.state_dict()

    plain = train(lambda env: env)
    kwargs = dict(intrinsic_coef=0.0, intrinsic_reward_kwargs=SMALL["allo"], warmup_steps=500, learn_every=16)
    with_wrapper = train(lambda env: VecIntrinsicReward(env, "allo", **kwargs))
    assert all(torch.equal(value, with_wrapper[key]) for key, value in plain.items())


# Resets


def test_reset_in_the_middle_cuts_the_episodes_and_keeps_the_steps():
    env = wrapped(learn_every=4)
    rollout(env, [[1, 1], [1, 2]])
    assert env.intrinsic_reward.forgotten == 0
    _, _, infos = rollout(env, [[2, 1], [2, 1]])
    assert env.intrinsic_reward.forgotten == 1
    (batch,) = env.intrinsic_reward.learned
    assert batch.observations[..., 0].T.tolist() == [[0, 1, 0, 2], [0, 1, 0, 1]]
    assert batch.truncated.T.tolist() == [[False, True, False, False]] * 2
    assert infos[1][0]["intrinsic_episode"] == {"r": 6, "l": 2}  # nothing of the episode that was cut
    env.reset()
    assert env.intrinsic_reward.forgotten == 2


def test_reset_between_episodes_forgets_nothing():
    env = wrapped()
    rollout(env, [[2, 2], [2, 2]])
    env.reset()
    assert env.intrinsic_reward.forgotten == 0 and not env.bonus._pending[-1].truncated.any()


def test_a_step_that_only_resets_counts_for_nothing():
    from sb3_ext.common.vec_env import GymnasiumVecEnv

    with pytest.warns(UserWarning, match="resets a copy only inside its next step"):
        venv = GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=2))  # Gymnasium's own, in NEXT_STEP mode
    env = wrapped(venv, learn_every=40)
    venv.seed(0)
    rewards, dones, infos = rollout(env, np.ones((40, 2), dtype=int))
    resets = np.array([["reset_step" in info for info in row] for row in infos])
    assert resets.any() and np.array_equal(resets[1:], dones[:-1]) and not rewards[resets].any()
    assert np.array_equal(env.intrinsic_reward.learned[0].valid.numpy(), ~resets)
    ends = [row[0]["intrinsic_episode"]["l"] for row in infos if "intrinsic_episode" in row[0]]
    ended = np.flatnonzero(dones[:, 0])
    assert ends == [ended[0] + 1, *(np.diff(ended) - 1)]


# With VecNormalize and other wrappers


def test_the_reward_sees_original_observations_in_either_order():
    actions = np.random.default_rng(0).integers(3, size=(12, 2))
    seen = {}
    for order in ("plain", "outside", "beneath"):
        env = inner = wrapped(VecNormalize(lines(2, limit=3)) if order == "beneath" else lines(2, limit=3), learn_every=12)
        if order == "outside":
            env = VecNormalize(inner, norm_reward=False)
        rollout(env, actions)
        seen[order] = inner.intrinsic_reward.learned[0]
    for name in ("observations", "next_observations", "terminated", "truncated"):
        for order in ("outside", "beneath"):
            torch.testing.assert_close(getattr(seen[order], name), getattr(seen["plain"], name))


def test_no_bonus_in_the_reward_statistics_of_vec_normalize_beneath():
    actions = np.random.default_rng(0).integers(3, size=(12, 2))
    alone, beneath = VecNormalize(lines()), VecNormalize(lines())
    expected, _, _ = rollout(alone, actions)
    rewards, _, infos = rollout(wrapped(beneath, intrinsic_coef=100.0), actions)
    assert beneath.ret_rms.mean == alone.ret_rms.mean and beneath.ret_rms.var == alone.ret_rms.var
    bonuses = np.array([[info["reward_intrinsic"] for info in row] for row in infos])
    np.testing.assert_allclose(rewards, expected + 100 * bonuses, rtol=1e-6)
    assert beneath.training and not isinstance(beneath.venv, VecNormalize) and isinstance(beneath.venv, DummyVecEnv)


def test_the_callback_warns_where_the_bonus_enters_reward_statistics():
    def train(env):
        PPO("MlpPolicy", env, n_steps=4, batch_size=4, n_epochs=1, device="cpu").learn(4, IntrinsicRewardCallback())

    with pytest.warns(UserWarning, match=r"norm_reward=False"):
        train(VecFrameStack(VecNormalize(wrapped()), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(VecNormalize(wrapped(), norm_reward=False))
        train(VecNormalize(wrapped(), training=False))
        train(VecNormalize(wrapped(training=False)))
        train(wrapped(VecNormalize(lines())))


def test_the_callback_refuses_off_policy_algorithms_that_would_lose_the_bonus_above_vec_normalize():
    def model(env):
        return DQN("MlpPolicy", env, learning_starts=10, buffer_size=100, device="cpu")

    with pytest.raises(ValueError, match=r"DQN stores the original reward.*around VecIntrinsicReward"):
        model(wrapped(VecNormalize(lines()))).learn(8, IntrinsicRewardCallback())
    dqn = model(VecNormalize(wrapped(lines(1), intrinsic_coef=10.0), norm_reward=False)).learn(8)
    stored, x = dqn.replay_buffer.rewards[:8, 0], dqn.replay_buffer.next_observations[:8, 0, 0]
    np.testing.assert_allclose(stored, 11 * x)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(a=spaces.Box(-9, 9, (2,)), b=spaces.Box(0, 255, (8, 8, 3), np.uint8)),
        spaces.Box(0, 255, (36, 36, 3), np.uint8),
        spaces.Discrete(10),
    ],
    ids=["dict", "image", "discrete"],
)
def test_observations_of_other_spaces(space):
    env = wrapped(lines(2, space=space), learn_every=3)
    rewards, _, _ = rollout(env, [[2, 1], [2, 1], [2, 1]])
    assert rewards.tolist() == [[4, 2], [8, 4], [4, 6]]
    single = IntrinsicRewardWrapper(Line(space=space), Position(space, Line.action_space), normalize_reward=False)
    single.reset()
    assert [single.step(action)[1] for action in (1, 1)] == [2, 4]


def test_processes():
    env = wrapped(SubprocVecEnv([Line] * 2))
    assert rollout(env, [[1, 2], [1, 1]])[0].tolist() == [[2, 4], [4, 6]]
    env.close()
