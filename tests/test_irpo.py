"""IRPO as an SB3 algorithm: repeatable, resumable, accountable, for every space, and able to solve a maze."""

import io
import itertools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from torch.utils._pytree import tree_map

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import ALLO, INTRINSIC_REWARDS, Concat, ExactLaplacian, IntrinsicReward, RandomNetworkReward
from sb3_ext.common.rollout import collect_episodes
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO

MAZE = "sparse/Maze-v1"
HORIZON = 10  # of Toy
ALLO_QUICK = dict(n_rewards=4, gradient_steps=30, hidden_sizes=(16,))


class Toy(gym.Env):
    """A point on a line that drifts by itself, seen through any observation space; the reward is where it is."""

    def __init__(self, observation_space=None, action_space=None, bad=None):
        self.observation_space = observation_space or spaces.Box(-10, 10, (3,))
        self.action_space = action_space or spaces.Discrete(2)
        self.bad = bad or {}  # {"reward" or "observation": step at which it is NaN}

    def _see(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self._see(part) for name, part in space.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.x > 0)
        if space.dtype == np.uint8:
            return np.full(space.shape, 128 + 10 * np.clip(self.x, -5, 5), dtype=np.uint8)
        return (self.x + np.arange(space.shape[0])).astype(np.float32)

    def _observation(self):
        observation = self._see(self.observation_space)
        return observation * np.float32(np.nan) if self.elapsed == self.bad.get("observation") else observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.elapsed = self.np_random.normal(), 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.x += 0.5 * self.np_random.normal() + 0.1 * float(np.sum(action))
        self.elapsed += 1
        reward = float("nan") if self.elapsed == self.bad.get("reward") else float(self.x)
        return self._observation(), reward, False, False, {}


class Change(IntrinsicReward):
    """Two channels, ± the change of the first number in the observation; takes every observation space. Remembers batches."""

    n_rewards = 2

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("batches_seen", torch.zeros(()))
        self.seen = []

    def compute(self, batch):
        def first(observations):
            if isinstance(observations, dict):
                observations = next(iter(observations.values()))
            return observations.float().flatten(2)[..., 0] if observations.dim() > 2 else observations.float()

        self.seen.append(batch)
        change = first(batch.next_observations) - first(batch.observations)
        return torch.stack([change, -change], -1)

    def update(self, batch):
        self.batches_seen += 1
        return {"batches_seen": float(self.batches_seen)}


class Counting(VecEnvWrapper):
    """Counts environment steps and resets, and keeps the actions."""

    def __init__(self, venv):
        super().__init__(venv)
        self.steps = self.resets = 0

    def reset(self):
        self.resets += 1
        return self.venv.reset()

    def step_wait(self):
        self.steps += self.num_envs
        return self.venv.step_wait()


class At(BaseCallback):
    """Does something at one vector step, and remembers the model's state at the beginning of each iteration."""

    def __init__(self, n_calls, action):
        super().__init__()
        self.at, self.action, self.states = n_calls, action, []

    def _on_rollout_start(self):
        self.states.append(state_of(self.model))

    def _on_step(self):
        return self.action() if self.n_calls == self.at else True


def interrupt():
    raise KeyboardInterrupt


class Memory(KVWriter):
    def __init__(self):
        self.written = []

    def write(self, key_values, key_excluded, step=0):
        self.written.append(dict(key_values))

    def close(self):
        pass


def toys(n_envs=2, bad=None, **spaces_):
    """``bad`` goes to the last copy."""
    kinds = [None] * (n_envs - 1) + [bad]
    return DummyVecEnv([lambda kind=kind: Monitor(TimeLimit(Toy(bad=kind, **spaces_), HORIZON)) for kind in kinds])


def toy_model(env=None, policy="MlpPolicy", reward=None, seed=0, **kwargs):
    env = env if env is not None else toys()
    reward = reward or Change(env.observation_space, env.action_space)
    return IRPO(policy, env, batch_size=20, n_exploratory_updates=2, intrinsic_reward=reward, seed=seed, **kwargs)


def maze_model(n_envs=6, seed=0, env=None, **kwargs):
    settings = dict(batch_size=200, n_exploratory_updates=2, intrinsic_reward="laplacian", seed=seed) | kwargs
    return IRPO("MlpPolicy", env or make_vec_env(MAZE, n_envs=n_envs), **settings)


