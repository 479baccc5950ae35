"""The commands ``benchmark`` and ``plot``: their arguments, and the order in which the parts are called."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from sb3_ext.distributed.cluster import check_reachable, import_ray
from sb3_ext.zoo.benchmark import schedule, search, speed, table
from sb3_ext.zoo.benchmark.lock import locked
from sb3_ext.zoo.benchmark.plots import plot_comparison, plot_gradient_norms, plot_sample_efficiency
from sb3_ext.zoo.benchmark.results_file import read_results
from sb3_ext.zoo.benchmark.run import ERROR, circumstances
from sb3_ext.zoo.benchmark.scores import SCORING, Scoring
from sb3_ext.zoo.benchmark.suites import load_best, load_suite, plan, scoring, suite_names
from sb3_ext.zoo.manager import TRUSTED
from sb3_ext.zoo.process import command_name


def benchmark(arguments: Sequence[str] | None = None) -> None:
    """Run a suite; the exit status is 1 if a run failed and 2 for a mistake in the arguments.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    os.environ.update({TRUSTED: "1"} if given.trust else {})
    if given.list:
        for name in suite_names():
            print(f"{name:15} {load_suite(name)['description']}")
        return
    if given.suite is None:
        parser.error(f"which suite? {', '.join(suite_names())}, or the path of a YAML file")
    with contextlib.ExitStack() as stack:
        try:
            suite = load_suite(given.suite)
            out = Path(given.out or Path("logs", "benchmark", suite["name"]))
            if given.search is not None and "speed" in suite:
                raise ValueError(f"--search needs a suite with contenders; {suite['name']} measures speed.")
            stack.enter_context(locked(out))
            kind = _speed if "speed" in suite else _search if given.search is not None else _learning
            work, what = kind(given, suite, out)
        except (ValueError, ConnectionError) as error:
            parser.error(str(error))
        try:
            failed = work()
        except KeyboardInterrupt:
            _log_session(out, suite, given, f"{what}, interrupted")
            raise
        if what:
            _log_session(out, suite, given, what)
    for error_file in failed:
        print(f"\n{error_file.parent.relative_to(out)} failed; {error_file}:\n{error_file.read_text()}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("benchmark"), description="Run a suite of environments, algorithms and seeds."
    )
    parser.add_argument("suite", nargs="?", help="a name of --list, or the path of a YAML file")
    parser.add_argument("--list", action="store_true", help="list the suites")
    parser.add_argument("--seeds", type=int, help="number of seeds of each contender (default: the suite's)")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time, each in its own process")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: HOST:6379, auto, or local")
    parser.add_argument("--budget", type=float, default=1.0, help="fraction of the suite's timesteps (default: 1)")
    parser.add_argument("--out", help="output folder (default: logs/benchmark/SUITE)")
    parser.add_argument("--env", action="append", default=[], help="only this environment (repeatable)")
    parser.add_argument("--algo", action="append", default=[], help="only this contender, by its label (repeatable)")
    parser.add_argument("--search", type=int, metavar="N", help="search hyperparameters, N trials for each contender")
    parser.add_argument(
        "--best",
        nargs="?",
        const=True,
        metavar="FILE",
        help="use the hyperparameters that --search found best (default file: the one in the output folder)",
    )
    parser.add_argument("--trust", action="store_true", help="evaluate Python in the suite: only if you would run it")
    parser.add_argument("--overwrite", action="store_true", help="delete runs that have other settings and run them again")
    return parser


def _learning(given: argparse.Namespace, suite: dict[str, Any], out: Path) -> tuple[Callable[[], list[Path]], str]:
    _check_jobs(given)
    if given.best is not None:
        suite["best"] = load_best(out / search.FOLDER / search.BEST if given.best is True else Path(given.best))
    runs = plan(suite, given.budget, given.seeds, given.env, given.algo)
    todo = schedule.unfinished(runs, out, given.overwrite)
    print(f"{len(runs)} runs in {out}, {len(runs) - len(todo)} of them finished before")

    def work() -> list[Path]:
        try:
            failed = [run.folder(out) / ERROR for run in schedule.run_all(todo, out, given.jobs, given.ray)] if todo else []
        finally:  # also after Ctrl-C, for the finished runs
            results = schedule.collect(out)
        if len(results):
            Scoring(**scoring(suite)).write(out)
            report(out)
        return failed

    return work, f"{len(todo)} runs" if todo else ""


