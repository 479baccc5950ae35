"""ALLO: eigenfunctions of the graph Laplacian learned from random walks, as a reward.

Gomez, Bowling & Machado, "Proper Laplacian Representation Learning", arXiv 2310.10833; as a reward for exploration Cho &
Tran, arXiv 2601.21391.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from tqdm.auto import trange

from irwrappers.intrinsic.base import as_vec_env
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.intrinsic.random_network import mlp
from irwrappers.intrinsic.walks import Walks, collect_walks
from irwrappers.unique import unique_rows


class _Batch(NamedTuple):
    """Rows ``[R, d]``, the smoothness of features ``[R, n]`` of them, and two independent estimates of the state
    distribution over the rows ``[R]``."""

    rows: Tensor
    smoothness: Callable[[Tensor], Tensor]
    states: Tensor
    other_states: Tensor


class ALLO(FeatureDifference):
    """The smoothest functions on the state space, ordered, learned by an augmented Lagrangian

        max_β min_u  Σ_i E(u_i(s) − u_i(s′))² + Σ_{j≤i} β_ij (⟨u_i, sg u_j⟩ − δ_ij) + b Σ_{j≤i} (⟨u_i, sg u_j⟩ − δ_ij)²

    with s′ a geometric number of random steps after s and sg the stop-gradient that orders the u_i. Defaults are for small
    state spaces; the paper's are ``hidden_sizes=(512,) * 4, gradient_steps=50_000, learning_rate=3e-4``.

    Args:
        n_rewards, indices: channels and entries seen, as in :class:`FeatureDifference`.
        n_features: eigenfunctions learned, the constant one included; more than ``(n_rewards + 1) // 2``.
        discount: of the geometric distribution of s′ − s.
        n_walks: random walks (episodes) to collect, as far as the budget given to :meth:`fit` goes.
        hidden_sizes: of the leaky-ReLU network. gradient_steps, batch_size, learning_rate (falls to 0): of Adam.
        dual_learning_rate, max_dual: β ascends at this rate and stays in ± max_dual.
        barrier, barrier_growth, max_barrier: b starts at ``barrier`` and grows by ``barrier_growth`` × the mean squared error.
        max_grad_norm: gradient clip.
        exhaustive: up to this many distinct states, every step uses all pairs of the walks at once, each state counting the
            same however often the walks came by, in place of a random batch of ``batch_size``.
        seed: of the network and of training, unless :meth:`fit` is given one.
    """

    low: Tensor
    high: Tensor
    fitted: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_rewards: int = 6,
        indices: Sequence[int] | None = None,
        n_features: int = 10,
        discount: float = 0.9,
        n_walks: int = 5000,
        hidden_sizes: Sequence[int] = (128, 128, 128),
        gradient_steps: int = 3000,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        dual_learning_rate: float = 1e-3,
        max_dual: float = 100.0,
        barrier: float = 2.0,
        barrier_growth: float = 0.01,
        max_barrier: float = 100.0,
        max_grad_norm: float = 10.0,
        exhaustive: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space, n_rewards, indices)
        if n_features <= (n_rewards + 1) // 2:
            raise ValueError(
                f"{n_rewards} rewards need n_features > {(n_rewards + 1) // 2} (one a pair, one constant), got {n_features}."
            )
        if not 0 <= discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {discount}.")
        positive = dict(
            n_walks=n_walks, gradient_steps=gradient_steps, batch_size=batch_size, learning_rate=learning_rate,
            barrier=barrier, max_grad_norm=max_grad_norm, max_dual=max_dual,
        )  # fmt: skip
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}.")
        for name, value in dict(dual_learning_rate=dual_learning_rate, barrier_growth=barrier_growth).items():
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value!r}.")
        if not max_barrier >= barrier:
            raise ValueError(f"max_barrier must be at least barrier = {barrier}, got {max_barrier}.")
        if not all(isinstance(size, (int, np.integer)) and size > 0 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive integers, got {tuple(hidden_sizes)}.")
        self.n_features = n_features
        self.discount = discount
        self.n_walks = n_walks
        self.hidden_sizes = tuple(hidden_sizes)
        self.gradient_steps = gradient_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dual_learning_rate = dual_learning_rate
        self.max_dual = max_dual
        self.barrier = barrier
        self.barrier_growth = barrier_growth
        self.max_barrier = max_barrier
        self.max_grad_norm = max_grad_norm
        self.exhaustive = exhaustive
        self.seed = seed
        self.fit_info: dict[str, float] = {}
        self.register_buffer("fitted", torch.tensor(False))
        self._build(len(self.indices), seed)

    def _build(self, n_inputs: int, seed: int) -> None:
        device = self.indices.device
        self.network = mlp([n_inputs, *self.hidden_sizes, self.n_features], nn.LeakyReLU, seed).to(device)
        self.register_buffer("low", torch.zeros(n_inputs, device=device))
        self.register_buffer("high", torch.ones(n_inputs, device=device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        n_inputs = len(state_dict[prefix + "indices"])
        if n_inputs != len(self.low):
            self._build(n_inputs, self.seed)
            # The children are new: nn.Module.load_state_dict goes on with those it finds after this returns.
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def needs_fit(self) -> bool:
        return not bool(self.fitted)

    def features(self, inputs: Tensor) -> Tensor:
        if self.needs_fit:
            raise RuntimeError("ALLO has not been trained yet: call fit(env, total_timesteps) first.")
        return self._forward(inputs)

    def _forward(self, inputs: Tensor) -> Tensor:
        scale = self.high - self.low
        scale = torch.where(scale > 1e-6, scale, 2.0)  # an entry that never changed may do so later: as it is, not × 1e6
        return self.network(2 * (inputs - self.low) / scale - 1)

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Collect random walks and train on them.

        The walks start anywhere and pass over the goal where the environment knows the reset options ``random_start`` and
        ``ignore_goal``; otherwise they are ordinary episodes. They never run across an episode's end.

        Args:
            total_timesteps: at most this many steps are taken; at least one step for each copy is needed.
        """
        env = as_vec_env(env)
        seed = self.seed if seed is None else seed
        self._read_indices(env)
        walks = collect_walks(env, self.select, self.n_walks, total_timesteps, seed, self.indices.device, progress_bar)
        self._build(len(self.indices), seed)
        self.low.copy_(walks.positions.amin((0, 1)))
        self.high.copy_(walks.positions.amax((0, 1)))
        self._train(self._sampler(walks, seed), progress_bar)
        self.fitted.fill_(True)
        return walks.timesteps

    def _sampler(self, walks: Walks, seed: int) -> Callable[[], _Batch]:
        rows, inverse = unique_rows(walks.positions.flatten(0, 1))
        if len(rows) <= self.exhaustive:
            batch = _all_pairs(rows, inverse.view(walks.positions.shape[:2]), walks.same_walk, self.discount)
            return lambda: batch
        generator = torch.Generator(rows.device).manual_seed(seed)
        return lambda: _random_pairs(walks, self.batch_size, self.discount, generator)

    def _train(self, sample: Callable[[], _Batch], progress_bar: bool) -> None:
        n, device = self.n_features, self.indices.device
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, fused=device.type == "cpu")
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, self.gradient_steps)
        duals, barrier = torch.zeros(n, n, device=device), self.barrier
        lower, identity = torch.ones(n, n, device=device).tril(), torch.eye(n, device=device)
        for _ in trange(self.gradient_steps, desc="ALLO", disable=not progress_bar, leave=False):
            batch = sample()
            u = self._forward(batch.rows)
            smoothness = batch.smoothness(u)
            error, other_error = (
                lower * ((u * weight[:, None]).mT @ u.detach() - identity) for weight in (batch.states, batch.other_states)
            )
            loss = smoothness + (duals * error).sum() + barrier * (error * other_error).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                mean_error = (error + other_error) / 2
                duals = (duals + self.dual_learning_rate * mean_error).clamp(-self.max_dual, self.max_dual)
                growth = self.barrier_growth * float((error * other_error).mean().clamp(min=0))
                barrier = min(barrier + growth, self.max_barrier)
        self.network.requires_grad_(False)
        self.fit_info = {
            "smoothness": smoothness.item(),
            "orthogonality_error": float(mean_error.abs().max()),
            "barrier": barrier,
        }


