"""IntrinsicPPO: PPO to the bit without its intrinsic side, RND's returns with it, and an SB3 algorithm throughout."""

import inspect
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS, IntrinsicReward, make_intrinsic_reward
from irwrappers.transitions import TransitionRecorder
from sb3_ext import IntrinsicPPO
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.intrinsic.buffers import IntrinsicRolloutBuffer
from sb3_ext.intrinsic.returns import ReturnRange, ReturnStd

# Arguments with which a reward fits a short run; one that needs none need not be here.
QUICK = {
    "allo": dict(n_rewards=1, gradient_steps=10, hidden_sizes=(16,), n_walks=4),
    "laplacian": dict(n_rewards=1),
    "random": dict(n_rewards=1, hidden_sizes=(16,)),
}
SIZE = dict(n_steps=32, batch_size=16, n_epochs=2)


@pytest.fixture(autouse=True)
def place_by_name(monkeypatch):
    monkeypatch.setitem(INTRINSIC_REWARDS, "place", Place)


class Walk(gym.Env):
    """A drifting point, seen through any observation space; pays ``pay`` times where it is and ends beyond 2."""

    def __init__(self, observation_space=None, action_space=None, pay=1.0, nan_at=None):
        self.observation_space = observation_space or spaces.Box(-10, 10, (3,))
        self.action_space = action_space or spaces.Discrete(3)
        self.pay, self.nan_at = pay, nan_at

    def _see(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self._see(part) for name, part in space.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.x > 0)
        if space.dtype == np.uint8:
            return np.full(space.shape, 128 + 10 * np.clip(self.x, -5, 5), dtype=np.uint8)
        return np.full(space.shape, np.nan if self.elapsed == self.nan_at else self.x, dtype=space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.elapsed = self.np_random.normal(), 0
        return self._see(self.observation_space), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x += 0.5 * self.np_random.normal() + 0.1 * float(np.sum(action))
        self.elapsed += 1
        return self._see(self.observation_space), self.pay * self.x, bool(self.x > 2), False, {}


class Place(IntrinsicReward):
    """Pays the square of the first number of the next observation; counts the steps it learned from."""

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("steps", torch.zeros(()))
        self.scale = nn.Parameter(torch.rand(()))  # moves torch's generator
        self.batches = []
        self.forgotten = 0

    def compute(self, batch):
        first = batch.next_observations
        first = next(iter(first.values())) if isinstance(first, dict) else first
        first = first.float()
        return (first.flatten(2)[..., :1] if first.dim() > 2 else first[..., None]).square()

    def learn(self, batch):
        self.batches.append(batch)
        self.steps += batch.mask.sum()
        return {"steps": float(self.steps)}

    def forget(self):
        self.forgotten += 1


class Memory(KVWriter):
    def __init__(self):
        self.written = []

    def write(self, key_values, key_excluded, step=0):
        self.written.append(dict(key_values))

    def close(self):
        pass


def walks(n_envs=2, horizon=10, normalize=False, **kwargs):
    env = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(**kwargs), horizon))] * n_envs)
    return VecNormalize(env) if normalize else env


def place_model(env=None, policy="MlpPolicy", seed=0, **kwargs):
    return IntrinsicPPO(policy, env or walks(), seed=seed, **SIZE | dict(intrinsic_reward="place") | kwargs)


def state_of(model):
    tensors = {f"policy.{name}": value.clone() for name, value in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value).clone() for name, value in moments.items()}
    return tensors


def assert_same(one, other):
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, e.g. {different[0]}"


# ---------------------------------------------------------------------- arguments


def test_arguments_are_those_of_ppo_in_its_order_and_ours_come_behind_by_keyword():
    theirs, ours = (list(inspect.signature(cls).parameters.values()) for cls in (PPO, IntrinsicPPO))
    shared, added = ours[: len(theirs)], ours[len(theirs) :]
    assert [p.name for p in shared] == [p.name for p in theirs]
    assert [p.kind for p in shared] == [p.kind for p in theirs]
    assert {mine.name for mine, its in zip(shared, theirs, strict=True) if mine.default != its.default} == {"n_steps"}
    assert {p.kind for p in added} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"intrinsic_reward", "intrinsic_reward_kwargs", "extrinsic_coef", "intrinsic_coef"} <= {p.name for p in added}