def state_of(model):
    tensors = {f"policy.{name}": value.clone() for name, value in model.policy.state_dict().items()}
    tensors |= {f"std.{name}": value.clone() for name, value in model.intrinsic_std.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value).clone() for name, value in moments.items()}
    return tensors


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, e.g. {different[0]}"


# ---------------------------------------------------------------------- repeating and accounting


def test_same_seed_same_weights_other_seed_others():
    one, again, other = (maze_model(seed=seed).learn(5000) for seed in (3, 3, 4))
    assert one._iteration >= 2
    assert_same(state_of(one), state_of(again))
    assert not torch.equal(state_of(one)["policy.base.action_net/weight"], state_of(other)["policy.base.action_net/weight"])


@pytest.mark.parametrize("n_envs", [1, 4, 6, 12])
def test_any_number_of_copies_learns(n_envs):
    """K = 6: 6 and 12 copies are stepped side by side, with 1 and 4 the policies take turns."""
    env = Counting(make_vec_env(MAZE, n_envs=n_envs))
    model = maze_model(env=env)
    before = state_of(model)
    model.learn(1)
    assert model.num_timesteps == env.steps
    collections = 1 + (2 if n_envs % 6 == 0 else 6 * 2)
    assert env.resets == 1 + collections  # SB3's own at the start of learn(), then one for each collection
    assert env.steps >= 200 * (1 + 6 * 2)
    assert not torch.equal(
        before["policy.exploratory.action_net/weight"], model.policy.exploratory.as_dict()["action_net.weight"]
    )


@pytest.mark.parametrize("n_envs", [1, 2, 3, 4])
@pytest.mark.parametrize("n_updates", [1, 3])
def test_an_iteration_takes_one_and_k_n_batches(n_envs, n_updates):
    """Toy's episodes all last 10 steps and K = 2, so steps can be counted to the last one."""
    env = Counting(toys(n_envs))
    model = IRPO(
        "MlpPolicy",
        env,
        batch_size=120,
        n_exploratory_updates=n_updates,
        intrinsic_reward=Change(env.observation_space, env.action_space),
        seed=0,
    )
    model.learn(1)
    assert env.steps == model.num_timesteps == 120 * (1 + 2 * n_updates)
    assert model.intrinsic_reward.batches_seen == 1 + n_updates
    per_iteration = model.num_timesteps
    model.learn(2 * per_iteration + 1)
    assert model.num_timesteps == 3 * per_iteration
    model.learn(per_iteration, reset_num_timesteps=False)
    assert model.num_timesteps == 4 * per_iteration


def test_learn_overshoots_by_less_than_an_iteration():
    starts = []

    class Start(BaseCallback):
        def _on_rollout_start(self):
            starts.append(self.model.num_timesteps)

        def _on_step(self):
            return True

    model = maze_model().learn(8000, callback=Start())
    assert starts[0] == 0 and starts[-1] < 8000 <= model.num_timesteps  # an iteration begins only if steps are left
    assert model._iteration == len(starts) >= 2


def test_steps_of_allo_count_and_are_at_most_a_tenth():
    env = Counting(make_vec_env(MAZE, n_envs=4))
    fitted = []
    model = maze_model(env=env, intrinsic_reward="allo", intrinsic_reward_kwargs=ALLO_QUICK)

    class AtStart(BaseCallback):
        def _on_training_start(self):
            fitted.append((env.steps, self.model.num_timesteps))

        def _on_step(self):
            return True

    model.learn(20_000, callback=AtStart())
    assert fitted[0][0] == fitted[0][1] and 1000 < fitted[0][0] <= 2000
    assert model.num_timesteps == env.steps
    model.learn(20_000, callback=AtStart(), reset_num_timesteps=False)
    assert model.num_timesteps == env.steps and fitted[1][0] == env.steps - (model.num_timesteps - fitted[1][1])
    assert model.num_timesteps < 40_000 + 2 * 200 * 4 * 9  # nothing was fitted again


# ---------------------------------------------------------------------- saving and stopping

CONTINUE = """
import sys
import torch
import envs
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO

torch.set_num_threads(1)
path, maze, n_envs, timesteps, out = sys.argv[1:]
model = IRPO.load(path, env=make_vec_env(maze, n_envs=int(n_envs)))
model.learn(int(timesteps) - model.num_timesteps, reset_num_timesteps=False)
torch.save({"policy": model.policy.state_dict(), "adam": model.policy.optimizer.state_dict()["state"]}, out)
"""


