"""Results that one command repeats: ``python -m sb3_ext.benchmark SUITE`` and ``python -m sb3_ext.plot FOLDER``.

* ``suites.py`` - a suite is a YAML file; it becomes a list of runs, or an error before work starts.
* ``run.py`` - one run: train as ``python -m sb3_ext.train`` does, evaluate, write checkpoints and go on from them.
* ``schedule.py`` - all runs, some at a time, those of before left alone; their rows in one file.
* ``scores.py``, ``bootstrap.py``, ``comparison.py``, ``commits.py`` - what the rows say of a seed, of all seeds, of all
  environments, and of the code.
* ``table.py``, ``plots.py`` - all that as tables and pictures, from the CSV files and ``scoring.json`` alone.
* ``search.py`` - the same hyperparameter search for every contender, instead of the runs.
* ``speed.py`` - steps per second and memory instead of learning.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m sb3_ext.benchmark``."""
    _require_plots()
    from sb3_ext.zoo.benchmark.command import benchmark

    try:
        benchmark(arguments)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Finished runs are kept, and the same command goes on from the last checkpoints.", file=sys.stderr
        )
        sys.exit(130)  # what shells expect of a program that Ctrl-C ended


def plot(arguments: Sequence[str] | None = None) -> None:
    """``python -m sb3_ext.plot``."""
    _require_plots()
    from sb3_ext.zoo.benchmark.command import plot_again

    plot_again(arguments)


def _require_plots() -> None:
    """Raises ``ImportError``, which names the extra, before hours of training end without a table."""
    for name in ("matplotlib", "pandas", "rliable.library"):
        try:
            importlib.import_module(name)
        except (ImportError, TypeError) as error:  # TypeError: rliable's arch 7 with pandas 3
            raise ImportError(
                f"Benchmarks need matplotlib, pandas < 3 and rliable; importing {name} failed ({error}). Install them: "
                'pip install "irwrappers[plots]"'
            ) from error


__all__ = ["main", "plot"]
