"""How often an untrained policy succeeds in each task: the table ``untrained.csv``, and the command that measures it.

python -m envs.untrained                                       # exact where that can be computed, else go on measuring
python -m envs.untrained "sparse/MetaWorld-*" --seconds 60     # those of a pattern, a minute each
python -m envs.untrained "sparse/Point*" --episodes 1000000    # until a million episodes are measured

Untrained means: uniformly random actions where they are discrete; where they are a ``Box``, each entry from a standard normal
distribution, clipped to the bounds, because the mean of a new Stable-Baselines3 policy is near 0 and its standard deviation 1.
Tasks that have ``success_transitions()`` beside ``transition_graph()`` (Deep Sea and the grid mazes) are computed exactly, as
the chance that a Markov chain is absorbed within the horizon. The other tasks are sampled with the arguments they are
registered with. Tasks without ``is_success`` (``delayed/…``) have no row.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode

from envs.catalogue import CATALOGUE, all_horizons

TABLE = Path(__file__).with_name("untrained.csv")
MAX_BATCH = 1000  # episodes at once
MAX_BATCH_STEPS = 500_000  # and environment steps, so that a long measurement is saved now and then


@dataclass(frozen=True)
class UntrainedSuccess:
    """The share of an untrained policy's episodes that succeed in one task.

    Args:
        id: the task.
        success: the share, in [0, 1]; exact or estimated.
        low: lower bound of the 95 % Clopper-Pearson interval of an estimate; ``None`` where ``success`` is exact.
        high: its upper bound; ``None`` where ``success`` is exact.
        successes: number of episodes that succeeded; ``None`` where ``success`` is exact.
        episodes: number of episodes; ``None`` where ``success`` is exact.
        seed: episode number e was reset with ``seed`` + e; ``None`` where ``success`` is exact.
        date: the day of the measurement, ISO 8601.
    """

    id: str
    success: float
    low: float | None
    high: float | None
    successes: int | None
    episodes: int | None
    seed: int | None
    date: str

    @property
    def exact(self) -> bool:
        """Whether ``success`` was computed and not estimated."""
        return self.episodes is None

    def __str__(self) -> str:
        if self.exact:
            return f"{self.success:.2g} exact"
        return f"{self.success:.2g} [{self.low:.2g}, {self.high:.2g}]"


_TYPES = {"id": str, "date": str, "success": float, "low": float, "high": float}  # the others are integers


def read_table(path: Path = TABLE) -> dict[str, UntrainedSuccess]:
    """Return the rows of ``path`` by id; an empty dict where there is no such file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: _TYPES.get(k, int)(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    return {row.id: row for row in (UntrainedSuccess(**row) for row in rows)}  # type: ignore[arg-type]


def write_table(rows: Iterable[UntrainedSuccess], path: Path = TABLE) -> None:
    """Write ``rows`` in the catalogue's order; a concurrent reader sees the old file or the new one."""
    order = {env_id: place for place, env_id in enumerate(all_horizons())}
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(UntrainedSuccess)], lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: order.get(row.id, len(order))):
            writer.writerow(asdict(row))
    draft.replace(path)


# --- exact


def success_of_random_actions(next_states: np.ndarray, success: np.ndarray, start: int, horizon: int) -> float:
    """Return the chance that uniformly random actions succeed within ``horizon`` steps of a deterministic environment.

    Args:
        next_states: int ``[S, A]``, the state after each action.
        success: bool ``[S, A]``, whether that step succeeds, which ends the episode.
        start: the first state.
        horizon: the most steps of an episode.
    """
    n_states, n_actions = next_states.shape
    going_on = np.zeros((n_states, n_states))
    np.add.at(going_on, (np.arange(n_states)[:, None], next_states), np.where(success, 0.0, 1 / n_actions))
    chance = success.mean(axis=1)
    state = np.zeros(n_states)
    state[start] = 1.0
    total = 0.0
    for _ in range(horizon):
        total += float(state @ chance)
        state = state @ going_on
    return total


def exact_success(env_id: str) -> float | None:
    """Return the exact chance of success of uniformly random actions, ``None`` for a task without ``success_transitions``."""
    entry_point = gym.spec(env_id).entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if not hasattr(creator, "success_transitions"):
        return None
    env: Any = gym.make(env_id, disable_env_checker=True).unwrapped
    observations, next_states = env.transition_graph()
    start = int(np.flatnonzero((observations == env.reset()[0]).all(axis=1))[0])
    return success_of_random_actions(next_states, env.success_transitions(), start, all_horizons()[env_id])


# --- sampled


