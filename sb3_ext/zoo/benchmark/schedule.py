"""All runs of a suite: those of before are left alone, some go at a time, and one that fails does not stop the others."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from sb3_ext.zoo.benchmark.run import CONFIG, DONE, ERROR, EVALUATIONS, PROGRESS, execute
from sb3_ext.zoo.benchmark.suites import Run
from sb3_ext.zoo.benchmark.table import METRICS
from sb3_ext.zoo.cli import _extend_rl_zoo3

RESULTS, GRADIENTS = "results.csv", "gradient_norms.csv"
GRADIENT_COLUMNS = ("train/direct_gradient_norm", "train/irpo_gradient_norm")


def unfinished(runs: Sequence[Run], out: Path, overwrite: bool = False) -> list[Run]:
    """The runs that still have something to do.

    Raises:
        ValueError: a folder holds a run with other settings; with ``overwrite`` it is deleted instead.
    """
    todo, other = [], []
    for run in runs:
        folder = run.folder(out)
        if (folder / CONFIG).is_file():
            stored = json.loads((folder / CONFIG).read_text())["run"]
            difference = _difference(stored, json.loads(json.dumps(asdict(run))))
            if difference:
                other.append(folder)
                if not overwrite:
                    raise ValueError(
                        f"{folder} holds a run with other settings: {'; '.join(difference)}. Choose another --out, or run it "
                        "anew with --overwrite."
                    )
        if folder in other or not (folder / DONE).is_file():
            todo.append(run)
    for folder in other:
        shutil.rmtree(folder)
    return todo


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
    """Execute ``runs``, ``jobs`` at a time in processes of their own (with one job here), and return those that failed.

    With the address of a Ray cluster (:func:`sb3_ext.distributed.connect`), each on a core of it: ``out`` must be a folder
    that all its machines see, and a run whose worker is lost goes on from its checkpoint there.

    A thread waits for each process: when one is killed for its memory, the pools of the standard library lose the others.
    Ctrl-C ends the processes and raises ``KeyboardInterrupt``.
    """
    if ray is not None:
        return _run_on_cluster(runs, out, ray)
    # torch starts with all cores, or with OMP_NUM_THREADS of them
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // jobs))
    failed, processes = [], _Processes()
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), desc="runs", unit="run") as bar:
        if jobs == 1:
            finished = ((run, _attempt(run, out, threads)) for run in runs)
        else:
            futures = {pool.submit(processes.attempt, run, out, threads): run for run in runs}
            finished = ((futures[future], future.result()) for future in as_completed(futures))
        try:
            for run, succeeded in finished:
                bar.update()
                bar.write(_line(run, out) if succeeded else f"{run}: failed")
                if not succeeded:
                    failed.append(run)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise
    return failed


def _run_on_cluster(runs: Sequence[Run], out: Path, address: str) -> list[Run]:
    from sb3_ext.distributed import run_on_cluster

    out = out.resolve()
    with tqdm(total=len(runs), desc="runs", unit="run") as bar:

        def tell(index: int) -> None:
            bar.update()
            failed = (runs[index].folder(out) / ERROR).is_file()
            bar.write(f"{runs[index]}: failed" if failed else _line(runs[index], out))

        succeeded = run_on_cluster(_on_worker, [(run, out) for run in runs], address, tell)
    return [run for run, well in zip(runs, succeeded, strict=True) if not well]


def _on_worker(run: Run, out: Path) -> bool:
    _extend_rl_zoo3()
    return _attempt(run, out, threads=1)


def _attempt(run: Run, out: Path, threads: int) -> bool:
    error = run.folder(out) / ERROR
    error.unlink(missing_ok=True)
    try:
        execute(run, out, threads)
    except Exception:
        error.parent.mkdir(parents=True, exist_ok=True)
        error.write_text(traceback.format_exc())
    return not error.is_file()


class _Processes:
    """Those that run at the moment, one for each thread that waits."""

    def __init__(self) -> None:
        self._running: set[Any] = set()
        self._ended = False
        self._lock = threading.Lock()

    def attempt(self, run: Run, out: Path, threads: int) -> bool:
        process = multiprocessing.get_context("spawn").Process(target=_in_process, args=(run, out, threads))
        with self._lock:
            if self._ended:
                return False
            process.start()
            self._running.add(process)
        process.join()
        with self._lock:
            self._running.remove(process)
            if self._ended:
                return False
        error = run.folder(out) / ERROR
        if process.exitcode and not error.is_file():
            error.parent.mkdir(parents=True, exist_ok=True)
            error.write_text(f"The process ended with exit code {process.exitcode}; -9 is often a lack of memory.\n")
        return not error.is_file()

    def end(self) -> None:
        """Start no more of them and end those that run; their last checkpoints stay."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()


def _in_process(run: Run, out: Path, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches every process; the command ends this one
    end_with_parent()
    _extend_rl_zoo3()  # a spawned process knows none of our algorithms
    _attempt(run, out, threads)


def end_with_parent() -> None:
    """When the command is killed, end the process that this is called in: left over, it would write into the folder of the
    run that goes on later, or take the time of a measurement."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _line(run: Run, out: Path) -> str:
    rows = pd.read_csv(run.folder(out) / EVALUATIONS).groupby(["env", "actions"], sort=False).last()
    results = ", ".join(
        f"{env.removeprefix(run.env)} {actions} ".lstrip(", ")
        + " ".join(f"{metric} {row[metric]:.2f}" for metric in METRICS if pd.notna(row[metric]))
        for (env, actions), row in rows.iterrows()
    )
    return f"{run}: {results} after {rows.timesteps.iloc[0]} steps, {rows.wall_s.iloc[0]:.0f} s"


def collect(out: Path) -> pd.DataFrame:
    """Write the rows of all finished runs under ``out`` to ``results.csv``, and IRPO's gradient norms to another file."""
    folders = sorted(path.parent for path in out.glob(f"*/*/seed-*/{DONE}"))  # not those of a search, which lie deeper
    if not folders:
        return pd.DataFrame()
    results = pd.concat([pd.read_csv(folder / EVALUATIONS, dtype={"commit": str}) for folder in folders], ignore_index=True)
    results.to_csv(out / RESULTS, index=False)
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
        pd.concat(norms, ignore_index=True).to_csv(out / GRADIENTS, index=False)
    return results
