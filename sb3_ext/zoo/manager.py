"""rl_zoo3's ``ExperimentManager`` with our hyperparameter files and vectorised environments, and a check of YAML keys."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
from functools import partial
from pathlib import Path
from typing import Any

import rl_zoo3.exp_manager
import yaml
from gymnasium import spaces
from rl_zoo3.utils import ALGOS
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import get_latest_run_id
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from irwrappers.intrinsic.encoder import SMALLEST_IMAGE, channels_first
from irwrappers.validation import check_range
from sb3_ext.distributed import RayShards
from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.outer_learners.lifetime_algorithm import LifetimeAlgorithm
from sb3_ext.zoo.algorithms import find_algorithm, registered_algorithms
from sb3_ext.zoo.checkpoints import Checkpoints, restore_buffer, restore_wrappers, save_checkpoint
from sb3_ext.zoo.environments import import_environment, is_atari, native_vec_env, without_bonus
from sb3_ext.zoo.lifetime_families import is_lifetime
from sb3_ext.zoo.literals import read_literal
from sb3_ext.zoo.process import command_name, sigterm_as_interrupt
from sb3_ext.zoo.resume import continue_evaluations, keep_monitors, write_command

CONSTRUCTOR_DEFAULTS = "the constructor's defaults"  # given as `config`: read no hyperparameter file
# Keys whose strings rl_zoo3 evaluates as Python, and keys that name classes to import.
EVALUATED = frozenset(
    {"normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "env_kwargs"}
)
NAMING = frozenset({"policy", "env_wrapper", "vec_env_wrapper", "callback"})
KNOWN_PACKAGES = frozenset({"envs", "gymnasium", "irwrappers", "rl_zoo3", "sb3_contrib", "sb3_ext", "stable_baselines3"})
LARGEST_N_ENVS = 65_536
TRUSTED = "IRWRAPPERS_TRUST"  # environment variable, which processes of a benchmark inherit; 1 with --trust
TRUST = "A file is read as data; --trust evaluates it as Python: only for files that you would run as programs."


def hyperparams_file(algo: str, env_id: str) -> str | None:
    """Return the YAML file with the hyperparameters of an algorithm on an environment, or None for rl_zoo3's own.

    The first of these decides: the environment's entry in our file, its entry in rl_zoo3's file (``atari:`` for Atari games),
    the entry ``default:`` of our file. rl_zoo3's ``default:`` is used only for algorithms that have no file of ours.

    Args:
        algo: value of ``--algo``.
        env_id: Gymnasium id.
    """
    ours = find_algorithm(algo).hyperparams_file
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

    Args:
        space: observation space of the environment.
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    if is_image_space(space) and min(channels_first(space).shape[1:]) >= SMALLEST_IMAGE:  # type: ignore[index]
        return "CnnPolicy"
    return "MlpPolicy"


def parse_kwargs(given: Any) -> dict[str, Any]:
    """Return arguments that YAML gives as a mapping or, as rl_zoo3 has it elsewhere, as the string ``"dict(…)"``.

    Args:
        given: the mapping, the string, or None for no arguments.

    Raises:
        ValueError: for a string that is not data (``sb3_ext.zoo.literals``).
    """
    return dict(read_literal(given) if isinstance(given, str) else given or {})


def _has_shards(algo: str) -> bool:
    return "n_shards" in inspect.signature(ALGOS[algo].__init__).parameters


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """Replacement of rl_zoo3's class for the algorithms and environments of this library.

    Args:
        args: parsed arguments of the command, which rl_zoo3 saves beside the model.
        algo: value of ``--algo``.
        env_id: Gymnasium id, or ``module:id`` where importing the module registers the id.
        *rest: as in rl_zoo3.
        **kwargs: as in rl_zoo3; ``config`` may be ``CONSTRUCTOR_DEFAULTS``.
    """

    default_vec_env_cls = staticmethod(native_vec_env)  # type: ignore[assignment]
    ray_address: str | None = None  # Ray cluster that runs the lifetimes
    command: tuple[str, ...] | None = None  # arguments that a continued run needs; None: it cannot be continued
    resume_folder: Path | None = None  # of the run that is continued
    interrupted_after: int | None = None  # steps, if Ctrl-C or SIGTERM ended training
    interruption: str | None = None  # and what to say of it

    def __init__(self, args: Any, algo: str, env_id: str, *rest: Any, **kwargs: Any) -> None:
        env_id = import_environment(env_id)
        self.entry = find_algorithm(algo)
        kwargs["config"] = kwargs.get("config") or hyperparams_file(algo, env_id)
        super().__init__(args, algo, env_id, *rest, **kwargs)
        if self.resume_folder is not None:
            self.save_path = str(self.resume_folder)
            self.params_path = f"{self.save_path}/{self.env_name}"
        self.reads_our_file = Path(self.config) == self.entry.hyperparams_file
        if self.reads_our_file:
            self._is_atari = False  # rl_zoo3 would look for an entry "atari"; in our files "default" serves the games too
        if kwargs.get("vec_env_type") == "subproc":
            self.vec_env_class = SubprocVecEnv

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the hyperparameters, and those of them that rl_zoo3 saves.

        Raises:
            ValueError: if only a ``default:`` entry applies and it is meant for the other kind of environment.
        """
        if self.config == CONSTRUCTOR_DEFAULTS:
            hyperparams = {"policy": "auto", "n_timesteps": self.n_timesteps, **(self.custom_hyperparams or {})}
            return hyperparams, dict(sorted(hyperparams.items()))
        env_id, from_families = self.env_name.gym_id, self.entry.learns_from_families
        if self.reads_our_file and is_lifetime(env_id) is not from_families:
            needed = "families of tasks (lifetime/…)" if from_families else "single environments, not families of tasks"
            if env_id not in yaml.safe_load(Path(self.config).read_text()):
                raise ValueError(
                    f"Hyperparameters not found for {self.algo}-{env_id} in {self.config}: {self.algo} learns from {needed}."
                )
        return super().read_hyperparameters()

    def setup_experiment(self) -> Any:
        """Return rl_zoo3's (model, saved hyperparameters); on a Ray cluster the model's lifetimes run there.

        Raises:
            ValueError: if ``--ray`` was given and the algorithm has no groups of lifetimes to spread.
        """
        if self.ray_address is not None and not _has_shards(self.algo):
            names = ", ".join(name for name in registered_algorithms() if _has_shards(name))
            raise ValueError(
                f"--ray spreads the lifetimes of --algo {names}, not {self.algo}; runs of any algorithm: "
                "python -m sb3_ext.benchmark SUITE --ray ADDRESS."
            )
        result = super().setup_experiment()
        if result is not None and self.ray_address is not None:
            model: Any = result[0]
            if model.n_shards == 1:
                raise ValueError(
                    "--ray spreads n_shards groups of lifetimes, and there is one. Give for instance -params n_shards:5; it "
                    "is a hyperparameter, since the seeds depend on the groups."
                )
            model.shards = RayShards(model.lifetimes, model.n_shards, self.ray_address)
        return result

    def create_callbacks(self) -> None:
        """Create rl_zoo3's callbacks; lifetimes are evaluated at most once an iteration, in parallel."""
        if is_lifetime(self.env_name.gym_id) and self.eval_freq > 0:
            # Evaluating a lifetime takes as long as learning from one.
            settings = self.env_kwargs.get("settings", self.env_kwargs)
            default = InnerSettings()
            lifetime = settings.get("n_steps", default.n_steps) * settings.get("n_batches", default.n_batches)
            self.eval_freq = max(self.eval_freq, self.n_envs * lifetime)
            self.n_eval_envs = max(self.n_eval_envs, self.n_eval_episodes)
        super().create_callbacks()
        for number, callback in enumerate(self.callbacks):
            if type(callback) is CheckpointCallback:
                self.callbacks[number] = Checkpoints(
                    callback.save_freq,
                    callback.save_path,
                    save_replay_buffer=self.save_replay_buffer,
                    verbose=callback.verbose,
                )

    def create_log_folder(self) -> None:
        """Create the folder of the run, which no other run has, not even one that starts at the same time."""
        while self.resume_folder is None:
            try:
                os.makedirs(self.save_path)
                break
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"
        if self.resume_folder is not None:
            keep_monitors(self.resume_folder)
        super().create_log_folder()

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if self.resume_folder is None:
            super()._save_config(saved_hyperparams)
            if self.command is not None:
                write_command(Path(self.save_path), self.command, self.seed, self.ray_address)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if self.resume_folder is None:
            return super()._load_pretrained_agent(hyperparams, env)
        model = ALGOS[self.algo].load(
            self.trained_agent, env=env, device=self.device, tensorboard_log=self.tensorboard_log, verbose=self.verbose
        )
        restore_wrappers(model)
        restore_buffer(model, Path(self.trained_agent))
        print(f"Continuing {self.trained_agent} after {model.num_timesteps} steps")
        for callback in self.callbacks:
            if isinstance(callback, EvalCallback):
                continue_evaluations(callback, self.resume_folder, model.num_timesteps)
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        """Train the model, to the whole number of steps if it is continued; SIGTERM is treated as Ctrl-C.

        Args:
            model: of ``setup_experiment``.
        """
        done = 0 if self.resume_folder is None else model.num_timesteps
        arguments: dict[str, Any] = {"callback": self.callbacks} if self.callbacks else {}
        if self.log_interval != -1:  # rl_zoo3: -1 for the default, less for none
            arguments["log_interval"] = self.log_interval if self.log_interval > -1 else None
        if self.algo == "ars" and self.n_envs > 1:
            arguments["async_eval"] = AsyncEval([partial(self.create_envs, 1, no_log=True)] * self.n_envs, model.policy)
        try:
            with sigterm_as_interrupt():
                model.learn(self.n_timesteps - done, reset_num_timesteps=self.resume_folder is None, **arguments)
        except KeyboardInterrupt:
            self.interrupted_after = model.num_timesteps
        finally:
            if self.callbacks:  # the progress bar
                self.callbacks[0].on_training_end()
            with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # processes that Ctrl-C ended too
                assert model.env is not None
                model.env.close()

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model, and beside it the reward model that ``MetaRewardPPO`` loads.

        Args:
            model: the trained model.
        """
        super().save_trained_model(model)
        if self.interrupted_after is not None:
            path = Path(self.save_path) / f"{self.env_name}.zip"
            save_checkpoint(model, path)
            ExperimentManager.interruption = (
                f"Interrupted after {self.interrupted_after} steps; saved as {path}. To continue: "
                f"{command_name('train')} --resume {self.save_path}"
            )
        if isinstance(model, LifetimeAlgorithm):
            model.save_reward_model(Path(self.save_path) / self.env_name)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Return the environment for training or evaluation; the evaluation environment adds no intrinsic reward.

        Args:
            n_envs: number of parallel environments.
            eval_env: whether it is for evaluation.
            no_log: whether to write no monitor files.
        """
        if is_lifetime(self.env_name.gym_id):
            make, kwargs = (
                (self.entry.make_evaluation_env, self.eval_env_kwargs)
                if eval_env
                else (self.entry.make_training_env, self.env_kwargs)
            )
            return self._maybe_normalize(make(self.env_name.gym_id, n_envs, self.seed, kwargs), eval_env)
        env = super().create_envs(n_envs, eval_env, no_log)
        return without_bonus(env) if eval_env else env

    def _read_as_data(self, hyperparams: dict[str, Any]) -> None:
        """Replace strings that rl_zoo3 would evaluate by their values, and refuse classes of modules that are not known."""
        for key in EVALUATED & hyperparams.keys():
            if isinstance(hyperparams[key], str):
                try:
                    hyperparams[key] = read_literal(hyperparams[key])
                except ValueError as error:
                    raise ValueError(f"{key} of {self.env_name.gym_id} in {self.config}: {error}. {TRUST}") from None
        for key in NAMING & hyperparams.keys():
            given = hyperparams[key]
            for one in given if isinstance(given, list) else [given]:
                for name in [one] if isinstance(one, str) else one or {}:
                    if "." in name and name.partition(".")[0] not in KNOWN_PACKAGES:
                        raise ValueError(
                            f"{key} of {self.env_name.gym_id} in {self.config} names {name!r}, which is not of "
                            f"{', '.join(sorted(KNOWN_PACKAGES))}. {TRUST}"
                        )

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        theirs = Path(rl_zoo3.exp_manager.__file__).parent in Path(self.config).resolve().parents
        if os.environ.get(TRUSTED) != "1" and not theirs:
            self._read_as_data(hyperparams)
        check_range("n_envs", hyperparams.get("n_envs", 1), 1, LARGEST_N_ENVS, integer=True)
        if "env_kwargs" in hyperparams:
            hyperparams["env_kwargs"] = parse_kwargs(hyperparams["env_kwargs"])
            if self._eval_env_kwargs_args is None:  # rl_zoo3 would evaluate without those of the hyperparameter file
                self.eval_env_kwargs = hyperparams["env_kwargs"]
        for key in self.entry.schedules & hyperparams.keys():
            if isinstance(hyperparams[key], str):
                hyperparams[key] = self._preprocess_schedules({"learning_rate": hyperparams[key]})["learning_rate"]
        result = super()._preprocess_hyperparams(hyperparams)
        self._check_keys(result[0])
        return result

    def _preprocess_action_noise(self, hyperparams: dict[str, Any], saved: dict[str, Any], env: VecEnv) -> dict[str, Any]:
        """Resolve ``policy: 'auto'`` too: this is where rl_zoo3 has made the environment and not yet the model."""
        if hyperparams.get("policy") == "auto":
            hyperparams["policy"] = policy_for(env.observation_space)
        return super()._preprocess_action_noise(hyperparams, saved, env)

    def _check_keys(self, hyperparams: dict[str, Any]) -> None:
        """Raise ValueError for a key that is no argument of the algorithm, before a folder or an environment is made."""
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