def sample_actions(space: spaces.Space, rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n actions ``[n, …]`` of an untrained policy."""
    if isinstance(space, spaces.Discrete):
        return space.start + rng.integers(space.n, size=n)
    assert isinstance(space, spaces.Box)
    return rng.standard_normal((n, *space.shape)).clip(space.low, space.high).astype(space.dtype)


class Sampler:
    """Player of episodes of one task, in batches whose results depend on the seed and the number of the first episode alone.

    Args:
        env_id: the task.
        seed: episode number e is reset with ``seed`` + e; the actions of the batch that begins with it are sampled from
            (``seed``, e).
    """

    def __init__(self, env_id: str, seed: int) -> None:
        self.seed, self.horizon = seed, all_horizons()[env_id]
        self.vectorised = gym.spec(env_id).vector_entry_point is not None
        self.batch = max(1, min(MAX_BATCH, MAX_BATCH_STEPS // self.horizon)) if self.vectorised else 1
        if self.vectorised:
            self.env: Any = gym.make_vec(env_id, self.batch, autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            self.env = gym.make(env_id, disable_env_checker=True)

    def play(self, first: int) -> int:
        """Return how many of the episodes ``first`` … ``first + batch - 1`` succeed."""
        rng = np.random.default_rng([self.seed, first])
        return self._play_batch(first, rng) if self.vectorised else self._play_one(first, rng)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _play_batch(self, first: int, rng: np.random.Generator) -> int:
        self.env.reset(seed=self.seed + first)
        playing, successes = np.ones(self.batch, dtype=bool), 0
        while playing.any():
            actions = sample_actions(self.env.single_action_space, rng, self.batch)
            _, _, terminated, truncated, info = self.env.step(actions)
            if "final_info" in info:
                successes += int((info["final_info"]["is_success"] & playing).sum())
                playing &= ~(terminated | truncated)
        return successes

    def _play_one(self, first: int, rng: np.random.Generator) -> int:
        self.env.reset(seed=self.seed + first)
        actions = sample_actions(self.env.action_space, rng, self.horizon)
        for action in actions:
            _, _, terminated, truncated, info = self.env.step(action)
            if info["is_success"]:  # Meta-World goes on, but the episode counts as a success already
                return 1
            if terminated or truncated:
                break
        return 0


def measure(
    env_id: str, before: UntrainedSuccess | None, episodes: int, seconds: float, seed: int
) -> Iterator[UntrainedSuccess]:
    """Measure one task, going on from ``before``; yield its row every ten seconds or so and at the end.

    Args:
        env_id: the task.
        before: its row so far; one of another seed is dropped.
        episodes: number of episodes after which to stop; the last batch may exceed it.
        seconds: time after which to stop, but not before the first batch.
        seed: see :class:`Sampler`.
    """
    exact = exact_success(env_id)
    today = date.today().isoformat()
    if exact is not None:
        if before is None or before.success != exact:
            yield UntrainedSuccess(env_id, exact, None, None, None, None, None, today)
        return
    successes, count = 0, 0
    if before is not None and before.seed == seed:
        successes, count = before.successes or 0, before.episodes or 0
    if count >= episodes:
        return
    sampler = Sampler(env_id, seed)
    started = saved = time.monotonic()
    while True:
        successes += sampler.play(count)
        count += sampler.batch
        now = time.monotonic()
        finished = count >= episodes or now - started >= seconds
        if finished or now - saved > 10:
            saved = now
            yield estimate(env_id, successes, count, seed, today)
        if finished:
            break
    sampler.close()


def estimate(env_id: str, successes: int, episodes: int, seed: int, day: str) -> UntrainedSuccess:
    """Return the row of a measurement, with its interval."""
    from scipy.stats import binomtest

    interval = binomtest(successes, episodes).proportion_ci(0.95, method="exact")
    low, high = (float(f"{bound:.3g}") for bound in (interval.low, interval.high))
    return UntrainedSuccess(env_id, float(f"{successes / episodes:.6g}"), low, high, successes, episodes, seed, day)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.untrained",
        description="Measure how often an untrained policy succeeds; go on where it stopped.",
    )
    parser.add_argument("tasks", nargs="*", default=["*"], help="ids or patterns such as 'sparse/MetaWorld-*' (default: all)")
    parser.add_argument("--episodes", type=int, default=10_000, help="of each task (default: 10000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most for each task (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="rows of another seed are measured anew (default: 0)")
    parser.add_argument("--output", type=Path, default=TABLE, help="the table (default: the package's own)")
    given = parser.parse_args(arguments)
    if given.episodes < 1 or given.seed < 0:
        parser.error(f"--episodes must be at least 1 and --seed at least 0, got {given.episodes} and {given.seed}.")
    measurable = [env_id for family in CATALOGUE.values() if family.has_success for env_id in family.horizons]
    ids = [env_id for env_id in measurable if any(fnmatch.fnmatchcase(env_id, pattern) for pattern in given.tasks)]
    if not ids:
        print(
            f"No task that reports success matches {' '.join(given.tasks)}; `python -m envs` lists them all.", file=sys.stderr
        )
        return 2
    for env_id in ids:
        row = read_table(given.output).get(env_id)
        for new in measure(env_id, row, given.episodes, given.seconds, given.seed):
            row = new
            write_table((read_table(given.output) | {env_id: row}).values(), given.output)
        print(f"{env_id}: {row}" + (f" of {row.episodes} episodes" if row and not row.exact else ""), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