@pytest.mark.parametrize("reward", ["laplacian", "allo"])
def test_checkpoint_within_an_iteration_continues_as_the_unbroken_run(tmp_path, reward):
    total, kwargs = 8000, dict(n_envs=4 if reward == "allo" else 6, intrinsic_reward=reward)
    kwargs["intrinsic_reward_kwargs"] = ALLO_QUICK if reward == "allo" else {}
    unbroken = maze_model(**kwargs, weighting="ema").learn(total)
    assert unbroken._iteration >= 2

    checkpoints = CheckpointCallback(save_freq=50, save_path=tmp_path)
    saved_from = maze_model(**kwargs, weighting="ema").learn(total, callback=checkpoints)
    assert_same(state_of(saved_from), state_of(unbroken))  # saving disturbs nothing
    files = sorted(tmp_path.glob("*.zip"), key=lambda path: int(path.stem.split("_")[2]))
    within = files[-2]
    loaded = IRPO.load(within)
    assert 0 < loaded._iteration < unbroken._iteration
    assert loaded.num_timesteps < int(within.stem.split("_")[2])  # the iteration's beginning

    out = tmp_path / "out.pt"
    arguments = [str(within), MAZE, str(kwargs["n_envs"]), str(total), str(out)]
    subprocess.run([sys.executable, "-c", CONTINUE, *arguments], check=True)
    continued = torch.load(out, weights_only=True)
    assert_same(continued["policy"], unbroken.policy.state_dict())
    for index, moments in unbroken.policy.optimizer.state_dict()["state"].items():
        assert_same(continued["adam"][index], moments)


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name not in ("allo", "laplacian")])
def test_every_reward_is_a_channel_and_its_state_continues_exactly(tmp_path, name):
    """Beside the Laplacian's channels; networks, counts and statistics go on from a saved model as in the unbroken run."""
    n_envs = 12 if name == "random" else 7

    def short_maze():
        return make_vec_env(MAZE, n_envs=n_envs, env_kwargs={"max_episode_steps": 25})

    settings = dict(intrinsic_reward=["laplacian", name], batch_size=25)
    unbroken = maze_model(env=short_maze(), **settings).learn(600).learn(600, reset_num_timesteps=False)
    maze_model(env=short_maze(), **settings).learn(600).save(tmp_path / "model")
    continued = IRPO.load(tmp_path / "model", env=short_maze()).learn(600, reset_num_timesteps=False)
    assert unbroken._iteration >= 2 and unbroken.n_exploratory == 6 + unbroken.intrinsic_reward.rewards[1].n_rewards
    assert_same(state_of(continued), state_of(unbroken))
    theirs, ours = unbroken.intrinsic_reward.state_dict(), continued.intrinsic_reward.state_dict()
    assert data_equivalence(plain(theirs), plain(ours), exact=True)


def plain(state):
    """A state dict with arrays for tensors."""
    return tree_map(lambda x: x.numpy() if isinstance(x, torch.Tensor) else x, dict(state))


def test_a_loaded_model_predicts_the_same():
    model = maze_model().learn(1)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file)
    assert_same(state_of(model), state_of(loaded))
    assert loaded.num_timesteps == model.num_timesteps
    observations = np.random.default_rng(0).uniform(0, 9, (50, 4)).astype(np.float32)
    assert np.array_equal(
        model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    tensor = torch.as_tensor(observations)
    logits = [m.policy.get_distribution(tensor).distribution.logits for m in (model, loaded)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("at", [5, 25, 45], ids=["base batch", "exploring", "last batch"])
def test_a_callback_that_stops_leaves_the_weights_of_the_iterations_beginning(at):
    """Toy with 2 copies: an iteration is 10 vector steps for the base batch and 20 for each of two exploratory updates."""
    callback = At(at, lambda: False)
    model = toy_model()
    model.learn(1000, callback=callback)
    assert model.num_timesteps == 2 * at  # the steps were taken
    assert len(callback.states) == 1
    assert_same(state_of(model), callback.states[-1])


def test_a_callback_that_stops_in_the_second_iteration_keeps_the_first():
    callback = At(60, lambda: False)
    model = toy_model().learn(1000, callback=callback)
    assert model._iteration == 1 and len(callback.states) == 2
    assert_same(state_of(model), callback.states[1])
    assert_same(state_of(model), state_of(toy_model().learn(1)))


def test_a_keyboard_interrupt_leaves_a_model_that_continues_exactly():
    unbroken = toy_model().learn(300)
    assert unbroken._iteration == 3
    callback = At(75, interrupt)
    model = toy_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=callback)
    assert_same(state_of(model), callback.states[1])
    assert model.num_timesteps == 100 and model.intrinsic_reward.batches_seen == 3
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file, env=toys())
    for continued in (loaded, model):
        continued.learn(300 - continued.num_timesteps, reset_num_timesteps=False)
        assert_same(state_of(continued), state_of(unbroken))


