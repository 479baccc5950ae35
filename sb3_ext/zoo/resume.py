"""``train --resume FOLDER``: what a run must know to go on in its own folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback

from irwrappers.files import write_text

COMMAND = "resume.json"


def write_command(folder: Path, arguments: Sequence[str], seed: int, ray: str | None) -> None:
    """Keep the command of a run in its folder.

    Args:
        folder: of the run.
        arguments: rl_zoo3's, as they were given.
        seed: of the run, which may have been chosen at random.
        ray: address of a Ray cluster.
    """
    about = {"arguments": [*arguments, "--seed", str(seed)], "ray": ray}
    write_text(folder / COMMAND, json.dumps(about, indent=2) + "\n")


def read_command(folder: Path) -> dict[str, Any]:
    """Return the ``arguments`` and ``ray`` of the run in a folder.

    Args:
        folder: of the run.

    Raises:
        ValueError: if it is not the folder of a run.
    """
    try:
        about = json.loads((folder / COMMAND).read_text(encoding="utf-8"))
        return {"arguments": [str(word) for word in about["arguments"]], "ray": about["ray"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} is not the folder of a run that can be continued: {COMMAND}, which train writes there, is missing or "
            "damaged. Give the folder that train named as its log path."
        ) from None


def keep_monitors(folder: Path) -> None:
    """Rename the monitor files of a run, because the new environments begin theirs anew. SB3's ``load_results`` reads both.

    Args:
        folder: of the run.
    """
    for path in sorted(folder.glob("*.monitor.csv")):
        number = 0
        while (kept := path.with_name(f"{path.name.removesuffix('.monitor.csv')}-{number}.monitor.csv")).exists():
            number += 1
        if "-" not in path.name:
            path.rename(kept)


def continue_evaluations(callback: EvalCallback, folder: Path, timesteps: int) -> None:
    """Let an ``EvalCallback`` go on after the evaluations of a run up to its checkpoint.

    Args:
        callback: of the continued run.
        folder: of the run, with ``evaluations.npz``.
        timesteps: of the checkpoint.
    """
    path = folder / "evaluations.npz"
    if not path.is_file():
        return
    with np.load(path) as saved:
        rows = saved["timesteps"] <= timesteps
        callback.evaluations_timesteps = saved["timesteps"][rows].tolist()
        callback.evaluations_results = saved["results"][rows].tolist()
        callback.evaluations_length = saved["ep_lengths"][rows].tolist()
        if "successes" in saved:
            callback.evaluations_successes = saved["successes"][rows].tolist()
        if len(saved["results"]):
            callback.best_mean_reward = float(saved["results"].mean(1).max())  # of best_model.zip
