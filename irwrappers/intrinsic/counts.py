"""Counts of state visits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from torch import Tensor
from torch.utils._pytree import tree_leaves

from irwrappers.intrinsic.encoder import Observations, flatten_steps
from irwrappers.intrinsic.memory import FixedInputs, ResizableBuffers
from irwrappers.intrinsic.registry import register
from irwrappers.transitions import Transitions
from irwrappers.validation import check_range

SMALL_TABLE = 1024  # states, at least, of the table of new ones
MANY_VISITS = 100_000  # after which a warning says that nearly all states are new


@register("count")
class StateCount(ResizableBuffers, FixedInputs):
    """State counts: ``r = 1 / sqrt(N(s′))``, N the visits of s′ so far, this one included.

    Visits in all environments are counted together, in order of time and within a step in order of the environments: the
    reward of the n-th visit of a state is ``1 / sqrt(n)``, however visits are split into batches. A visit is a state that a
    step leads to; the first state of an episode is not counted.

    Two states are the same if all their entries are equal (floats as float32), compared by 64-bit hashes; that suits discrete
    states. With ``hash_bits`` they are the same if the signs of as many random projections are: SimHash, ``sgn(A g(s))`` with
    A of independent Gaussians, which suits continuous states and images. g is the observation, normalised by the statistics
    of ``warmup_steps`` random steps (see :class:`FixedInputs`); more bits distinguish more states.

    A state takes 16 bytes for as long as the module lives. Where nearly every step leads to a new state the reward is 1
    nearly everywhere and the memory grows with every step; a warning says so once.

    Source: Tang et al., arXiv 1611.04717, equations (1) and (2); β is the wrapper's or the algorithm's coefficient.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        hash_bits: number of projections, at most 62; None for exact counts.
        normalize_observations: normalise observations by the statistics of random steps, see :class:`FixedInputs`; with
            ``hash_bits`` only.
        warmup_steps: random steps that ``fit`` takes for these statistics, over all parallel environments.
    """

    n_rewards = 1
    resizable = ("states", "visits", "new_states", "new_visits")
    states: Tensor
    visits: Tensor
    new_states: Tensor
    new_visits: Tensor
    projection: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        hash_bits: int | None = None,
        normalize_observations: bool = True,
        warmup_steps: int = 2000,
    ) -> None:
        super().__init__(observation_space, action_space, normalize_observations and hash_bits is not None, warmup_steps)
        check_range("hash_bits", hash_bits, 1, 62, integer=True, optional=True, schedule=False, meaning="None counts exactly")
        self.hash_bits = hash_bits
        if hash_bits is not None:
            self.register_buffer("projection", torch.randn(get_flattened_obs_dim(self.normalizer.space), hash_bits))
        # Hashes in ascending order, so that a batch is looked up by bisection. New ones go into a small table, which is merged
        # with the large one now and then: to insert a single one takes hardly longer, however many there are.
        for name in self.resizable:
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self._n_counted = self._n_new = 0  # visits in this process, for the warning

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        mask = batch.mask
        keys = self._keys(batch)
        rewards = torch.zeros(mask.shape, device=keys.device)
        visits = _nth(keys)
        for states, counts in self._tables():
            position, known = _find(states, keys)
            visits[known] += counts[position[known]]
        rewards[mask] = visits.float().rsqrt()
        return rewards.unsqueeze(-1)

    @torch.no_grad()
    def advance(self, batch: Transitions) -> None:
        self._check(batch)
        keys, visits = torch.unique(self._keys(batch), return_counts=True)
        self._n_counted += int(visits.sum())
        for states, counts in self._tables():
            position, known = _find(states, keys)
            counts[position[known]] += visits[known]
            keys, visits = keys[~known], visits[~known]
        if not len(keys):
            return
        self.new_states, self.new_visits = _merged(self.new_states, self.new_visits, keys, visits)
        if len(self.new_states) > max(SMALL_TABLE, 8 * len(self.states) ** 0.5):
            self.states, self.visits = _merged(self.states, self.visits, self.new_states, self.new_visits)
            self.new_states, self.new_visits = self.new_states[:0].clone(), self.new_visits[:0].clone()
        self._n_new += len(keys)
        if self._n_counted >= MANY_VISITS and self._n_new > 0.95 * self._n_counted:
            warnings.warn(
                f"{self._n_new} of {self._n_counted} visits led to a new state: hardly anything is counted twice, and the "
                "memory grows with every step. Give hash_bits, or use a reward for continuous states (rnd, pseudo_counts).",
                stacklevel=2,
            )
            self._n_counted = -(2**62)  # once

    @property
    def n_states(self) -> int:
        """Number of different states so far."""
        return len(self.states) + len(self.new_states)

    def table(self) -> tuple[Tensor, Tensor]:
        """Return the hashes of all states, in ascending order, and their visits."""
        return _merged(self.states, self.visits, self.new_states, self.new_visits)

    def learn(self, batch: Transitions) -> dict[str, float]:
        return {**super().learn(batch), "states": float(self.n_states)}

    def _tables(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return (self.states, self.visits), (self.new_states, self.new_visits)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("new_states", "new_visits"):  # which older files do not have
            state_dict.setdefault(prefix + name, torch.zeros(0, dtype=torch.int64))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _keys(self, batch: Transitions) -> Tensor:
        """Return the key of the state of each step that counts, int64, in order of time."""
        observations, mask = flatten_steps(batch.next_observations), batch.mask.flatten()
        if self.hash_bits is None:
            return row_keys(self.observation_space, observations)[mask]
        inputs = torch.cat([part.flatten(1) for part in tree_leaves(self.normalizer(observations))], 1)
        bits = (inputs[mask] @ self.projection) > 0
        return (bits.long() << torch.arange(self.hash_bits, device=bits.device)).sum(1)

    def _start_over(self) -> None:
        if self.hash_bits is not None:
            for name in self.resizable:
                setattr(self, name, getattr(self, name)[:0].clone())


def _find(states: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position in ``states`` at which each key is or belongs, and whether it is there."""
    position = torch.searchsorted(states, keys)
    known = torch.zeros_like(keys, dtype=torch.bool)
    within = position < len(states)
    known[within] = states[position[within]] == keys[within]
    return position, known