def test_every_argument_has_a_line_in_the_docstring():
    described = re.findall(r"^        (\w+): ", IntrinsicPPO.__doc__.split("Raises:")[0], re.MULTILINE)
    assert described == list(inspect.signature(IntrinsicPPO).parameters)


def test_positional_arguments_of_ppo_mean_the_same():
    given = [1e-3, 32, 16, 2, 0.9, 0.8, 0.1, None, False, 0.01, 0.4, 0.3, False, -1, None, None, 0.05]
    ours, theirs = IntrinsicPPO("MlpPolicy", walks(), *given, intrinsic_reward="place"), PPO("MlpPolicy", walks(), *given)
    for name in list(inspect.signature(PPO).parameters)[2 : 2 + len(given)]:
        if name not in ("clip_range", "rollout_buffer_class"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.clip_range(1) == theirs.clip_range(1)


@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 2048), (3, 682), (8, 256)])
def test_the_default_rollout_has_2048_transitions_whatever_the_number_of_environments(n_envs, n_steps, recwarn, tmp_path):
    model = IntrinsicPPO("MlpPolicy", walks(n_envs), intrinsic_reward="place")
    assert model.n_steps == model.rollout_buffer.buffer_size == n_steps
    assert not [warning for warning in recwarn if "mini-batch" in str(warning.message)]
    model.save(tmp_path / "model")
    assert IntrinsicPPO.load(tmp_path / "model", env=walks(16)).n_steps == 128
    assert IntrinsicPPO("MlpPolicy", walks(n_envs), n_steps=64, intrinsic_reward="place").n_steps == 64


def test_numbers_of_numpy_and_a_float_total_are_accepted():
    model = place_model(
        n_steps=np.int64(32), intrinsic_coef=np.float32(0.5), intrinsic_gamma=np.float64(0.9), warmup_steps=np.int32(8)
    )
    assert model.learn(1e2).num_timesteps == 128


def test_a_rollout_buffer_class_of_sb3_is_taken_and_one_without_intrinsic_values_is_not():
    model = place_model(rollout_buffer_class=RolloutBuffer)
    assert isinstance(model.rollout_buffer, IntrinsicRolloutBuffer)
    with pytest.raises(ValueError, match=r"IntrinsicRolloutBuffer, got Other"):
        place_model(rollout_buffer_class=type("Other", (RolloutBuffer,), {}))


# ---------------------------------------------------------------------- PPO


def cartpole():
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 3)


def pendulum():
    return VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1", max_episode_steps=50))] * 2))


DICT = spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


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
    weights = [state_of(place_model(walks(pay=pay), extrinsic_coef=0).learn(200)) for pay in (0.0, 1.0)]
    assert_same(*weights)
    both = [state_of(place_model(walks(pay=pay)).learn(200)) for pay in (0.0, 1.0)]
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
    # By hand: paid rewards by their deviation, discounted to the end of the rollout and V_int there.
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


def test_the_reward_model_learns_after_it_has_priced():
    model = place_model()
    paid_at = []
    compute = model.intrinsic_reward.compute
    model.intrinsic_reward.compute = lambda batch: paid_at.append(int(model.intrinsic_reward.steps)) or compute(batch)
    model.learn(3 * 64)
    assert paid_at == [0, 64, 128]


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


# ---------------------------------------------------------------------- an SB3 algorithm

