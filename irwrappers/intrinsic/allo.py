"""ALLO: eigenfunctions of the graph Laplacian learned from random walks, as a reward.

Gomez, Bowling & Machado, "Proper Laplacian Representation Learning", arXiv 2310.10833; as a reward for exploration Cho &
Tran, arXiv 2601.21391.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from tqdm.auto import tqdm, trange

from irwrappers.intrinsic.base import as_vec_env
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.intrinsic.random_network import mlp
from irwrappers.intrinsic.random_walks import WalkCollector, Walks
from irwrappers.intrinsic.registry import register
from irwrappers.unique_rows import unique_rows
from irwrappers.validation import check_positive, check_range

FIRST_STAGE = 2000  # environment steps of the first stage of walks
AGREEMENTS = 2  # in a row; one may be chance, and a network that has not trained for long stays where it is, right or wrong
CLOSE = 0.05  # eigenvalues this close to each other, relatively, are taken for one
COMPARED = 4096  # states on which networks of two stages are compared


class _Batch(NamedTuple):
    """Rows ``[R, d]``, the smoothness of features ``[R, n]`` of them, and two independent estimates of the state
    distribution over the rows ``[R]``."""

    rows: Tensor
    smoothness: Callable[[Tensor], Tensor]
    states: Tensor
    other_states: Tensor


@register("allo")
class ALLO(FeatureDifference):
    """The smoothest functions on the state space, ordered, learned by an augmented Lagrangian

        max_β min_u  Σ_i E(u_i(s) − u_i(s′))² + Σ_{j≤i} β_ij (⟨u_i, sg u_j⟩ − δ_ij) + b Σ_{j≤i} (⟨u_i, sg u_j⟩ − δ_ij)²

    with s′ a geometric number of random steps after s and sg the stop-gradient that orders the u_i. Defaults are for small
    state spaces; the paper's are ``hidden_sizes=(512,) * 4, gradient_steps=50_000, learning_rate=3e-4``.

    Walks are collected in stages, each as long as all before it together, until the eigenfunctions of three successive
    stages agree. Up to ``exhaustive`` distinct states, those compared are the eigenvectors of the matrix of transition
    frequencies, and the network is trained once, after the last stage. Beyond, the network trains after each stage; all
    stages together take at most half as many gradient steps again as one would.

    Args:
        observation_space: of one copy of the environment.
        action_space: of one copy of the environment.
        n_rewards: number of channels, as in :class:`FeatureDifference`.
        indices: entries of an observation that are seen, as in :class:`FeatureDifference`.
        n_features: eigenfunctions learned, the constant one included; more than ``(n_rewards + 1) // 2``.
        discount: of the geometric distribution of s′ − s.
        n_walks: at most this many random walks (episodes) are collected.
        hidden_sizes: of the leaky-ReLU network.
        gradient_steps: of Adam, at least.
        batch_size: pairs in a gradient step.
        learning_rate: of Adam; falls to 0 after the last stage.
        dual_learning_rate: at which β ascends.
        max_dual: largest absolute value of β.
        barrier: b at the beginning.
        barrier_growth: b grows by this times the mean squared error of orthonormality.
        max_barrier: largest b.
        max_grad_norm: largest norm of a gradient.
        exhaustive: up to this many distinct states, every gradient step uses all of them in place of a random batch of
            ``batch_size`` pairs. Each state counts the same however often the walks came by, and s′ is distributed as the
            walks' transition frequencies have it, made symmetric: :class:`ExactLaplacian` has the same eigenvectors.
        seed: of the network and of training, unless :meth:`fit` is given one.
        agreement: no more walks are collected once the eigenfunctions that the rewards use have had, twice in a row, an
            absolute cosine of at least this with those of the stage before (where eigenvalues are within 5 % of each other,
            with their span). With 1, as many are collected as ``n_walks`` and the budget of :meth:`fit` allow.
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
        agreement: float = 0.95,
    ) -> None:
        super().__init__(observation_space, action_space, n_rewards, indices)
        if n_features <= (n_rewards + 1) // 2:
            raise ValueError(
                f"{n_rewards} rewards need n_features > {(n_rewards + 1) // 2} (one a pair, one constant), got {n_features}."
            )
        check_positive(
            n_walks=n_walks, gradient_steps=gradient_steps, batch_size=batch_size, learning_rate=learning_rate,
            barrier=barrier, max_grad_norm=max_grad_norm, max_dual=max_dual,
        )  # fmt: skip
        check_range("discount", discount, 0, 1, open_high=True, schedule=False)
        check_range("dual_learning_rate", dual_learning_rate, 0, schedule=False)
        check_range("barrier_growth", barrier_growth, 0, schedule=False)
        check_range("max_barrier", max_barrier, barrier, schedule=False, meaning="at least barrier")
        check_range("agreement", agreement, 0, 1, open_low=True, schedule=False, meaning="a cosine")
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
        self.agreement = agreement
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
        """Collect random walks until the eigenfunctions are stable, and train on them.

        The walks start anywhere and pass over the goal where the environment knows the reset options ``random_start`` and
        ``ignore_goal``; otherwise they are ordinary episodes. They never run across an episode's end.

        Args:
            env: environment or ``VecEnv``.
            total_timesteps: at most this many steps are taken; at least one step for each copy is needed.
            seed: of walks, network and training. Default: that of the constructor.
            progress_bar: whether to show the progress of walks and training.

        Returns:
            the number of environment steps taken.

        Raises:
            ValueError: for fewer steps than there are copies.
        """
        env = as_vec_env(env)
        if total_timesteps < env.num_envs:
            raise ValueError(
                f"Random walks need a step for each of the {env.num_envs} copies, and the budget is {total_timesteps} steps; "
                "give fit() more steps or the environment fewer copies."
            )
        seed = self.seed if seed is None else seed
        self._read_indices(env)
        self._build(len(self.indices), seed)
        training = _Training(self, seed)
        collector = WalkCollector(env, seed)
        goal = total_timesteps if self.agreement == 1 else max(FIRST_STAGE, env.num_envs)
        before, agreement, in_a_row = None, 0.0, 0
        # Each stage but the last trains for so long where there are too many states for a matrix.
        n_stages = 1 + math.ceil(math.log2(max(1, total_timesteps / goal)))
        stage_steps = math.ceil(self.gradient_steps / n_stages)
        with tqdm(total=total_timesteps, desc="Random walks", disable=not progress_bar, leave=False) as bar:
            while True:
                more = collector.collect(self.n_walks, min(goal, total_timesteps)) and goal < total_timesteps
                bar.update(collector.timesteps - bar.n)
                walks = collector.walks(self.select, self.indices.device)
                self.low.copy_(walks.positions.amin((0, 1)))
                self.high.copy_(walks.positions.amax((0, 1)))
                training.take_in(walks)
                if more or before is not None:
                    now = training.eigenfunctions(stage_steps)
                    agreement = 0.0 if before is None else now.agreement_with(before, (self.n_rewards + 1) // 2)
                    before = now
                    in_a_row = in_a_row + 1 if agreement >= self.agreement else 0
                if not more or in_a_row == AGREEMENTS:
                    break
                goal *= 2
        collector.close()
        training.finish(progress_bar)
        self.fit_info |= {"walk_steps": walks.timesteps, "agreement": agreement}
        self.network.requires_grad_(False)
        self.fitted.fill_(True)
        return walks.timesteps


class _Eigenfunctions(NamedTuple):
    """Estimates of eigenfunctions on the states of a stage: ``rows`` ``[R, d]``; ``values``, a function of such rows to
    ``[R, n]``; ``eigenvalues`` ``[n]``, of the symmetrised one-step Laplacian."""

    rows: Tensor
    values: Callable[[Tensor], Tensor]
    eigenvalues: Tensor

    def agreement_with(self, other: _Eigenfunctions, n: int) -> float:
        """Return the least absolute cosine of eigenfunctions 1 … ``n`` with the other's, over the states of this stage.

        Where eigenvalues are close, eigenfunctions are determined up to a rotation only: there it is the cosine with the
        span of the other's.
        """
        ours, theirs = self.values(self.rows), other.values(self.rows)
        n_known = min(ours.shape[1], theirs.shape[1])
        cosines = [0.0] if n_known < 2 else []
        for i in range(1, min(n + 1, n_known)):
            close = (self.eigenvalues - self.eigenvalues[i]).abs() <= CLOSE * self.eigenvalues[i].abs() + 1e-9
            basis = torch.linalg.qr(theirs[:, :n_known][:, close[:n_known]]).Q
            cosines.append(float((basis.mT @ ours[:, i]).norm() / ours[:, i].norm().clamp(min=1e-12)))
        return min(cosines)


class _Training:
    """What goes on from stage to stage: the walks, Adam, the duals and the barrier.

    Args:
        allo: whose network is trained.
        seed: of random batches.
    """

    def __init__(self, allo: ALLO, seed: int) -> None:
        self.allo = allo
        device, n = allo.indices.device, allo.n_features
        self.optimizer = torch.optim.Adam(allo.network.parameters(), lr=allo.learning_rate, fused=device.type == "cpu")
        self.duals, self.barrier = torch.zeros(n, n, device=device), allo.barrier
        self.lower, self.identity = torch.ones(n, n, device=device).tril(), torch.eye(n, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.n_steps = 0

    def take_in(self, walks: Walks) -> None:
        """Train on these walks from now on."""
        allo = self.allo
        self.walks, self.laplacian = walks, None
        rows, inverse = unique_rows(walks.positions.flatten(0, 1))
        if len(rows) <= allo.exhaustive:
            self.rows = rows
            self.laplacian = _one_step_laplacian(len(rows), inverse.view(walks.positions.shape[:2]), walks.same_walk)

    def sample(self) -> Callable[[], _Batch]:
        if self.laplacian is not None:
            batch = _whole_batch(self.rows, self.laplacian, self.allo.discount)
            return lambda: batch
        return lambda: _random_pairs(self.walks, self.allo.batch_size, self.allo.discount, self.generator)

    def eigenfunctions(self, n_steps: int) -> _Eigenfunctions:
        """Estimate the eigenfunctions from the walks so far; by the network, after ``n_steps``, where states are many."""
        allo = self.allo
        if self.laplacian is not None:
            return _of_matrix(self.rows, self.laplacian, allo.n_features)
        self.train(n_steps, falling=False, progress_bar=False)
        frozen = copy.deepcopy(allo)
        rows = _random_pairs(self.walks, COMPARED, allo.discount, self.generator)
        with torch.no_grad():
            # Half the mean square of u(s) − u(s′) is the eigenvalue of the discounted chain; solved for that of one step.
            values = allo._forward(rows.rows)
            scale = (rows.states[:, None] * values.square()).sum(0).clamp(min=1e-12)
            discounted = torch.stack([rows.smoothness(column) for column in values.split(1, 1)]) / scale / 2
        eigenvalues = (1 - allo.discount) * discounted / (1 - allo.discount * discounted.clamp(max=1))
        return _Eigenfunctions(rows.rows[rows.states > 0], torch.no_grad()(frozen._forward), eigenvalues)

    def finish(self, progress_bar: bool) -> None:
        """Train to the end: ``gradient_steps`` in all, and half of them at least on all the walks."""
        total = self.allo.gradient_steps
        self.train(max(total - self.n_steps, total // 2, 1), falling=True, progress_bar=progress_bar)

    def train(self, n_steps: int, falling: bool, progress_bar: bool) -> None:
        """Take gradient steps, with a learning rate that is falling to 0 or constant."""
        allo, sample = self.allo, self.sample()
        schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 1e-3 if falling else 1.0, n_steps)
        for _ in trange(n_steps, desc="ALLO", disable=not progress_bar, leave=False):
            batch = sample()
            u = allo._forward(batch.rows)
            smoothness = batch.smoothness(u)
            error, other_error = (
                self.lower * ((u * weight[:, None]).mT @ u.detach() - self.identity)
                for weight in (batch.states, batch.other_states)
            )
            loss = smoothness + (self.duals * error).sum() + self.barrier * (error * other_error).sum()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(allo.network.parameters(), allo.max_grad_norm)
            self.optimizer.step()
            schedule.step()
            with torch.no_grad():
                mean_error = (error + other_error) / 2
                self.duals = (self.duals + allo.dual_learning_rate * mean_error).clamp(-allo.max_dual, allo.max_dual)
                growth = allo.barrier_growth * float((error * other_error).mean().clamp(min=0))
                self.barrier = min(self.barrier + growth, allo.max_barrier)
        self.n_steps += n_steps
        allo.fit_info = {
            "smoothness": smoothness.item(),
            "orthogonality_error": float(mean_error.abs().max()),
            "barrier": self.barrier,
        }


def _one_step_laplacian(n: int, index: Tensor, same_walk: Tensor) -> Tensor:
    """Return I − P ``[n, n]`` (float64), with P the frequencies of transitions between states, made symmetric.

    The transitions from a state are divided by their number, so that visits do not weigh. Making P symmetric before the
    discount is applied, and not after, needs some twenty times fewer steps: on FourRooms the least absolute cosine of six
    eigenvectors with the exact ones is 0.99 at 20 000 steps.

    Args:
        n: number of states.
        index: int ``[L, W]``, the state at each step of each walk.
        same_walk: int ``[L, W]``, which walk it belongs to.
    """
    together = same_walk[1:] == same_walk[:-1]
    keys = (index[:-1] * n + index[1:])[together]
    counts = torch.bincount(keys, minlength=n * n).view(n, n).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    p = (p + p.mT) / 2
    return torch.diag(p.sum(1)) - p  # the constant function has eigenvalue 0 also where states have no way out


def _whole_batch(rows: Tensor, laplacian: Tensor, discount: float) -> _Batch:
    """All states at once, each of the same weight.

    With A = I − P the chain that takes a geometric number of steps has I − P_γ = A ((1 − γ) I + γ A)⁻¹: A's eigenvectors.
    """
    n = len(rows)
    identity = torch.eye(n, dtype=laplacian.dtype, device=rows.device)
    discounted = torch.linalg.solve((1 - discount) * identity + discount * laplacian, laplacian)
    matrix = (discounted + discounted.mT).float() / n  # E (u(s) − u(s′))² = 2 / n uᵀ (I − P_γ) u
    states = torch.full((n,), 1 / n, device=rows.device)
    return _Batch(rows, lambda u: (u * (matrix @ u)).sum(), states, states)


def _of_matrix(rows: Tensor, laplacian: Tensor, n: int) -> _Eigenfunctions:
    """The first ``n`` eigenvectors; the value at a state that is not in ``rows`` is 0."""
    eigenvalues, vectors = torch.linalg.eigh(laplacian)
    vectors = vectors[:, :n]

    def values(others: Tensor) -> Tensor:
        _, inverse = unique_rows(torch.cat([rows, others]))
        table = vectors.new_zeros(len(rows) + len(others), vectors.shape[1])
        table[inverse[: len(rows)]] = vectors
        return table[inverse[len(rows) :]]

    return _Eigenfunctions(rows, values, eigenvalues[:n])


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
