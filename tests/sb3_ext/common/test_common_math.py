"""The formulas of sb3_ext.common against their definitions, finite differences, torch.optim and SB3's distributions."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions as sb3
from torch.func import functional_call, grad, vjp, vmap

from sb3_ext.common import repeated_rows as grouped_module
from sb3_ext.common.distributions import make_action_distribution
from sb3_ext.common.gae import discounted_sum, generalized_advantage_estimation
from sb3_ext.common.optimizers import SGD, Adam, RMSprop, clip_by_global_norm, global_norm
from sb3_ext.common.repeated_rows import group_rows, minibatches
from sb3_ext.common.trust_region import conjugate_gradients, flatten, trust_region_step, unflatten

GAMMA, LAMBDA = 0.97, 0.9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are tiny here: threads would only wait for one another (100 times slower on a busy machine)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def central_difference(function, x, step=1e-6):
    """Jacobian of ``function``: float64 ``[n]`` → ``[m]`` as ``[m, n]``."""
    columns = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in torch.eye(len(x), dtype=x.dtype)]
    return torch.stack(columns, -1)


# ---------------------------------------------------------------------- gae


@pytest.fixture
def episodes():
    """T = 12 steps of 2 × 3 copies with terminations, truncations and copies that run on past the end."""
    rng = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, (12, 2, 3), generator=rng, dtype=torch.float64)
    rewards, values, next_values = draw(), draw(), draw()
    kind = torch.rand((12, 2, 3), generator=rng)
    terminated, truncated = kind < 0.15, kind > 0.85
    assert terminated.any() and truncated.any() and not (terminated | truncated)[-1].all()
    return rewards, values, next_values, terminated, terminated | truncated


def naive_gae(rewards, values, next_values, terminated, done):
    """Â_t = Σ_{l ≥ t} (γλ)^{l−t} δ_l up to the end of the episode, term by term."""
    advantages = torch.zeros_like(rewards)
    for index in np.ndindex(*rewards.shape[1:]):
        for t in range(len(rewards)):
            for offset, later in enumerate(range(t, len(rewards))):
                at = (later, *index)
                bootstrap = 0.0 if terminated[at] else GAMMA * next_values[at]
                advantages[(t, *index)] += (GAMMA * LAMBDA) ** offset * (rewards[at] + bootstrap - values[at])
                if done[at]:
                    break
    return advantages


@pytest.mark.parametrize("bootstrap_truncated", [True, False])
def test_gae_equals_its_definition(episodes, bootstrap_truncated):
    rewards, values, next_values, terminated, done = episodes
    ends = terminated if bootstrap_truncated else done
    result = generalized_advantage_estimation(rewards, values, next_values, ends, done, GAMMA, LAMBDA)
    torch.testing.assert_close(result, naive_gae(rewards, values, next_values, ends, done), rtol=1e-12, atol=1e-12)


def test_gae_of_one_undiscounted_episode_is_the_return_minus_the_value():
    rewards, values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, -1.0, 3.0])
    done = torch.tensor([False, False, True])
    result = generalized_advantage_estimation(rewards, values, torch.tensor([-1.0, 3.0, 9.0]), done, done, 1.0, 1.0)
    torch.testing.assert_close(result, torch.tensor([7.0, 6.0, 4.0]) - values)


@pytest.mark.parametrize("argument", [0, 1, 2], ids=["rewards", "values", "next_values"])
def test_gradient_of_gae_equals_finite_differences(episodes, argument):
    *inputs, terminated, done = episodes
    direction = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def objective(x):
        given = [*inputs]
        given[argument] = x.view_as(inputs[0])
        advantages = generalized_advantage_estimation(*given, terminated, done, GAMMA, LAMBDA)
        return (torch.tanh(advantages) * direction).sum()[None]

    x = inputs[argument].flatten()
    exact = central_difference(objective, x)[0]
    torch.testing.assert_close(grad(lambda x: objective(x)[0])(x), exact, rtol=0, atol=1e-6)
    leaf = x.clone().requires_grad_()
    objective(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, exact, rtol=0, atol=1e-6)


def test_discounted_sum_is_twice_differentiable(episodes):
    x, done = episodes[0].flatten(1).requires_grad_(), episodes[-1].flatten(1)
    decay = 0.9 * (~done).double()
    assert torch.autograd.gradcheck(lambda x: discounted_sum(x, decay), x)
    assert torch.autograd.gradgradcheck(lambda x: discounted_sum(x, decay) ** 3, x)

    def objective(x):
        return (discounted_sum(x.view_as(done), decay) ** 3).sum()

    flat = x.detach().flatten()
    direction = torch.linspace(-1, 1, len(flat), dtype=torch.float64)
    product = grad(lambda x: grad(objective)(x) @ direction)(flat)
    exact = direction @ central_difference(grad(objective), flat)
    torch.testing.assert_close(product, exact, rtol=1e-6, atol=1e-6)


def test_discounted_sum_wants_equal_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3,\)"):
        discounted_sum(torch.zeros(3, 2), torch.zeros(3))


# ---------------------------------------------------------------------- updates

OPTIMIZERS = {
    "sgd": (SGD(0.05), partial(torch.optim.SGD, lr=0.05)),
    "rmsprop": (RMSprop(0.05, decay=0.9, eps=1e-5), partial(torch.optim.RMSprop, lr=0.05, alpha=0.9, eps=1e-5)),
    "adam": (Adam(0.05, betas=(0.8, 0.95), eps=1e-6), partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.95), eps=1e-6)),
}


def make_tree(seed, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "w": scale * torch.randn(3, 2, generator=rng, dtype=torch.float64),
        "b": scale * torch.randn(2, generator=rng).double(),
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


# ---------------------------------------------------------------------- trust region


@pytest.fixture
def spd():
    root = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return root @ root.T + torch.eye(8)


def test_conjugate_gradients_solve_a_random_system(spd):
    b = torch.arange(1.0, 9.0, dtype=torch.float64)
    x = conjugate_gradients(lambda v: spd @ v, b, max_steps=8, residual_tolerance=1e-30)
    torch.testing.assert_close(x, torch.linalg.solve(spd, b), rtol=1e-8, atol=1e-8)
    assert not conjugate_gradients(lambda v: spd @ v, torch.zeros_like(b)).any()


def test_zero_gradient_takes_no_step(spd):
    params = make_tree(0)
    zero = {key: torch.zeros_like(value) for key, value in params.items()}
    result = trust_region_step(params, zero, lambda p: 0.5 * flatten(p) @ spd @ flatten(p), 0.01)
    assert (result.kl, result.backtracks, result.accepted) == (0.0, 0, False)
    assert all(torch.equal(result.params[key], value) for key, value in params.items())


def test_non_finite_gradient_is_refused(spd):
    bad = {key: torch.full_like(value, math.nan) for key, value in make_tree(0).items()}
    with pytest.raises(ValueError, match="not finite"):
        trust_region_step(make_tree(0), bad, lambda p: flatten(p) @ flatten(p), 0.01)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_quadratic_kl_gives_the_closed_form_step(spd, damping):
    """KL = ½ dᵀHd: the step is √(2δ / gᵀ(H + c)⁻¹g) (H + c)⁻¹ g, on the boundary without damping and inside it with."""
    params, gradient, max_kl = make_tree(0), make_tree(1), 0.01
    origin = flatten(params)

    def kl_divergence(p):
        d = flatten(p) - origin
        return 0.5 * d @ spd @ d

    # δ a rounding error larger: without damping the first candidate lies on the boundary itself.
    result = trust_region_step(params, gradient, lambda p: kl_divergence(p) * (1 - 1e-9), max_kl, cg_damping=damping)
    natural = torch.linalg.solve(spd + damping * torch.eye(8), flatten(gradient))
    step = natural * torch.sqrt(2 * max_kl / (natural @ flatten(gradient)))
    torch.testing.assert_close(flatten(result.params) - origin, step, rtol=1e-4, atol=1e-6)
    assert result.accepted and result.backtracks == 0
    assert result.kl == pytest.approx(max_kl if damping == 0 else float(0.5 * step @ spd @ step), rel=1e-4)


@pytest.mark.parametrize("max_kl", [1e-4, 1e-2, 1.0])
def test_kl_stays_within_the_trust_region(max_kl):
    """Of a policy whose KL is far from quadratic."""
    observations = torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    distribution = make_action_distribution(spaces.Discrete(2))
    for seed in range(10):
        params = make_tree(seed, 2.0)

        def act(p):
            return observations @ p["w"] + p["b"]

        old = act(params)

        def kl_divergence(p, act=act, old=old):
            return distribution.kl_divergence(old, act(p)).mean()

        result = trust_region_step(params, make_tree(seed + 50, 100.0), kl_divergence, max_kl)
        assert float(kl_divergence(result.params)) == pytest.approx(result.kl)
        assert result.kl <= max_kl
        if result.accepted:
            # any fewer backtracks would have left the region; the length is the full step's times 0.7 to their number
            assert result.kl > 0.2 * max_kl or result.backtracks == 0


def test_backtracks_are_counted():
    """A KL that is 0.005 s² at θ and 4 times that off it needs the step halved: 0.7² < ½ < 0.7."""
    params = {"x": torch.zeros(1, dtype=torch.float64)}

    def kl_divergence(p):
        x = p["x"][0]
        return 0.5 * x**2 * torch.where(x.abs() > 1e-6, 4.0, 1.0)

    result = trust_region_step(params, {"x": torch.ones(1).double()}, kl_divergence, 0.01, cg_damping=0.0)
    assert result.accepted and result.backtracks == 2
    torch.testing.assert_close(result.params["x"], torch.tensor([math.sqrt(0.02) * 0.49]).double())
    refused = trust_region_step(
        params, {"x": torch.ones(1).double()}, lambda p: kl_divergence(p) * (1 + 1e6 * (p["x"][0] > 1e-6)), 0.01
    )
    assert not refused.accepted and refused.backtracks == 15 and refused.params is params and refused.kl == 0.0


# ---------------------------------------------------------------------- distributions

SPACES = {
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (3,)),
}


def sb3_distribution(space, params):
    distribution = sb3.make_proba_distribution(space)
    if isinstance(space, spaces.Box):
        mean, log_std = params.chunk(2, -1)
        return distribution.proba_distribution(mean, log_std)
    return distribution.proba_distribution(params)


@pytest.mark.parametrize("name", SPACES)
def test_log_prob_entropy_and_kl_equal_sb3(name):
    space = SPACES[name]
    ours = make_action_distribution(space)
    rng = torch.Generator().manual_seed(0)
    params, other = torch.randn(2, 7, ours.n_params, generator=rng, dtype=torch.float64)
    actions = ours.sample(params, ours.sample_noise((7,), rng, torch.device("cpu")).double())
    theirs, their_other = sb3_distribution(space, params), sb3_distribution(space, other)
    actions = actions.double()
    shaped = actions[:, 0] if name == "discrete" else actions
    torch.testing.assert_close(ours.log_prob(params, actions), theirs.log_prob(shaped))
    torch.testing.assert_close(ours.entropy(params), theirs.entropy())
    kl = sb3.kl_divergence(theirs, their_other)
    torch.testing.assert_close(ours.kl_divergence(params, other), kl.sum(-1) if name in ("box", "multibinary") else kl)
    torch.testing.assert_close(ours.kl_divergence(params, params), torch.zeros(7).double())
    assert ours.log_prob(params.view(7, 1, -1), actions.view(7, 1, -1)).shape == (7, 1)


@pytest.mark.parametrize("name", SPACES)
def test_samples_follow_the_probabilities(name):
    """Pearson's χ² of each component against its probabilities (99.9 % quantile), moments for the Gaussian."""
    distribution, n = make_action_distribution(SPACES[name]), 40_000
    rng = torch.Generator().manual_seed(0)
    params = torch.randn(distribution.n_params, generator=rng)
    actions = distribution.sample(params, distribution.sample_noise((n,), rng, torch.device("cpu")))
    if name == "box":
        mean, log_std = params.chunk(2)
        z = (actions - mean) / log_std.exp()
        assert z.mean(0).abs().max() < 4 / math.sqrt(n)
        torch.testing.assert_close(torch.cov(z.T), torch.eye(3), rtol=0, atol=4 * math.sqrt(2 / n))
        return
    sizes = [2] * 3 if name == "multibinary" else [4] if name == "discrete" else [2, 3, 4]
    for column, size in enumerate(sizes):
        chosen = torch.eye(size)[actions[:, column].long()].sum(0)
        single = actions[:1].repeat(size, 1)  # the other components cancel in the softmax over this one
        single[:, column] = torch.arange(size)
        expected = n * torch.softmax(distribution.log_prob(params.expand(size, -1), single), 0)
        statistic = ((chosen - expected) ** 2 / expected).sum()
        assert statistic < {2: 10.8, 3: 13.8, 4: 16.3}[size]


