"""What returns say: whether one policy is better than another, and who acts next.

Nothing here knows of networks or environments. A return is that of a whole episode from reset, with :func:`discount`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Verdict = Literal["move", "follow", "alone"]
N_ERRORS = 2.0  # standard errors of a difference of mean returns that count as beyond doubt
MIN_EPISODES = 4  # of each policy before their returns are compared
SHORTEST_RUN, LONGEST_RUN = 4, 16  # rollouts of the base policy alone
PATIENCE = 8  # rollouts without an improvement after which the base policy stagnates
NEGLIGIBLE_GAIN = 0.01  # of the spread of all returns seen: less than this is no improvement


def discount(gamma: float, episode_steps: int) -> float:
    """Return the discount of the returns that are compared: ``gamma``, or 1 − 1/``episode_steps`` where that is more.

    With a discount of 0.99 a success after 500 steps is worth less than one part in a hundred of it, and a policy that does
    nothing is preferred to one that pays for its actions and succeeds. The end of an episode must count in a comparison of
    whole episodes; so must a shorter way there, which a plain sum would not see.

    Args:
        gamma: of the policies' own returns.
        episode_steps: at which an episode ends at the latest.
    """
    return max(gamma, 1 - 1 / episode_steps)


def varies(returns: Sequence[float]) -> bool:
    """Return whether the returns differ at all: where they do not, a policy gradient is noise."""
    return len(returns) > 1 and float(np.ptp(returns)) > 1e-9 * max(1.0, float(np.abs(returns).max()))


def exceeds(returns: Sequence[float], others: Sequence[float], n_errors: float, margin: float = 0.0) -> bool:
    """Return whether the mean of ``returns`` is above that of ``others`` by ``n_errors`` standard errors of the difference.

    Args:
        returns: of the one policy.
        others: of the other policy. With fewer than four returns on either side the answer is False.
        n_errors: Welch's statistic that the difference must reach.
        margin: the difference must also be larger than this.
    """
    if min(len(returns), len(others)) < MIN_EPISODES:
        return False
    difference = float(np.mean(returns) - np.mean(others))
    error = math.sqrt(np.var(returns, ddof=1) / len(returns) + np.var(others, ddof=1) / len(others))
    return difference > max(n_errors * error, margin, 1e-9)


def verdict(base: Sequence[float], exploratory: Sequence[float]) -> Verdict:
    """Return what the base policy does after an exploratory policy has acted.

    * ``"move"``: to the exploratory policy, whose returns are higher beyond doubt.
    * ``"follow"``: its gradient. It has met a reward, on too few episodes to be sure, and the base policy has met none.
    * ``"alone"``: nothing; it goes on by itself.

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
    """Decides which policy acts next: the base policy, or which of the exploratory ones.

    While the returns of the base policy do not vary there is nothing for it to learn from: the exploratory policies take
    turns, and the base policy acts only once in ``base_every`` rounds of them. Otherwise it goes on alone for a *run* of
    rollouts, after which one exploratory policy has a turn. The run doubles, up to ``longest_run``, while the base policy
    improves, halves where it has not improved for eight rollouts, and is the shortest again after a move.

    Attributes:
        n_exploratory: number of exploratory policies.
        longest_run: of the base policy alone, in rollouts.
        shortest_run: of the base policy alone where its returns vary; exploring takes about a fifth of the steps then.
        base_every: rounds of exploratory turns to one turn of a base policy whose returns do not vary.
        run: length of the current run in rollouts. left: rollouts of it still to come.
        waiting: exploratory turns since the base policy last acted. following: the exploratory policy whose turn is next.
        previous: returns of the base policy that it must exceed to have improved.
        current: its returns since. rollouts: how many rollouts these are of.
        lowest, highest: of all returns seen.
    """

    n_exploratory: int
    longest_run: int = LONGEST_RUN
    shortest_run: int = SHORTEST_RUN
    base_every: int = 8
    run: int = 0
    left: int = 1
    waiting: int = 0
    following: int = 0
    previous: list[float] = field(default_factory=list)
    current: list[float] = field(default_factory=list)
    rollouts: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    def __post_init__(self) -> None:
        self.shortest_run = min(self.shortest_run, self.longest_run)
        self.run = max(self.run, self.shortest_run)

    def next_actor(self) -> int | None:
        """Return the number of the exploratory policy that acts next, or None for the base policy."""
        if self.left > 0 or self.waiting >= self.base_every * self.n_exploratory:
            return None
        return self.following

    def _see(self, returns: Sequence[float]) -> None:
        if len(returns):
            self.lowest, self.highest = min(self.lowest, *returns), max(self.highest, *returns)

    def after_base(self, returns: Sequence[float], n_rollouts: int, informative: bool) -> None:
        """Take in a turn of the base policy.

        Args:
            returns: of the turn.
            n_rollouts: how many rollouts the turn had.
            informative: whether the returns of the base policy vary.
        """
        self._see(returns)
        self.waiting = 0
        if not informative:
            self.left = 0
            return
        self.current += list(returns)
        self.rollouts += n_rollouts
        self.left -= n_rollouts
        if self.left > 0:
            return
        margin = NEGLIGIBLE_GAIN * (self.highest - self.lowest)
        if exceeds(self.current, self.previous, 1.0, margin):
            self.run = min(2 * self.run, self.longest_run)
        elif self.previous and self.rollouts < PATIENCE:
            return  # too early to say
        elif self.previous:
            self.run = max(self.shortest_run, self.run // 2)
        self.previous, self.current, self.rollouts = self.current, [], 0

    def after_exploration(self, returns: Sequence[float], moved: bool, informative: bool) -> None:
        """Take in a turn of an exploratory policy.

        Args:
            returns: of the turn.
            moved: whether the base policy moved there.
            informative: whether the returns of the base policy, after that, vary.
        """
        self._see(returns)
        self.waiting += 1
        self.following = (self.following + 1) % self.n_exploratory
        if moved:
            self.run, self.previous, self.current, self.rollouts = self.shortest_run, [], [], 0
        if informative:
            self.left = self.run
