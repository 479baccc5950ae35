"""IRPO's pulled-back gradient against finite differences of the whole chain, and its Hessian against a known one.

Everything is float64; batches and advantages are held fixed, as Cho & Tran (arXiv 2601.21391, Algorithm 1) do.
"""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.func import grad, hessian, vmap

from sb3_ext.common.distributions import LOG_STD_RANGE, make_action_distribution
from sb3_ext.common.gae import discounted_sum
from sb3_ext.common.optimizers import backpropagate_through_updates, global_norm
from sb3_ext.common.trust_region import flatten, unflatten
from sb3_ext.irpo.gradient import SurrogateBatch, exploratory_update, surrogate_gradient, surrogate_objective
from sb3_ext.irpo.policies import IRPOPolicy

LEARNING_RATE = 0.3  # large, so that the Jacobian is far from the identity
CLIP = 0.15
ENT_COEF = 0.05
ACTIONS = {
    "categorical": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "gaussian": spaces.Box(-1, 1, (2,)),
}


class Problem:
    """A policy, a θ and N + 1 fixed batches: one for each exploratory update and one for the extrinsic gradient."""

    def __init__(self, actor, distribution, theta, observation_shape, n_updates, surrogate, max_grad_norm, seed=0):
        self.actor, self.theta, self.max_grad_norm = actor, theta, max_grad_norm
        self.kwargs = dict(actor=actor, distribution=distribution, surrogate=surrogate)
        rng = torch.Generator().manual_seed(seed)
        self.batches, self.inputs, self.gradient_norms = [], [], []
        params = theta
        for number in range(n_updates + 1):
            self.batches.append(self._sample_batch(params, distribution, observation_shape, rng))
            if number < n_updates:
                self.gradient_norms.append(float(global_norm(surrogate_gradient(params, self.batches[-1], **self.kwargs))))
                self.inputs.append(params)
                params = self._update(self.batches[-1])(params)
        self.end = params

    def _sample_batch(self, params, distribution, observation_shape, rng):
        """On-policy actions in random observations, with advantages of size O(1)."""
        n = 30
        observations = torch.randn(n, *observation_shape, generator=rng, dtype=torch.float64)
        outputs = self.actor(params, observations)
        actions = distribution.sample(outputs, distribution.sample_noise((n,), rng, torch.device("cpu")).double())
        advantages = 3 * torch.randn(n, generator=rng, dtype=torch.float64)
        old = distribution.log_prob(outputs, actions)
        return SurrogateBatch(observations, actions, advantages / n, torch.full_like(advantages, 1 / n), old)

    def _update(self, batch):
        return partial(
            exploratory_update, batch=batch, learning_rate=LEARNING_RATE, max_grad_norm=self.max_grad_norm, **self.kwargs
        )

    def updates(self):
        return [self._update(batch) for batch in self.batches[:-1]]

    def pulled_back(self):
        """(∂θ_N/∂θ_0)ᵀ ∇J(θ_N), the end gradient unclipped (a clipped one is the gradient of no surrogate)."""
        end = surrogate_gradient(self.end, self.batches[-1], ent_coef=ENT_COEF, **self.kwargs)
        return backpropagate_through_updates(self.updates(), self.inputs, end)[0]

    def chain(self, vector):
        """θ → the extrinsic surrogate at θ_N(θ)."""
        params = unflatten(vector, self.theta)
        for update in self.updates():
            params = update(params)
        return surrogate_objective(params, self.batches[-1], ent_coef=ENT_COEF, **self.kwargs)

    def directional_error(self, n_directions=6):
        """Largest relative error of directional derivatives, over random directions and the gradient's own."""
        exact, theta = flatten(self.pulled_back()), flatten(self.theta)
        rng = torch.Generator().manual_seed(1)
        directions = [*torch.randn(n_directions, len(theta), generator=rng, dtype=torch.float64), exact]
        directions += [row for row in torch.eye(len(theta), dtype=torch.float64)[:: max(len(theta) // 5, 1)]]
        return max(self._error_along(direction / direction.norm(), exact, theta) for direction in directions)

    def _error_along(self, direction, exact, theta, step=5e-5):
        def central(h):
            return (self.chain(theta + h * direction) - self.chain(theta - h * direction)) / (2 * h)

        difference = (4 * central(step) - central(2 * step)) / 3  # Richardson: error O(h⁴)
        return float((difference - exact @ direction).abs() / exact.norm())


def tiny_actor(distribution):
    """A two-layer tanh network as a pure function, and weights for it."""
    gaussian = isinstance(distribution, type(make_action_distribution(ACTIONS["gaussian"])))
    n_outputs = distribution.n_params // 2 if gaussian else distribution.n_params
    rng = torch.Generator().manual_seed(3)
    shapes = {"w0": (3, 5), "b0": (5,), "w1": (5, 4), "b1": (4,), "w2": (4, n_outputs), "b2": (n_outputs,)}
    theta = {name: 0.7 * torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    if gaussian:
        theta["log_std"] = torch.full((n_outputs,), -0.3, dtype=torch.float64)

    def actor(params, observations):
        hidden = torch.tanh(observations @ params["w0"] + params["b0"])
        output = torch.tanh(hidden @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
        return torch.cat([output, params["log_std"].expand_as(output)], -1) if gaussian else output

    return actor, theta


def tiny_problem(kind, n_updates, surrogate="ratio", clip=None, seed=0):
    distribution = make_action_distribution(ACTIONS[kind])
    actor, theta = tiny_actor(distribution)
    return Problem(actor, distribution, theta, (3,), n_updates, surrogate, clip, seed)


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("surrogate", ["ratio", "log_prob"])
@pytest.mark.parametrize("n_updates", [1, 2, 5])
@pytest.mark.parametrize("kind", ACTIONS)
def test_pulled_back_gradient_equals_finite_differences_through_all_updates(kind, n_updates, surrogate, clip, record_property):
    problem = tiny_problem(kind, n_updates, surrogate, clip)
    if clip is not None:
        assert min(problem.gradient_norms) > 1.2 * clip  # every update is clipped, and not on the edge of it
    error = problem.directional_error()
    record_property("relative_error", error)
    assert error < 1e-6
    # What is tested is not small: leaving out the chain (the gradient at θ_N as it is) is far off.
    end = surrogate_gradient(problem.end, problem.batches[-1], ent_coef=ENT_COEF, **problem.kwargs)
    chained = flatten(problem.pulled_back())
    assert (flatten(end) - chained).norm() > 0.02 * chained.norm()


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("surrogate", ["ratio", "log_prob"])
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_the_real_actor_has_the_gradient_of_the_whole_chain(kind, surrogate, clip, record_property):
    """IRPOPolicy.actor, 64-64 tanh, moved to float64; its last layer is scaled up from 0.01 so that there is curvature."""
    torch.manual_seed(0)
    policy = IRPOPolicy(spaces.Box(-3, 3, (3,)), ACTIONS[kind], lambda _: 1e-3, n_exploratory=1).double()
    theta = {name: value * (100 if "action_net.weight" in name else 1) for name, value in policy.base.as_dict().items()}
    problem = Problem(policy.actor, policy.distribution, theta, (3,), 2, surrogate, clip)
    assert clip is None or min(problem.gradient_norms) > 1.2 * clip
    error = problem.directional_error()
    record_property("relative_error", error)
    assert error < 1e-6


def test_log_std_at_its_bound_does_not_move():
    """The deviation of the real actor is clamped, so beyond the bound it has no gradient through any update."""
    policy = IRPOPolicy(spaces.Box(-3, 3, (3,)), ACTIONS["gaussian"], lambda _: 1e-3, n_exploratory=1).double()
    theta = {name: value.clone() for name, value in policy.base.as_dict().items()}
    theta["log_std"][0] = LOG_STD_RANGE[0] - 1
    problem = Problem(policy.actor, policy.distribution, theta, (3,), 2, "ratio", CLIP)
    assert problem.pulled_back()["log_std"][0] == 0 and problem.pulled_back()["log_std"][1] != 0
    assert torch.equal(problem.end["log_std"][0], theta["log_std"][0])


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_policies_side_by_side_equal_one_by_one(kind, clip):
    """vmap over K = 3 policies with batches of their own."""
    problems = [tiny_problem(kind, 3, clip=clip, seed=seed) for seed in range(3)]
    stacked = [SurrogateBatch(*map(torch.stack, zip(*[p.batches[j] for p in problems], strict=True))) for j in range(4)]
    inputs = [{name: torch.stack([p.inputs[j][name] for p in problems]) for name in problems[0].theta} for j in range(3)]
    arguments = dict(learning_rate=LEARNING_RATE, max_grad_norm=clip, **problems[0].kwargs)

    def make_update(batch):
        return lambda params: vmap(partial(exploratory_update, **arguments))(params, batch)

    updates = [make_update(batch) for batch in stacked[:-1]]
    params = inputs[0]
    for update in updates:
        params = update(params)
    end = vmap(partial(surrogate_gradient, ent_coef=ENT_COEF, **problems[0].kwargs))(params, stacked[-1])
    together = backpropagate_through_updates(updates, inputs, end)[0]
    for k, problem in enumerate(problems):
        for name, value in problem.pulled_back().items():
            torch.testing.assert_close(params[name][k], problem.end[name], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(together[name][k], value, rtol=1e-10, atol=1e-12)


def test_cotangents_are_pulled_back_independently():
    problem = tiny_problem("categorical", 2)
    rng = torch.Generator().manual_seed(5)
    a, b = ({name: torch.randn(v.shape, generator=rng).double() for name, v in problem.theta.items()} for _ in range(2))
    together = backpropagate_through_updates(problem.updates(), problem.inputs, a, b)
    alone = [backpropagate_through_updates(problem.updates(), problem.inputs, g)[0] for g in (a, b)]
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    mixed = {name: 2 * a[name] - 3 * b[name] for name in a}
    (pulled_back,) = backpropagate_through_updates(problem.updates(), problem.inputs, mixed)
    torch.testing.assert_close(flatten(pulled_back), 2 * flatten(alone[0]) - 3 * flatten(alone[1]))


def test_an_update_with_zero_advantages_is_the_identity():
    """No NaN from the clip at a zero gradient (an intrinsic reward that is 0 everywhere); the gradient comes back whole."""
    problem = tiny_problem("categorical", 2, clip=CLIP)
    problem.batches = [*(b._replace(weights=torch.zeros_like(b.weights)) for b in problem.batches[:-1]), problem.batches[-1]]
    end = surrogate_gradient(problem.theta, problem.batches[-1], **problem.kwargs)
    (pulled_back,) = backpropagate_through_updates(problem.updates(), [problem.theta] * 2, end)
    torch.testing.assert_close(flatten(pulled_back), flatten(end))


def test_clip_holds_the_update_to_its_length():
    problem = tiny_problem("gaussian", 1, clip=CLIP)
    step = {name: (problem.end[name] - problem.theta[name]) / LEARNING_RATE for name in problem.theta}
    assert float(global_norm(step)) == pytest.approx(CLIP, rel=1e-4)


def test_both_surrogates_have_the_same_gradient_and_not_the_same_hessian():
    problem = tiny_problem("categorical", 1)
    shared = {name: value for name, value in problem.kwargs.items() if name != "surrogate"}
    gradients = [
        flatten(surrogate_gradient(problem.theta, problem.batches[0], surrogate=s, **shared)) for s in ("ratio", "log_prob")
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    pulled = [flatten(tiny_problem("categorical", 1, s).pulled_back()) for s in ("ratio", "log_prob")]
    assert (pulled[0] - pulled[1]).norm() > 0.02 * pulled[0].norm()


def test_rows_may_be_merged():
    """A row that stands for several equal transitions has their weights' sum: same gradient, same second derivative."""
    problem = tiny_problem("categorical", 1)
    batch = problem.batches[0]
    doubled = SurrogateBatch(*[torch.cat([x, x]) for x in batch])
    doubled = doubled._replace(
        weights=torch.cat([0.3 * batch.weights, 0.7 * batch.weights]), shares=torch.cat([batch.shares] * 2) / 2
    )
    g = {name: torch.ones_like(value) for name, value in problem.theta.items()}
    results = []
    for given in (batch, doubled):
        update = partial(
            exploratory_update,
            batch=given,
            learning_rate=LEARNING_RATE,
            max_grad_norm=CLIP,
            ent_coef=ENT_COEF,
            **problem.kwargs,
        )
        results.append(
            (flatten(update(problem.theta)), flatten(backpropagate_through_updates([update], [problem.theta], g)[0]))
        )
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------- the Hessian of a known J

STATE_PROBABILITY = torch.tensor([0.3, 0.7], dtype=torch.float64)
REWARD = torch.tensor([[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]], dtype=torch.float64)
LOGITS = torch.tensor([0.4, -0.3, 0.1, -0.2, 0.5, 0.3], dtype=torch.float64)  # θ: one logit for each state and action


def tabular_actor(params, observations):
    return params["logits"].view(2, 3)[observations]


def bandit_return(logits):
    """J(θ) = Σ_s d(s) Σ_a π(a|s) r(s, a)."""
    return (STATE_PROBABILITY[:, None] * torch.softmax(logits.view(2, 3), -1) * REWARD).sum()


def surrogate_hessian(weights, surrogate, states, actions):
    distribution = make_action_distribution(spaces.Discrete(3))
    old = distribution.log_prob(LOGITS.view(2, 3)[states], actions[:, None])
    batch = SurrogateBatch(states, actions[:, None], weights, torch.full_like(weights, 1 / len(weights)), old)
    kwargs = dict(actor=tabular_actor, distribution=distribution, surrogate=surrogate)
    objective = lambda logits: surrogate_objective({"logits": logits}, batch, **kwargs)  # noqa: E731
    return grad(objective)(LOGITS), hessian(objective)(LOGITS)


def relative_error(estimate, exact):
    return float((estimate - exact).norm() / exact.norm())


@pytest.mark.parametrize("baseline", ["none", "value", "arbitrary"])
def test_ratio_surrogate_has_the_hessian_of_the_return_of_a_bandit(baseline):
    """One step from a fixed state distribution: Σ d π_old (π/π_old) Â is J itself, less b(s) Σ π = b(s), which is constant.

    So with Â = r − b(s), whatever the baseline, expectation and derivatives of any order are exact. log π is not.
    """
    states, actions = (torch.tensor(x) for x in zip(*itertools.product(range(2), range(3)), strict=True))
    probabilities = torch.softmax(LOGITS.view(2, 3), -1)
    value = {"none": torch.zeros(2), "value": (probabilities * REWARD).sum(1), "arbitrary": torch.tensor([5.0, -3.0])}[
        baseline
    ]
    expected_share = (STATE_PROBABILITY[:, None] * probabilities)[states, actions]
    weights = expected_share * (REWARD - value[:, None])[states, actions]
    exact_gradient, exact_hessian = grad(bandit_return)(LOGITS), hessian(bandit_return)(LOGITS)
    gradient, second = surrogate_hessian(weights, "ratio", states, actions)
    torch.testing.assert_close(gradient, exact_gradient, rtol=0, atol=1e-10)
    torch.testing.assert_close(second, exact_hessian, rtol=0, atol=1e-10)
    gradient, second = surrogate_hessian(weights, "log_prob", states, actions)
    torch.testing.assert_close(gradient, exact_gradient, rtol=0, atol=1e-10)
    assert relative_error(second, exact_hessian) > 0.5


def test_sampled_hessian_of_the_ratio_surrogate_converges_and_of_the_log_probability_does_not():
    """Error ∝ 1/√n: from n = 1 000 to 64 000 it falls by about 8 (mean of 20 batches each)."""
    rng = np.random.default_rng(0)
    probabilities = torch.softmax(LOGITS.view(2, 3), -1)
    joint = (STATE_PROBABILITY[:, None] * probabilities).flatten().numpy()
    advantages = REWARD - (probabilities * REWARD).sum(1, keepdim=True)
    exact = hessian(bandit_return)(LOGITS)
    states, actions = (torch.tensor(x) for x in zip(*itertools.product(range(2), range(3)), strict=True))

    def mean_error(n, surrogate):
        errors = []
        for _ in range(20):
            share = torch.from_numpy(rng.multinomial(n, joint) / n)  # equal transitions as one row
            weights = share * advantages[states, actions]
            errors.append(relative_error(surrogate_hessian(weights, surrogate, states, actions)[1], exact))
        return float(np.mean(errors))

    few, many = (mean_error(n, "ratio") for n in (1_000, 64_000))
    assert few / many == pytest.approx(8, rel=0.35)
    assert many < 0.02
    assert mean_error(64_000, "log_prob") > 0.5


def two_step_return(logits):
    """Start in state 0; action a leads to state a > 0; then one more action. J = E[r₁ + r₂]."""
    policy = torch.softmax(logits.view(2, 3), -1)
    second = torch.stack([(policy[int(a > 0)] * REWARD[int(a > 0)]).sum() for a in range(3)])
    return (policy[0] * (REWARD[0] + second)).sum()


def test_over_two_steps_the_ratio_surrogate_lacks_the_terms_between_steps():
    """Known limit: per-step ratios with Â held fixed leave out E[∇log π_t ∇log π_t′ᵀ …] for t ≠ t′, exact gradient or not.

    Trajectories are enumerated, Â_t = the returns to go (whose expectation gives ∇J exactly).
    """
    policy = torch.softmax(LOGITS.view(2, 3), -1)
    paths = list(itertools.product(range(3), range(3)))
    states = torch.tensor([[0, int(a > 0)] for a, _ in paths])
    actions = torch.tensor(paths)
    probability = policy[states, actions].prod(1, keepdim=True)
    to_go = discounted_sum(REWARD[states, actions].T.contiguous(), torch.ones(2, 9, dtype=torch.float64)).T
    weights = (probability * to_go).flatten()
    exact_gradient, exact_hessian = grad(two_step_return)(LOGITS), hessian(two_step_return)(LOGITS)
    errors = {}
    for surrogate in ("ratio", "log_prob"):
        gradient, second = surrogate_hessian(weights, surrogate, states.flatten(), actions.flatten())
        torch.testing.assert_close(gradient, exact_gradient, rtol=0, atol=1e-10)
        errors[surrogate] = relative_error(second, exact_hessian)
        if surrogate == "ratio":
            within = second
    assert 0.05 < errors["ratio"] < errors["log_prob"]
    # The missing part is the cross term: Σ over trajectories of p Â_2 (∇log π_1 ∇log π_2ᵀ + transpose).
    log_policy = lambda logits: torch.log_softmax(logits.view(2, 3), -1)  # noqa: E731
    score = torch.func.jacrev(log_policy)(LOGITS)  # [2, 3, 6]
    first, then = score[states[:, 0], actions[:, 0]], score[states[:, 1], actions[:, 1]]
    cross = torch.einsum("n,ni,nj->ij", probability[:, 0] * to_go[:, 1], first, then)
    torch.testing.assert_close(within + cross + cross.T, exact_hessian, rtol=0, atol=1e-10)