OBSERVATIONS = {
    "box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", DICT),
}
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
def test_every_space_learns_saves_and_loads(observations, action_space, tmp_path):
    policy, observation_space = OBSERVATIONS[observations]
    if observations != "box" and not isinstance(action_space, (spaces.Discrete, spaces.Box)):
        pytest.skip("observations and actions do not meet in the code")
    make = lambda n: walks(n, observation_space=observation_space, action_space=action_space)  # noqa: E731
    model = place_model(make(2), policy).learn(128)
    batch = model.intrinsic_reward.batches[0]
    assert batch.actions.shape == (32, 2, *action_space.shape)
    if isinstance(action_space, spaces.Box):
        assert batch.actions.abs().max() <= 1  # as the environment was given them
    model.save(tmp_path / "model")
    loaded = IntrinsicPPO.load(tmp_path / "model", env=make(3))
    assert_same(state_of(model), state_of(loaded))
    assert loaded.intrinsic_reward.steps == 128 and torch.equal(model.intrinsic_return.std, loaded.intrinsic_return.std)
    observation = make(2).reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128 + 96 and loaded.intrinsic_reward.steps == 128 + 96


def box(*shape, dtype=np.float32):
    return spaces.Box(0, 255, shape, dtype)


PPO_TAKES = {
    "matrix": ("MlpPolicy", box(3, 2)),
    "float64": ("MlpPolicy", box(3, dtype=np.float64)),
    "integers": ("MlpPolicy", box(3, dtype=np.int64)),
    "bytes": ("MlpPolicy", box(30, dtype=np.uint8)),
    "discrete": ("MlpPolicy", spaces.Discrete(5)),
    "multi-discrete": ("MlpPolicy", spaces.MultiDiscrete([2, 3])),
    "multi-binary": ("MlpPolicy", spaces.MultiBinary((2, 3))),
    "image, channels last": ("CnnPolicy", box(40, 44, 3, dtype=np.uint8)),
    "image, channels first": ("CnnPolicy", box(3, 40, 44, dtype=np.uint8)),
    "image, grey": ("CnnPolicy", box(40, 44, 1, dtype=np.uint8)),
    "image, flattened": ("MlpPolicy", box(40, 44, 3, dtype=np.uint8)),
    "image, small": ("MlpPolicy", box(7, 7, 3, dtype=np.uint8)),
    "dict": (
        "MultiInputPolicy",
        spaces.Dict(
            place=box(2, 2),
            room=spaces.Discrete(3),
            digits=spaces.MultiDiscrete([2, 3]),
            lamps=spaces.MultiBinary(2),
            eye=box(40, 44, 3, dtype=np.uint8),
        ),
    ),
}