def test_what_is_set_after_an_interrupt_is_what_is_saved():
    model = toy_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=At(5, interrupt))
    with torch.no_grad():
        model.policy.base.as_dict()["action_net.bias"].fill_(7.0)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert (IRPO.load(file).policy.base.as_dict()["action_net.bias"] == 7.0).all()


# ---------------------------------------------------------------------- VecNormalize


class Statistics(BaseCallback):
    """Mean and count of VecNormalize's statistics at the beginning of each iteration and at each of its steps."""

    def _on_training_start(self):
        self.starts, self.within = [], []

    def _now(self):
        statistics = self.model.get_vec_normalize_env().obs_rms
        return (*statistics.mean, *statistics.var, statistics.count)

    def _on_rollout_start(self):
        self.starts.append(self._now())

    def _on_step(self):
        self.within.append(self._now() == self.starts[-1])
        return True


def test_policy_sees_normalised_observations_and_the_reward_model_original_ones(monkeypatch):
    env = VecNormalize(toys(), clip_obs=1.5)
    model = toy_model(env)
    shown = []
    preprocess = model.policy.preprocess
    monkeypatch.setattr(model.policy, "preprocess", lambda x: (shown.append(x.clone()), preprocess(x))[1])
    callback = Statistics()
    model.learn(300, callback=callback)
    assert len(callback.starts) == 3 and all(callback.within)
    assert callback.starts[0] != callback.starts[1] != callback.starts[2]
    assert max(x.abs().max() for x in shown) <= 1.5

    # Toy shows (x, x + 1, x + 2): original observations differ by 1, and so do terminal ones, which clipping would spoil.
    seen = model.intrinsic_reward.seen
    assert len(seen) == 9
    for batch in seen:
        for observations in (batch.observations, batch.next_observations):
            torch.testing.assert_close(observations.diff(dim=-1), torch.ones_like(observations[..., 1:]), rtol=0, atol=1e-4)
        ongoing = ~batch.truncated[:-1]
        torch.testing.assert_close(batch.next_observations[:-1][ongoing], batch.observations[1:][ongoing])

    # All of Toy's transitions are valid: the statistics are those of everything seen, once each.
    everything = torch.cat([batch.observations.flatten(0, 1) for batch in seen])
    np.testing.assert_allclose(env.obs_rms.mean, everything.mean(0), atol=0.05)
    assert env.obs_rms.count - callback.starts[0][-1] == pytest.approx(len(everything))
    assert env.training


def test_frozen_vec_normalize_stays_frozen():
    env = VecNormalize(toys(), training=False)
    toy_model(env).learn(1)
    assert not env.training and env.obs_rms.count == pytest.approx(1e-4)


@pytest.mark.parametrize("at", [75, 30])
def test_vec_normalize_continues_as_the_unbroken_run(tmp_path, at):
    unbroken = toy_model(VecNormalize(toys())).learn(300)
    checkpoints = CheckpointCallback(save_freq=at, save_path=tmp_path, save_vecnormalize=True)
    toy_model(VecNormalize(toys())).learn(300, callback=checkpoints)
    env = VecNormalize.load(str(tmp_path / f"rl_model_vecnormalize_{2 * at}_steps.pkl"), toys())
    loaded = IRPO.load(tmp_path / f"rl_model_{2 * at}_steps.zip", env=env)
    loaded.learn(300 - loaded.num_timesteps, reset_num_timesteps=False)
    np.testing.assert_allclose(env.obs_rms.mean, unbroken.get_vec_normalize_env().obs_rms.mean, rtol=1e-12)
    assert_same(state_of(loaded), state_of(unbroken))


