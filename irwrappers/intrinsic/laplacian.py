"""The exact eigenfunctions of an environment's graph Laplacian as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from irwrappers.intrinsic.base import as_vec_env
from irwrappers.intrinsic.features import FeatureDifference
from irwrappers.intrinsic.registry import register


def laplacian_eigenvectors(next_states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors of L = I − (P + Pᵀ)/2, P the transition matrix of uniformly random actions.

    Source: Gomez, Bowling & Machado, arXiv 2310.10833, eq. 1 (symmetrised).

    Args:
        next_states: int ``[S, A]``, the index of the state that each action leads to.

    Returns:
        eigenvalues ``[S]``, ascending, and eigenvectors ``[S, S]`` in columns, scaled to a mean square of 1 over states and
        signed so that their entry of largest magnitude is positive.
    """
    n_states, n_actions = next_states.shape
    transition = np.zeros((n_states, n_states))
    np.add.at(transition, (np.arange(n_states)[:, None], next_states), 1 / n_actions)
    eigenvalues, eigenvectors = np.linalg.eigh(np.eye(n_states) - (transition + transition.T) / 2)
    eigenvectors = _constant_first(eigenvalues, eigenvectors) * np.sqrt(n_states)
    largest = np.argmax(np.abs(eigenvectors).round(6), axis=0)
    return eigenvalues, eigenvectors * np.sign(eigenvectors[largest, np.arange(n_states)])


def _constant_first(eigenvalues: np.ndarray, eigenvectors: np.ndarray) -> np.ndarray:
    """Rotate the eigenvectors of eigenvalue 0, several in a graph of several components: the first becomes constant."""
    null = np.abs(eigenvalues) < 1e-9
    constant = eigenvectors[:, null].mean(0) * np.sqrt(len(eigenvectors))  # its coordinates in that basis
    if null.sum() < 2 or abs(np.linalg.norm(constant) - 1) > 1e-6:
        return eigenvectors
    rotation, _ = np.linalg.qr(np.column_stack([constant, np.eye(len(constant))]))
    eigenvectors[:, null] = eigenvectors[:, null] @ rotation
    return eigenvectors


@register("laplacian")
class ExactLaplacian(FeatureDifference):
    """Differences of the exact Laplacian eigenfunctions, for environments that can list their states.

    Such an environment has ``transition_graph() -> (observations [S, ...], next_states [S, A])``, the goal not absorbing.
    :meth:`fit` reads it and takes no step.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        n_rewards: number of channels, two for each eigenfunction.
        indices: entries of an observation that distinguish states, as in :class:`FeatureDifference`.
    """

    states: Tensor
    phi: Tensor
    eigenvalues: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_rewards: int = 6,
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, n_rewards, indices)
        self.register_buffer("states", torch.zeros(0, 0))
        self.register_buffer("phi", torch.zeros(0, 0))
        self.register_buffer("eigenvalues", torch.zeros(0))

    @property
    def needs_fit(self) -> bool:
        return len(self.states) == 0

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int = 0, seed: int | None = None, progress_bar: bool = False) -> int:
        env = as_vec_env(env)
        if not env.has_attr("transition_graph"):
            raise ValueError(
                "ExactLaplacian needs an environment with transition_graph() -> (observations [S, ...], next_states [S, A]), "
                "and this one has none; use ALLO, which learns the eigenfunctions from random walks."
            )
        self._read_indices(env)
        observations, next_states = env.env_method("transition_graph", indices=[0])[0]
        eigenvalues, phi = laplacian_eigenvectors(np.asarray(next_states))
        if phi.shape[1] <= (self.n_rewards + 1) // 2:
            raise ValueError(f"{self.n_rewards} rewards need more than {(self.n_rewards + 1) // 2} states, got {len(phi)}.")
        device = self.indices.device
        self.states = self.select(torch.as_tensor(observations, device=device))
        if len(torch.unique(self.states, dim=0)) != len(self.states):
            raise ValueError(f"The entries {self.indices.tolist()} of the observations do not distinguish the states.")
        self.phi = torch.as_tensor(phi, dtype=torch.float32, device=device)
        self.eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float32, device=device)
        return 0

    def features(self, inputs: Tensor) -> Tensor:
        if self.needs_fit:
            raise RuntimeError("ExactLaplacian has not read a transition graph yet: call fit(env) first.")
        distance, nearest = torch.cdist(inputs, self.states, p=1).min(1)
        if distance.max() > 1e-4:
            unknown = inputs[distance.argmax()].tolist()
            raise ValueError(f"Observation entries {unknown} are not among the {len(self.states)} states of the graph.")
        return self.phi[nearest]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("states", "phi", "eigenvalues"):  # their size is the environment's
            setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.indices.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
