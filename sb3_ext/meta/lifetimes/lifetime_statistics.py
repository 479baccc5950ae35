"""What B lifetimes have brought: the outer learner's reward of each step, and how often they succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sb3_ext.meta.lifetimes.dense_rewards import dense_reward
from sb3_ext.meta.lifetimes.task_batches import TaskStep

Objective = Literal["shaped", "sparse"]
MEAN_OBJECTIVE = 1e-4  # which shaped rewards are scaled to have, for every kind of task


class LifetimeRecord:
    """Takes in the steps of B lifetimes, one after the other.

    Args:
        n_lifetimes: B. n_batches: parts of a lifetime, of ``n_steps`` each, whose successes are told apart.
        objective: what a step is worth: ``"shaped"``, the task's dense reward divided so that its running mean over tasks of
            one kind is 1e-4 in size; or ``"sparse"``, the success signal.
    """

    def __init__(self, n_lifetimes: int, n_steps: int, n_batches: int, objective: Objective) -> None:
        self.n_lifetimes, self.n_steps, self.n_batches, self.objective = n_lifetimes, n_steps, n_batches, objective
        self._scale: dict[str, tuple[int, float]] = {}  # of each kind of task: shaped rewards seen, and their mean size
        self.begin([])

    def begin(self, tasks: Sequence[Any]) -> None:
        """B new lifetimes, a task each; the running scale stays."""
        self.tasks = list(tasks)
        kinds = np.array([task.env_id for task in tasks])
        self._kinds = [(kind, kinds == kind) for kind in dict.fromkeys(kinds.tolist())]  # and whose they are
        shape = (self.n_batches, self.n_lifetimes)
        self._ended, self._succeeded = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        self._shaped, self._sparse, self._worth = (np.zeros(self.n_lifetimes) for _ in range(3))
        self.elapsed = 0

    @property
    def done(self) -> bool:
        """Whether these lifetimes are over."""
        return self.elapsed == self.n_steps * self.n_batches

    def add(self, step: TaskStep) -> np.ndarray:
        """Take in a step; what it is worth, float32 ``[B]``."""
        batch = self.elapsed // self.n_steps
        self._ended[batch] += step.done
        self._succeeded[batch] += step.done & step.success
        self._shaped += step.shaped
        self._sparse += step.signal
        self.elapsed += 1
        worth = np.empty(self.n_lifetimes)
        if self.objective == "shaped":
            dense_reward(step.shaped)
        for kind, mine in self._kinds:
            count, mean = self._scale.get(kind, (0, 0.0))
            count += int(mine.sum())
            mean += float((np.abs(step.shaped[mine]) - mean).sum()) / count
            self._scale[kind] = count, mean
            worth[mine] = step.shaped[mine] * (MEAN_OBJECTIVE / max(mean, 1e-8))
        worth = (step.signal if self.objective == "sparse" else worth).astype(np.float32)
        self._worth += worth
        return worth

    def mean_shaped(self) -> np.ndarray:
        """The running mean size of the shaped reward of each lifetime's kind of task ``[B]``; 0 before anything was seen."""
        means = np.zeros(self.n_lifetimes)
        for kind, mine in self._kinds:
            means[mine] = self._scale.get(kind, (0, 0.0))[1]
        return means

    def infos(self) -> list[dict[str, Any]]:
        """For the last step of each lifetime.

        ``lifetime``: ``success`` ``[n_batches]``, the share of the episodes ended in each batch that succeeded, ``shaped`` and
        ``sparse`` return, and its ``task``. ``is_success``: the last of those shares. ``episode`` and ``TimeLimit.truncated``:
        as SB3 has them.
        """
        success = self._succeeded / np.maximum(self._ended, 1)
        columns = zip(success.T.tolist(), self._shaped.tolist(), self._sparse.tolist(), self.tasks, self._worth, strict=True)
        return [
            {
                "lifetime": dict(success=one, shaped=shaped, sparse=sparse, task=task),
                "is_success": one[-1],
                "episode": {"r": float(worth), "l": self.elapsed},
                "TimeLimit.truncated": False,
            }
            for one, shaped, sparse, task, worth in columns
        ]

    def get_state(self) -> dict[str, Any]:
        """What outlives a lifetime: the running scale of shaped rewards; JSON-ready, for :meth:`set_state`."""
        return {"scale": {name: list(value) for name, value in self._scale.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_state` gave."""
        self._scale = {name: (int(count), float(mean)) for name, (count, mean) in state["scale"].items()}