class Sampled(gym.Env):
    """Observations are samples of their space; an episode has 7 steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.elapsed = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.elapsed += 1
        return self.observation_space.sample(), 0.0, self.elapsed == 7, False, {}


@pytest.mark.parametrize("reward", ["rnd", "count", "pseudo_counts"])
@pytest.mark.parametrize("observations", PPO_TAKES)
def test_a_reward_takes_every_observation_space_that_ppo_takes(observations, reward):
    policy, observation_space = PPO_TAKES[observations]
    env = DummyVecEnv([lambda: Monitor(Sampled(observation_space, spaces.Discrete(3)))] * 2)
    settings = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    if reward == "rnd":
        PPO(policy, env, **settings).learn(32)
    model = IntrinsicPPO(policy, env, intrinsic_reward=reward, **settings).learn(64)
    assert np.isfinite(model.rollout_buffer.intrinsic_returns).all() and model.rollout_buffer.intrinsic_returns.any()


@pytest.mark.parametrize("reward", ["rnd", "count", "pseudo_counts"])
@pytest.mark.parametrize("action_space", [*ACTIONS, spaces.Box(-1, 1, (2, 2)), spaces.Discrete(3, start=1)], ids=str)
def test_a_reward_takes_every_action_space_that_ppo_takes(action_space, reward):
    env = DummyVecEnv([lambda: Monitor(Sampled(box(3), action_space))] * 2)
    IntrinsicPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, intrinsic_reward=reward).learn(64)


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name != "place"])
def test_every_reward_trains_it(name, tmp_path):
    env = DummyVecEnv([lambda: Monitor(gym.make("sparse/Maze1-v0"))] * 2)
    memory = Memory()
    model = IntrinsicPPO(
        "MlpPolicy", env, intrinsic_reward=name, intrinsic_reward_kwargs=QUICK.get(name), n_steps=256, n_epochs=1, seed=0
    )
    model.set_logger(Logger(None, [memory]))
    model.learn(4000 if name == "allo" else 600)  # a tenth of it for the walks of ALLO
    assert not model.intrinsic_reward.needs_fit
    assert all(np.isfinite(value) for logged in memory.written for value in logged.values() if isinstance(value, float))
    model.save(tmp_path / "model")
    loaded = IntrinsicPPO.load(tmp_path / "model", env=env)
    state = model.intrinsic_reward.state_dict()
    loaded_state = loaded.intrinsic_reward.state_dict()
    assert all(torch.equal(value, loaded_state[key]) for key, value in state.items() if isinstance(value, torch.Tensor))
    loaded.learn(512, reset_num_timesteps=False)


def test_same_seed_same_weights_other_seed_others():
    one, again, other = (state_of(place_model(seed=seed).learn(200)) for seed in (3, 3, 4))
    assert_same(one, again)
    assert not torch.equal(one["policy.intrinsic_value_net.weight"], other["policy.intrinsic_value_net.weight"])


def test_callbacks_logs_and_progress_bar(tmp_path):
    env = walks(pay=1.0)
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


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(intrinsic_coef=-1), "intrinsic_coef must be a number in .0, inf., got -1"),
        (dict(extrinsic_coef="2"), "extrinsic_coef must be a number"),
        (dict(intrinsic_gamma=1.1), "intrinsic_gamma must be a number in .0, 1., got 1.1"),
        (dict(warmup_steps=0.5), "warmup_steps must be an integer"),
        (dict(intrinsic_reward="plaice"), "Unknown intrinsic reward 'plaice'.*Did you mean 'place'"),
        (dict(intrinsic_reward="random"), "opposite pairs that cancel.*IRPO"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        place_model(**arguments)


def test_an_sb3_policy_class_and_a_reward_for_other_observations_are_refused():
    from stable_baselines3.ppo import MlpPolicy

    with pytest.raises(ValueError, match="IntrinsicActorCriticPolicy, got ActorCriticPolicy"):
        IntrinsicPPO(MlpPolicy, walks(), intrinsic_reward="place")
    reward = Place(IMAGE, spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"built for Box\(0, 255, \(36, 36, 1\).*images as SB3 transposes"):
        IntrinsicPPO("CnnPolicy", walks(observation_space=IMAGE), intrinsic_reward=reward)


def test_observations_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="Environment 0 gave a non-finite observation at step 2 of the rollout"):
        place_model(walks(nan_at=3)).learn(64)
    with pytest.raises(ValueError, match="Environment 0 gave a non-finite reward at step 0"):
        place_model(walks(pay=np.inf)).learn(64)


def test_intrinsic_rewards_that_are_not_finite_are_named():
    model = place_model()
    model.intrinsic_reward.compute = lambda batch: batch.next_observations[..., :1] / 0
    with pytest.raises(ValueError, match="Place gave NaN or infinite values"):
        model.learn(64)


def test_another_place_of_vec_normalize_is_noticed():
    space = spaces.Box(-10, 10, (3,))
    model = place_model(walks(observation_space=space)).learn(64)
    other = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(spaces.Box(-5, 5, (3,))), 10))] * 2)
    framed = VecNormalize(other)
    framed.observation_space = space
    model.env = framed
    with pytest.raises(ValueError, match="Put VecNormalize where it was"):
        model.learn(64)


# ---------------------------------------------------------------------- learning


@pytest.mark.slow
def test_it_solves_a_maze_that_a_random_walk_does_not():
    """Maze2: the shortest path has 42 moves and a random walk takes it in 3 of 100 000 episodes."""
    env = make_vec_env("sparse/Maze2-v0", n_envs=64, seed=0)
    settings = dict(n_steps=128, batch_size=2048, n_epochs=4, gamma=0.999, ent_coef=0.005)
    model = IntrinsicPPO("MlpPolicy", env, intrinsic_reward="count", seed=0, device="cpu", **settings)
    model.learn(1_200_000)
    assert np.mean(model.ep_success_buffer) >= 0.7