# ---------------------------------------------------------------------- spaces

ACTION_SPACES = {
    "box": spaces.Box(-0.5, 0.5, (2,)),
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
}
OBSERVATIONS = {
    "MlpPolicy": spaces.Box(-10, 10, (3,)),
    "CnnPolicy": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "MultiInputPolicy": spaces.Dict(position=spaces.Box(-10, 10, (3,)), side=spaces.Discrete(2)),
}


def check_learns_and_saves(model):
    before = state_of(model)
    model.learn(1)
    changed = [name for name, value in state_of(model).items() if name in before and not torch.equal(value, before[name])]
    assert any("policy.base." in name for name in changed) and any("policy.critics." in name for name in changed)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file)
    assert_same(state_of(model), state_of(loaded))
    observation = model.env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert np.array_equal(action, loaded.predict(observation, deterministic=True)[0])
    assert all(model.action_space.contains(a) for a in action)


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_action_spaces(name, bootstrap):
    """Toy asserts that each action is in the space."""
    check_learns_and_saves(toy_model(toys(action_space=ACTION_SPACES[name]), bootstrap_truncated=bootstrap))


@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_image_and_dict_observations(policy, bootstrap):
    check_learns_and_saves(toy_model(toys(observation_space=OBSERVATIONS[policy]), policy, bootstrap_truncated=bootstrap))


def test_discrete_observations():
    check_learns_and_saves(toy_model(toys(observation_space=spaces.Discrete(2)), reward="random"))


def test_pendulum():
    env = make_vec_env("Pendulum-v1", n_envs=6, seed=0)
    model = IRPO("MlpPolicy", env, batch_size=200, n_exploratory_updates=2, intrinsic_reward="random", seed=0)
    model.learn(1)
    assert model.num_timesteps == 1200 + 2 * 1200  # episodes of 200 steps
    assert model.policy.base.as_dict()["log_std"].isfinite().all()


def test_dict_observations_with_vec_normalize():
    env = VecNormalize(toys(observation_space=OBSERVATIONS["MultiInputPolicy"]), norm_obs_keys=["position"])
    model = toy_model(env, "MultiInputPolicy").learn(200)
    assert env.obs_rms["position"].count == pytest.approx(200, abs=10)
    assert all(batch.observations["position"].diff(dim=-1).sub(1).abs().max() < 1e-4 for batch in model.intrinsic_reward.seen)


# ---------------------------------------------------------------------- arguments

COMBINATIONS = list(
    itertools.product(
        ("ratio", "log_prob"), ("softmax", "ema", "argmax", "uniform"), ("trust_region", "sgd"), ("best_exploratory", "base")
    )
)


@pytest.mark.parametrize(("surrogate", "weighting", "base_update", "deploy"), COMBINATIONS)
def test_every_combination_runs(surrogate, weighting, base_update, deploy):
    model = toy_model(surrogate=surrogate, weighting=weighting, base_update=base_update, deploy=deploy)
    before = model.policy.base.as_dict()["action_net.weight"].clone()
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    (logged,) = memory.written
    base, exploratory = model.policy.base.as_dict(), model.policy.exploratory.as_dict()
    assert not torch.equal(before, base["action_net.weight"])
    weights = [logged["weight/0_change_0"], logged["weight/1_change_1"]]
    assert sum(weights) == pytest.approx(1)
    if weighting in ("argmax", "uniform"):
        assert sorted(weights) == ([0.0, 1.0] if weighting == "argmax" else [0.5, 0.5])
    if base_update == "trust_region":
        assert 0 < logged["train/kl_divergence"] <= model.target_kl
    deployed = model.policy.action_net.weight
    best = int(np.argmax([logged["extrinsic_return/0_change_0"], logged["extrinsic_return/1_change_1"]]))
    if deploy == "base":
        assert torch.equal(deployed, base["action_net.weight"])
    elif weighting != "ema":  # which tracks step rewards
        assert torch.equal(deployed, exploratory["action_net.weight"][best])


def test_softmax_weights_are_those_of_the_returns():
    model, memory = toy_model(temperature=3.0), Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    returns = torch.tensor([memory.written[0][f"extrinsic_return/{k}_change_{k}"] for k in range(2)])
    weights = torch.tensor([memory.written[0][f"weight/{k}_change_{k}"] for k in range(2)])
    torch.testing.assert_close(weights, torch.softmax(returns / 3.0, 0))


