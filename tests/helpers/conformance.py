"""Every algorithm of the library at a small size, and what each one refuses of what SB3's PPO supports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from helpers.lifetimes import POINT, lifetimes, meta_reward
from helpers.walk import walks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

import sb3_ext
import sb3_ext.meta
from envs.tasks import PointGoal
from irwrappers.serialization import describe_space
from sb3_ext import CLN, HRL, IRPO, LIRPG, LIRPGA2C, IntrinsicPPO, MetaRewardPPO
from sb3_ext.meta import MAMLTRPO, MetaGradientReward, RewardModel, TrialVecEnv
from sb3_ext.meta.lifetimes import InnerSettings
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork

OBSERVATIONS = {
    "Box": ("MlpPolicy", spaces.Box(-10, 10, (3,))),
    "two-dimensional Box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "Discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "Dict": ("MultiInputPolicy", spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))),
}
ACTIONS = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-1, 1, (2,)),
    "two-dimensional Box": spaces.Box(-1, 1, (2, 2)),
}


class Dropout(BaseFeaturesExtractor):
    """A features extractor that acts otherwise in training than in evaluation."""

    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        n = int(np.prod(observation_space.shape))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(n, features_dim), nn.BatchNorm1d(features_dim), nn.Dropout(0.2))

    def forward(self, observations):
        return self.layers(observations)


@dataclass(frozen=True)
class Case:
    """An algorithm that learns in single environments.

    Args:
        algorithm: its class.
        settings: arguments that make it small.
        steps: environment steps in which it trains at least once.
        refuses: what it refuses that PPO supports, with a part of the message.
        make_settings: of arguments that depend on the environment.
        make_env: of ``n_envs`` parallel environments.
    """

    algorithm: type[BaseAlgorithm]
    settings: dict[str, Any]
    steps: int = 80
    refuses: dict[str, str] = field(default_factory=dict)
    make_settings: Callable[[Any], dict[str, Any]] = lambda env: {}
    make_env: Callable[..., VecEnv] = walks

    def make(self, env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
        env = self.make_env(2) if env is None else env
        settings = dict(seed=0, device="cpu") | self.settings | self.make_settings(env) | kwargs
        return self.algorithm(policy, env, **settings)


def _point_goals(n_envs: int = 2) -> VecEnv:
    return make_vec_env("sparse/PointGoal-v0", n_envs, seed=0, env_kwargs={**POINT, "goal_angle": 0.0})


def _reward_model(env: Any) -> dict[str, Any]:
    """A small reward model for MetaRewardPPO."""
    network = {"encoders": (8, 8), "lstm_size": 8, "mean_arch": (8,), "value_arch": (8,)}
    observation_space, action_space = env.observation_space, env.action_space
    described = describe_space(observation_space), describe_space(action_space)
    torch.manual_seed(0)
    sizes = spaces.flatdim(observation_space), spaces.flatdim(action_space)
    inner = InnerSettings(n_steps=16, n_batches=3, n_epochs=1, n_minibatches=2, learning_rate=1e-3, net_arch=(8,))
    model = RewardModel(MetaRewardNetwork(*sizes, **network), network, *described, "reward", inner)  # type: ignore[arg-type]
    return {"reward_model": model}


PAPER = dict(batch_size=20, n_exploratory_updates=1)
GSDE = {"gSDE": "gSDE"}
FLAT_ACTIONS = {"two-dimensional Box actions": "one-dimensional Box"}

CASES = {
    "IRPO": Case(IRPO, dict(n_steps=16, batch_size=16, n_epochs=1), refuses=GSDE),
    "IRPO (paper)": Case(IRPO, dict(paper=PAPER, intrinsic_reward="rnd"), steps=150, refuses=GSDE | FLAT_ACTIONS),
    "IntrinsicPPO": Case(IntrinsicPPO, dict(n_steps=16, batch_size=16, n_epochs=1)),
    "LIRPG": Case(LIRPG, dict(n_steps=16, batch_size=16, n_epochs=1)),
    "LIRPGA2C": Case(LIRPGA2C, dict(n_steps=8)),
    "CLN": Case(CLN, dict(n_steps=16, batch_size=16, n_epochs=1, n_reward_steps=2, segment_length=4, segments_per_step=5)),
    "HRL": Case(HRL, dict(n_steps=16, batch_size=16, n_epochs=1, intrinsic_reward="rnd"), steps=200, refuses=GSDE),
    "MetaRewardPPO": Case(MetaRewardPPO, {}, make_settings=_reward_model, make_env=_point_goals),
}


def families() -> dict[str, Callable[[], Any]]:
    """Return makers of the algorithms that learn from families of tasks, whose environments are their own."""

    def gradient() -> Any:
        return MetaGradientReward("MlpLstmPolicy", lifetimes(), seed=0, device="cpu")

    def maml() -> Any:
        trials = TrialVecEnv(PointGoal(), 4, n_batches=2, n_steps=20, env_kwargs=POINT, history=False, seed=0)
        return MAMLTRPO("MlpPolicy", trials, seed=0, device="cpu")

    return {"MetaReward": partial(meta_reward), "MetaGradientReward": gradient, "MAMLTRPO": maml}


def supported() -> str:
    """Return the table of what each algorithm supports, which ``test_training.py`` checks (but for MetaRewardPPO)."""
    columns = [f"{name} observations" for name in OBSERVATIONS] + [f"{name} actions" for name in ACTIONS]
    columns += ["gSDE", "VecNormalize", "VecFrameStack", "SubprocVecEnv"]
    lines = ["| algorithm | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, case in CASES.items():
        if case.algorithm is MetaRewardPPO:
            cells = ["its model's"] * (len(OBSERVATIONS) + len(ACTIONS)) + ["as PPO"] * 4
        else:
            cells = ["no" if column in case.refuses else "yes" for column in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def public_algorithms() -> set[type[BaseAlgorithm]]:
    """Return the algorithms that ``sb3_ext`` and ``sb3_ext.meta`` export."""
    exported = [getattr(package, name) for package in (sb3_ext, sb3_ext.meta) for name in package.__all__]
    return {each for each in exported if isinstance(each, type) and issubclass(each, BaseAlgorithm)}
