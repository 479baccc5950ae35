"""One run: trained as ``python -m sb3_ext.train`` does, evaluated and checkpointed meanwhile, resumed from its checkpoint."""

from __future__ import annotations

import contextlib
import copy
import csv
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

import sb3_ext
from irwrappers.files import replacing, write_text
from irwrappers.seeding import seeded
from sb3_ext.meta.outer_learners.lifetime_algorithm import LifetimeAlgorithm
from sb3_ext.zoo.benchmark.suites import Run
from sb3_ext.zoo.checkpoints import restore_wrappers, save_checkpoint
from sb3_ext.zoo.manager import CONSTRUCTOR_DEFAULTS, ExperimentManager

COLUMNS = ("suite", "env", "algo", "seed", "timesteps", "wall_s", "success", "return", "commit", "actions")
CONFIG, EVALUATIONS, PROGRESS, DONE, ERROR = "config.json", "evaluations.csv", "progress.csv", "done.json", "error.txt"
CHECKPOINT, MODEL, REWARD_MODEL = "checkpoint.zip", "model.zip", "reward.safetensors"
EVALUATION_SEED = 10_000  # far from the seeds of training
MAX_EVALUATION_ENVS = 50  # parallel environments of an evaluation


def commit() -> str:
    """Return the git commit of this code, with ``-dirty`` if it was changed since; for an installed package its version."""
    root = Path(sb3_ext.__file__).parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    return f"irwrappers {importlib.metadata.version('irwrappers')}"


def circumstances() -> dict[str, Any]:
    """Return what may differ between two runs with the same settings: commit, date, cores and versions of packages."""
    packages = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "mujoco", "numpy")
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def execute(run: Run, out: Path, threads: int) -> None:
    """Train a run from its checkpoint, or from scratch, to its end, and write its files.

    Args:
        run: what to train.
        out: folder of the benchmark.
        threads: number of torch threads.
    """
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = {**circumstances(), "torch_threads": threads}
    write_text(folder / CONFIG, json.dumps({"run": asdict(run), "circumstances": about}, indent=2) + "\n")
    torch.set_num_threads(threads)
    set_random_seed(run.seed)
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):  # rl_zoo3 prints what it reads
        manager = _Manager(run, folder)
        setup = manager.setup_experiment()
    assert setup is not None  # only an Optuna study of rl_zoo3 has no model
    model, evaluation_envs = setup[0], {run.env: manager.evaluation_env()}
    for name, changes in (run.evaluate_in or {}).items():
        evaluation_envs[f"{run.env}, {name}"] = manager.evaluation_env(**changes)
    evaluations = Evaluations(run, folder, about["commit"], evaluation_envs, restore_wrappers(model).get("wall_s", 0.0))
    start = model.num_timesteps
    _write_rows(folder / EVALUATIONS, _rows_until(folder / EVALUATIONS, "timesteps", start))
    model.set_logger(_progress_logger(folder / PROGRESS, start))
    try:
        evaluations.start_clock()
        model.learn(run.timesteps - start, callback=[*manager.callbacks, evaluations], reset_num_timesteps=start == 0)
        evaluations.evaluate()
        model.save(folder / MODEL)
        if isinstance(model, LifetimeAlgorithm):
            model.save_reward_model(folder / REWARD_MODEL, commit=about["commit"], date=about["date"])
    finally:
        model.logger.close()
        for env in evaluation_envs.values():
            env.close()
        assert model.env is not None
        model.env.close()
        if getattr(model, "shards", None) is not None:  # processes or Ray actors
            model.shards.close()
    done = {"timesteps": model.num_timesteps, "wall_s": round(evaluations.wall_s, 1), "date": about["date"]}
    write_text(folder / DONE, json.dumps(done) + "\n")


class _Manager(ExperimentManager):
    """Manager of one run, which writes none of rl_zoo3's files and no monitor files into the run's folder."""

    def __init__(self, run: Run, folder: Path) -> None:
        checkpoint = folder / CHECKPOINT
        self.run = run
        super().__init__(
            None,
            run.algo,
            run.gym_id,
            str(folder),
            n_timesteps=run.timesteps,
            eval_freq=-1,
            hyperparams=copy.deepcopy(run.hyperparams),
            config=CONSTRUCTOR_DEFAULTS if run.defaults else None,
            trained_agent=str(checkpoint) if checkpoint.is_file() else "",
            seed=run.seed,
            verbose=0,
        )

    def create_log_folder(self) -> None:
        pass

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        pass

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = True) -> VecEnv:
        return super().create_envs(n_envs, eval_env, no_log=True)

    def evaluation_env(self, **changes: Any) -> VecEnv:
        """Return the environment of training with some arguments changed."""
        self.eval_env_kwargs = {**self.env_kwargs, **changes}
        return self.create_envs(min(self.run.episodes, MAX_EVALUATION_ENVS), eval_env=True)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        # The checkpoint holds the hyperparameters; rl_zoo3 would overwrite them with those of the YAML file.
        return ALGOS[self.algo].load(self.trained_agent, env=env, device=self.device)