def test_nothing_paid_nothing_learned():
    """Where no policy is paid the base policy stays: advantages of zeros, normalised, would be noise."""
    model = maze_model()
    before = model.policy.base.as_dict()["action_net.weight"].clone()
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    assert memory.written[0]["rollout/best_return"] == 0.0  # two small updates do not get through the maze
    assert torch.equal(before, model.policy.base.as_dict()["action_net.weight"])
    assert memory.written[0]["train/irpo_gradient_norm"] == memory.written[0]["train/kl_divergence"] == 0.0


@pytest.mark.parametrize(
    ("make", "kind", "n_rewards"),
    [
        (lambda o, a: "random", RandomNetworkReward, 6),
        (lambda o, a: ExactLaplacian(o, a, n_rewards=2), ExactLaplacian, 2),
        (lambda o, a: ["laplacian", "random"], Concat, 12),
        (lambda o, a: ["laplacian", {"random": {"n_rewards": 2}}], Concat, 8),
        (lambda o, a: {"laplacian": {"n_rewards": 4}}, ExactLaplacian, 4),
        (lambda o, a: [ExactLaplacian(o, a, n_rewards=1), Change(o, a)], Concat, 3),
    ],
    ids=["name", "instance", "names", "list with mapping", "mapping", "list of instances"],
)
def test_forms_of_the_intrinsic_reward(make, kind, n_rewards):
    env = make_vec_env(MAZE, n_envs=2)
    model = maze_model(env=env, intrinsic_reward=make(env.observation_space, env.action_space))
    assert isinstance(model.intrinsic_reward, kind) and model.n_exploratory == n_rewards
    assert len(set(model.intrinsic_reward.channel_names)) == n_rewards
    if n_rewards <= 4:
        check_runs = model.learn(1)
        assert check_runs._iteration == 1
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert IRPO.load(file).n_exploratory == n_rewards


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(learning_rate=-1e-3), "learning_rate must be a number.*got -0.001"),
        (dict(exploratory_learning_rate=0), "exploratory_learning_rate"),
        (dict(batch_size=0), "batch_size must be an integer"),
        (dict(n_exploratory_updates=0), "n_exploratory_updates"),
        (dict(n_exploratory_updates=1.5), "n_exploratory_updates must be an integer"),
        (dict(gamma=1.1), "gamma"),
        (dict(gae_lambda=float("nan")), "gae_lambda"),
        (dict(target_kl=0), "target_kl"),
        (dict(max_grad_norm=-1), "max_grad_norm"),
        (dict(surrogate="log-prob"), "surrogate must be one of 'ratio', 'log_prob'; got 'log-prob'"),
        (dict(weighting="max"), "weighting"),
        (dict(base_update="adam"), "base_update"),
        (dict(deploy="best"), "deploy"),
        (dict(intrinsic_reward="alo"), "Unknown intrinsic reward 'alo'.*Did you mean 'allo'"),
        (dict(intrinsic_reward="curiosity!"), "expected one of allo"),
        (dict(intrinsic_reward=[]), "Expected the name"),
        (dict(intrinsic_reward=["random"], intrinsic_reward_kwargs=dict(n_rewards=2)), "with a reward's name"),
        (dict(policy_kwargs=dict(share_features_extractor=True)), "share_features_extractor"),
        (dict(policy_kwargs=dict(use_sde=True)), "gSDE"),
        (dict(batch_size=4, n_critic_minibatches=5), "n_critic_minibatches"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(kwargs, message):
    env = Counting(make_vec_env(MAZE, n_envs=2))
    with pytest.raises(ValueError, match=message):
        maze_model(env=env, **kwargs)
    assert env.resets == env.steps == 0


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.Dict(a=spaces.Discrete(2)), spaces.MultiBinary([2, 2])])
def test_unsupported_action_spaces_are_refused(space):
    with pytest.raises((NotImplementedError, AssertionError, ValueError), match=r"(?i)action space|Box|only supports"):
        toy_model(toys(action_space=space))


@pytest.mark.parametrize("reward", ["laplacian", "allo", "random"])
@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_rewards_that_cannot_see_the_observations_say_so(policy, reward):
    with pytest.raises(ValueError, match="one-dimensional Box or Discrete"):
        toy_model(toys(observation_space=OBSERVATIONS[policy]), policy, reward=reward)


