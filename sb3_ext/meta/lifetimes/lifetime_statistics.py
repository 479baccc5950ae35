"""Statistics of B lifetimes: the outer learner's reward for each step, and the success of the agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sb3_ext.meta.lifetimes.dense_rewards import dense_reward
from sb3_ext.meta.lifetimes.task_batches import TaskStep

Objective = Literal["shaped", "sparse"]
MEAN_OBJECTIVE = 1e-4  # mean size to which shaped rewards are scaled, for every kind of task


class LifetimeStatistics:
    """Accumulator of the steps of B lifetimes.

    Args:
        n_lifetimes: B.
        n_steps: steps of a batch.
        n_batches: number of batches of a lifetime; success is counted in each.
        objective: reward of the outer learner: ``"shaped"``, the task's dense reward divided so that its running mean over
            tasks of one kind is 1e-4 in size; or ``"sparse"``, the success signal.
    """

    def __init__(self, n_lifetimes: int, n_steps: int, n_batches: int, objective: Objective) -> None:
        self.n_lifetimes, self.n_steps, self.n_batches, self.objective = n_lifetimes, n_steps, n_batches, objective
        self._scale: dict[str, tuple[int, float]] = {}  # by kind of task: number of shaped rewards seen, and their mean size
        self.begin([])

    def begin(self, tasks: Sequence[Any]) -> None:
        """Begin B new lifetimes with one of ``tasks`` each; the running scale stays."""
        self.tasks = list(tasks)
        kinds = np.array([task.env_id for task in tasks])
        self._kinds = [(kind, kinds == kind) for kind in dict.fromkeys(kinds.tolist())]  # and the lifetimes with it
        shape = (self.n_batches, self.n_lifetimes)
        self._ended, self._succeeded = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        self._shaped, self._sparse, self._objective_return = (np.zeros(self.n_lifetimes) for _ in range(3))
        self.elapsed = 0

    @property
    def done(self) -> bool:
        """Whether the lifetimes are over."""
        return self.elapsed == self.n_steps * self.n_batches

    def add(self, step: TaskStep) -> np.ndarray:
        """Add a step, and return the outer learner's rewards for it, float32 ``[B]``."""
        batch = self.elapsed // self.n_steps
        self._ended[batch] += step.done
        self._succeeded[batch] += step.done & step.success
        self._shaped += step.shaped
        self._sparse += step.signal
        self.elapsed += 1
        rewards = np.empty(self.n_lifetimes)
        if self.objective == "shaped":
            dense_reward(step.shaped)
        for kind, mine in self._kinds:
            count, mean = self._scale.get(kind, (0, 0.0))
            count += int(mine.sum())
            mean += float((np.abs(step.shaped[mine]) - mean).sum()) / count
            self._scale[kind] = count, mean
            rewards[mine] = step.shaped[mine] * (MEAN_OBJECTIVE / max(mean, 1e-8))
        rewards = (step.signal if self.objective == "sparse" else rewards).astype(np.float32)
        self._objective_return += rewards
        return rewards

    def mean_shaped(self) -> np.ndarray:
        """Return the running mean size of the shaped reward, for each lifetime's kind of task ``[B]``; 0 at first."""
        means = np.zeros(self.n_lifetimes)
        for kind, mine in self._kinds:
            means[mine] = self._scale.get(kind, (0, 0.0))[1]
        return means

    def infos(self) -> list[dict[str, Any]]:
        """Return the infos of the last step of each lifetime.

        ``lifetime``: ``success`` ``[n_batches]``, the share of successful ones among the episodes that ended in each batch,
        ``shaped`` and ``sparse`` return, and its ``task``. ``is_success``: the last of those shares. ``episode`` and
        ``TimeLimit.truncated``: as in SB3.
        """
        success = self._succeeded / np.maximum(self._ended, 1)
        columns = zip(
            success.T.tolist(), self._shaped.tolist(), self._sparse.tolist(), self.tasks, self._objective_return, strict=True
        )
        return [
            {
                "lifetime": dict(success=success_shares, shaped=shaped, sparse=sparse, task=task),
                "is_success": success_shares[-1],
                "episode": {"r": float(objective), "l": self.elapsed},
                "TimeLimit.truncated": False,
            }
            for success_shares, shaped, sparse, task, objective in columns
        ]

    def get_state(self) -> dict[str, Any]:
        """Return what outlives a lifetime, the running scale of shaped rewards, as JSON types for :meth:`set_state`."""
        return {"scale": {name: list(value) for name, value in self._scale.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the state that :meth:`get_state` returned."""
        self._scale = {name: (int(count), float(mean)) for name, (count, mean) in state["scale"].items()}
