"""The paper's exploratory updates by Adam: the pulled-back gradient against finite differences, in float64."""

from functools import partial

import pytest
import torch

from sb3_ext.common.distributions import Categorical
from sb3_ext.common.optimizers import backpropagate_through_updates
from sb3_ext.irpo.gradient import SurrogateBatch, exploratory_update

R, D, A = 12, 3, 4


def actor(params, observations):
    return torch.tanh(observations @ params["hidden"]) @ params["out"]


@pytest.mark.parametrize("max_grad_norm", [None, 0.05], ids=["unclipped", "clipped"])
def test_pulled_back_gradient_through_adam_equals_finite_differences(max_grad_norm):
    generator = torch.Generator().manual_seed(0)
    sample = partial(torch.randn, generator=generator, dtype=torch.float64)
    distribution, theta = Categorical([A]), {"hidden": sample(D, 5), "out": sample(5, A)}
    updates = []
    for step in range(3):
        observations, actions = sample(R, D), torch.randint(A, (R, 1), generator=generator)
        old = distribution.log_prob(actor(theta, observations), actions)
        batch = SurrogateBatch(observations, actions, sample(R) / R, torch.full((R,), 1 / R, dtype=torch.float64), old)
        settings = dict(learning_rate=0.1, max_grad_norm=max_grad_norm, optimizer="adam", step=step)
        rest = dict(actor=actor, distribution=distribution, ent_coef=0.01)
        updates.append(partial(exploratory_update, batch=batch, **settings, **rest))
    moments = {f"{m}/{name}": torch.zeros_like(value) for m in "mv" for name, value in theta.items()}
    cotangent, direction = ({name: sample(value.shape) for name, value in theta.items()} for _ in range(2))

    def end(size):
        params = {name: value + size * direction[name] for name, value in theta.items()} | moments
        inputs = []
        for update in updates:
            inputs.append(params)
            params = update(params)
        return inputs, sum(float((cotangent[name] * params[name]).sum()) for name in theta)

    h = 1e-6
    difference = (end(h)[1] - end(-h)[1]) / (2 * h)
    (gradient,) = backpropagate_through_updates(updates, end(0.0)[0], cotangent | moments)
    exact = sum(float((gradient[name] * direction[name]).sum()) for name in theta)
    assert exact == pytest.approx(difference, rel=1e-4)
