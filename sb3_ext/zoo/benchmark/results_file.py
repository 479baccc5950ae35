"""``results.csv``, read with checks: a file may be damaged, or come from someone else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

REQUIRED = ("env", "algo", "seed", "timesteps", "wall_s", "success", "return", "actions")
ACTIONS = ("argmax", "sampled")
LONGEST_NAME = 200  # characters of an environment or a contender
MOST_ROWS = 5_000_000
_NUMBERS = ("seed", "timesteps", "wall_s", "success", "return")


def read_results(path: Path) -> pd.DataFrame:
    """Return the rows of ``results.csv``.

    Args:
        path: of the file.

    Raises:
        ValueError: for a file that no benchmark writes, with the first thing that is wrong in it.
    """

    try:
        rows = pd.read_csv(path, dtype={"commit": str, "env": str, "algo": str, "suite": str}, nrows=MOST_ROWS + 1)
        mistake = next(_mistakes(rows), None)
    except (ValueError, OSError) as error:  # pandas' errors are ValueErrors
        mistake = str(error).strip()
    if mistake is not None:
        raise ValueError(f"{path} is not a table of results: {mistake}.")
    return rows


def _mistakes(rows: pd.DataFrame) -> Iterator[str]:
    missing = [name for name in REQUIRED if name not in rows]
    if missing:
        yield f"without the columns {', '.join(missing)}"
    if not 0 < len(rows) <= MOST_ROWS:
        yield "no rows" if not len(rows) else f"more than {MOST_ROWS} rows"
    for name in _NUMBERS:
        if not pd.api.types.is_numeric_dtype(rows[name]) or np.isinf(rows[name]).any():
            yield f"{name} is not a number in every row"
    for name in ("seed", "timesteps", "return", "env", "algo", "actions"):
        if rows[name].isna().any():
            yield f"{name} is empty in row {int(rows[name].isna().idxmax()) + 2}"
    unknown = sorted(set(map(str, rows.actions)) - set(ACTIONS))
    if unknown:
        yield f"actions is {unknown[0]!r:.80}, not one of {', '.join(ACTIONS)}"
    if (rows[["seed", "timesteps"]] < 0).any(axis=None) or (rows.timesteps > 2**53).any():
        yield "seed or timesteps is out of range"
    if max(rows.env.str.len().max(), rows.algo.str.len().max()) > LONGEST_NAME:
        yield f"a name has more than {LONGEST_NAME} characters"
