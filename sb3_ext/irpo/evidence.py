"""Decisions from returns: whether one policy is better than another, and which policy acts next.

These rules use no networks and no environments. A return is that of a whole episode, with :func:`discount`, or of the part
that a policy had of an episode without an end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Verdict = Literal["move", "follow", "alone"]
N_ERRORS = 2.0  # standard errors by which mean returns must differ for the base policy to move
IMPROVEMENT_ERRORS = 1.0  # and by which the base policy's must rise for a longer run
MIN_EPISODES = 4  # of each policy before their returns are compared
SHORTEST_RUN, LONGEST_RUN = 4, 16  # rollouts of the base policy alone
NEGLIGIBLE_GAIN = 0.01  # of the spread of all returns seen: less than this is no improvement


def discount(gamma: float, episode_steps: int) -> float:
    """Return the discount of the returns that are compared: ``gamma``, or 1 − 1/``episode_steps`` where that is more.

    With a discount of 0.99 a reward after 500 steps counts less than a hundredth of its value, and on MountainCarContinuous
    a policy that does nothing is preferred to one that succeeds but has action costs. It is below 1, because a shorter path
    to the goal is to be preferred.

    Args:
        gamma: discount with which the policies are trained.
        episode_steps: largest number of steps of an episode.
    """
    return max(gamma, 1 - 1 / episode_steps)


def varies(returns: Sequence[float]) -> bool:
    """Return whether the returns differ, by more than rounding; if they do not, a policy gradient is noise."""
    return len(returns) > 1 and float(np.ptp(returns)) > 1e-9 * max(1.0, float(np.abs(returns).max()))


def exceeds(returns: Sequence[float], others: Sequence[float], n_errors: float, margin: float = 0.0) -> bool:
    """Return whether the mean of ``returns`` is above that of ``others`` by ``n_errors`` standard errors of the difference.

    With fewer than four returns of either policy it is not.

    Args:
        returns: of the one policy.
        others: of the other policy.
        n_errors: standard errors (Welch's) that the difference must exceed.
        margin: the difference must also be larger than this.
    """
    if min(len(returns), len(others)) < MIN_EPISODES:
        return False
    difference = float(np.mean(returns) - np.mean(others))
    error = math.sqrt(np.var(returns, ddof=1) / len(returns) + np.var(others, ddof=1) / len(others))
    return difference > max(n_errors * error, margin, 1e-9)


def verdict(base: Sequence[float], exploratory: Sequence[float]) -> Verdict:
    """Return what the base policy does after an exploratory policy has acted.

    * ``"move"``: take over the weights of the exploratory policy, whose returns are significantly higher.
    * ``"follow"``: step along its gradient. Its returns differ and are higher on average, in too few episodes for
      significance, while those of the base policy are all equal.
    * ``"alone"``: continue without change.

    Args:
        base: returns of the base policy.
        exploratory: returns of the exploratory policy.
    """
    if exceeds(exploratory, base, N_ERRORS):
        return "move"
    if varies(exploratory) and len(base) > 0 and not varies(base) and float(np.mean(exploratory)) > float(np.mean(base)):
        return "follow"
    return "alone"


@dataclass
class Schedule:
    """Schedule of turns: whether the base policy acts next, or which of the exploratory policies.

    While the returns of the base policy do not vary it cannot learn from them: the exploratory policies take turns, and the
    base policy acts only once in ``base_every`` rounds of them. Otherwise it trains alone for a *run* of
    rollouts, after which one exploratory policy has a turn. The run doubles, up to ``longest_run``, while the base policy
    improves (by one standard error and 1 % of the spread of returns), halves where it does not,
    and is the shortest again after a move. The first turn is a rollout of the base policy.

    Attributes:
        n_exploratory: number of exploratory policies.
        longest_run: largest length of a run, in rollouts.
        shortest_run: smallest length of a run, in rollouts; exploration then takes about a fifth of the steps.
        base_every: rounds of exploratory turns to one turn of a base policy whose returns do not vary.
        run: length of the current run in rollouts.
        left: rollouts of the run still to come.
        waiting: exploratory turns since the base policy last acted.
        next_explorer: number of the exploratory policy whose turn is next.
        previous: returns of the base policy when the length of the run was last decided.
        current: returns of the base policy since then.
        lowest: smallest of all returns seen.
        highest: largest of all returns seen.
        lowest_mean: smallest mean return of a turn of the base policy, since it last moved.
    """

    n_exploratory: int
    longest_run: int = LONGEST_RUN
    shortest_run: int = SHORTEST_RUN
    base_every: int = 8
    run: int = 0
    left: int = 1
    waiting: int = 0
    next_explorer: int = 0
    previous: list[float] = field(default_factory=list)
    current: list[float] = field(default_factory=list)
    lowest: float = math.inf
    highest: float = -math.inf
    lowest_mean: float = math.inf

    def __post_init__(self) -> None:
        self.shortest_run = min(self.shortest_run, self.longest_run)
        self.run = max(self.run, self.shortest_run)

    def next_actor(self) -> int | None:
        """Return the number of the exploratory policy that acts next, or None for the base policy."""
        if self.left > 0 or self.waiting >= self.base_every * self.n_exploratory:
            return None
        return self.next_explorer

    def _see(self, returns: Sequence[float]) -> None:
        if len(returns):
            self.lowest, self.highest = min(self.lowest, *returns), max(self.highest, *returns)

    def left_to_gain(self, returns: Sequence[float]) -> tuple[float, float]:
        """Return how far the mean return of a policy is below the best episode's of any policy, and the spread of returns.

        The spread is that from the base policy's lowest mean return to the best. Both are infinite if nothing is known.

        Args:
            returns: of the policy.
        """
        if len(returns) == 0 or self.lowest_mean == math.inf:
            return math.inf, math.inf
        return self.highest - float(np.mean(returns)), self.highest - self.lowest_mean

    def after_base(self, returns: Sequence[float], n_rollouts: int, informative: bool) -> None:
        """Update the schedule after a turn of the base policy.

        Args:
            returns: of the turn.
            n_rollouts: number of rollouts of the turn.
            informative: whether the returns of the base policy vary.
        """
        self._see(returns)
        if len(returns):
            self.lowest_mean = min(self.lowest_mean, float(np.mean(returns)))
        self.waiting = 0
        if not informative:
            self.left = 0
            return
        self.current += list(returns)
        self.left -= n_rollouts
        if self.left > 0:
            return
        margin = NEGLIGIBLE_GAIN * (self.highest - self.lowest)
        if exceeds(self.current, self.previous, IMPROVEMENT_ERRORS, margin):
            self.run = min(2 * self.run, self.longest_run)
        elif self.previous:
            self.run = max(self.shortest_run, self.run // 2)
        self.previous, self.current = self.current, []

    def after_exploration(self, returns: Sequence[float], moved: bool, informative: bool) -> None:
        """Update the schedule after a turn of an exploratory policy.

        Args:
            returns: of the turn.
            moved: whether the base policy took over its weights.
            informative: whether the returns of the base policy vary, after that.
        """
        self._see(returns)
        self.waiting += 1
        self.next_explorer = (self.next_explorer + 1) % self.n_exploratory
        if moved:
            self.run, self.previous, self.current = self.shortest_run, [], []
            self.lowest_mean = float(np.mean(returns))
        if informative:
            self.left = self.run
