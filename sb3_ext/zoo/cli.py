"""The two commands. Everything but the names they know is rl_zoo3's: its arguments, folders and files."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import rl_zoo3.enjoy
import rl_zoo3.train
from rl_zoo3.utils import ALGOS
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ext.cln import CLN
from sb3_ext.hrl import HRL
from sb3_ext.intrinsic import IntrinsicPPO
from sb3_ext.irpo import IRPO
from sb3_ext.lirpg import LIRPG, LIRPGA2C
from sb3_ext.meta import MAMLTRPO, MetaGradientReward, MetaReward
from sb3_ext.zoo.environments import import_envs, require_atari, without_bonus
from sb3_ext.zoo.lifetime_families import is_lifetime, make_evaluation_for
from sb3_ext.zoo.manager import ExperimentManager
from sb3_ext.zoo.paper_irpo import PaperIRPO

OUR_ALGOS: dict[str, type[BaseAlgorithm]] = {
    "irpo": IRPO,
    "irpo_paper": PaperIRPO,  # its settings beside IRPO's arguments
    "hrl": HRL,
    "intrinsic_ppo": IntrinsicPPO,
    "ppo_drnd": IntrinsicPPO,  # paid by DRND: hyperparams/ppo_drnd.yml
    "cln": CLN,
    "lirpg": LIRPG,
    "lirpg_a2c": LIRPGA2C,
    "ppo_live": PPO,  # with a live bonus: hyperparams/ppo_live.yml
    "a2c_live": A2C,
    "meta_reward": MetaReward,
    "meta_gradient_reward": MetaGradientReward,
    "rl2": RecurrentPPO,  # on trials of several episodes: sb3_ext.meta.TrialVecEnv
    "maml_trpo": MAMLTRPO,
}


def _extend_rl_zoo3() -> None:
    import_envs()
    ALGOS.update(OUR_ALGOS)
    for module in (rl_zoo3.train, rl_zoo3.enjoy):
        setattr(module, "ExperimentManager", ExperimentManager)  # noqa: B010 (mypy reads an assignment as a redefinition)


def _check_env() -> None:
    """rl_zoo3 would look for the closest of the registered names."""
    command = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    command.add_argument("--env", default="")
    require_atari(command.parse_known_args()[0].env)


def train() -> None:
    """``python -m rl_zoo3.train`` with ``--algo`` a name in ``OUR_ALGOS``, ``sparse/…`` ids and vectorised environments; and
    with ``--ray HOST:6379|auto|local``, which spreads the lifetimes of ``--algo meta_reward`` over a Ray cluster."""
    _extend_rl_zoo3()
    _check_env()
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--ray")
    given, sys.argv[1:] = ours.parse_known_args()
    ExperimentManager.ray_address = given.ray
    # By design: training steps the vectorised form, evaluation a single environment.
    warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
    rl_zoo3.train.train()


def enjoy() -> None:
    """``python -m rl_zoo3.enjoy`` for what :func:`train` saved; ``lifetime/…`` ids, whose test split it runs, draw nothing."""
    _extend_rl_zoo3()
    _check_env()
    command = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    command.add_argument("--algo", default="ppo")
    algo = command.parse_known_args()[0].algo
    create, read = rl_zoo3.enjoy.create_test_env, rl_zoo3.enjoy.get_saved_hyperparams

    def create_env(env_id: str, n_envs: int = 1, *args: Any, **kwargs: Any) -> VecEnv:
        if not is_lifetime(env_id):
            return without_bonus(create(env_id, n_envs, *args, **kwargs))
        env_kwargs = {name: value for name, value in kwargs["env_kwargs"].items() if name != "render_mode"}
        env: VecEnv = make_evaluation_for(algo, env_id, n_envs, kwargs["seed"], env_kwargs)
        if kwargs["hyperparams"].get("normalize"):  # of RL² and MAML
            env = VecNormalize.load(str(Path(kwargs["stats_path"]) / "vecnormalize.pkl"), env)
            env.training = env.norm_reward = False
        return env

    def read_hyperparams(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], str | None]:
        hyperparams, stats = read(*args, **kwargs)
        if isinstance(hyperparams.get("env_kwargs"), str):  # "dict(…)", as in our YAML and rl_zoo3's other settings
            hyperparams["env_kwargs"] = eval(hyperparams["env_kwargs"])
        return hyperparams, stats

    setattr(rl_zoo3.enjoy, "create_test_env", create_env)  # noqa: B010
    setattr(rl_zoo3.enjoy, "get_saved_hyperparams", read_hyperparams)  # noqa: B010
    rl_zoo3.enjoy.enjoy()
