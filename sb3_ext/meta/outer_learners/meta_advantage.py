"""The advantage of a reward that an agent receives, which has an effect only after the agent's next update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_ext.common.gae import discounted_sum


class MetaAdvantage(NamedTuple):
    """Advantages of the rewards of B agents.

    Attributes:
        advantages: ``[T, B]``, 0 where undefined.
        defined: where they are defined, bool ``[T, B]``.
    """

    advantages: Tensor
    defined: Tensor


def check_horizons(name: str, horizons: Sequence[int]) -> None:
    """Check that horizons are numbers of steps.

    Args:
        name: of the argument, for the message.
        horizons: its value.

    Raises:
        ValueError: if they are not.
    """
    if not isinstance(horizons, Sequence) or not all(isinstance(n, int) and n > 0 for n in horizons):
        raise ValueError(f"{name} must be a list of numbers of steps, each at least 1; got {horizons!r}.")


def meta_advantage(
    rewards: Tensor,
    values: Tensor,
    episodes: Tensor,
    *,
    steps_per_update: int,
    gamma: float,
    horizons: Sequence[int],
    fallback: Sequence[int],
    decay: float = 0.85,
    skip: bool = True,
) -> MetaAdvantage:
    """Return weighted means of n-step advantages that leave out what a reward cannot have influenced (arXiv 2407.21546).

    With u = b − (t mod b) the steps up to the inner agent's next update and e_l the episode of step l,

        Âⁿ_t = Σ_{l=t+u}^{t+n−1} γ^(e_l − e_{t+u}) R_l + γ^(e_{t+n} − e_{t+u}) V_{t+n} − V_t,

    and the advantage is their mean over the n_i of ``horizons`` with u < n_i and t + n_i < T, weighted by decayⁱ; where there
    is none, over those of ``fallback``. The discount falls once an episode, not at every step. Linear in T.

    Args:
        rewards: R, the outer learner's rewards of B whole lifetimes ``[T, B]``.
        values: V ``[T, B]``.
        episodes: e, number of each step's episode, int ``[T, B]``.
        steps_per_update: b, steps of an inner batch.
        gamma: γ, the discount of an episode.
        horizons: the n_i, in steps.
        fallback: the n_i where no one of ``horizons`` is possible.
        decay: factor by which the weight of each further n_i falls.
        skip: whether rewards before the agents' next update are left out; False: u = 0.
    """
    steps = len(rewards)
    time = torch.arange(steps, device=rewards.device)
    next_update = time + steps_per_update - time % steps_per_update if skip else time
    changes = (episodes[1:] - episodes[:-1]).to(rewards.dtype)
    # to_go[t] is the whole rest of a lifetime, discounted to the episode of t, so a stretch of it is a difference of two.
    to_go = discounted_sum(rewards, torch.cat([gamma**changes, torch.zeros_like(rewards[:1])]))
    sums, totals = torch.zeros_like(rewards), torch.zeros_like(rewards[:, :1])
    for family in (horizons, fallback):
        family_sums, weights = torch.zeros_like(sums), torch.zeros_like(totals)
        for i, n in enumerate(family):
            inside = (next_update < time + n) & (time + n < steps)
            t, start, end = time[inside], next_update[inside], time[inside] + n
            discount = gamma ** (episodes[end] - episodes[start]).to(rewards.dtype)
            family_sums[t] += decay**i * (to_go[start] + discount * (values[end] - to_go[end]) - values[t])
            weights[t] += decay**i
        missing = totals == 0
        sums, totals = torch.where(missing, family_sums, sums), torch.where(missing, weights, totals)
    defined = (totals > 0).expand_as(sums)
    return MetaAdvantage(torch.where(defined, sums / totals.clamp(min=1e-12), 0), defined)


def paper_horizons(steps_per_update: int) -> tuple[list[int], list[int]]:
    """Return the paper's ``horizons`` and ``fallback``: 2200 + 300 i and 1 + 300 i for i < 6, in proportion to b = 2000."""
    first, step = round(1.1 * steps_per_update), max(1, round(0.15 * steps_per_update))
    return [first + step * i for i in range(6)], [1 + step * i for i in range(6)]