def test_laplacian_without_a_graph_says_so():
    with pytest.raises(ValueError, match="transition_graph"):
        toy_model(reward="laplacian").learn(1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"reward": 3}, "copy 1 gave a non-finite reward at step 2"),
        ({"observation": 3}, "copy 1 gave a non-finite observation at step 2"),
        ({"observation": 0}, "copy 1 gave a non-finite observation after reset"),
        ({"observation": HORIZON}, "copy 1 gave a non-finite observation at step 9"),  # seen only as a terminal one
    ],
    ids=["reward", "observation", "first observation", "terminal observation"],
)
def test_nan_from_the_environment_is_named(bad, message, normalize):
    env = toys(2, bad)
    model = toy_model(VecNormalize(env) if normalize else env)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        model.learn(1)
    assert_same(state_of(model), before)


def test_episodes_that_do_not_end_are_named():
    env = DummyVecEnv([Toy] * 2)
    nothing = np.zeros((2, 1), dtype=np.int64)
    observations, rewards, infos = env.reset(), np.zeros(2), [{}, {}]
    env.step = lambda actions: (observations, rewards, np.zeros(2, dtype=bool), infos)
    with pytest.raises(RuntimeError, match=r"(?s)copy 0 ended within.*time limit"):
        arguments = dict(n_policies=1, min_steps=1, device=torch.device("cpu"))
        collect_episodes(env, lambda _: (nothing, nothing[:, 0]), lambda _: True, **arguments)


# ---------------------------------------------------------------------- logs, and learning


def test_logs(capsys):
    memory = Memory()
    model = maze_model(verbose=1, intrinsic_reward_kwargs=dict(n_rewards=2), n_envs=4)
    model.learn(1)  # to the terminal too: SB3's table refuses names that are equal once cut
    assert "base_return" in capsys.readouterr().out
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    (logged,) = memory.written
    expected = {f"train/{name}" for name in ("temperature", "direct_gradient_norm", "irpo_gradient_norm", "kl_divergence")}
    expected |= {f"train/{name}" for name in ("line_search_steps", "is_line_search_success", "n_updates", "value_loss")}
    expected |= {
        "train/learning_rate",
        "rollout/base_return",
        "rollout/best_return",
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
    }
    expected |= {"rollout/success_rate", "time/iterations", "time/fps", "time/time_elapsed", "time/total_timesteps"}
    expected |= {
        f"{kind}/{channel}"
        for kind in ("extrinsic_return", "intrinsic_return", "weight")
        for channel in ("0_-phi_1", "1_+phi_1")
    }
    assert expected <= logged.keys(), expected - logged.keys()
    assert all(np.isfinite(value) for value in logged.values())
    assert logged["time/total_timesteps"] == model.num_timesteps


def test_direct_gradient_is_that_of_the_base_policy_before_its_step():
    """The logged norm does not depend on how far the base policy then moves."""
    norms = []
    for target_kl in (1e-6, 0.5):
        memory = Memory()
        model = toy_model(target_kl=target_kl)
        model.set_logger(Logger(None, [memory]))
        model.learn(1)
        norms.append(memory.written[0]["train/direct_gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_intrinsic_reward_logs_are_kept():
    memory = Memory()
    model = toy_model()
    model.set_logger(Logger(None, [memory]))
    model.learn(1)
    assert memory.written[0]["intrinsic/batches_seen"] == pytest.approx(2.0)  # mean of 1, 2, 3


LEARNING_STEPS = 2_000_000


def test_irpo_solves_a_sparse_maze():
    """Maze-v1, where an untrained policy never meets the goal."""
    model = IRPO(
        "MlpPolicy",
        make_vec_env(MAZE, n_envs=126),
        batch_size=4096,
        target_kl=0.01,
        intrinsic_reward="laplacian",
        seed=0,
    )
    model.learn(LEARNING_STEPS)
    returns, _ = evaluate_policy(model, make_vec_env(MAZE, n_envs=4, seed=1), n_eval_episodes=20, return_episode_rewards=True)
    assert np.mean(np.array(returns) > 0) >= 0.99


def test_allo_is_an_instance_of_the_default():
    env = make_vec_env(MAZE, n_envs=2)
    assert isinstance(IRPO("MlpPolicy", env, seed=0).intrinsic_reward, ALLO)
