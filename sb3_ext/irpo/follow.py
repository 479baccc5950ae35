"""Pull the gradient at an exploratory policy back through the PPO updates that led there.

    g_j = (∂U_j / ∂θ_j)ᵀ g_{j+1},   θ_{j+1} = U_j(θ_j)

where U_j is one step of PPO on minibatch j: the gradient of the clipped loss, its clip to ``max_grad_norm`` and Adam with
its moments, through which the derivative goes too. First order, ``pull_back=False``, is g_0 = g_N.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_ext.common.optimizers import Params, State, clip_by_global_norm, optimizer_from

Loss = Callable[[Any], Tensor]  # of a minibatch, at the policy's current weights


@dataclass
class UpdateRecord:
    """Record of the updates of one call of ``train``.

    Attributes:
        params: weights before the updates, by name.
        state: state of the optimiser before the updates.
        optimizer: the optimiser as pure functions (an Adam of ``sb3_ext.common.optimizers``).
        minibatches: one for each update.
        loss: loss of a minibatch at the policy's current weights.
        max_grad_norm: clip of each gradient.
    """

    params: Params
    state: State
    optimizer: Any
    minibatches: list[Any]
    loss: Loss
    max_grad_norm: float | None


def trained_parameters(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a policy by name, without those that have no gradient."""
    return {name: value for name, value in policy.named_parameters() if value.requires_grad}


def record_updates(policy: Any, loss: Loss, max_grad_norm: float | None) -> UpdateRecord:
    """Return a record without minibatches that begins at the policy's current weights.

    Args:
        policy: with its ``optimizer``, a ``torch.optim.Adam``.
        loss: loss of a minibatch at the policy's current weights.
        max_grad_norm: clip of each gradient, or None.
    """
    parameters = trained_parameters(policy)
    optimizer, state = optimizer_from(policy.optimizer, parameters, differentiate_second_moment=True)
    copied = {key: _copy(value) if isinstance(value, dict) else value for key, value in state.items()}
    return UpdateRecord(_copy(parameters), copied, optimizer, [], loss, max_grad_norm)


def _copy(tree: Any) -> Params:
    return {name: value.detach().clone() for name, value in tree.items()}


@contextmanager
def _weights(parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Restore the weights after the block."""
    before = _copy(parameters)
    try:
        yield
    finally:
        _assign(parameters, before)


@torch.no_grad()
def _assign(parameters: dict[str, nn.Parameter], values: Params) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _step(
    record: UpdateRecord, parameters: dict[str, nn.Parameter], state: State, batch: Any, graph: bool
) -> tuple[Params, State]:
    """Return weights and optimiser state after one update, differentiable in both if ``graph``."""
    gradients = torch.autograd.grad(record.loss(batch), list(parameters.values()), create_graph=graph, allow_unused=True)
    named = {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
    }
    return record.optimizer.update(dict(parameters), clip_by_global_norm(named, record.max_grad_norm), state)


def pull_back(record: UpdateRecord, policy: nn.Module, cotangent: Params) -> Params:
    """Return (∂θ_N / ∂θ_0)ᵀ g for the recorded updates, exactly.

    The updates are repeated to recover their weights (memory: three times the parameters for each update), then
    differentiated from the last to the first.

    Args:
        record: record of the updates.
        policy: the policy that was updated; its weights are the same afterwards.
        cotangent: g, by parameter name.
    """
    parameters = trained_parameters(policy)
    with _weights(parameters):
        inputs: list[tuple[Params, State]] = []
        values, state = record.params, record.state
        for batch in record.minibatches:
            inputs.append((values, state))
            _assign(parameters, values)
            values, state = _step(record, parameters, state, batch, graph=False)
            values = _copy(values)
            state = {key: _copy(part) if isinstance(part, dict) else part for key, part in state.items()}
        moments: dict[str, Params] = defaultdict(dict)
        for batch, (values, state) in zip(reversed(record.minibatches), reversed(inputs), strict=True):
            _assign(parameters, values)
            leaves = {
                key: {name: value.requires_grad_() for name, value in part.items()} if isinstance(part, dict) else part
                for key, part in state.items()
            }
            new, new_state = _step(record, parameters, leaves, batch, graph=True)
            outputs = [*new.values()]
            grads = [cotangent[name] for name in new]
            for key, part in moments.items():
                outputs += [new_state[key][name] for name in part]
                grads += list(part.values())
            dicts = [key for key, part in leaves.items() if isinstance(part, dict)]
            wanted = [*parameters.values()] + [leaves[key][name] for key in dicts for name in parameters]
            found = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))

            def take() -> Params:
                part = {name: next(found) for name in parameters}  # noqa: B023 (used at once)
                return {name: torch.zeros_like(parameters[name]) if x is None else x.detach() for name, x in part.items()}

            cotangent = take()
            moments = {key: take() for key in dicts}
    return cotangent


def cosine_and_ratio(one: Params, other: Params) -> tuple[float, float]:
    """Return the cosine between two gradients and the ratio ‖other‖ / ‖one‖; (0, 0) if one of them is 0."""
    product = sum(float((value * other[name]).sum()) for name, value in one.items())
    norm, other_norm = (sum(float(value.square().sum()) for value in tree.values()) ** 0.5 for tree in (one, other))
    if norm == 0 or other_norm == 0:
        return 0.0, 0.0
    return product / (norm * other_norm), other_norm / norm


@torch.no_grad()
def step_to_divergence(
    parameters: dict[str, nn.Parameter],
    direction: Params,
    divergence: Callable[[], float],
    target: float,
    max_halvings: int = 20,
) -> float:
    """Move the parameters along ``direction`` as far as the divergence allows, by halving the step; return that divergence.

    Args:
        parameters: moved in place.
        direction: ascent direction, by parameter name.
        divergence: function that returns the divergence of the current weights from those before.
        target: largest divergence that is accepted.
        max_halvings: how often a first step of norm 1 is halved; if no step is accepted the parameters stay.
    """
    norm = sum(float(direction[name].square().sum()) for name in parameters) ** 0.5
    if norm == 0 or not torch.isfinite(torch.tensor(norm)):
        return 0.0
    before = _copy(parameters)
    step = 1.0 / norm
    for _ in range(max_halvings):
        _assign(parameters, {name: value + step * direction[name] for name, value in before.items()})
        reached = divergence()
        if reached <= target:
            return reached
        step /= 2
    _assign(parameters, before)
    return 0.0


def divergence_of(one: Distribution, other: Distribution) -> float:
    """Return the mean KL(one ‖ other) in nats."""
    divergence = kl_divergence(one, other)
    return float(divergence.reshape(len(divergence), -1).sum(1).mean())


@torch.no_grad()
def mean_kl(one: ActorCriticPolicy, other: ActorCriticPolicy, observations: Any) -> float:
    """Return the mean KL(π_one ‖ π_other) in nats over ``observations`` ``[n, …]``."""
    return divergence_of(one.get_distribution(observations), other.get_distribution(observations))