def _search(given: argparse.Namespace, suite: dict[str, Any], out: Path) -> tuple[Callable[[], list[Path]], str]:
    _check_jobs(given)
    trials = search.Search(suite, out, given.search, given.budget, given.seeds, given.env, given.algo)
    what = f"search: {given.search} trials of {len(trials.cases)} contenders on seeds {trials.seeds[0]} to {trials.seeds[-1]}"
    return lambda: trials.run(given.jobs, given.ray), what


def _check_jobs(given: argparse.Namespace) -> None:
    if given.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {given.jobs}.")
    if given.ray is not None and given.jobs != 1:
        raise ValueError("--jobs and --ray are two ways to run several at the same time; give one of them.")
    if given.ray is not None:
        import_ray()  # before anything is planned
        check_reachable(given.ray)


def _speed(given: argparse.Namespace, suite: dict[str, Any], out: Path) -> tuple[Callable[[], list[Path]], str]:
    measurements = speed.plan(suite, given.budget, given.env, given.algo)

    def work() -> list[Path]:
        speed.measure_all(measurements, out)
        return []

    return work, f"{len(measurements)} measurements"


def report(folder: Path) -> None:
    """Write the table and the figures of a benchmark, from its CSV files and its ``scoring.json`` alone.

    Args:
        folder: folder of the benchmark.
    """
    scoring = Scoring.read(folder)
    results = scoring.ordered(read_results(folder / schedule.RESULTS))
    curves = table.all_curves(results)
    with matplotlib.rc_context({"text.parse_math": False}):  # names are text, whatever they contain
        plot_comparison(folder, **table.write_table(folder, results, curves, scoring))
        plot_sample_efficiency(folder, curves)
        if (folder / schedule.GRADIENTS).is_file():
            plot_gradient_norms(folder, pd.read_csv(folder / schedule.GRADIENTS))
    print((folder / "table.md").read_text(encoding="utf-8"))


def _log_session(out: Path, suite: dict[str, Any], given: argparse.Namespace, what: str) -> None:
    """Append a line to the folder's ``README.md``: the command, commit, date, machine and versions, without local paths."""
    words = ["python", "-m", "sb3_ext.benchmark", Path(given.suite).name]
    for name in ("seeds", "jobs", "budget", "env", "algo", "search", "best", "overwrite"):
        value = getattr(given, name)
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, False):
                words += [f"--{name}"] if one is True else [f"--{name}", Path(one).name if name == "best" else str(one)]
    about = circumstances()
    readme = out / "README.md"
    if not readme.is_file():
        readme.write_text(
            f"# {suite['name']}\n\n{suite['description']}.\n\nWritten by the command, a line each time it ran something.\n\n"
            "| command | what | commit | date | cores | torch | stable-baselines3 | budget |\n"
            "|---|---|---|---|---|---|---|---|\n",
            encoding="utf-8",
        )
    cells = [
        f"`{shlex.join(words)}`",
        what,
        *(about[key] for key in ("commit", "date", "cores", "torch", "stable_baselines3")),
    ]
    with open(readme, "a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(map(str, cells))} | {given.budget:g} |\n")


def plot_again(arguments: Sequence[str] | None = None) -> None:
    """Make the tables and figures of a benchmark again.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("plot"), description="Make a benchmark's tables and figures again from its CSV files."
    )
    parser.add_argument("folder", type=Path, help="output folder of python -m sb3_ext.benchmark")
    parser.add_argument("--out", type=Path, help="where to write (default: the same folder)")
    parser.add_argument("--suite", help="suite whose thresholds and score ranges to use, for a folder without scoring.json")
    given = parser.parse_args(arguments)
    source, out = given.folder, given.out or given.folder
    known = (schedule.RESULTS, schedule.GRADIENTS, SCORING, speed.RESULTS)
    found = [name for name in known if (source / name).is_file()]
    if schedule.RESULTS not in found and speed.RESULTS not in found:
        parser.error(f"{source} has neither {schedule.RESULTS} nor {speed.RESULTS}; give the --out of a benchmark.")
    if out != source:
        out.mkdir(parents=True, exist_ok=True)
        for name in found:
            shutil.copy(source / name, out)
    try:
        if speed.RESULTS in found:
            speed.report(out)
        if schedule.RESULTS in found:
            if given.suite is not None:
                Scoring(**scoring(load_suite(given.suite))).write(out)
            report(out)
    except ValueError as error:
        parser.error(str(error))