def test_noise_repeats_from_its_generator_and_leaves_the_global_one_alone():
    for space in SPACES.values():
        distribution = make_action_distribution(space)
        state = torch.get_rng_state()
        draws = [distribution.sample_noise((5, 2), torch.Generator().manual_seed(3), torch.device("cpu")) for _ in range(2)]
        assert torch.equal(*draws) and draws[0].isfinite().all() and draws[0].shape == (5, 2, distribution.n_noise)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.Dict(a=spaces.Discrete(2)), spaces.MultiBinary([2, 2])])
def test_unsupported_action_spaces_are_named(space):
    with pytest.raises(NotImplementedError, match="Unsupported action space"):
        make_action_distribution(space)


# ---------------------------------------------------------------------- grouped rows

G, M = 3, 60


@pytest.fixture
def table():
    """Three groups of 60 transitions over a dozen distinct rows, the last ones of groups 1 and 2 not valid."""
    rng = torch.Generator().manual_seed(0)
    values = {
        "grid": torch.randint(0, 3, (G, M, 2), generator=rng).float(),
        "flag": torch.randint(0, 2, (G, M), generator=rng).float(),
    }
    valid = torch.arange(M) < torch.tensor([[60], [41], [33]])
    for leaf in values.values():
        leaf[~valid] = 9.0  # must not become a row of its own
    return values, valid


