"""The gradient pulled back through PPO updates against finite differences of the whole chain, in float64."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.irpo_toys import toys
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext.irpo import IRPO
from sb3_ext.irpo.follow import cosine_and_ratio, mean_kl, pull_back, record_updates, step_to_divergence, trained_parameters


class AsWeights(FlattenExtractor):
    """Observations in the dtype of the weights; SB3 makes them float32."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.register_buffer("one", torch.ones(()))

    def forward(self, observations):
        return super().forward(observations).to(self.one.dtype)


POLICY = dict(net_arch=[4], activation_fn=torch.nn.Tanh, features_extractor_class=AsWeights)
SMALL = dict(n_steps=16, batch_size=16, n_epochs=2, device="cpu", policy_kwargs=POLICY)


def explorer_with_a_rollout(action_space, dtype=torch.float64, **kwargs):
    """An exploratory policy with its rollout in ``dtype`` and some updates behind it, so that Adam's moments are not 0."""
    model = IRPO("MlpPolicy", toys(action_space=action_space), seed=0, intrinsic_reward=["count"], **(SMALL | kwargs))
    model.learn(400)
    (explorer,) = model.explorers
    explorer.policy.to(dtype)
    for state in explorer.policy.optimizer.state.values():
        state.update({name: state[name].to(dtype) for name in ("exp_avg", "exp_avg_sq")})
    batches = [
        batch._replace(**{n: x.to(dtype) for n, x in batch._asdict().items() if x.is_floating_point()})
        for batch in explorer.rollout_buffer.get(16)
    ]
    return model, explorer, batches


def chain(explorer, batches, max_grad_norm):
    """The updates that ``train`` makes, by torch's own Adam, from the policy's weights now; and their record."""

    def loss(batch):
        return explorer._loss(batch, 0.2, None, defaultdict(list))

    record = record_updates(explorer.policy, loss, max_grad_norm)
    record.minibatches += batches
    optimizer = explorer.policy.optimizer

    def run():
        for batch in batches:
            optimizer.zero_grad()
            loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(explorer.policy.parameters(), max_grad_norm)
            optimizer.step()

    return record, run


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e-2], ids=["hardly clipped", "clipped"])
def test_pulled_back_gradient_equals_finite_differences(action_space, max_grad_norm):
    _, explorer, batches = explorer_with_a_rollout(action_space)
    parameters = trained_parameters(explorer.policy)
    record, run = chain(explorer, batches, max_grad_norm)
    moments = {p: {n: x.clone() for n, x in s.items()} for p, s in explorer.policy.optimizer.state.items()}
    rng = np.random.default_rng(0)

    def like(scale=1.0):
        return {name: torch.as_tensor(scale * rng.normal(size=p.shape)) for name, p in parameters.items()}

    cotangent, direction = like(), like()

    def end(step):
        """⟨g, θ_N⟩ when θ_0 is moved by ``step`` along ``direction``."""
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(record.params[name] + step * direction[name])
        for parameter, state in moments.items():
            explorer.policy.optimizer.state[parameter] = {n: x.clone() for n, x in state.items()}
        run()
        return sum(float((cotangent[name] * parameter).sum().detach()) for name, parameter in parameters.items())

    h = 1e-6
    difference = (end(h) - end(-h)) / (2 * h)
    end(0.0)
    after = {name: value.detach().clone() for name, value in parameters.items()}
    gradient = pull_back(record, explorer.policy, cotangent)
    assert all(torch.equal(after[name], value) for name, value in parameters.items())  # left as they were
    exact = sum(float((gradient[name] * direction[name]).sum()) for name in parameters)
    first_order = sum(float((cotangent[name] * direction[name]).sum()) for name in parameters)
    assert exact == pytest.approx(difference, rel=1e-5)
    assert abs(first_order - difference) > 100 * abs(exact - difference)  # the updates matter here


def test_the_record_is_what_train_does():
    model, explorer, _ = explorer_with_a_rollout(spaces.Discrete(2), torch.float32, pull_back=True)
    explorer.begin_turn()
    explorer.train()
    record = explorer.record
    assert len(record.minibatches) == 2 * 2  # epochs × minibatches
    parameters = trained_parameters(explorer.policy)
    trained = {name: value.detach().clone() for name, value in parameters.items()}
    values, state = record.params, record.state
    for batch in record.minibatches:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        loss = record.loss(batch)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradient = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}
        norm = torch.sqrt(sum(g.square().sum() for g in gradient.values()))
        scale = min(1.0, record.max_grad_norm / (float(norm) + 1e-6))
        values, state = record.optimizer.update(values, {n: scale * g for n, g in gradient.items()}, state)
    for name, value in trained.items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-6)
    assert model.pull_back


def test_no_updates_and_first_order_are_the_gradient_itself():
    _, explorer, _ = explorer_with_a_rollout(spaces.Discrete(2))
    record, _ = chain(explorer, [], 0.5)
    cotangent = {name: torch.randn_like(value) for name, value in trained_parameters(explorer.policy).items()}
    assert cosine_and_ratio(cotangent, pull_back(record, explorer.policy, cotangent)) == pytest.approx((1.0, 1.0))


def test_a_step_goes_uphill_and_as_far_as_the_divergence_allows():
    model, explorer, _ = explorer_with_a_rollout(spaces.Discrete(2), torch.float32)
    model.policy.load_state_dict(explorer.policy.state_dict())
    sample = next(explorer.rollout_buffer.get())
    gradient = explorer.extrinsic_gradient(sample)
    old = {name: value.clone() for name, value in explorer.policy.state_dict().items()}

    def divergence():
        return mean_kl(explorer.policy, model.policy, sample.observations)

    reached = step_to_divergence(trained_parameters(model.policy), gradient, divergence, 1e-3)
    assert 1e-4 < reached <= 1e-3 and reached == pytest.approx(divergence())
    log_prob = model.policy.evaluate_both(sample.observations, sample.actions.long().flatten())[2]
    advantages = sample.returns - sample.old_values
    normalized = (advantages - advantages.mean()) / advantages.std()
    assert float((torch.exp(log_prob - sample.old_log_prob) * normalized).mean().detach()) > float(normalized.mean()) + 1e-4
    assert all(torch.equal(value, old[name]) for name, value in explorer.policy.state_dict().items())
    zero = {name: torch.zeros_like(value) for name, value in gradient.items()}
    assert step_to_divergence(trained_parameters(model.policy), zero, divergence, 1e-3) == 0
