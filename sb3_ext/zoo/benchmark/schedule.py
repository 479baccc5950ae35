"""The runs of a suite: finished ones are skipped, some run at the same time, and one that fails does not stop the others."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from irwrappers.files import write_text
from sb3_ext.zoo.benchmark.processes import ProcessDied, run_in_processes
from sb3_ext.zoo.benchmark.run import CONFIG, DONE, ERROR, EVALUATIONS, PROGRESS, execute
from sb3_ext.zoo.benchmark.suites import Run
from sb3_ext.zoo.benchmark.table import METRICS

RESULTS, GRADIENTS = "results.csv", "gradient_norms.csv"
GRADIENT_COLUMNS = ("train/direct_gradient_norm", "train/irpo_gradient_norm")


def unfinished(runs: Sequence[Run], out: Path, overwrite: bool = False) -> list[Run]:
    """Return the runs that are not finished.

    Args:
        runs: all runs.
        out: folder of the benchmark.
        overwrite: whether to delete the folder of a run with other settings.

    Raises:
        ValueError: if a folder holds a run with other settings, unless ``overwrite``.
    """
    todo, other = [], []
    for run in runs:
        folder = run.folder(out)
        if (folder / CONFIG).is_file():
            stored = _stored_run(folder / CONFIG)
            difference = _difference(stored, json.loads(json.dumps(asdict(run))))
            if difference:
                other.append(folder)
                if not overwrite:
                    raise ValueError(
                        f"{folder} holds a run with other settings: {'; '.join(difference)}. Choose another --out, or "
                        "delete and repeat it with --overwrite."
                    )
        if folder in other or not (folder / DONE).is_file():
            todo.append(run)
    for folder in other:
        shutil.rmtree(folder)
    return todo


def _stored_run(config: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(config.read_text(encoding="utf-8"))["run"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{config} is not the description of a run, as this command writes it. Delete {config.parent}, or choose another "
            "--out."
        ) from None


def _difference(stored: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted({*stored, *now}):
        was, given = stored.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(given, dict):
            lines += _difference(was, given, f"{prefix}{key}.")
        elif was != given:
            lines.append(f"{prefix}{key} was {was!r} and is {given!r}")
    return lines


def run_all(runs: Sequence[Run], out: Path, jobs: int = 1, ray: str | None = None) -> list[Run]:
    """Execute runs and return those that failed; the error of each is in its folder.

    Ctrl-C ends all processes and raises ``KeyboardInterrupt``.

    Args:
        runs: what to execute.
        out: folder of the benchmark; with ``ray`` one that all machines of the cluster see.
        jobs: number of runs at the same time, each in a process of its own; a single one is executed in this process.
        ray: address of a Ray cluster (:func:`sb3_ext.distributed.connect`), on which each run takes a core instead. A run
            whose worker is lost is resumed from its checkpoint.
    """
    with tqdm(total=len(runs), desc="runs", unit="run") as bar:

        def report(index: int) -> None:
            bar.update()
            bar.write(f"{runs[index]}: failed" if _failed(runs[index], out) else _line(runs[index], out))

        def died(index: int, error: ProcessDied) -> None:
            _write_error(runs[index], out, f"{error}\n")

        # torch starts with all cores, or with OMP_NUM_THREADS of them
        threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // jobs))
        if ray is not None:
            from sb3_ext.distributed import run_on_cluster

            run_on_cluster(_attempt, [(run, out.resolve(), 1) for run in runs], ray, report)
        elif jobs > 1:
            run_in_processes(_attempt, [(run, out, threads) for run in runs], jobs, report, died)
        else:
            for index, run in enumerate(runs):
                _attempt(run, out, threads)
                report(index)
    return [run for run in runs if _failed(run, out)]


def _attempt(run: Run, out: Path, threads: int) -> None:
    (run.folder(out) / ERROR).unlink(missing_ok=True)
    try:
        execute(run, out, threads)
    except Exception:
        _write_error(run, out, traceback.format_exc())


def _write_error(run: Run, out: Path, text: str) -> None:
    error = run.folder(out) / ERROR
    error.parent.mkdir(parents=True, exist_ok=True)
    write_text(error, text)


def _failed(run: Run, out: Path) -> bool:
    return (run.folder(out) / ERROR).is_file()


def _line(run: Run, out: Path) -> str:
    rows = pd.read_csv(run.folder(out) / EVALUATIONS).groupby(["env", "actions"], sort=False).last()
    results = ", ".join(
        f"{env.removeprefix(run.env)} {actions} ".lstrip(", ")
        + " ".join(f"{metric} {row[metric]:.2f}" for metric in METRICS if pd.notna(row[metric]))
        for (env, actions), row in rows.iterrows()
    )
    return f"{run}: {results} after {rows.timesteps.iloc[0]} steps, {rows.wall_s.iloc[0]:.0f} s"


def collect(out: Path) -> pd.DataFrame:
    """Write the rows of all finished runs to ``results.csv``, and the paper's IRPO's to ``gradient_norms.csv``.

    Args:
        out: folder of the benchmark.

    Returns:
        The rows of ``results.csv``.
    """
    folders = sorted(path.parent for path in out.glob(f"*/*/seed-*/{DONE}"))  # the runs of a search are in deeper folders
    if not folders:
        return pd.DataFrame()
    results = pd.concat([pd.read_csv(folder / EVALUATIONS, dtype={"commit": str}) for folder in folders], ignore_index=True)
    write_text(out / RESULTS, results.to_csv(index=False))
    norms = []
    for folder in folders:
        progress = pd.read_csv(folder / PROGRESS) if (folder / PROGRESS).stat().st_size else pd.DataFrame()
        if set(GRADIENT_COLUMNS) <= set(progress):
            run = json.loads((folder / CONFIG).read_text())["run"]
            named = progress.rename(columns={"time/total_timesteps": "timesteps"})
            norms.append(
                named[["timesteps", *GRADIENT_COLUMNS]].assign(env=run["env"], algo=run["label"], seed=run["seed"]).dropna()
            )
    if norms:
        write_text(out / GRADIENTS, pd.concat(norms, ignore_index=True).to_csv(index=False))
    return results
