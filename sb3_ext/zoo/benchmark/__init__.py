"""Benchmarks that one command repeats: ``python -m sb3_ext.benchmark SUITE`` and ``python -m sb3_ext.plot FOLDER``.

* ``command.py``: the two commands.
* ``suites.py``, ``suite_checks.py``: a YAML file becomes a list of runs, or an error before work starts.
* ``run.py``: one run, which trains as ``python -m sb3_ext.train`` does, evaluates, and resumes from its checkpoint.
* ``schedule.py``, ``processes.py``: all unfinished runs, some at a time, and the file with the rows of all.
* ``scores.py``, ``bootstrap.py``, ``comparison.py``, ``commits.py``: statistics of a seed, of all seeds, of all environments,
  and the commits that the rows come from.
* ``table.py``, ``plots.py``: tables and figures, from the CSV files and ``scoring.json`` alone.
* ``search.py``: the same hyperparameter search for every contender, instead of the runs.
* ``speed.py``: steps per second and memory instead of learning.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m sb3_ext.benchmark``.

    Args:
        arguments: of the command line; None: those of this process.

    Raises:
        ImportError: if the packages of the extra ``plots`` are missing.
    """
    _require_plots()
    from sb3_ext.zoo.benchmark.command import benchmark

    try:
        benchmark(arguments)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Finished runs are kept, and the same command resumes from the last checkpoints.", file=sys.stderr
        )
        sys.exit(130)  # the exit status that shells expect after Ctrl-C


def plot(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m sb3_ext.plot``.

    Args:
        arguments: of the command line; None: those of this process.

    Raises:
        ImportError: if the packages of the extra ``plots`` are missing.
    """
    _require_plots()
    from sb3_ext.zoo.benchmark.command import plot_again

    plot_again(arguments)


def _require_plots() -> None:
    """Raise ImportError, naming the extra, before hours of training end without a table."""
    for name in ("matplotlib", "pandas", "rliable.library"):
        try:
            importlib.import_module(name)
        except (ImportError, TypeError) as error:  # TypeError: arch 7, which rliable needs, with pandas 3
            raise ImportError(
                f"Benchmarks need matplotlib, pandas < 3 and rliable; importing {name} failed ({error}). Install them: "
                'pip install "irwrappers[plots]"'
            ) from error


__all__ = ["main", "plot"]
