"""rl_zoo3's ExperimentManager with our hyperparameter files, our vectorised environments and a check of YAML keys."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import rl_zoo3.exp_manager
import yaml
from gymnasium import spaces
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from irwrappers.intrinsic.encoder import SMALLEST_IMAGE, channels_first
from sb3_ext.distributed import RayShards
from sb3_ext.meta.inner import InnerSettings
from sb3_ext.meta.lifetime_algorithm import LifetimeAlgorithm
from sb3_ext.zoo.environments import import_environment, is_atari, native_vec_env, without_bonus
from sb3_ext.zoo.lifetime_families import TRIAL_ALGOS, is_lifetime, make_evaluation_for, make_for

# Arguments of ours that may be "lin_…", beside those that rl_zoo3 knows.
SCHEDULES = {"target_kl", "temperature", "reward_learning_rate"}
# Algorithms that learn from families of tasks, the ids lifetime/….
LIFETIME_ALGOS = ("meta_reward", "meta_gradient_reward", *TRIAL_ALGOS)
HYPERPARAMS = Path(__file__).parent / "hyperparams"
CONSTRUCTOR_DEFAULTS = "the constructor's defaults"  # as the config of an ExperimentManager: read no file


def hyperparams_file(algo: str, env_id: str) -> str | None:
    """Return the file with the hyperparameters of ``algo`` on ``env_id``, or None for rl_zoo3's own.

    Looked up in this order: an entry of ours, an entry of rl_zoo3's where it has the algorithm (``atari:`` serves the games),
    the entry ``default:`` of ours. The ``default:`` of rl_zoo3 serves only algorithms that we have no file for.
    """
    ours = HYPERPARAMS / f"{algo}.yml"
    if not ours.is_file():
        return None
    theirs = Path(rl_zoo3.exp_manager.__file__).parent / "hyperparams" / f"{algo}.yml"
    if theirs.is_file() and env_id not in yaml.safe_load(ours.read_text()):
        entries = yaml.safe_load(theirs.read_text())
        if env_id in entries or (is_atari(env_id) and "atari" in entries):
            return None
    return str(ours)


def policy_for(space: spaces.Space) -> str:
    """Return the name of the policy that takes observations of ``space``.

    Images that are too small for SB3's ``NatureCNN`` are flattened by ``MlpPolicy``.
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    if is_image_space(space) and min(channels_first(space).shape[1:]) >= SMALLEST_IMAGE:  # type: ignore[index]
        return "CnnPolicy"
    return "MlpPolicy"


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """Drop-in for rl_zoo3's."""

    default_vec_env_cls = staticmethod(native_vec_env)  # type: ignore[assignment]
    ray_address: str | None = None  # of the cluster over which lifetimes are spread

    def __init__(self, args: Any, algo: str, env_id: str, *rest: Any, **kwargs: Any) -> None:
        env_id = import_environment(env_id)
        kwargs["config"] = kwargs.get("config") or hyperparams_file(algo, env_id)
        super().__init__(args, algo, env_id, *rest, **kwargs)
        if Path(self.config).parent == HYPERPARAMS:
            self._is_atari = False  # rl_zoo3 would look for an entry "atari"; in our files "default" serves the games too
        if kwargs.get("vec_env_type") == "subproc":
            self.vec_env_class = SubprocVecEnv

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return rl_zoo3's (hyperparameters, those to save).

        Raises:
            ValueError: where only a ``default:`` entry is left and it is meant for the other kind of environment.
        """
        if self.config == CONSTRUCTOR_DEFAULTS:
            hyperparams = {"policy": "auto", "n_timesteps": self.n_timesteps, **(self.custom_hyperparams or {})}
            return hyperparams, dict(sorted(hyperparams.items()))
        env_id, learns_from_lifetimes = self.env_name.gym_id, self.algo in LIFETIME_ALGOS
        if Path(self.config).parent == HYPERPARAMS and is_lifetime(env_id) is not learns_from_lifetimes:
            needed = (
                "families of tasks (lifetime/…)" if learns_from_lifetimes else "single environments, not families of tasks"
            )
            if env_id not in yaml.safe_load(Path(self.config).read_text()):
                raise ValueError(
                    f"Hyperparameters not found for {self.algo}-{env_id} in {self.config}: {self.algo} learns from {needed}."
                )
        return super().read_hyperparameters()

    def setup_experiment(self) -> Any:
        if self.ray_address is not None and self.algo != "meta_reward":
            raise ValueError(
                f"--ray spreads the lifetimes of --algo meta_reward, not {self.algo}; runs of any algorithm: "
                "python -m sb3_ext.benchmark SUITE --ray ADDRESS."
            )
        result = super().setup_experiment()
        if result is not None and self.ray_address is not None:
            model: Any = result[0]
            if model.n_shards == 1:
                raise ValueError(
                    "--ray spreads n_shards groups of lifetimes, and there is one. Give for instance -params n_shards:5; it "
                    "is a setting, for with the groups the seeds differ."
                )
            model.shards = RayShards(model.lifetimes, model.n_shards, self.ray_address)
        return result

    def create_callbacks(self) -> None:
        if is_lifetime(self.env_name.gym_id) and self.eval_freq > 0:
            # A lifetime to evaluate takes as long as one to learn from: once an iteration is enough, all side by side.
            settings = self.env_kwargs.get("settings", self.env_kwargs)
            default = InnerSettings()
            lifetime = settings.get("n_steps", default.n_steps) * settings.get("n_batches", default.n_batches)
            self.eval_freq = max(self.eval_freq, self.n_envs * lifetime)
            self.n_eval_envs = max(self.n_eval_envs, self.n_eval_episodes)
        super().create_callbacks()

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        super().save_trained_model(model)
        if isinstance(model, LifetimeAlgorithm):  # beside the zip: what MetaRewardPPO takes
            model.save_reward_model(Path(self.save_path) / self.env_name)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        if is_lifetime(self.env_name.gym_id):
            make, kwargs = (make_evaluation_for, self.eval_env_kwargs) if eval_env else (make_for, self.env_kwargs)
            return self._maybe_normalize(make(self.algo, self.env_name.gym_id, n_envs, self.seed, kwargs), eval_env)
        env = super().create_envs(n_envs, eval_env, no_log)
        return without_bonus(env) if eval_env else env

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        preprocess = rl_zoo3.exp_manager.ExperimentManager._preprocess_schedules
        hyperparams = preprocess(hyperparams)
        for key in SCHEDULES & hyperparams.keys():
            if isinstance(hyperparams[key], str):
                hyperparams[key] = preprocess({"learning_rate": hyperparams[key]})["learning_rate"]
        return hyperparams

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        if "env_kwargs" in hyperparams:
            if isinstance(hyperparams["env_kwargs"], str):  # "dict(…)", which rl_zoo3 takes for its other settings
                hyperparams["env_kwargs"] = eval(hyperparams["env_kwargs"])
            if self._eval_env_kwargs_args is None:  # rl_zoo3 would evaluate without those of the hyperparameter file
                self.eval_env_kwargs = hyperparams["env_kwargs"]
        result = super()._preprocess_hyperparams(hyperparams)
        self._check_keys(result[0])
        return result

    def _preprocess_action_noise(self, hyperparams: dict[str, Any], saved: dict[str, Any], env: VecEnv) -> dict[str, Any]:
        """Resolve ``policy: 'auto'`` as well: it is here that rl_zoo3 has an environment and no model yet."""
        if hyperparams.get("policy") == "auto":
            hyperparams["policy"] = policy_for(env.observation_space)
        return super()._preprocess_action_noise(hyperparams, saved, env)

    def _check_keys(self, hyperparams: dict[str, Any]) -> None:
        """Before a folder or an environment is made: every key left must be an argument of the algorithm."""
        known = set(inspect.signature(ALGOS[self.algo].__init__).parameters) - {"self", "env", "_init_setup_model"}
        known |= {"noise_type", "noise_std"}  # rl_zoo3 turns these into action_noise later
        for key in hyperparams:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"{self.config}: {key!r} for {self.env_name.gym_id} is no argument of {ALGOS[self.algo].__name__} and no "
                    f"setting of rl_zoo3.{hint}"
                )