@pytest.mark.parametrize("max_entries", [64, 0], ids=["grouped", "plain"])
def test_rows_at_index_are_the_transitions(table, monkeypatch, max_entries):
    monkeypatch.setattr(grouped_module, "MAX_ROW_ENTRIES", max_entries)
    values, valid = table
    result = group_rows(values, valid)
    for key, leaf in values.items():
        again = torch.stack([rows[index] for rows, index in zip(result.rows[key], result.index, strict=True)])
        assert torch.equal(again[valid], leaf[valid])
    if max_entries:
        joined = torch.cat([values["grid"], values["flag"][..., None]], -1)
        distinct = [len(torch.unique(joined[g][valid[g]], dim=0)) for g in range(G)]
        assert result.n_rows == max(distinct)
        assert [len(torch.unique(index)) for index in result.index] == distinct
    weights = torch.rand(G, M, generator=torch.Generator().manual_seed(1)) * valid
    totals = result.add_up(weights)
    torch.testing.assert_close(totals.sum(1), weights.sum(1))
    expected = torch.stack([torch.bincount(i, w, minlength=result.n_rows) for i, w in zip(result.index, weights, strict=True)])
    torch.testing.assert_close(totals, expected)


def test_one_batch_is_shared_by_several_policies(table):
    values, valid = table
    single = group_rows({key: leaf[:1] for key, leaf in values.items()}, valid[:1])
    shared = single.expand(4)
    weights = torch.rand(4, M, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(shared.add_up(weights), torch.cat([single.add_up(row[None]) for row in weights]))
    assert shared.rows["grid"].shape[0] == 4


def critic_loss(params, model, batch):
    rows, weights, targets = batch
    inputs = torch.cat([rows["grid"], rows["flag"][..., None]], -1)
    return (weights * (functional_call(model, params, (inputs,)).squeeze(-1) - targets) ** 2).sum()


@pytest.mark.parametrize("n_minibatches", [1, 4])
def test_minibatches_of_repeated_rows_have_the_gradient_of_the_plain_loss(table, monkeypatch, n_minibatches):
    """The grouped and the plain path split the transitions alike (same generator), so each minibatch must agree."""
    values, valid = table
    rng = torch.Generator().manual_seed(2)
    targets = torch.randn(2, G, M, generator=rng)
    targets[:, ~valid] = 1e6  # must not be seen
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    params = {name: torch.randn(value.shape, generator=rng) for name, value in model.named_parameters()}

    def gradients(max_entries):
        monkeypatch.setattr(grouped_module, "MAX_ROW_ENTRIES", max_entries)
        rows = group_rows(values, valid)
        batches = list(minibatches(rows, targets, valid, n_minibatches, torch.Generator().manual_seed(3)))
        for _, weights, _ in batches:
            torch.testing.assert_close(weights.sum(1), torch.ones(G))
        return rows.n_rows, [grad(critic_loss)(params, model, batch) for batch in batches]

    n_rows, ours = gradients(64)
    n_transitions, plain = gradients(0)
    if n_minibatches == 1:
        assert n_rows < n_transitions  # rows do repeat
    assert len(ours) == len(plain) == n_minibatches
    for one, other in zip(ours, plain, strict=True):
        for name in params:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)
    if n_minibatches == 1:  # all of it is one plain mean over the valid transitions of each group and head
        inputs = torch.cat([values["grid"], values["flag"][..., None]], -1)

        def mean_loss(params):
            error = ((functional_call(model, params, (inputs,)).squeeze(-1) - targets) ** 2).where(valid, 0.0)
            return (error.sum(-1) / valid.sum(1)).sum()

        expected = grad(mean_loss)(params)
        for name in params:
            torch.testing.assert_close(ours[0][name], expected[name], rtol=1e-4, atol=1e-4)