def _merged(states: Tensor, visits: Tensor, keys: Tensor, new_visits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the table with ``keys`` added; both are in ascending order and have nothing in common."""
    position = torch.searchsorted(states, keys) + torch.arange(len(keys), device=keys.device)
    new = torch.zeros(len(states) + len(keys), dtype=torch.bool, device=keys.device)
    new[position] = True
    merged = [keys.new_empty(len(new)) for _ in range(2)]
    for table, old, added in zip(merged, (states, visits), (keys, new_visits), strict=True):
        table[new], table[~new] = added, old
    return merged[0], merged[1]


def _nth(keys: Tensor) -> Tensor:
    """Return how many times each key occurs up to and including its position."""
    ordered, order = keys.sort(stable=True)
    place = torch.arange(len(keys), device=keys.device)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    begin = torch.where(first, place, 0).cummax(0).values
    nth = torch.empty_like(place)
    nth[order] = place - begin + 1
    return nth


def row_keys(space: spaces.Space, observations: Observations) -> Tensor:
    """Return a 64-bit hash of each observation ``[n, …]``, int64 ``[n]``: the same for equal ones, whatever their type.

    Two different ones share a hash with probability 2⁻⁶⁴: once in a table of five billion.

    Args:
        space: of one observation.
        observations: a tensor or a dict of tensors.
    """
    if isinstance(space, spaces.Dict):
        words = torch.stack([row_keys(part, observations[key]) for key, part in space.spaces.items()], 1)
        return _hash(words)
    x = observations.flatten(1) if observations.ndim > 1 else observations[:, None]
    if np.issubdtype(space.dtype, np.floating):
        return _hash(_packed(x.float() + 0.0))  # −0.0 becomes 0.0: they are equal, so their bits must be
    return _hash(_packed(x.to(torch.uint8)) if space.dtype == np.uint8 else x.to(torch.int64))


def _packed(x: Tensor) -> Tensor:
    """Return the bytes of each row of ``x`` as int64 words."""
    per_word = 8 // x.element_size()
    return torch.nn.functional.pad(x, (0, -x.shape[1] % per_word)).contiguous().view(torch.int64)


def _hash(words: Tensor) -> Tensor:
    """Hash rows ``[n, w]`` to ``[n]``: each word is mixed, then all are summed with random odd factors, modulo 2⁶⁴."""
    generator = torch.Generator().manual_seed(0x5EED)
    factors = torch.randint(-(2**62), 2**62, (2, words.shape[1]), generator=generator).to(words.device) * 2 + 1
    sums = [(_mixed(part ^ factors[0]) * factors[1]).sum(1) for part in words.split(256)]  # a part fits the caches
    return _mixed(torch.cat(sums)) if sums else words.new_zeros(0)


def _mixed(x: Tensor) -> Tensor:
    """Apply a bijection of int64 in which each bit of the result depends on all bits of ``x`` (MurmurHash3's finaliser)."""
    x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * -49064778989728563  # the mask makes the shift one of unsigned numbers
    x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * -4265267296055464877
    return x ^ ((x >> 33) & 0x7FFFFFFF)
