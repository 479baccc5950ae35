"""MetaReward with groups of lifetimes in worker processes, also when they are killed or interrupted."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator
from signal import SIGINT, default_int_handler
from signal import signal as on_signal

import numpy as np
import pytest
import torch
from helpers.lifetimes import lifetimes, meta_reward
from stable_baselines3.common.callbacks import BaseCallback

from envs.tasks import PointGoal
from sb3_ext.meta.lifetimes.task_batches import ProcessTasks
from sb3_ext.meta.lifetimes.worker_processes import WorkerProcesses
from sb3_ext.meta.outer_learners.lifetime_shards import LocalShards, ProcessShards


def test_a_process_that_fails_says_why() -> None:
    batch = ProcessTasks(PointGoal(), {"goal_radius": -1.0}, 2)
    with pytest.raises(RuntimeError, match="goal_radius must be a positive number"):
        batch.begin([PointGoal().sample(np.random.default_rng(0)) for _ in range(2)], [0, 1])


def test_groups_in_processes_are_those_one_after_the_other() -> None:
    """4 groups of one lifetime, divided unevenly."""
    here, there = (meta_reward(lifetimes(n_jobs=jobs), n_shards=4, baseline="step").learn(2 * 480) for jobs in (1, 3))
    assert isinstance(here.shards, LocalShards) and isinstance(there.shards, ProcessShards)
    there.shards.close()
    for one, two in zip(here.policy.parameters(), there.policy.parameters(), strict=True):
        assert torch.equal(one, two)
    assert here.env_state == there.env_state


class InterruptSoon(BaseCallback):
    """Ctrl-C shortly after the second iteration has begun."""

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == 480:
            threading.Timer(0.05, _thread.interrupt_main).start()

    def _on_step(self) -> bool:
        return True


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Make Ctrl-C raise also under "pytest &" in a script, which ignores it."""
    before = on_signal(SIGINT, default_int_handler)
    yield
    on_signal(SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("n_shards", [1, 2], ids=["environments", "shards"])
def test_it_goes_on_after_ctrl_c_while_processes_are_at_work(n_shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PointGoal, "has_vector_form", False)  # or there are no processes of environments
    unbroken, model = (meta_reward(lifetimes(n_jobs=jobs), n_shards=n_shards, baseline="step") for jobs in (1, 2))
    unbroken.learn(3 * 480)
    with pytest.raises(KeyboardInterrupt):
        model.learn(3 * 480, callback=InterruptSoon())
    assert model.num_timesteps == 480
    model.learn(2 * 480, reset_num_timesteps=False)
    for one, two in zip(unbroken.policy.parameters(), model.policy.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_process_that_was_killed_is_named_and_replaced() -> None:
    workers = WorkerProcesses(2, Counter)
    workers.ask("add", [(1,), (2,)])
    assert workers.answers() == [1, 2]
    workers._processes[1].kill()
    workers._processes[1].join()
    workers.ask("add", [(1,), (2,)])
    with pytest.raises(RuntimeError, match="ended without an answer"):
        workers.answers()
    workers.ask("add", [(5,), None])  # all begin anew
    workers.ask("add", [(5,), (6,)])  # and a call whose answer was not received has happened
    assert workers.answers() == [10, 6]
    workers.close()


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total

    def close(self) -> None:
        pass
