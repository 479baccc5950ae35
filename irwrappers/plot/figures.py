"""Create, save and log matplotlib figures without pyplot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stable_baselines3.common import logger as sb3_logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` and ``height`` in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('irwrappers.plot needs matplotlib; install it: pip install "irwrappers[plots]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Save the figure to ``path``, if given (PNG unless its suffix is of another format), and return it."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def log_figure(logger: sb3_logger.Logger, key: str, figure: Figure) -> None:
    """Record a figure for the next ``logger.dump``; only TensorBoard shows it.

    In a callback: ``log_figure(self.logger, "pictures/visits", plot_visits(...))``.

    Args:
        logger: SB3's, ``model.logger``.
        key: TensorBoard's tag.
        figure: to be recorded.
    """
    try:
        record = sb3_logger.Figure(figure, close=False)
        logger.record(key, record, exclude=("stdout", "log", "json", "csv"))
    except AttributeError:
        raise TypeError(f"Expected a logger of Stable-Baselines3 (model.logger), got {type(logger).__name__}.") from None
