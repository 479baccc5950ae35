"""Series of numbers from the logs that Stable-Baselines3 writes."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Series = tuple[np.ndarray, np.ndarray]  # steps, values
STEPS = "time/total_timesteps"


def check_series(name: str, steps: Any, values: Any) -> Series:
    """Return steps and values as float64 arrays ``[n]``, sorted by steps.

    Raises:
        ValueError: their shapes differ, or there are none; ``name`` is named in the message.
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or steps.shape != values.shape or not len(values):
        raise ValueError(f"{name!r} must be values [n] with as many steps, n ≥ 1; got {values.shape} and steps {steps.shape}.")
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def read_logs(source: str | os.PathLike[str]) -> dict[str, Series]:
    """Read all series of numbers in the logs at ``source``, one file or a folder with its subfolders, by name."""
    path = Path(source)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    events = [file for file in files if "tfevents" in file.name]
    monitors = [file for file in files if file.name.endswith("monitor.csv")]
    tables = [file for file in files if file.name == "progress.csv" or (file == path and file.suffix == ".csv")]
    tables = [file for file in tables if file not in monitors]
    series: dict[str, Series] = {}
    # Of two with one name the later one is used: progress.csv keeps more digits than TensorBoard's float32.
    for group, read in ((events, _read_tensorboard), (tables, _read_progress), (monitors, _read_monitors)):
        folders = sorted({str(file.parent) for file in group})
        if len(folders) > 1:
            raise ValueError(f"{path} holds the logs of several runs, in {', '.join(folders)}; name one of them.")
        series |= read(group)
    if not series:
        raise FileNotFoundError(
            f"{path} holds no values: expected TensorBoard's events.out.tfevents…, progress.csv or …monitor.csv."
        )
    return series


def _read_tensorboard(files: Sequence[Path]) -> dict[str, Series]:
    """Read the scalars of all files; every call of ``learn`` writes one file."""
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    scalars: dict[str, list[Any]] = {}
    for file in files:
        events = EventAccumulator(str(file), size_guidance={SCALARS: 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend(events.Scalars(tag))
    return {tag: check_series(tag, [e.step for e in found], [e.value for e in found]) for tag, found in scalars.items()}


def _read_progress(files: Sequence[Path]) -> dict[str, Series]:
    rows: list[dict[str, str]] = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            rows += csv.DictReader(lines)
    series = {}
    for name in rows[0] if rows else ():
        pairs = [(_number(row.get(STEPS)), _number(row.get(name))) for row in rows]
        kept = [(step, value) for step, value in pairs if step is not None and value is not None]
        if kept and name != STEPS:
            series[name] = check_series(name, *zip(*kept, strict=True))
    return series


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _read_monitors(files: Sequence[Path]) -> dict[str, Series]:
    """Read the episodes of all environments, in the order in which they ended."""
    episodes: list[dict[str, str]] = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            header = lines.readline()
            if not header.startswith("#"):
                raise ValueError(f"{file} is no Monitor file: its first line must be '#' and JSON, got {header[:40]!r}.")
            start = _start_time(header)
            episodes += [{**row, "t": str(start + float(row["t"]))} for row in csv.DictReader(lines)]
    if not episodes:
        return {}
    episodes.sort(key=lambda row: float(row["t"]))
    steps = np.cumsum([float(row["l"]) for row in episodes])
    series = {}
    for name in episodes[0]:
        values = [_number(row.get(name)) for row in episodes]
        if name != "t" and all(value is not None for value in values):
            series[f"monitor/{name}"] = check_series(name, steps, values)
    return series


def _start_time(header: str) -> float:
    return float(json.loads(header[1:])["t_start"])
