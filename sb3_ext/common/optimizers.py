"""Parameter updates that can be differentiated through, on dicts of parameters (``torch.func`` style).

An optimiser is two pure functions, ``init(params) -> state`` and ``update(params, grads, state) -> (params, state)``;
``grads`` are those of a loss to be minimised. Nothing is detached unless the docstring states it, so ``torch.func.vjp`` of a
function that calls them is the derivative of the whole step, gradient clip included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor
from torch.func import vjp, vmap

Params = dict[str, Tensor]
State = dict[str, Any]


def global_norm(tree: Params) -> Tensor:
    """Return the Euclidean norm over all entries of a parameter dict."""
    return torch.sqrt(sum((value.square().sum() for value in tree.values()), start=torch.zeros(())))


def clip_by_global_norm(tree: Params, max_norm: float | None) -> Params:
    """Scale ``tree`` to a global norm of at most ``max_norm``; ``None`` leaves it as it is. Differentiable.

    The scale is max_norm / (norm + 1e-6) as in ``torch.nn.utils.clip_grad_norm_``, whose factor carries no gradient; here
    it does. At a zero gradient the derivative is the identity, not the NaN of d‖x‖.
    """
    if max_norm is None:
        return tree
    squared = sum((value.square().sum() for value in tree.values()), start=torch.zeros(()))
    # sqrt has an infinite slope at 0: it is evaluated only where the norm is large enough to clip.
    clipped = squared > max_norm**2
    norm = torch.sqrt(torch.where(clipped, squared, torch.ones_like(squared)))
    scale = torch.where(clipped, max_norm / (norm + 1e-6), torch.ones_like(squared))
    return {name: value * scale for name, value in tree.items()}


def clip_by_each_norm(tree: Params, max_norm: float | None) -> Params:
    """Apply :func:`clip_by_global_norm` to stacked networks ``[B, ...]``, each by its own norm; ``None``: no clip."""
    if max_norm is None:
        return tree
    return vmap(partial(clip_by_global_norm, max_norm=max_norm))(tree)


@torch.no_grad()
def clip_each_(parameters: Sequence[Tensor], max_norm: float | None, n_leading: int) -> None:
    """Clip in place the gradients of stacked networks, each network by its own norm.

    Args:
        parameters: with ``.grad``, ``[*leading, ...]``.
        max_norm: largest norm, or None for no clip.
        n_leading: number of leading axes, which number the networks.
    """
    if max_norm is None:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(n_leading).norm(dim=-1) for gradient in gradients]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(*scale.shape, *[1] * (gradient.dim() - n_leading)))


@dataclass(frozen=True)
class SGD:
    """Gradient descent, θ ← θ − lr · g.

    Attributes:
        learning_rate: lr.
    """

    learning_rate: float

    def init(self, params: Params) -> State:
        return {}

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        return {name: value - self.learning_rate * grads[name] for name, value in params.items()}, state


@dataclass(frozen=True)
class RMSprop:
    """RMSprop as in torch: θ ← θ − lr · g / (√v + eps), v ← decay · v + (1 − decay) g².

    Attributes:
        learning_rate: lr.
        decay: decay of v.
        eps: eps.
        differentiate_second_moment: whether derivatives go through v.
        tf_like: divide by √(v + eps) and initialise v with 1, as TensorFlow and SB3's ``RMSpropTFLike`` do.
    """

    learning_rate: float
    decay: float = 0.99
    eps: float = 1e-8
    differentiate_second_moment: bool = True
    tf_like: bool = False

    def init(self, params: Params) -> State:
        fill = torch.ones_like if self.tf_like else torch.zeros_like
        return {"v": {name: fill(value) for name, value in params.items()}}

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        v = _second_moment(state["v"], grads, self.decay, self.differentiate_second_moment)
        if self.tf_like:
            steps = {name: grads[name] / _safe_sqrt(v[name] + self.eps) for name in params}
        else:
            steps = {name: grads[name] / (_safe_sqrt(v[name]) + self.eps) for name in params}
        return {name: value - self.learning_rate * steps[name] for name, value in params.items()}, {"v": v}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, 2015) as in torch.

    Attributes:
        learning_rate: lr.
        betas: decays of the first moment m and of the second moment v.
        eps: eps.
        differentiate_second_moment: whether derivatives go through v.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    differentiate_second_moment: bool = True

    def init(self, params: Params) -> State:
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return {"m": zeros, "v": dict(zeros), "step": 0}

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        beta1, beta2 = self.betas
        step = state["step"] + 1
        m = {name: beta1 * state["m"][name] + (1 - beta1) * grad for name, grad in grads.items()}
        v = _second_moment(state["v"], grads, beta2, self.differentiate_second_moment)
        size = self.learning_rate / (1 - beta1**step)
        root_correction = (1 - beta2**step) ** 0.5
        new = {
            name: value - size * m[name] / (_safe_sqrt(v[name]) / root_correction + self.eps) for name, value in params.items()
        }
        return new, {"m": m, "v": v, "step": step}


def optimizer_from(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], differentiate_second_moment: bool | None = None
) -> tuple[SGD | RMSprop | Adam, State]:
    """Return the next step of a torch optimiser as a differentiable function, and the state it begins from.

    ``Adam``, ``RMSprop``, ``SGD`` and SB3's ``RMSpropTFLike`` are supported, with their learning rate, decays and eps;
    parameters that have had no gradient yet have the state with which torch would initialise them. ``optimizer`` is not
    changed; the state has the very tensors of that dictionary.

    Args:
        optimizer: the torch optimiser.
        parameters: those of ``optimizer`` by name, all in one parameter group.
        differentiate_second_moment: default False for Adam and True for RMSprop, as in LIRPG's program (arXiv 1804.06459).

    Raises:
        ValueError: for another class, weight decay, momentum, ``amsgrad``, ``maximize``, ``centered`` or several groups.
    """
    kind = next(
        (kind for kind in (torch.optim.Adam, torch.optim.RMSprop, RMSpropTFLike, torch.optim.SGD) if type(optimizer) is kind),
        None,
    )
    if kind is None:
        raise ValueError(f"The optimizer must be Adam, RMSprop, RMSpropTFLike or SGD, got {type(optimizer).__name__}.")
    if len(optimizer.param_groups) != 1:
        raise ValueError(f"The optimizer must have one parameter group, got {len(optimizer.param_groups)}.")
    group = optimizer.param_groups[0]
    for option in ("weight_decay", "momentum", "dampening", "nesterov", "amsgrad", "maximize", "centered"):
        if group.get(option):
            raise ValueError(
                f"The optimizer must not use {option}, got {type(optimizer).__name__}({option}={group[option]!r})."
            )
    learning_rate = float(group["lr"])
    states = {name: optimizer.state.get(value, {}) for name, value in parameters.items()}
    if kind is torch.optim.SGD:
        return SGD(learning_rate), {}
    if kind is torch.optim.Adam:
        betas = (float(group["betas"][0]), float(group["betas"][1]))
        adam = Adam(learning_rate, betas, group["eps"], bool(differentiate_second_moment))
        zeros = adam.init(dict(parameters)) if not all(states.values()) else {"m": {}, "v": {}}
        m = {name: state.get("exp_avg", zeros["m"].get(name)) for name, state in states.items()}
        v = {name: state.get("exp_avg_sq", zeros["v"].get(name)) for name, state in states.items()}
        return adam, {"m": m, "v": v, "step": max((int(state["step"]) for state in states.values() if state), default=0)}
    second = differentiate_second_moment is not False
    rmsprop = RMSprop(learning_rate, group["alpha"], group["eps"], second, tf_like=kind is RMSpropTFLike)
    initial = rmsprop.init(dict(parameters))["v"] if not all(states.values()) else {}
    return rmsprop, {"v": {name: state.get("square_avg", initial.get(name)) for name, state in states.items()}}


class ParameterVector:
    """Conversion of parameters to one vector and back, with which an optimiser step takes a few calls, not a few per tensor.

    Args:
        params: parameters whose names and shapes are used.
    """

    def __init__(self, params: Params) -> None:
        self.shapes = {name: value.shape for name, value in params.items()}
        self._sizes = [value.numel() for value in params.values()]

    def pack(self, tree: Params) -> Params:
        """Return a dict with one vector ``[n]``, differentiable."""
        return {"vector": torch.cat([tree[name].flatten() for name in self.shapes])}

    def unpack(self, vector: Params) -> Params:
        """Return the parameters as views of the vector."""
        parts = vector["vector"].split(self._sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def pack_state(self, state: State) -> State:
        """Return the state of an optimiser with each of its dicts packed."""
        return {key: self.pack(value) if isinstance(value, dict) else value for key, value in state.items()}


def _second_moment(v: Params, grads: Params, decay: float, differentiate: bool) -> Params:
    squares = {name: grad.square() if differentiate else grad.detach().square() for name, grad in grads.items()}
    return {name: decay * v[name] + (1 - decay) * square for name, square in squares.items()}


def _safe_sqrt(x: Tensor) -> Tensor:
    """Return √x with derivative 0, not infinity, at x = 0 (a parameter that has never had a gradient)."""
    positive = x > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, x, torch.ones_like(x))), torch.zeros_like(x))


def backpropagate_through_updates(
    updates: Sequence[Callable[[Params], Params]], inputs: Sequence[Params], *cotangents: Params
) -> tuple[Params, ...]:
    """Return (∂θ_N/∂θ_0)ᵀ g for θ_{j+1} = updates[j](θ_j), by vector-Jacobian products from the last update to the first.

    No Jacobian is formed and only the θ_j are kept: each update is computed once more for its own product, so memory holds one
    graph, not N.

    Args:
        updates: the N update functions, each a function of the parameters alone.
        inputs: the N parameters θ_0 … θ_{N−1} to which they were applied.
        *cotangents: any number of gradients with respect to θ_N, pulled back together.

    Returns:
        a tuple with one pulled-back gradient for each cotangent.
    """
    for update, params in zip(reversed(updates), reversed(inputs), strict=True):
        pull_back: Callable[[Params], tuple[Params]] = vjp(update, params)[1]
        cotangents = tuple(pull_back(cotangent)[0] for cotangent in cotangents)
    return cotangents