def _all_pairs(rows: Tensor, index: Tensor, same_walk: Tensor, discount: float) -> _Batch:
    """Every pair of the walks with its geometric weight, added up by distinct pair.

    The weights of the pairs that begin in a state are scaled to add up to the same for every state: visit counts of a
    finite walk are the larger part of the estimate's error (on FourRooms the least |cos| of six goes from
    0.975 to 0.988 at 200 000 steps, from 0.990 to 0.997 at 500 000).

    Args:
        index: int ``[L, W]``, the row at each step of each walk. same_walk: int ``[L, W]``, which walk it belongs to.
    """
    n = len(rows)
    counts = torch.zeros(n * n, dtype=torch.float64, device=rows.device)
    weight, delta = 1.0, 1
    while delta < len(index) and weight > 1e-3:
        together = same_walk[delta:] == same_walk[:-delta]
        keys = (index[:-delta] * n + index[delta:])[together]
        counts += weight * torch.bincount(keys, minlength=n * n)
        weight, delta = weight * discount, delta + 1
    pairs = counts.view(n, n)
    pairs = pairs / (pairs.sum(1, keepdim=True).clamp(min=1e-12) * n)
    laplacian = (torch.diag(pairs.sum(0) + pairs.sum(1)) - pairs - pairs.mT).float()  # Σ w_ij (u_i − u_j)² = uᵀ L u
    states = torch.full((n,), 1 / n, device=rows.device)
    return _Batch(rows, lambda u: (u * (laplacian @ u)).sum(), states, states)


def _random_pairs(walks: Walks, n: int, discount: float, generator: torch.Generator) -> _Batch:
    length, n_columns = walks.same_walk.shape
    device = walks.positions.device

    def draw(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator, device=device)

    t, column = draw(length, 2 * n), draw(n_columns, 2 * n)
    gap = torch.ones(n, dtype=torch.int64, device=device)
    if discount > 0:
        gap.geometric_(1 - discount, generator=generator)
    start, later = t[:n], (t[:n] + gap).clamp(max=length - 1)
    # Past the end of its walk a pair is cut to its last step; where that leaves no step it is (s, s) and weighs nothing.
    later = torch.minimum(later, walks.last[start, column[:n]])
    positions = torch.cat([walks.positions[t, column], walks.positions[later, column[:n]]])
    states, other_states = torch.zeros(2, 3 * n, device=device)
    states[:n], other_states[n : 2 * n] = 1 / n, 1 / n
    return _Batch(positions, lambda u: (u[:n] - u[2 * n :]).square().sum() / n, states, other_states)
