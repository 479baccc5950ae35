"""What the rewards with a memory stand on: tensors that grow, what is left of running episodes, nearest neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from irwrappers.intrinsic.base import IntrinsicReward, as_vec_env
from irwrappers.intrinsic.encoder import ObservationNormalizer, check_observation_space, flatten_steps
from irwrappers.intrinsic.network_reward import NetworkReward, check_finite
from irwrappers.intrinsic.random_walks import random_steps
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive


class ResizableBuffers(nn.Module):
    """Buffers named in ``resizable`` take whatever shape ``load_state_dict`` brings: memories grow with use."""

    resizable: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self.resizable:
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FixedInputs(IntrinsicReward):
    """Observations normalised by the statistics of some random steps, and by those for good.

    What a reward stores can be compared with what comes later only if both went through the same normalisation, so it is
    not a running one. ``fit`` takes the random steps; where nobody calls it, the first batch that is learned from does.

    Args:
        normalize_observations: see :class:`ObservationNormalizer`.
        warmup_steps: random steps that ``fit`` takes, all copies together.
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
        """Take the statistics of at most ``min(total_timesteps, warmup_steps)`` random steps, unless there are some."""
        venv = as_vec_env(env)
        if not self.needs_fit:
            return 0
        n_steps = min(total_timesteps, max(self.warmup_steps, venv.num_envs)) // venv.num_envs
        if n_steps < 1:
            raise ValueError(
                f"{type(self).__name__} takes the statistics of at least one random step of each of the {venv.num_envs} "
                f"copies, and the budget is {total_timesteps} steps; give fit() more steps."
            )
        device = next(self.buffers()).device
        steps = random_steps(venv, n_steps, seed)
        for observations in tqdm(steps, "Random steps", total=n_steps, disable=not progress_bar, leave=False):
            tensors = tree_map(lambda x: torch.as_tensor(x, device=device), observations)
            check_finite(tensors, type(self).__name__)
            self.normalizer.update(tensors)
        self._start_over()
        return n_steps * venv.num_envs

    def _check(self, batch: Transitions) -> None:
        """Refuse numbers that are not finite in steps that count."""
        check_finite(NetworkReward._valid_steps(batch), type(self).__name__)

    def learn(self, batch: Transitions) -> dict[str, float]:
        self._check(batch)
        if self.needs_fit and batch.mask.any():
            self.normalizer.update(flatten_steps(batch.next_observations), batch.mask.flatten())
            self._start_over()
        return {}

    def _start_over(self) -> None:
        """Drop what was stored under another normalisation."""
        raise NotImplementedError


class Pool(NamedTuple):
    """Everything the steps of a chunk may look back on: ``W`` stored items of each copy, then those of its ``T`` steps.

    Attributes:
        items: ``[B, W + T, …]``.
        order: int ``[B, W + T]``, 1, 2, … for the items that count and 0 for the others.
        low, high: int ``[B, T]``; step t sees the items with ``low < order <= high``: those of its own episode up to and
            including its own, at most ``capacity`` of them.
        last: int ``[B]``; the items with ``order > last`` are those that the next step may look back on.
    """

    items: Tensor
    order: Tensor
    low: Tensor
    high: Tensor
    last: Tensor

    @property
    def hidden(self) -> Tensor:
        """bool ``[B, T, W + T]``."""
        order = self.order[:, None]
        return (order <= self.low[..., None]) | (order > self.high[..., None])

    def remember(self) -> tuple[Tensor, Tensor]:
        """The items to store, ``[B, W', …]`` with those of each copy at the right end, and how many ``[B]``."""
        keep = self.order > self.last[:, None]
        length = keep.sum(1)
        width = int(length.max()) if len(length) else 0
        if bool((keep.cummax(1).values == keep).all()):  # each copy's are together already, which is so without invalid steps
            return self.items[:, self.items.shape[1] - width :], length
        index = keep.byte().argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
        return self.items[torch.arange(len(index), device=index.device)[:, None], index], length


def look_back(stored: Tensor, length: Tensor, new: Tensor, done: Tensor, valid: Tensor, capacity: int) -> Pool:
    """Join stored items ``[B, W, …]``, the last ``length`` ``[B]`` of which count, and new ones ``[T, B, …]``."""
    width = stored.shape[1]
    real = torch.arange(width, device=length.device) >= width - length[:, None]
    real = torch.cat([real, valid.T], 1)
    rank = real.cumsum(1, dtype=torch.int32)
    high = rank[:, width:]
    # Where an episode ended, the items up to there are out of sight for all steps after.
    ended = torch.where(done.T, high, 0).cummax(1).values
    before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1)
    low = torch.maximum(before, high - capacity)
    last = torch.maximum(ended[:, -1], high[:, -1] - capacity)
    items = torch.cat([stored, new.transpose(0, 1)], 1)
    return Pool(items, torch.where(real, rank, 0), low, high, last)


def nearest(queries: Tensor, items: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
    """Squared distances to the ``k`` nearest items, in any order.

    Args:
        queries: ``[G, Q, d]``. items: ``[G, N, d]``. k: of neighbours. hidden: bool ``[G, Q, N]``, the items not to be seen.

    Returns:
        ``[G, Q, min(k, N)]``, infinite where fewer items can be seen.
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
    """Indices and values of the ``k`` smallest along the last axis; of an infinite value the index may be any.

    ``topk`` costs several times a minimum: in long rows it only sees the k groups of entries with the smallest minima.
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
