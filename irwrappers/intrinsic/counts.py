"""Counts of state visits."""

from __future__ import annotations

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
    resizable = ("states", "visits")
    states: Tensor
    visits: Tensor
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
        # Hashes in ascending order, so that a batch is looked up by bisection.
        self.register_buffer("states", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("visits", torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def compute(self, batch: Transitions) -> Tensor:
        mask = batch.mask
        keys = self._keys(batch)
        rewards = torch.zeros(mask.shape, device=keys.device)
        position, known = self._find(keys)
        visits = _nth(keys)
        visits[known] += self.visits[position[known]]
        rewards[mask] = visits.float().rsqrt()
        return rewards.unsqueeze(-1)

    @torch.no_grad()
    def advance(self, batch: Transitions) -> None:
        self._check(batch)
        keys, visits = torch.unique(self._keys(batch), return_counts=True)
        position, known = self._find(keys)
        self.visits[position[known]] += visits[known]
        if not known.all():
            self._insert(position[~known], keys[~known], visits[~known])

    def learn(self, batch: Transitions) -> dict[str, float]:
        return {**super().learn(batch), "states": float(len(self.states))}

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position in ``states`` at which each key is or belongs, and whether it is there."""
        position = torch.searchsorted(self.states, keys)
        known = torch.zeros_like(keys, dtype=torch.bool)
        within = position < len(self.states)
        known[within] = self.states[position[within]] == keys[within]
        return position, known

    def _insert(self, position: Tensor, keys: Tensor, visits: Tensor) -> None:
        total = len(self.states) + len(keys)
        new = torch.zeros(total, dtype=torch.bool, device=keys.device)
        new[position + torch.arange(len(keys), device=keys.device)] = True
        for name, values in (("states", keys), ("visits", visits)):
            merged = keys.new_empty(total)
            merged[new], merged[~new] = values, getattr(self, name)
            setattr(self, name, merged)

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
            self.states, self.visits = self.states[:0].clone(), self.visits[:0].clone()


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
