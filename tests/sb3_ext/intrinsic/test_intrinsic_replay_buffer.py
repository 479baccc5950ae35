"""IntrinsicReplayBuffer: SB3's replay buffer with intrinsic rewards that are computed when a batch is sampled."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, IntrinsicReward, RandomNetworkReward, make_intrinsic_reward
from irwrappers.intrinsic.features import FeatureDifference
from sb3_ext import IntrinsicReplayBuffer
from sb3_ext.intrinsic import IntrinsicDictReplayBuffer

BOX, ACTIONS = spaces.Box(-10, 10, (2,)), spaces.Box(-2, 2, (1,))


class Place(IntrinsicReward):
    """Gives the first number of the next observation, times what it learned; notes what it is shown."""

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("factor", torch.ones(()))
        self.weight = nn.Parameter(torch.rand(()))  # moves torch's generator
        self.learned, self.seen, self.computed = [], [], []

    def compute(self, batch):
        self.computed.append(batch)
        first = batch.next_observations
        first = next(iter(first.values())) if isinstance(first, dict) else first
        first = first.float()
        return self.factor * (first.flatten(2)[..., :1] if first.dim() > 2 else first[..., None])

    def learn(self, batch):
        self.learned.append(batch)
        return {"loss": 1.0}

    def advance(self, batch):
        self.seen.append(batch)


@pytest.fixture(autouse=True)
def place_by_name(monkeypatch):
    monkeypatch.setitem(INTRINSIC_REWARDS, "place", Place)


def filled(cls=IntrinsicReplayBuffer, n_envs=2, n_steps=20, observation_space=BOX, action_space=ACTIONS, size=100, **kwargs):
    if issubclass(cls, IntrinsicReplayBuffer):
        kwargs = dict(intrinsic_reward="place") | kwargs
    buffer = cls(size, observation_space, action_space, "cpu", n_envs, **kwargs)
    observation_space.seed(0)
    action_space.seed(0)
    sample = lambda space: np.stack([space.sample() for _ in range(n_envs)])  # noqa: E731
    if isinstance(observation_space, spaces.Dict):
        sample_observation = lambda: {key: sample(part) for key, part in observation_space.spaces.items()}  # noqa: E731
    else:
        sample_observation = lambda: sample(observation_space)  # noqa: E731
    for step in range(n_steps):
        done = np.full(n_envs, step % 5 == 4)
        infos = [{"TimeLimit.truncated": bool(step % 10 == 9)}] * n_envs
        rewards = np.full(n_envs, float(step))
        buffer.add(sample_observation(), sample_observation(), sample(action_space), rewards, done, infos)
    return buffer


def sampled(buffer, n=64, env=None):
    np.random.seed(0)
    return buffer.sample(n, env=env)


def test_a_sample_is_sb3s_with_the_intrinsic_reward_added():
    buffer = filled(intrinsic_coef=0.5, extrinsic_coef=2.0)
    ours, theirs = sampled(buffer), sampled(filled(ReplayBuffer))
    for name in ("observations", "actions", "next_observations", "dones"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    bonus = ours.next_observations[:, :1]
    expected = 2.0 * theirs.rewards + 0.5 * bonus / bonus.square().mean().sqrt()
    torch.testing.assert_close(ours.rewards, expected)
    assert buffer.log["loss"] == 1.0 and buffer.log["reward_mean"] == pytest.approx(
        float((bonus / bonus.square().mean().sqrt()).mean()), rel=1e-5
    )


def test_the_reward_is_that_of_now():
    buffer = filled(extrinsic_coef=0)
    before = sampled(buffer).rewards
    buffer.intrinsic_reward.factor.fill_(0.0)
    assert before.abs().min() > 0 and torch.equal(sampled(buffer).rewards, torch.zeros_like(before))


def test_equal_rewards_have_a_scale():
    buffer = filled(extrinsic_coef=0, intrinsic_coef=3.0)
    buffer.intrinsic_reward.compute = lambda batch: torch.full((*batch.terminated.shape, 1), 0.01)
    torch.testing.assert_close(sampled(buffer).rewards, torch.full((64, 1), 3.0), rtol=1e-4, atol=0)


def test_what_the_model_is_shown():
    buffer = filled(learn_every=2)
    model = buffer.intrinsic_reward
    assert len(model.seen) == 20 and model.seen[0].observations.shape == (1, 2, 2)
    assert [int(batch.terminated.all()) for batch in model.seen[:10]] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert [int(batch.truncated.all()) for batch in model.seen[:10]] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    for _ in range(4):
        sampled(buffer)
    assert len(model.computed) == 4 and len(model.learned) == 2
    assert model.computed[0].observations.shape == (1, 64, 2) and model.computed[0].actions.shape == (1, 64, 1)
    assert model.learned[0].observations.shape == (64, 1, 2)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Discrete(5), spaces.Discrete(3)),
        (spaces.Box(0, 255, (2, 36, 36), np.uint8), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-1, 1, (2, 2)), spaces.MultiBinary(4)),
        (spaces.Dict(a=BOX, b=spaces.Discrete(4)), ACTIONS),
    ],
)
def test_spaces_reach_the_model_in_their_own_shape(observation_space, action_space):
    is_dict = isinstance(observation_space, spaces.Dict)
    cls = IntrinsicDictReplayBuffer if is_dict else IntrinsicReplayBuffer
    buffer = filled(cls, observation_space=observation_space, action_space=action_space)
    sampled(buffer)
    for batch, lead in ((buffer.intrinsic_reward.seen[0], (1, 2)), (buffer.intrinsic_reward.computed[0], (1, 64))):
        parts = observation_space.spaces if is_dict else {"": observation_space}
        for observations in (batch.observations, batch.next_observations):
            for key, part in parts.items():
                assert (observations[key] if is_dict else observations).shape == (*lead, *part.shape)
        assert batch.actions.shape == (*lead, *action_space.shape)


def test_vec_normalize_touches_neither_what_the_model_sees_nor_the_bonus():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=0.5)
    space = env.observation_space
    env.obs_rms.mean, env.ret_rms.var = np.full(3, 5.0), np.array(16.0)
    kwargs = dict(observation_space=space, n_envs=1)
    ours, theirs = filled(intrinsic_coef=0.5, **kwargs), filled(ReplayBuffer, **kwargs)
    raw, expected, found = sampled(theirs), sampled(theirs, env=env), sampled(ours, env=env)
    assert torch.equal(found.observations, expected.observations) and not torch.equal(raw.observations, expected.observations)
    assert torch.equal(found.next_observations, expected.next_observations)
    assert torch.equal(ours.intrinsic_reward.computed[0].next_observations[0], raw.next_observations)
    bonus = raw.next_observations[:, :1]
    torch.testing.assert_close(found.rewards, expected.rewards + 0.5 * bonus / bonus.square().mean().sqrt())


def test_memory_optimisation_keeps_sb3s_rule():
    arguments = dict(optimize_memory_usage=True, handle_timeout_termination=False, size=30)
    ours, theirs = filled(n_steps=40, **arguments), filled(ReplayBuffer, n_steps=40, **arguments)
    one, other = sampled(ours), sampled(theirs)
    assert torch.equal(one.next_observations, other.next_observations) and torch.equal(one.dones, other.dones)
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        filled(optimize_memory_usage=True)


def test_counts_grow_when_a_transition_is_added_not_when_it_is_sampled():
    if "count" not in INTRINSIC_REWARDS:
        pytest.skip("no counts")
    buffer = filled(intrinsic_reward="count", observation_space=spaces.Discrete(3), extrinsic_coef=0)
    counts = {key: value.clone() for key, value in buffer.intrinsic_reward.state_dict().items()}
    first = sampled(buffer).rewards
    for _ in range(3):
        sampled(buffer)
    after = buffer.intrinsic_reward.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in counts.items() if isinstance(value, torch.Tensor))
    assert first.isfinite().all() and first.min() > 0


# ---------------------------------------------------------------------- algorithms


def pendulum(n_envs=1):
    return DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1", max_episode_steps=30))] * n_envs)


def weights(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_with_coefficient_0_the_algorithm_is_the_same(algorithm):
    settings = dict(learning_starts=20, buffer_size=200, batch_size=16, seed=1, policy_kwargs=dict(net_arch=[8]))
    plain = weights(algorithm("MlpPolicy", pendulum(2), **settings).learn(80))
    kwargs = dict(intrinsic_reward="place", intrinsic_coef=0)
    ours = algorithm(
        "MlpPolicy", pendulum(2), replay_buffer_class=IntrinsicReplayBuffer, replay_buffer_kwargs=kwargs, **settings
    )
    ours = weights(ours.learn(80))
    assert all(torch.equal(value, ours[name]) for name, value in plain.items())


ORDER_FREE = [
    name
    for name, cls in INTRINSIC_REWARDS.items()
    if not getattr(cls, "has_episode_memory", False) and not issubclass(cls, FeatureDifference)
]


@pytest.mark.parametrize("name", ORDER_FREE)
def test_every_reward_without_episode_memory_trains_dqn(name, tmp_path):
    env = DummyVecEnv([lambda: Monitor(gym.make("sparse/Maze1-v0"))] * 2)
    kwargs = dict(intrinsic_reward=name)
    model = DQN(
        "MlpPolicy", env, learning_starts=50, buffer_size=1000, seed=0, device="cpu",
        replay_buffer_class=IntrinsicReplayBuffer, replay_buffer_kwargs=kwargs,
    )  # fmt: skip
    model.learn(200)
    assert all(np.isfinite(value) for value in model.replay_buffer.log.values())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DQN.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    one, other = model.replay_buffer, loaded.replay_buffer
    for _ in range(2):  # the second time after both have learned from the first
        torch.manual_seed(0)
        np.random.seed(0)
        expected = one.sample(32).rewards
        torch.manual_seed(0)
        np.random.seed(0)
        assert torch.equal(other.sample(32).rewards, expected)
    loaded.learn(100, reset_num_timesteps=False)


def test_sac_with_dict_observations_learns():
    class Dictionary(gym.ObservationWrapper):
        observation_space = spaces.Dict(position=spaces.Box(-1, 1, (2,)), speed=spaces.Box(-8, 8, (1,)))

        def observation(self, observation):
            return {"position": observation[:2], "speed": observation[2:]}

    env = DummyVecEnv([lambda: Dictionary(gym.make("Pendulum-v1"))] * 2)
    settings = dict(learning_starts=10, buffer_size=100, batch_size=8, replay_buffer_kwargs=dict(intrinsic_reward="place"))
    with pytest.raises(ValueError, match="use IntrinsicDictReplayBuffer"):
        SAC("MultiInputPolicy", env, replay_buffer_class=IntrinsicReplayBuffer, **settings)
    model = SAC("MultiInputPolicy", env, replay_buffer_class=IntrinsicDictReplayBuffer, **settings).learn(40)
    assert model.replay_buffer.intrinsic_reward.computed


# ---------------------------------------------------------------------- bad input


class Remembers(Place):
    has_episode_memory = True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(intrinsic_coef=-1), "intrinsic_coef must be a number"),
        (dict(learn_every=0), "learn_every must be an integer"),
        (dict(intrinsic_reward="random"), "opposite pairs that cancel"),
        (
            dict(intrinsic_reward="random", intrinsic_weights=[1, 0, 0, 0, 0, 0]),
            "RandomNetworkReward must be fitted before.*fit",
        ),
        (dict(intrinsic_reward="plase"), "Did you mean 'place'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        filled(**arguments)


def test_rewards_that_remember_the_episode_are_refused_also_within_others():
    parts = ["place", Remembers(BOX, ACTIONS)]
    reward = make_intrinsic_reward(parts, BOX, ACTIONS)
    for given in (parts[1], reward):
        with pytest.raises(ValueError, match=r"the reward of Remembers depends on earlier steps.*VecIntrinsicReward"):
            filled(intrinsic_reward=given)


def test_a_fitted_reward_with_weights_is_taken():
    reward = RandomNetworkReward(spaces.Box(-np.inf, np.inf, (3,)), ACTIONS, n_rewards=2, hidden_sizes=(8,))
    reward.fit(gym.make("Pendulum-v1"))
    buffer = filled(intrinsic_reward=reward, intrinsic_weights=[1.0, 0.0], observation_space=reward.observation_space)
    assert sampled(buffer).rewards.isfinite().all()


def test_bonuses_that_are_not_finite_are_named():
    buffer = filled()
    buffer.intrinsic_reward.factor.fill_(np.nan)
    with pytest.raises(ValueError, match="Place gave NaN or infinite values"):
        sampled(buffer)


# ---------------------------------------------------------------------- learning


def solved_of_last_ten(seed, **kwargs):
    env = Monitor(gym.make("MountainCarContinuous-v0"))
    settings = dict(learning_rate=1e-3, batch_size=128, train_freq=32, gradient_steps=16, learning_starts=1000)
    model = SAC("MlpPolicy", env, policy_kwargs=dict(net_arch=[64, 64]), seed=seed, device="cpu", **settings, **kwargs)
    model.learn(15_000)
    return np.mean(np.array(env.get_episode_lengths()[-10:]) < 999)


@pytest.mark.slow
def test_sac_with_rnd_solves_a_sparse_task_that_sac_alone_does_not():
    """MountainCarContinuous: 100 at the goal, less the cost of every action until then; doing nothing is a local optimum."""
    kwargs = dict(
        intrinsic_reward="rnd",
        intrinsic_reward_kwargs=dict(latent_dim=32, hidden_sizes=(64,)),
        intrinsic_coef=1.0,
        learn_every=2,
    )
    assert solved_of_last_ten(0) == 0
    assert solved_of_last_ten(0, replay_buffer_class=IntrinsicReplayBuffer, replay_buffer_kwargs=kwargs) >= 0.9


def test_a_buffer_saved_when_intrinsic_coef_was_called_coef_can_be_loaded():
    state = filled(intrinsic_coef=0.5).__getstate__()
    state["coef"] = state.pop("intrinsic_coef")
    loaded = IntrinsicReplayBuffer.__new__(IntrinsicReplayBuffer)
    loaded.__setstate__(state)
    assert loaded.intrinsic_coef == 0.5 and not hasattr(loaded, "coef") and len(loaded.sample(4).rewards) == 4
