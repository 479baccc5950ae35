"""Checkpoints of a run: the model's zip, which holds the state of the environment's wrappers too: the two belong together."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from irwrappers import VecIntrinsicReward
from irwrappers.files import replacing

_NORMALIZATION = ("obs_rms", "ret_rms", "returns")


def save_checkpoint(model: BaseAlgorithm, path: str | Path, **beside: Any) -> None:
    """Save a model together with the state of its environment's wrappers, ``VecNormalize`` and ``VecIntrinsicReward``.

    Args:
        model: what to save.
        path: of the file, which is replaced only by a whole one.
        **beside: further values, which :func:`restore_wrappers` returns.
    """
    normalize, bonus = model.get_vec_normalize_env(), unwrap_vec_wrapper(model.get_env(), VecIntrinsicReward)  # type: ignore[arg-type]
    if normalize is not None:
        beside["normalization"] = {name: getattr(normalize, name) for name in _NORMALIZATION if hasattr(normalize, name)}
    if bonus is not None:
        beside["bonus"] = bonus.bonus.state_dict()
    model.beside = beside  # type: ignore[attr-defined]  # SB3 saves every attribute
    with replacing(path) as temporary:
        model.save(temporary)
    del model.beside  # type: ignore[attr-defined]


def restore_wrappers(model: BaseAlgorithm) -> dict[str, Any]:
    """Give the wrappers of a loaded model's environment the state that was saved with it, and return the values beside it.

    Args:
        model: loaded from a file of :func:`save_checkpoint`, with an environment.
    """
    beside = model.__dict__.pop("beside", {})
    normalize, bonus = model.get_vec_normalize_env(), unwrap_vec_wrapper(model.get_env(), VecIntrinsicReward)  # type: ignore[arg-type]
    for name, value in beside.get("normalization", {}).items():
        setattr(normalize, name, value)
    if "bonus" in beside:
        assert bonus is not None
        bonus.bonus.load_state_dict(beside["bonus"])
    return beside


class Checkpoints(CheckpointCallback):
    """SB3's ``CheckpointCallback`` with the state of the environment's wrappers in its files, which are whole or not there."""

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            path = Path(self._checkpoint_path(extension="zip"))
            if self.save_replay_buffer and hasattr(self.model, "save_replay_buffer"):
                save_buffer(self.model, buffer_of(path))
            save_checkpoint(self.model, path)
        return True


def buffer_of(checkpoint: Path) -> Path:
    """Return where the replay buffer of a model lies, which ``--save-replay-buffer`` saves: the names are SB3's and rl_zoo3's.

    Args:
        checkpoint: path of the model's zip.
    """
    name = (
        checkpoint.stem.replace("rl_model_", "rl_model_replay_buffer_") if "rl_model_" in checkpoint.stem else "replay_buffer"
    )
    return checkpoint.with_name(f"{name}.pkl")


def save_buffer(model: Any, path: Path) -> None:
    """Save a model's replay buffer, or the segments of ``CLN``; the file is replaced only by a whole one.

    Args:
        model: with ``save_replay_buffer``.
        path: of the file.
    """
    with replacing(path) as temporary:
        model.save_replay_buffer(temporary)


def restore_buffer(model: Any, checkpoint: Path) -> None:
    """Give a model of a checkpoint the replay buffer that was saved beside it; say so if there is none.

    Args:
        model: of any algorithm.
        checkpoint: path of its zip.
    """
    if not hasattr(model, "load_replay_buffer"):
        return
    path = buffer_of(checkpoint)
    if path.is_file():
        model.load_replay_buffer(path)
        print(f"With the replay buffer of {path}")
    else:
        print(f"The replay buffer begins empty: {path} is not there. train saves it with --save-replay-buffer.")


def newest_checkpoint(folder: Path) -> Path:
    """Return the whole checkpoint with the most steps in the folder of a run; one that is damaged is named and left out.

    Args:
        folder: with ``rl_model_<steps>_steps.zip``, or with the model of an interrupted run.

    Raises:
        ValueError: if there is none.
    """
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*.zip")):
        if path.name == "best_model.zip" or (path.name.startswith("rl_model") and not re.search(r"_\d+_steps", path.name)):
            continue
        steps = _steps(path)
        if steps is None:
            print(f"{path} is damaged and not used.")
        else:
            found.append((steps, path))
    if not found:
        raise ValueError(
            f"{folder} has no whole checkpoint to continue from. A run that is to be continued needs --save-freq N, the steps "
            "between two checkpoints; an interrupted one (Ctrl-C or SIGTERM) has saved its model."
        )
    return max(found)[1]


def _steps(path: Path) -> int | None:
    """Return the steps that a saved model was trained, or None if the file is damaged; nothing in it is executed."""
    with contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError), zipfile.ZipFile(path) as saved:
        if saved.testzip() is None:
            return int(json.loads(saved.read("data"))["num_timesteps"])
    return None
