"""The options that ``reset`` takes in every environment with a goal."""

from __future__ import annotations

from typing import Any, NamedTuple


class ResetOptions(NamedTuple):
    """What ``reset(options={"random_start": True, "ignore_goal": True})`` changes for one episode.

    Args:
        random_start: the episode starts anywhere, in a state sampled uniformly, and not at the goal unless that is ignored.
        ignore_goal: the goal gives no reward and does not end the episode, as the random walks of a Laplacian reward need.
    """

    random_start: bool
    ignore_goal: bool

    @classmethod
    def read(cls, options: dict[str, Any] | None, random_start: bool = False) -> ResetOptions:
        """Read ``options``; ``random_start`` is the environment's own argument, which holds in every episode."""
        options = options or {}
        return cls(bool(random_start or options.get("random_start", False)), bool(options.get("ignore_goal", False)))
