"""Rewards with an episodic memory; among them the two of Never Give Up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from irwrappers.intrinsic.dynamics import InverseModel
from irwrappers.intrinsic.encoder import Encoder, flatten_steps
from irwrappers.intrinsic.memory import ResizableBuffers, look_back, nearest
from irwrappers.intrinsic.network_reward import NetworkReward, check_finite, in_chunks
from irwrappers.intrinsic.registry import register
from irwrappers.intrinsic.rnd import RND
from irwrappers.intrinsic.running import RunningStd
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive, check_range

Memory = dict[str, Tensor]
CHUNK = 64  # steps computed at once: more need more memory, fewer join memories more often


class EpisodicMemoryReward(ResizableBuffers, NetworkReward):
    """A reward on features φ of inverse dynamics with a memory of the current episode of each environment.

    The reward of a step from s to s′ compares s′ with the states of the episode from its first up to s. The memory of an
    environment is cleared when its episode ends. A batch starts from the memory that the last ``advance`` left, or from an
    empty one if its number of environments differs. Features are stored as computed when a state is visited; φ goes on
    learning.

    A subclass defines :meth:`_empty`, :meth:`_inputs` and :meth:`_walk`.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        latent_dim: number of features φ.
        hidden_sizes: of φ's perceptron and of the inverse model.
        features_extractor_class: SB3 features extractor, as in SB3's policies; None: see :class:`Encoder`.
        features_extractor_kwargs: its constructor arguments.
        **kwargs: of :class:`NetworkReward`.
    """

    has_episode_memory = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        latent_dim: int = 32,
        hidden_sizes: Sequence[int] = (256,),
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_positive(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.encoder = Encoder(
            self.normalizer.space, latent_dim, hidden_sizes, features_extractor_class, features_extractor_kwargs
        )
        self.inverse = InverseModel(action_space, latent_dim, hidden_sizes)
        for name, value in self._empty(0, torch.device("cpu")).items():
            self.register_buffer(name, value)
        self._make_optimizer([*self.encoder.parameters(), *self.inverse.parameters()])

    def _empty(self, n_envs: int, device: torch.device) -> Memory:
        """Return the empty memory of ``n_envs`` environments, by the names in ``resizable``, ``[n_envs, …]`` each."""
        raise NotImplementedError

    def _inputs(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return what is stored of the observations and of the next observations, each ``[T, B, …]``."""
        return self._features(batch)

    def _walk(self, memory: Memory, now: Tensor, following: Tensor, done: Tensor, valid: Tensor) -> tuple[Tensor, Memory]:
        """Return the rewards ``[T, B]`` of a few steps, and the memory after them."""
        raise NotImplementedError

    def compute(self, batch: Transitions) -> Tensor:
        return self._through(batch)[0].unsqueeze(-1)

    def advance(self, batch: Transitions) -> None:
        check_finite(self._valid_steps(batch), type(self).__name__)
        for name, value in self._through(batch)[1].items():
            setattr(self, name, value.clone())  # not a view, which keeps the whole batch alive

    def forget(self) -> None:
        for name, value in self._empty(0, self._device).items():
            setattr(self, name, value)

    @torch.no_grad()
    def _through(self, batch: Transitions) -> tuple[Tensor, Memory]:
        memory = {name: getattr(self, name) for name in self.resizable}
        if len(next(iter(memory.values()))) != batch.n_envs:
            memory = self._empty(batch.n_envs, self._device)
        if not batch.n_steps:
            return torch.zeros(0, batch.n_envs, device=self._device), memory
        steps = [*self._inputs(batch), batch.done, batch.mask]
        rewards = []
        for chunk in zip(*(x.split(CHUNK) for x in steps), strict=True):
            values, memory = self._walk(memory, *chunk)
            rewards.append(torch.where(chunk[3], values, 0).float())
        return torch.cat(rewards), memory

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        phi, next_phi = self.encoder(batch.observations), self.encoder(batch.next_observations)
        loss = self.inverse.loss(phi, next_phi, batch.actions).mean()
        return loss, {"inverse_loss": loss.detach()}

    def _features(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return φ(s) and φ(s′), ``[T, B, latent_dim]``; zero where a step does not count."""
        shape = (batch.n_steps, batch.n_envs, self.latent_dim)
        next_phi = self._encode(flatten_steps(batch.next_observations)).view(shape)
        # Within an episode an observation is the next observation of the step before: only the others are encoded.
        differs = torch.ones_like(batch.terminated)
        leaves = zip(tree_leaves(batch.observations), tree_leaves(batch.next_observations), strict=True)
        differs[1:] = torch.stack([(x[1:] != y[:-1]).unsqueeze(-1).flatten(2).any(2) for x, y in leaves]).any(0)
        if batch.valid is not None:
            differs &= batch.valid  # NaN differs from itself, would change how many are encoded, and so rounding
        phi = torch.cat([next_phi[:1], next_phi[:-1]])
        phi[differs] = self._encode(tree_map(lambda x: x[differs], batch.observations))
        if batch.valid is not None:
            phi[~batch.valid] = 0
            next_phi[~batch.valid] = 0
        return phi, next_phi

    def _encode(self, observations: Any) -> Tensor:
        return in_chunks(lambda x: self.encoder(self.normalizer(x)), observations)


@register("pseudo_counts")
class PseudoCounts(EpisodicMemoryReward):
    """Episodic pseudo-counts: the episodic reward of Never Give Up, equations (2) and (3) and algorithm 1.

    ``r = 1 / s``, with ``s = sqrt(Σ K(φ(s′), φ_i)) + c`` over the k nearest neighbours φ_i of φ(s′) among the episode's states
    so far, or 0 where s exceeds ``max_similarity``; ``K(x, y) = ε / (max(d²(x, y) / d_m² − ξ, 0) + ε)``, d the Euclidean
    distance and d_m² the mean of d² over all neighbours found so far, these included. The paper leaves open which mean; here
    each environment has its own, over all its steps, and keeps it across episodes. With fewer than k states in the episode the
    sum has fewer terms. Of an episode longer than ``capacity`` the latest steps are stored.

    Source: Badia et al., arXiv 2002.06038; defaults from its text and table 6, where ε is 1e-3 and 1e-4. The paper
    stores 30 000 steps.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_neighbors: k, number of neighbours.
        epsilon: ε of the kernel.
        cluster_distance: ξ, the relative squared distance up to which states count as the same.
        constant: c, added to the similarity.
        max_similarity: similarity above which the reward is 0.
        capacity: steps of an episode that are stored, in each environment.
        **kwargs: of :class:`EpisodicMemoryReward`.
    """

    resizable = ("embeddings", "length", "distance_sum", "distance_count")
    distance_sum: Tensor
    distance_count: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_neighbors: int = 10,
        epsilon: float = 1e-3,
        cluster_distance: float = 0.008,
        constant: float = 1e-3,
        max_similarity: float = 8.0,
        capacity: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_positive(
            n_neighbors=n_neighbors, epsilon=epsilon, constant=constant, max_similarity=max_similarity, capacity=capacity
        )
        check_range("cluster_distance", cluster_distance, 0, schedule=False)
        self.n_neighbors = n_neighbors
        self.epsilon = epsilon
        self.cluster_distance = cluster_distance
        self.constant = constant
        self.max_similarity = max_similarity
        self.capacity = capacity

    def _empty(self, n_envs: int, device: torch.device) -> Memory:
        total = torch.zeros(n_envs, dtype=torch.float64, device=device)
        return {
            "embeddings": torch.zeros(n_envs, 0, self.latent_dim, device=device),
            "length": torch.zeros(n_envs, dtype=torch.int64, device=device),
            "distance_sum": total,
            "distance_count": total.clone(),
        }

    def forget(self) -> None:
        total, count = self.distance_sum, self.distance_count
        device = total.device
        for name, value in self._empty(len(total), device).items():
            setattr(self, name, value)
        self.distance_sum, self.distance_count = total, count  # the mean distance is kept across episodes

    def _walk(self, memory: Memory, now: Tensor, following: Tensor, done: Tensor, valid: Tensor) -> tuple[Tensor, Memory]:
        pool = look_back(memory["embeddings"], memory["length"], now, done, valid, self.capacity)
        squared = nearest(following.transpose(0, 1), pool.items, self.n_neighbors, pool.hidden)  # [B, T, k]
        found = squared.isfinite() & valid.T[..., None]
        total = memory["distance_sum"][:, None] + torch.where(found, squared, 0).sum(-1).double().cumsum(1)
        count = memory["distance_count"][:, None] + found.sum(-1).cumsum(1)
        usual = (total / count.clamp(min=1))[..., None].to(squared.dtype)
        normalized = torch.where(usual > 0, squared / usual, torch.where(found, 0, torch.inf))
        kernel = self.epsilon / ((normalized - self.cluster_distance).clamp(min=0) + self.epsilon)
        similarity = kernel.sum(-1).sqrt() + self.constant
        rewards = torch.where(similarity > self.max_similarity, 0, 1 / similarity).T
        embeddings, length = pool.remember()
        after = {"embeddings": embeddings, "length": length, "distance_sum": total[:, -1], "distance_count": count[:, -1]}
        return rewards, after


@register("ngu")
class NGU(PseudoCounts):
    """Never Give Up: the episodic pseudo-counts times the lifelong novelty of RND, equation (1).

    ``r = r_episodic · min(max(α, 1), L)``, ``α = 1 + (e(s′) − μ_e) / σ_e`` with e the reward of :class:`RND` and μ_e, σ_e its
    running mean and deviation over the states learned from, each taken before learning from it; α is 1 before there are any.

    Source: Badia et al., arXiv 2002.06038; L = 5 as there.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        max_scale: L, largest factor of the episodic reward, at least 1.
        lifelong_kwargs: constructor arguments of the :class:`RND`.
        **kwargs: of :class:`PseudoCounts`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        max_scale: float = 5.0,
        lifelong_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **kwargs)
        check_range("max_scale", max_scale, 1, schedule=False, meaning="the largest factor of the episodic reward")
        self.max_scale = max_scale
        self.lifelong = RND(observation_space, action_space, **(lifelong_kwargs or {}))
        self.error = RunningStd(1)

    def compute(self, batch: Transitions) -> Tensor:
        error = self.lifelong.compute(batch)
        alpha = 1 + (error - self.error.mean.to(error.dtype)) / (self.error.std + 1e-8).to(error.dtype)
        if not bool(self.error.count[0] > 0):
            alpha = torch.ones_like(error)
        return super().compute(batch) * torch.where(batch.mask[..., None], alpha.clamp(1, self.max_scale), 1)

    def learn(self, batch: Transitions) -> dict[str, float]:
        check_finite(self._valid_steps(batch), type(self).__name__)
        self.error.update(self.lifelong.compute(batch), batch.mask[..., None])
        lifelong = {f"lifelong_{key}": value for key, value in self.lifelong.learn(batch).items()}
        return super().learn(batch) | lifelong

    @property
    def needs_fit(self) -> bool:
        return super().needs_fit or self.lifelong.needs_fit

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Set the statistics of both parts' observation normalisation on the same random steps."""
        used = super().fit(env, total_timesteps, seed, progress_bar)
        if self.normalizer.enabled and self.lifelong.normalizer.enabled:
            self.lifelong.normalizer.load_state_dict(self.normalizer.state_dict())
        return used
