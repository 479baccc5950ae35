"""How CLN trains its reward network, and the advantages of the learned reward as linear functions of η."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from irwrappers.serialization import read_state, write_state
from irwrappers.validation import check_choice, check_range
from sb3_ext.cln.policies import CLNPolicy
from sb3_ext.cln.segments import SegmentBuffer, cut_into_segments, episode_ages, normalized_segments, segment_loss
from sb3_ext.common import ppo_losses
from sb3_ext.common.gae import discounted_sum
from sb3_ext.common.meta_gradient import InnerLoss, MetaGradient, Term, meta_gradient
from sb3_ext.common.optimizers import SGD, Params, State, optimizer_from
from sb3_ext.learned_reward.algorithm import LearnedRewardPPO, Logs
from sb3_ext.learned_reward.functional_module import FunctionalModule
from sb3_ext.learned_reward.reward_network import RewardNetwork, clip_actions
from sb3_ext.learned_reward.rollout import LearnedRewardRollout, Samples

BUFFERED_TRANSITIONS = 100_000  # in D_r
SEGMENTS = {"contents": "segments of CLN"}  # header of a file with D_r
CHUNK_SIZE = 4096  # transitions that a network takes at a time


@torch.no_grad()
def reward_features(
    network: RewardNetwork, rollout: LearnedRewardRollout, actions: Tensor, intrinsic_coef: float
) -> tuple[Tensor, Tensor]:
    """Return x and F ``[n, n_condition]`` with r_φ = x · η, and F · η the part of r_φ in the policy's advantages.

    Args:
        network: r_φ, linear in η.
        rollout: of n transitions.
        actions: ``[n, …]``, those of the rollout as ``network`` takes them.
        intrinsic_coef: weight of r_φ in the policy's reward.
    """
    rows = [slice(start, start + CHUNK_SIZE) for start in range(0, len(actions), CHUNK_SIZE)]
    observations = rollout.samples.observations
    parts = [network.head_inputs(tree_map(lambda o, at=at: o[at], observations), actions[at]) for at in rows]
    x = torch.cat(parts)
    n_steps, n_envs = rollout.discount.shape
    x_by_time = x.view(n_envs, n_steps, -1).transpose(0, 1)
    sums = discounted_sum(x_by_time, rollout.discount[..., None].expand_as(x_by_time))
    return x, intrinsic_coef * sums.transpose(0, 1).flatten(0, 1)


def perturbed_advantages(features: Tensor, features_mean: Tensor, eta: Tensor, noise: Tensor) -> Tensor:
    """Return F η + (F − mean F) ε ``[n]``, the part of r_φ in advantages where each transition has its own ε.

    The critic is the baseline of the first term only; the mean is that of the second.

    Args:
        features: F ``[n, n_condition]``.
        features_mean: ``[n_condition]``, mean over the rollout or the minibatch.
        eta: ``[n_condition]``.
        noise: ε ``[n, n_condition]``.
    """
    return features @ eta + ((features - features_mean) * noise).sum(1)


class RewardTraining(LearnedRewardPPO):
    """The part of CLN that trains the reward network: η ← Adam(λ g_J + g_reg), the rest φ ← Adam(g_reg).

    Args:
        *args: positional arguments of SB3's PPO.
        terms: terms of dJ^EX/dη, some of ``"direct"``, ``"mixed"``, ``"reward"``.
        n_reward_steps: minibatch steps of the reward network in an iteration.
        meta_coef: λ, weight of g_J beside g_reg.
        segment_length: steps in a segment.
        segments_per_step: segments sampled for each step.
        eta_noise: standard deviation of the noise on η.
        extrinsic_coef: weight of the extrinsic reward in the policy's reward.
        intrinsic_coef: weight of the learned reward in the policy's reward.
        reward_learning_rate: learning rate of the reward network.
        reward_network_kwargs: arguments of the reward network.
        **kwargs: keyword arguments of SB3's PPO.
    """

    fixed_reward_network_kwargs = ("squash",)
    records_originals = True
    policy: CLNPolicy
    segments: SegmentBuffer
    _ages: np.ndarray  # [B], steps that the running episodes had taken before the rollout

    def __init__(
        self,
        *args: Any,
        terms: Collection[Term],
        n_reward_steps: int,
        meta_coef: float,
        segment_length: int,
        segments_per_step: int,
        eta_noise: float,
        **kwargs: Any,
    ) -> None:
        for term in terms:
            check_choice("each of terms", term, ("direct", "mixed", "reward"))
        check_range("n_reward_steps", n_reward_steps, 0, integer=True, schedule=False)
        check_range("meta_coef", meta_coef, 0, schedule=False)
        check_range("segment_length", segment_length, 1, integer=True, schedule=False)
        check_range("segments_per_step", segments_per_step, 1, integer=True, schedule=False)
        check_range("eta_noise", eta_noise, 0, schedule=False)
        self.terms = tuple(terms)
        self.n_reward_steps = n_reward_steps
        self.meta_coef = meta_coef
        self.segment_length = segment_length
        self.segments_per_step = segments_per_step
        self.eta_noise = eta_noise
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.segments = SegmentBuffer(BUFFERED_TRANSITIONS, self.segment_length, self.device)
        self._actor = FunctionalModule(self.policy)
        if self._updates_policy:
            optimizer_from(self.policy.optimizer, self.policy.actor_parameters())  # raises if it is not differentiable

    def _make_optimizer(self, module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=learning_rate, eps=1e-5)

    @property
    def reward_network(self) -> RewardNetwork:  # type: ignore[override]
        """r_φ, which belongs to the policy, whose actor sees its last layer."""
        return self.policy.reward_network

    @property
    def _updates_policy(self) -> bool:
        """Whether a chosen term goes through an update of the policy."""
        return not set(self.terms) <= {"direct"}

    def _noise(self, n: int) -> Tensor:
        """Return ε ``[n, n_condition]``."""
        eta = self.policy.eta()
        return self.eta_noise * torch.randn((n, len(eta)), device=self.device, dtype=eta.dtype)

    def _rewarded_actions(self, actions: Tensor) -> Tensor:
        """Return Box actions clipped, as the environment takes them."""
        return actions if self.policy.squash_output else clip_actions(actions, self.action_space)

    def _store_segments(self, rollout: LearnedRewardRollout, actions: Tensor) -> None:
        """Add the rollout to D_r, unnormalised where there is a ``VecNormalize``, as SB3's replay buffers store it."""
        done, rewards = rollout.done.t(), rollout.extrinsic_rewards.t()
        observations, actions = tree_map(lambda x: x.unflatten(0, done.shape), (rollout.samples.observations, actions))
        originals = self._recorder.stacked_originals(self.device)
        if originals is not None:
            observations, rewards = originals
        ages = torch.as_tensor(self._ages, device=self.device)
        self.segments.add(cut_into_segments(observations, actions, rewards.float(), done, self.segment_length, ages))
        self._ages = episode_ages(done.cpu().numpy(), self._ages)

    def _reward_steps(self, rollout: LearnedRewardRollout, actions: Tensor, clip_range: float, logs: Logs) -> None:
        """Take N_r steps η ← Adam(λ g_J + g_reg), φ ← Adam(g_reg)."""
        network, has_seen_reward = self.reward_network, self._has_seen_reward()
        head = network.head
        for rows in islice(_endless_minibatches(rollout, self.batch_size), self.n_reward_steps):
            # Normalised anew: under the statistics of its time one transition would have many observations and rewards.
            segments = normalized_segments(self.segments.sample(self.segments_per_step), self._vec_normalize_env)
            steps = tree_map(lambda values: values.flatten(0, 1), (segments.observations, segments.actions))
            loss = segment_loss(network(*steps).view(segments.mask.shape), segments)
            self.reward_optimizer.zero_grad()
            loss.backward()
            if has_seen_reward:
                features = None
                if self._updates_policy:
                    features = reward_features(network, rollout, actions, self.intrinsic_coef)[1][rows]
                meta = self._eta_gradient(rollout.samples.rows(rows), features, self._noise(len(rows)), clip_range)
                weight, bias = meta.gradient["eta"].split((head.weight.numel(), head.bias.numel()))
                head.weight.grad.add_(weight.view_as(head.weight), alpha=self.meta_coef)  # type: ignore[union-attr]
                head.bias.grad.add_(bias, alpha=self.meta_coef)  # type: ignore[union-attr]
                logs["cln/meta_gradient_norm"].append(meta.gradient["eta"].norm().item())
            self.reward_optimizer.step()
            logs["cln/regularizer_loss"].append(loss.item())

    def _eta_gradient(self, samples: Samples, features: Tensor | None, noise: Tensor, clip_range: float) -> MetaGradient:
        """Return g_J, the chosen terms of −dJ^EX/dη, on a minibatch.

        Args:
            samples: n transitions.
            features: F ``[n, n_condition]``, for the terms that go through an update of the policy.
            noise: ε ``[n, n_condition]``.
            clip_range: of the probability ratio.
        """

        def evaluate(theta: Params, eta: Tensor) -> tuple[Tensor, Tensor | None]:
            return self._actor.at(theta, "evaluate_actor", samples.observations, samples.actions, eta + noise)

        def outer(theta: Params, acting: Params) -> Tensor:
            log_prob, _ = evaluate(theta, acting["eta"])
            return self._surrogate(log_prob, samples.old_log_prob, samples.extrinsic_advantages, clip_range)

        def inner(theta: Params, seen: Params, learned: Params) -> Tensor:
            assert features is not None
            advantages = samples.advantages + perturbed_advantages(features, features.mean(0), learned["eta"], noise)
            log_prob, entropy = evaluate(theta, seen["eta"])
            loss = self._surrogate(log_prob, samples.old_log_prob, advantages, clip_range)
            return loss + self.ent_coef * ppo_losses.entropy_loss(log_prob, entropy)

        theta: Params = {}
        inner_losses: list[InnerLoss] = []
        optimizer: Any = SGD(0.0)
        state: State = {}
        if self._updates_policy:
            theta, inner_losses = dict(self.policy.actor_parameters()), [inner]
            optimizer, state = optimizer_from(self.policy.optimizer, theta)
        eta = {"eta": self.policy.eta()}
        return meta_gradient(
            theta, eta, inner_losses, outer, optimizer, state, terms=self.terms, max_grad_norm=self.max_grad_norm
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_actor", "segments"]

    def save_replay_buffer(self, path: str | Path) -> None:
        """Save D_r, which ``save`` leaves out as SB3 leaves out replay buffers: a continued run is exact only with it.

        Args:
            path: of a safetensors file; without a suffix ``.safetensors`` is added.
        """
        path = Path(path)
        write_state(path if path.suffix else path.with_suffix(".safetensors"), SEGMENTS, self.segments.state_dict())

    def load_replay_buffer(self, path: str | Path, truncate_last_traj: bool = True) -> None:
        """Load D_r as :meth:`save_replay_buffer` wrote it; nothing in the file is executed.

        Args:
            path: of the file.
            truncate_last_traj: accepted as in SB3's off-policy algorithms; segments are complete whatever follows.

        Raises:
            ValueError: if the file is another one, or of a model with other arguments or spaces.
        """
        path = Path(path)
        header, state = read_state(path if path.suffix else path.with_suffix(".safetensors"))
        if header != SEGMENTS:
            raise ValueError(f"{str(path)!r} was not written by save_replay_buffer of CLN.")
        self.segments.load_state_dict(state)


def _endless_minibatches(rollout: LearnedRewardRollout, batch_size: int) -> Iterator[Tensor]:
    while True:
        yield from rollout.minibatches(batch_size)