class Evaluations(BaseCallback):
    """Evaluate, then save a checkpoint, at the first rollout that begins in each of equal parts of the timesteps.

    A checkpoint is one file, so that its parts belong together: the model's zip, which also holds the training time and the
    state of the environment's wrappers. Off-policy algorithms have no checkpoint, since it would lack their replay buffer.

    Args:
        run: the run that is trained.
        folder: folder of the run.
        commit: git commit, for the rows.
        envs: evaluation environments by their name in the rows.
        wall_s: seconds of training before this process.
    """

    def __init__(self, run: Run, folder: Path, commit: str, envs: dict[str, VecEnv], wall_s: float) -> None:
        super().__init__()
        self.run, self.folder, self.commit, self.envs, self.wall_s = run, folder, commit, envs, wall_s
        self.interval = run.timesteps / run.evaluations

    def start_clock(self) -> None:
        """Start to count the seconds of training."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Stop to count the seconds of training."""
        self.wall_s += time.perf_counter() - self._started

    def _on_training_start(self) -> None:
        self._next = self._part() + 1

    def _part(self) -> int:
        return int(self.model.num_timesteps / self.interval)

    def _on_rollout_start(self) -> None:
        if self._part() < self._next:
            return
        self.evaluate()
        self._next = self._part() + 1
        if not isinstance(self.model, OffPolicyAlgorithm):
            save_checkpoint(self.model, self.folder / CHECKPOINT, wall_s=self.wall_s)
        self.start_clock()

    def _on_step(self) -> bool:
        return True

    def evaluate(self) -> None:
        """Stop the clock and append a row for each environment and kind of actions to ``evaluations.csv``."""
        self.stop_clock()
        rows = []
        for name, env in self.envs.items():
            if self.model.get_vec_normalize_env() is not None:
                sync_envs_normalization(self.training_env, env)
            for actions in self.run.actions:
                success, mean_return = evaluate(
                    self.model, env, self.run.episodes, actions == "argmax", not self.run.undiscounted
                )
                row = (self.run.suite, name, self.run.label, self.run.seed, self.model.num_timesteps)
                rows.append([*row, round(self.wall_s, 2), success, mean_return, self.commit, actions])
        _append_rows(self.folder / EVALUATIONS, rows)


def evaluate(
    model: BaseAlgorithm, env: VecEnv, episodes: int, deterministic: bool, discounted: bool = True, seed: int = EVALUATION_SEED
) -> tuple[float | None, float]:
    """Return the success rate and the mean return of a model.

    An undiscounted return is that of SB3's ``evaluate_policy``, which for an Atari game is the score of all lives. Success is
    ``info["is_success"]`` at the end of an episode. The state of all random number generators is restored afterwards.

    Args:
        model: what to evaluate.
        env: where.
        episodes: number of episodes.
        deterministic: whether to take arg-max actions instead of sampled ones.
        discounted: whether returns are discounted with the model's ``gamma``.
        seed: seed of the environment and of sampled actions; the same seed gives the same episodes.

    Returns:
        Success rate, None for a task without a success signal, and mean return.
    """
    gamma = getattr(model, "gamma", 1.0)
    running, discount = np.zeros(env.num_envs), np.ones(env.num_envs)
    successes: list[float] = []
    returns: list[float] = []

    def on_step(step: dict[str, Any], _: dict[str, Any]) -> None:
        i = step["i"]
        running[i] += discount[i] * step["reward"]
        discount[i] *= gamma
        if step["done"]:
            if "is_success" in step["info"]:
                successes.append(float(step["info"]["is_success"]))
            returns.append(running[i])
            running[i], discount[i] = 0.0, 1.0

    env.seed(seed)
    with seeded(seed, model.device):
        undiscounted, _ = evaluate_policy(model, env, episodes, deterministic, callback=on_step, return_episode_rewards=True)
    mean_return = np.mean(returns if discounted else undiscounted)
    return round(float(np.mean(successes)), 6) if successes else None, round(float(mean_return), 6)


def _rows_until(path: Path, column: str, timesteps: int) -> list[list[str]]:
    """Return the header of a CSV file and its rows up to the checkpoint, where ``column`` is at most ``timesteps``."""
    if not path.is_file() or timesteps == 0:
        return []
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if column not in header:
        return []
    at = header.index(column)
    return [header, *(row for row in rows if len(row) == len(header) and row[at] and float(row[at]) <= timesteps)]


def _write_rows(path: Path, rows: list[list[Any]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows or [list(COLUMNS)])


def _append_rows(path: Path, rows: list[list[Any]]) -> None:
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _progress_logger(path: Path, timesteps: int) -> Logger:
    """Return SB3's CSV logger, which begins its file anew, with the rows up to the checkpoint written again."""
    rows = _rows_until(path, "time/total_timesteps", timesteps)
    with replacing(path) as temporary:  # the logger's open file is renamed
        output = CSVOutputFormat(str(temporary))
        if rows:
            output.keys = rows[0]
            csv.writer(output.file, lineterminator="\n").writerows(rows)
            output.file.flush()
    return Logger(str(path.parent), [output])
