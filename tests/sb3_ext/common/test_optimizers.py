"""Differentiable optimisers against torch.optim and finite differences."""

import math
from functools import partial

import pytest
import torch
from helpers.finite_differences import central_difference, make_tree
from torch.func import grad, vjp

from sb3_ext.common.optimizers import SGD, Adam, RMSprop, clip_by_global_norm, global_norm
from sb3_ext.common.trust_region import flatten, unflatten

# ---------------------------------------------------------------------- updates

OPTIMIZERS = {
    "sgd": (SGD(0.05), partial(torch.optim.SGD, lr=0.05)),
    "rmsprop": (RMSprop(0.05, decay=0.9, eps=1e-5), partial(torch.optim.RMSprop, lr=0.05, alpha=0.9, eps=1e-5)),
    "adam": (Adam(0.05, betas=(0.8, 0.95), eps=1e-6), partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.95), eps=1e-6)),
}


def warmed_up(optimizer):
    """A state with moments in it."""
    state = optimizer.init(make_tree(0))
    for step in range(3):
        _, state = optimizer.update(make_tree(0), make_tree(10 + step), state)
    return state


@pytest.mark.parametrize("max_norm", [None, 0.7])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_torch_optim(name, max_norm):
    ours, make_theirs = OPTIMIZERS[name]
    params = make_tree(0)
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    theirs, state = make_theirs(list(leaves.values())), ours.init(params)
    for step in range(5):
        grads = make_tree(step + 1)
        params, state = ours.update(params, clip_by_global_norm(grads, max_norm), state)
        for key, leaf in leaves.items():
            leaf.grad = grads[key].clone()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), max_norm)
        theirs.step()
    for key, leaf in leaves.items():
        torch.testing.assert_close(params[key], leaf.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_norm", [None, 0.7])
@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_derivative_of_a_whole_update_equals_finite_differences(name, differentiate, max_norm):
    """θ′ = θ − lr · optimiser(clip(∇L(θ))), with respect to θ; L is not quadratic, so the Hessian depends on θ."""
    optimizer = OPTIMIZERS[name][0]
    if name != "sgd":
        optimizer = type(optimizer)(**{**vars(optimizer), "differentiate_second_moment": differentiate})
    state, params, cotangent = warmed_up(optimizer), make_tree(5), make_tree(6)
    target = make_tree(7)

    def gradient(p):
        return clip_by_global_norm(
            grad(lambda p: sum(((p[k] - target[k]) ** 4).sum() + p[k].sin().sum() for k in p))(p), max_norm
        )

    assert max_norm is None or global_norm(gradient(params)) < 0.7001  # it does clip

    def update(p):
        return optimizer.update(p, gradient(p), state)[0]

    def held_fixed(p):
        """The same step with v, where it is not differentiated, taken at ``params``."""
        if name == "sgd" or differentiate:
            return update(p)
        fixed = optimizer.update(params, gradient(params), state)[1]["v"]
        grads = gradient(p)
        if name == "rmsprop":
            return {k: p[k] - optimizer.learning_rate * grads[k] / (fixed[k].sqrt() + optimizer.eps) for k in p}
        beta1, beta2 = optimizer.betas
        root, size = math.sqrt(1 - beta2**4), optimizer.learning_rate / (1 - beta1**4)
        m = {k: beta1 * state["m"][k] + (1 - beta1) * grads[k] for k in p}
        return {k: p[k] - size * m[k] / (fixed[k].sqrt() / root + optimizer.eps) for k in p}

    pulled_back = flatten(vjp(update, params)[1](cotangent)[0])
    jacobian = central_difference(lambda x: flatten(held_fixed(unflatten(x, params))), flatten(params))
    torch.testing.assert_close(pulled_back, flatten(cotangent) @ jacobian, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_derivative_of_an_update_in_the_gradients_equals_finite_differences(name):
    optimizer = OPTIMIZERS[name][0]
    state, params, grads, cotangent = warmed_up(optimizer), make_tree(5), make_tree(6), make_tree(7)
    pulled_back = flatten(vjp(lambda g: optimizer.update(params, g, state)[0], grads)[1](cotangent)[0])
    jacobian = central_difference(lambda x: flatten(optimizer.update(params, unflatten(x, grads), state)[0]), flatten(grads))
    torch.testing.assert_close(pulled_back, flatten(cotangent) @ jacobian, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [0.1, 10.0], ids=["below", "above"])
def test_clip_has_the_derivative_of_its_definition(scale):
    tree, cotangent = make_tree(0, scale), make_tree(1)
    jacobian = central_difference(lambda x: flatten(clip_by_global_norm(unflatten(x, tree), 1.0)), flatten(tree))
    pulled_back = flatten(vjp(lambda t: clip_by_global_norm(t, 1.0), tree)[1](cotangent)[0])
    torch.testing.assert_close(pulled_back, flatten(cotangent) @ jacobian, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_zero_gradient_has_a_finite_derivative(name):
    """d‖g‖ and d√v are infinite or NaN at zero; the clip's derivative there is the identity."""
    zero = {key: torch.zeros_like(value) for key, value in make_tree(0).items()}
    cotangent = make_tree(1)
    pulled_back = vjp(lambda t: clip_by_global_norm(t, 0.5), zero)[1](cotangent)[0]
    torch.testing.assert_close(pulled_back, cotangent)
    optimizer = OPTIMIZERS[name][0]
    through = vjp(lambda g: optimizer.update(zero, clip_by_global_norm(g, 0.5), optimizer.init(zero))[0], zero)[1](cotangent)[
        0
    ]
    assert all(value.isfinite().all() for value in through.values())
