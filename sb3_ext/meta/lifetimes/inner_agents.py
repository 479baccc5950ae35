"""The inner loop of meta-learning: B parallel PPO agents from scratch, each with its own networks, data and optimiser.

Everything is stacked along a leading axis over agents, so that a layer of all of them is one batched matrix product; noise
and minibatches come from outside. B agents equal B that are run one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from irwrappers.validation import check_range
from sb3_ext.common.distributions import LOG_STD_RANGE, DiagonalGaussian, make_action_distribution
from sb3_ext.common.gae import generalized_advantage_estimation
from sb3_ext.common.optimizers import Params, clip_each_


@dataclass(frozen=True)
class InnerSettings:
    """Length of a lifetime and the agents' PPO; the defaults are those of arXiv 2407.21546.

    Args:
        n_steps: environment steps of a batch.
        n_batches: number of batches in a lifetime; each but the last is followed by an update.
        n_epochs: passes over a batch in an update.
        n_minibatches: number of minibatches in an epoch.
        learning_rate: of Adam.
        gamma: discount of a step.
        gae_lambda: λ of generalised advantage estimation.
        clip_range: of PPO's probability ratio.
        normalize_advantage: whether estimated advantages are normalised in each minibatch; given ones are not.
        ent_coef: entropy coefficient. For agents that receive advantages the paper has 5e-4.
        vf_coef: coefficient of the value loss.
        max_grad_norm: largest norm of an agent's gradient; None: not clipped.
        log_std_init: initial logarithm of the deviation of continuous actions.
        net_arch: sizes of the hidden layers of policy and critic.

    Raises:
        ValueError: for an argument out of range.
    """

    n_steps: int = 2000
    n_batches: int = 3
    n_epochs: int = 64
    n_minibatches: int = 16
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.25
    max_grad_norm: float | None = 0.5
    log_std_init: float = 0.0
    net_arch: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        if isinstance(self.net_arch, int) or not all(isinstance(units, int) and units > 0 for units in self.net_arch):
            raise ValueError(f"inner net_arch must be the sizes of the hidden layers, as [64, 64]; got {self.net_arch!r}.")
        object.__setattr__(self, "net_arch", tuple(self.net_arch))  # YAML and JSON have lists only
        for name in ("n_steps", "n_batches", "n_epochs", "n_minibatches"):
            check_range(f"inner {name}", getattr(self, name), 1, integer=True)
        for name in ("learning_rate", "ent_coef", "vf_coef"):
            check_range(f"inner {name}", getattr(self, name), 0, schedule=False)
        check_range("inner clip_range", self.clip_range, 0, open_low=True, schedule=False)
        if self.max_grad_norm is not None:
            check_range("inner max_grad_norm", self.max_grad_norm, 0, open_low=True, schedule=False)
        for name in ("gamma", "gae_lambda"):
            check_range(f"inner {name}", getattr(self, name), 0, 1)
        if self.n_minibatches > self.n_steps:
            raise ValueError(f"inner n_minibatches={self.n_minibatches} is more than the steps of a batch, {self.n_steps}.")

    @property
    def lifetime(self) -> int:
        """Number of steps of a lifetime."""
        return self.n_steps * self.n_batches


@dataclass
class InnerBatch:
    """Steps that B agents collected between two updates.

    Args:
        observations: ``[T, B, n_obs]``.
        actions: ``[T, B, n_actions]``.
        log_probs: log-probabilities of the actions ``[T, B]``.
        values: of the observations ``[T, B]``.
        rewards: rewards of the agents, or their advantages ``[T, B]``.
        done: whether a step is the last one of its episode, which counts as terminal; bool ``[T, B]``.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    done: Tensor


