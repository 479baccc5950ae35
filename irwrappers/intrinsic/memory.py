"""Building blocks of rewards with a memory: buffers that grow, states of the current episode, nearest neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from irwrappers.intrinsic.base import IntrinsicReward, as_vec_env
from irwrappers.intrinsic.encoder import ObservationNormalizer, check_observation_space, flatten_steps
from irwrappers.intrinsic.network_reward import NetworkReward, check_finite, fit_normalizer
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive


class ResizableBuffers(nn.Module):
    """A module whose buffers named in ``resizable`` take the shapes of the loaded ``state_dict``: memories grow with use.

    Args:
        *args: of the next class.
        **kwargs: of the next class.
    """

    resizable: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self.resizable:
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FixedInputs(IntrinsicReward):
    """A reward whose observations are normalised by the statistics of some random steps, which are then frozen.

    Stored states can be compared with later ones only if both are normalised alike, so the statistics are not running ones.
    ``fit`` takes the random steps; if it is not called, the first batch that is learned from sets the statistics.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        normalize_observations: see :class:`ObservationNormalizer`.
        warmup_steps: random steps that ``fit`` takes, over all parallel environments.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        normalize_observations: bool,
        warmup_steps: int,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_observation_space(observation_space, type(self).__name__)
        check_positive(warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps
        self.normalizer = ObservationNormalizer(observation_space, normalize_observations)

    @property
    def needs_fit(self) -> bool:
        return not self.normalizer.is_warm

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Set the statistics on at most ``min(total_timesteps, warmup_steps)`` random steps, unless they are set."""
        if not self.needs_fit:
            return 0
        budget = min(total_timesteps, max(self.warmup_steps, as_vec_env(env).num_envs))
        used = fit_normalizer(self.normalizer, env, budget, seed, progress_bar, type(self).__name__)
        self._start_over()
        return used

    def _check(self, batch: Transitions) -> None:
        """Raise ``ValueError`` for numbers that are not finite in steps that count."""
        check_finite(NetworkReward._valid_steps(batch), type(self).__name__)

    def learn(self, batch: Transitions) -> dict[str, float]:
        self._check(batch)
        if self.needs_fit and batch.mask.any():
            self.normalizer.update(flatten_steps(batch.next_observations), batch.mask.flatten())
            self._start_over()
        return {}

    def _start_over(self) -> None:
        """Drop states that were stored under another normalisation."""
        raise NotImplementedError


class Pool(NamedTuple):
    """The items that the steps of a chunk are compared with: ``W`` stored ones in each environment, then those of ``T`` steps.

    Attributes:
        items: ``[B, W + T, …]``.
        order: int ``[B, W + T]``, 1, 2, … for the items that count and 0 for the others.
        low: int ``[B, T]``; step t is compared with the items with ``low < order <= high``.
        high: int ``[B, T]``; these are the items of its own episode up to and including its own, at most ``capacity``.
        last: int ``[B]``; the items with ``order > last`` are those that the next step is compared with.
    """

    items: Tensor
    order: Tensor
    low: Tensor
    high: Tensor
    last: Tensor

    @property
    def hidden(self) -> Tensor:
        """bool ``[B, T, W + T]``: the items that a step is not compared with."""
        order = self.order[:, None]
        return (order <= self.low[..., None]) | (order > self.high[..., None])

    def remember(self) -> tuple[Tensor, Tensor]:
        """Return the items to store, ``[B, W', …]`` with those of each environment at the right end, and how many ``[B]``."""
        keep = self.order > self.last[:, None]
        length = keep.sum(1)
        width = int(length.max()) if len(length) else 0
        if bool((keep.cummax(1).values == keep).all()):  # contiguous already, as is the case without invalid steps
            return self.items[:, self.items.shape[1] - width :], length
        index = keep.byte().argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
        return self.items[torch.arange(len(index), device=index.device)[:, None], index], length


def look_back(stored: Tensor, length: Tensor, new: Tensor, done: Tensor, valid: Tensor, capacity: int) -> Pool:
    """Join stored and new items to a :class:`Pool`.

    Args:
        stored: ``[B, W, …]``.
        length: int ``[B]``, how many of the stored ones count, at the right end.
        new: ``[T, B, …]``.
        done: bool ``[T, B]``, episodes that ended.
        valid: bool ``[T, B]``, steps that count.
        capacity: largest number of items that a step is compared with.
    """
    width = stored.shape[1]
    real = torch.arange(width, device=length.device) >= width - length[:, None]
    real = torch.cat([real, valid.T], 1)
    rank = real.cumsum(1, dtype=torch.int32)
    high = rank[:, width:]
    # Where an episode ended, the items up to there are hidden from all later steps.
    ended = torch.where(done.T, high, 0).cummax(1).values
    before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1)
    low = torch.maximum(before, high - capacity)
    last = torch.maximum(ended[:, -1], high[:, -1] - capacity)
    items = torch.cat([stored, new.transpose(0, 1)], 1)
    return Pool(items, torch.where(real, rank, 0), low, high, last)


def nearest(queries: Tensor, items: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
    """Return the squared distances to the ``k`` nearest items, in any order.

    Args:
        queries: ``[G, Q, d]``.
        items: ``[G, N, d]``.
        k: number of neighbours.
        hidden: bool ``[G, Q, N]``, items that a query is not compared with.

    Returns:
        ``[G, Q, min(k, N)]``, infinite where there are fewer items.
    """
    n, k = items.shape[1], min(k, items.shape[1])
    # |y|² − 2 x·y orders as |x − y|² does; the distances themselves are then taken exactly.
    score = torch.baddbmm(items.square().sum(-1)[:, None], queries, items.mT, alpha=-2)
    if hidden is not None:
        score.masked_fill_(hidden, torch.inf)
    index, least = _smallest(score, k)
    offset = torch.arange(len(items), device=items.device)[:, None, None] * n
    found = items.flatten(0, 1).index_select(0, (index + offset).flatten()).view(*index.shape, -1)
    squared = found.sub_(queries[:, :, None]).square_().sum(-1)
    return squared.masked_fill_(least.isinf(), torch.inf)


def _smallest(x: Tensor, k: int, group: int = 8) -> tuple[Tensor, Tensor]:
    """Return indices and values of the ``k`` smallest along the last axis; the index of an infinite value is arbitrary.

    ``topk`` costs several times a minimum: in long rows it is applied only to the k groups with the smallest minima.
    """
    n = x.shape[-1]
    n_groups = -(-n // group)
    if n_groups < 2 * k:
        values, index = x.topk(k, largest=False, sorted=False)
        return index, values
    if n % group:
        x = nn.functional.pad(x, (0, -n % group), value=torch.inf)
    groups = x.unflatten(-1, (group, n_groups))  # entry j is in group j mod n_groups
    best = groups.amin(-2).topk(k, largest=False, sorted=False).indices
    candidates = groups.gather(-1, best[..., None, :].expand(*best.shape[:-1], group, k)).flatten(-2)
    values, chosen = candidates.topk(k, largest=False, sorted=False)
    index = chosen // k * n_groups + best.gather(-1, chosen % k)
    return index.clamp_(max=n - 1), values  # padding is chosen only where finite entries run out
