"""Small environments, rewards and models that the tests of IRPO share."""

import dataclasses

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import IntrinsicReward
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO, PaperSettings

MAZE = "sparse/Maze1-v0"
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


def toys(n_envs=2, bad=None, **spaces_):
    """Return parallel toys; ``bad`` goes to the last one."""
    kinds = [None] * (n_envs - 1) + [bad]
    return DummyVecEnv([lambda kind=kind: Monitor(TimeLimit(Toy(bad=kind, **spaces_), HORIZON)) for kind in kinds])


def paper_model(policy, env, **kwargs):
    """The paper's algorithm; its settings may stand among IRPO's own arguments."""
    names = {field.name for field in dataclasses.fields(PaperSettings)}
    paper = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
    defaults = dict(learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1.0, intrinsic_reward="allo")
    return IRPO(policy, env, **(defaults | kwargs), paper=paper)


def toy_model(env=None, policy="MlpPolicy", reward=None, seed=0, **kwargs):
    env = env if env is not None else toys()
    reward = reward or Change(env.observation_space, env.action_space)
    return paper_model(policy, env, batch_size=20, n_exploratory_updates=2, intrinsic_reward=reward, seed=seed, **kwargs)


def maze_model(n_envs=6, seed=0, env=None, **kwargs):
    settings = dict(batch_size=200, n_exploratory_updates=2, intrinsic_reward="laplacian", seed=seed) | kwargs
    return paper_model("MlpPolicy", env or make_vec_env(MAZE, n_envs=n_envs), **settings)


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


OBSERVATIONS = {
    "MlpPolicy": spaces.Box(-10, 10, (3,)),
    "CnnPolicy": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "MultiInputPolicy": spaces.Dict(position=spaces.Box(-10, 10, (3,)), side=spaces.Discrete(2)),
}