def test_minibatches_are_disjoint_and_cover_the_batch(table):
    _, valid = table
    targets = torch.arange(M).float().expand(1, G, M)
    numbered = group_rows({"row": torch.arange(M).float().expand(G, M)[..., None]}, valid)  # no row repeats: the plain path
    seen = [set() for _ in range(G)]
    for _, weights, target in minibatches(numbered, targets, valid, 4, torch.Generator().manual_seed(0)):
        for group, taken in enumerate(seen):
            numbers = {int(x) for x in target[0, group][weights[group] > 0]}
            assert len(numbers) == int(valid[group].sum()) // 4 and not taken & numbers
            taken |= numbers
    assert all(
        len(taken) == int(count) // 4 * 4 and max(taken) < count for taken, count in zip(seen, valid.sum(1), strict=True)
    )


def test_critics_side_by_side_get_their_own_gradient(table):
    """Under vmap too: the loss of one group does not depend on how many rows another has."""
    values, valid = table
    targets = torch.randn(1, G, M, generator=torch.Generator().manual_seed(2))
    together = next(minibatches(group_rows(values, valid), targets, valid, 1, torch.Generator().manual_seed(3)))
    model = torch.nn.Linear(3, 1)
    params = {name: value.detach() for name, value in model.named_parameters()}
    rows, weights, target = together
    batched = vmap(grad(critic_loss), in_dims=(None, None, 0))(params, model, (rows, weights, target[0]))
    for g in range(G):
        alone = group_rows({key: leaf[g : g + 1] for key, leaf in values.items()}, valid[g : g + 1])
        one = next(minibatches(alone, targets[:, g : g + 1], valid[g : g + 1], 1, torch.Generator().manual_seed(3)))
        for name, value in grad(critic_loss)(params, model, one).items():
            torch.testing.assert_close(batched[name][g], value, rtol=1e-5, atol=1e-5)


def test_columns_of_time_first_tensors_can_be_grouped():
    """As a rollout gives them: ``[T, G, 1]`` moved to ``[G, T]`` is not contiguous."""
    states = torch.randint(0, 3, (20, G, 1, 2), generator=torch.Generator().manual_seed(0)).float()
    values, valid = states.movedim(1, 0).flatten(1, 2), torch.ones(20, G, 1, dtype=torch.bool).movedim(1, 0).flatten(1, 2)
    result = group_rows(values, valid)
    again = torch.stack([rows[index] for rows, index in zip(result.rows, result.index, strict=True)])
    assert torch.equal(again, values)
