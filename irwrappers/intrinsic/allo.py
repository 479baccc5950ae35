"""ALLO: a reward of eigenfunctions of the graph Laplacian that are learned from random walks.

Gomez, Bowling & Machado, "Proper Laplacian Representation Learning", arXiv 2310.10833; as a reward for exploration Cho &
Tran, arXiv 2601.21391.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

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
from irwrappers.intrinsic.walk_laplacian import (
    Eigenfunctions,
    PairBatch,
    matrix_eigenfunctions,
    one_step_laplacian,
    random_pairs,
    whole_batch,
)
from irwrappers.unique_rows import unique_rows
from irwrappers.validation import check_positive, check_range

FIRST_STAGE = 2000  # environment steps of the first stage of walks
AGREEMENTS = 2  # in a row; one may be chance, and a network that has trained for a short time hardly changes, right or wrong
COMPARED = 4096  # states on which networks of two stages are compared


@register("allo")
class ALLO(FeatureDifference):
    """Differences of the smoothest functions on the state space, learned from random walks.

    They are eigenfunctions of the graph Laplacian, in the order of their eigenvalues, and solve an augmented Lagrangian

        max_β min_u  Σ_i E(u_i(s) − u_i(s′))² + Σ_{j≤i} β_ij (⟨u_i, sg u_j⟩ − δ_ij) + b Σ_{j≤i} (⟨u_i, sg u_j⟩ − δ_ij)²

    with s′ a geometric number of random steps after s and sg the stop-gradient, which orders the u_i. Defaults are for small
    state spaces; the paper's are ``hidden_sizes=(512,) * 4, gradient_steps=50_000, learning_rate=3e-4``.

    Walks are collected in stages, each as long as all before it together, until the eigenfunctions of three successive
    stages agree. Up to ``exhaustive`` distinct states, those compared are the eigenvectors of the matrix of transition
    frequencies, and the network is trained once, after the last stage. Beyond, the network trains after each stage; all
    stages together take at most half as many gradient steps again as one would.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_rewards: number of channels, as in :class:`FeatureDifference`.
        indices: entries of an observation that the network sees, as in :class:`FeatureDifference`.
        n_features: eigenfunctions learned, the constant one included; more than ``(n_rewards + 1) // 2``.
        discount: of the geometric distribution of s′ − s.
        n_walks: at most this many random walks (episodes) are collected.
        hidden_sizes: of the leaky-ReLU network.
        gradient_steps: of Adam, at least.
        batch_size: pairs in a gradient step.
        learning_rate: of Adam; falls to 0 after the last stage.
        dual_learning_rate: step size of the dual variables β.
        max_dual: largest absolute value of β.
        barrier: initial b, the coefficient of the quadratic penalty.
        barrier_growth: b grows by this times the mean squared error of orthonormality.
        max_barrier: largest b.
        max_grad_norm: largest norm of a gradient.
        exhaustive: up to this many distinct states, every gradient step uses all of them in place of a random batch of
            ``batch_size`` pairs. Each state has the same weight however often it was visited, and s′ is distributed by the
            walks' transition frequencies, made symmetric: :class:`~irwrappers.ExactLaplacian` has the same eigenvectors.
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
            # nn.Module.load_state_dict continues with the new children after this returns.
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
        scale = torch.where(scale > 1e-6, scale, 2.0)  # an entry that never changed may do so later
        return self.network(2 * (inputs - self.low) / scale - 1)

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Collect random walks until the eigenfunctions are stable, and train on them.

        The walks start anywhere and pass over the goal if the environment has the reset options ``random_start`` and
        ``ignore_goal``; otherwise they are ordinary episodes. They never run across an episode's end.

        Args:
            env: environment or ``VecEnv``.
            total_timesteps: at most this many steps are taken; at least one step of each environment is needed.
            seed: of walks, network and training. Default: that of the constructor.
            progress_bar: whether to show the progress of walks and training.

        Returns:
            the number of environment steps taken.

        Raises:
            ValueError: for fewer steps than parallel environments.
        """
        env = as_vec_env(env)
        if total_timesteps < env.num_envs:
            raise ValueError(
                f"Random walks need a step of each of the {env.num_envs} environments, and the budget is {total_timesteps} "
                "steps; give fit() more steps or use fewer parallel environments."
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
                training.set_walks(walks)
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


class _Training:
    """Training that continues from stage to stage: the walks, Adam, the dual variables and the barrier.

    Args:
        allo: the reward whose network is trained.
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

    def set_walks(self, walks: Walks) -> None:
        """Train on these walks from now on."""
        allo = self.allo
        self.walks, self.laplacian = walks, None
        rows, inverse = unique_rows(walks.positions.flatten(0, 1))
        if len(rows) <= allo.exhaustive:
            self.rows = rows
            self.laplacian = one_step_laplacian(len(rows), inverse.view(walks.positions.shape[:2]), walks.same_walk)

    def sampler(self) -> Callable[[], PairBatch]:
        """Return a function that samples a batch."""
        if self.laplacian is not None:
            batch = whole_batch(self.rows, self.laplacian, self.allo.discount)
            return lambda: batch
        return lambda: random_pairs(self.walks, self.allo.batch_size, self.allo.discount, self.generator)

    def eigenfunctions(self, n_steps: int) -> Eigenfunctions:
        """Estimate the eigenfunctions from the walks so far; with many states by the network, after ``n_steps``."""
        allo = self.allo
        if self.laplacian is not None:
            return matrix_eigenfunctions(self.rows, self.laplacian, allo.n_features)
        self.train(n_steps, falling=False, progress_bar=False)
        frozen = copy.deepcopy(allo)
        rows = random_pairs(self.walks, COMPARED, allo.discount, self.generator)
        with torch.no_grad():
            # Half the mean square of u(s) − u(s′) is the eigenvalue of the discounted chain; solved for that of one step.
            values = allo._forward(rows.rows)
            scale = (rows.states[:, None] * values.square()).sum(0).clamp(min=1e-12)
            discounted = torch.stack([rows.smoothness(column) for column in values.split(1, 1)]) / scale / 2
        eigenvalues = (1 - allo.discount) * discounted / (1 - allo.discount * discounted.clamp(max=1))
        return Eigenfunctions(rows.rows[rows.states > 0], torch.no_grad()(frozen._forward), eigenvalues)

    def finish(self, progress_bar: bool) -> None:
        """Finish training: ``gradient_steps`` in total, at least half of them on all the walks."""
        total = self.allo.gradient_steps
        self.train(max(total - self.n_steps, total // 2, 1), falling=True, progress_bar=progress_bar)

    def train(self, n_steps: int, falling: bool, progress_bar: bool) -> None:
        """Take gradient steps, with a learning rate that is falling to 0 or constant."""
        allo, sample = self.allo, self.sampler()
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