class Minibatch(NamedTuple):
    """Minibatch of m steps for each of B agents, sampled separately for each agent.

    Attributes:
        observations: ``[B, m, n_obs]``.
        actions: ``[B, m, n_actions]``.
        log_probs: log-probabilities of the actions ``[B, m]``.
        advantages: ``[B, m]``.
        returns: targets of the critic ``[B, m]``; None without a critic.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor | None


class InnerAgents:
    """B actor-critics (tanh, weights initialised as in SB3) and their optimiser, Adam.

    Args:
        n_agents: B.
        observation_space: ``Box``, which is flattened.
        action_space: of the tasks.
        settings: of PPO and of the networks.
        generator: random generator of the initial weights.
        device: of networks and data.
        dtype: of networks and data.
        group_size: number of successive agents that begin with the same weights.

    Attributes:
        params: stacked weights, ``[B, ...]``, named ``pi.0.weight``, ``vf.2.bias`` …, ``log_std`` for continuous actions.

    Raises:
        ValueError: for observations that are no ``Box``.
    """

    def __init__(
        self,
        n_agents: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        settings: InnerSettings,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        group_size: int = 1,
    ) -> None:
        if not isinstance(observation_space, spaces.Box):
            raise ValueError(
                f"Inner agents see Box observations, got {observation_space}; wrap the environments in FlattenObservation."
            )
        self.n_agents, self.settings = n_agents, settings
        self.distribution = make_action_distribution(action_space)
        self.n_obs = spaces.flatdim(observation_space)
        continuous = isinstance(self.distribution, DiagonalGaussian)
        n_outputs = self.distribution.n_params // 2 if continuous else self.distribution.n_params
        self.params: Params = {}
        for name, last, gain in (("pi", n_outputs, 0.01), ("vf", 1, 1.0)):
            sizes = [self.n_obs, *settings.net_arch, last]
            for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
                gains = math.sqrt(2) if layer < len(settings.net_arch) else gain
                weights = [_orthogonal(n_out, n_in, gains, generator, dtype) for _ in range(n_agents // group_size)]
                self.params[f"{name}.{layer}.weight"] = torch.stack(weights).repeat_interleave(group_size, 0).to(device)
                self.params[f"{name}.{layer}.bias"] = torch.zeros(n_agents, n_out, dtype=dtype, device=device)
        if continuous:
            log_std = torch.full((n_agents, n_outputs), settings.log_std_init, dtype=dtype, device=device)
            self.params["log_std"] = log_std
        for value in self.params.values():
            value.requires_grad_(True)
        # One Adam over stacked weights is B Adams: it works on each number by itself.
        self.optimizer = torch.optim.Adam(self.params.values(), lr=settings.learning_rate, eps=1e-5, fused=True)

    def outputs(self, observations: Tensor, params: Params | None = None) -> Tensor:
        """Return parameters of the action distributions ``[B, n, P]``.

        Args:
            observations: ``[B, n, n_obs]``.
            params: weights; None: the agents' own.
        """
        params = self.params if params is None else params
        outputs = self._forward("pi", observations, params)
        if "log_std" in params:
            log_std = params["log_std"].clamp(*LOG_STD_RANGE)[:, None]
            outputs = torch.cat([outputs, log_std.expand_as(outputs)], -1)
        return outputs

    def values(self, observations: Tensor, params: Params | None = None) -> Tensor:
        """Return the values ``[B, n]`` of observations.

        Args:
            observations: ``[B, n, n_obs]``.
            params: weights; None: the agents' own.
        """
        return self._forward("vf", observations, self.params if params is None else params)[..., 0]

    def _forward(self, name: str, x: Tensor, params: Params) -> Tensor:
        n_layers = len(self.settings.net_arch) + 1
        for layer in range(n_layers):
            weight, bias = params[f"{name}.{layer}.weight"], params[f"{name}.{layer}.bias"]
            x = torch.baddbmm(bias[:, None], x, weight.mT)
            x = torch.tanh(x) if layer < n_layers - 1 else x
        return x

    @torch.no_grad()
    def act(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions ``[B, n_actions]``, their log-probabilities ``[B]`` and the values ``[B]`` of the observations.

        Args:
            observations: ``[B, n_obs]``.
            noise: from ``distribution.sample_noise((B,), …)``.
        """
        outputs = self.outputs(observations[:, None])
        actions = self.distribution.sample(outputs, noise[:, None])
        return actions[:, 0], self.distribution.log_prob(outputs, actions)[:, 0], self.values(observations[:, None])[:, 0]

    def advantages(self, batch: InnerBatch, last_observations: Tensor, params: Params | None = None) -> tuple[Tensor, Tensor]:
        """Return advantages and λ-returns ``[T, B]``, differentiable in the rewards and not in the weights.

        Args:
            batch: the steps.
            last_observations: observations after the batch ``[B, n_obs]``, for an episode that continues there.
            params: weights of the critic; None: the agents' own.
        """
        last = self.values(last_observations[:, None], params)[:, 0].detach()
        next_values = torch.cat([batch.values[1:], last[None]])
        advantages = generalized_advantage_estimation(
            batch.rewards, batch.values, next_values, batch.done, batch.done, self.settings.gamma, self.settings.gae_lambda
        )
        return advantages, advantages + batch.values

    @torch.enable_grad()  # an outer learner collects without gradients
    def update(self, batch: InnerBatch, last_observations: Tensor, order: Tensor, are_advantages: bool = False) -> None:
        """Update every agent by PPO.

        Args:
            batch: the steps.
            last_observations: observations after the batch ``[B, n_obs]``.
            order: int ``[n_epochs, T, B]``, for each epoch and agent a permutation of the steps, cut into minibatches as SB3
                does: ⌈T / n_minibatches⌉ steps each, the last with what is left.
            are_advantages: whether ``batch.rewards`` are the advantages; there is no critic then.
        """
        advantages, returns = (batch.rewards, None) if are_advantages else self.advantages(batch, last_observations)
        for steps in self.minibatch_steps(order):
            self.optimizer.zero_grad()
            loss = self.loss(self.minibatch(batch, advantages, returns, steps))
            loss.sum().backward()  # the agents share no weights, so each has the gradient of its own loss
            clip_each_(list(self.params.values()), self.settings.max_grad_norm, n_leading=1)
            self.optimizer.step()

    def minibatch_steps(self, order: Tensor) -> list[Tensor]:
        """Return the steps ``[B, m]`` of each minibatch of an update with this ``order`` (see :meth:`update`)."""
        size = math.ceil(order.shape[1] / self.settings.n_minibatches)
        return [steps for epoch in order for steps in epoch.T.split(size, 1)]

    def minibatch(self, batch: InnerBatch, advantages: Tensor, returns: Tensor | None, steps: Tensor) -> Minibatch:
        """Return the minibatch of some steps.

        Args:
            batch: the steps.
            advantages: ``[T, B]``.
            returns: ``[T, B]``, or None.
            steps: numbers of the chosen steps, int ``[B, m]``.
        """
        rows = steps * self.n_agents + torch.arange(self.n_agents, device=steps.device)[:, None]

        def chosen(column: Tensor) -> Tensor:
            return column.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)

        columns = (batch.observations, batch.actions, batch.log_probs, advantages)
        observations, actions, log_probs, chosen_advantages = map(chosen, columns)
        chosen_returns = None if returns is None else chosen(returns)
        return Minibatch(observations, actions, log_probs, chosen_advantages, chosen_returns)

    def loss(self, minibatch: Minibatch, params: Params | None = None) -> Tensor:
        """Return PPO's loss of each agent ``[B]``, differentiable in weights, advantages and returns.

        Without returns there is no critic, and the advantages are not normalised.

        Args:
            minibatch: the steps.
            params: weights; None: the agents' own.
        """
        observations, actions, old_log_probs, advantages, returns = minibatch
        if self.settings.normalize_advantage and returns is not None and advantages.shape[1] > 1:
            deviation = advantages.std(1, keepdim=True)
            advantages = (advantages - advantages.mean(1, keepdim=True)) / (deviation + 1e-8)
        loss = self.policy_loss(observations, actions, old_log_probs, advantages, params, self.settings.ent_coef)
        if returns is not None:
            loss = loss + self.settings.vf_coef * (returns - self.values(observations, params)).square().mean(1)
        return loss

    def policy_loss(
        self,
        observations: Tensor,
        actions: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        params: Params | None = None,
        ent_coef: float = 0.0,
    ) -> Tensor:
        """Return PPO's clipped policy loss with an entropy bonus, of each agent ``[B]``.

        Args:
            observations: as in :class:`Minibatch`.
            actions: as in :class:`Minibatch`.
            old_log_probs: ``log_probs`` of :class:`Minibatch`.
            advantages: as in :class:`Minibatch`.
            params: weights; None: the agents' own.
            ent_coef: entropy coefficient.
        """
        outputs = self.outputs(observations, params)
        ratio = torch.exp(self.distribution.log_prob(outputs, actions) - old_log_probs)
        clip = self.settings.clip_range
        loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean(1)
        if ent_coef:
            loss = loss - ent_coef * self.distribution.entropy(outputs).mean(1)
        return loss


def sample_order(n_epochs: int, n_steps: int, n_agents: int, generator: torch.Generator) -> Tensor:
    """Return random permutations of the steps for :meth:`InnerAgents.update`, int ``[n_epochs, n_steps, n_agents]``."""
    return torch.rand((n_epochs, n_steps, n_agents), generator=generator, device=generator.device).argsort(1)


def _orthogonal(n_out: int, n_in: int, gain: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return nn.init.orthogonal_(torch.empty(n_out, n_in, dtype=dtype), gain, generator=generator)
