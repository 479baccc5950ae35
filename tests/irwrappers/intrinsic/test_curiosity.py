"""ICM and Disagreement against their papers' definitions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from irwrappers import ICM, Disagreement, Transitions
from irwrappers.intrinsic.dynamics import ForwardEnsemble, ForwardModel, InverseModel

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(4)
MOVES = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])


def walk(n=512, seed=0, noise=0.0, offset=0.0):
    """Steps of length 0.1 in four directions from anywhere in a square, with noise in the second entry."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 2, generator=generator) * 2 - 1 + offset
    actions = torch.randint(4, (n, 1), generator=generator)
    following = x + 0.1 * MOVES[actions]
    following[..., 1] += noise * torch.randn(n, 1, generator=generator)
    flags = torch.zeros(n, 1, dtype=torch.bool)
    return Transitions(x, actions, following, flags, flags)


def gradients(module, loss):
    """Which parts of ``module`` ``loss`` would move."""
    module.zero_grad()
    loss.backward()
    return {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


# --- ICM


def test_icm_is_half_eta_times_the_squared_prediction_error():
    torch.manual_seed(0)
    icm, batch = ICM(SPACE, ACTIONS, eta=0.3, normalize_observations=False), walk(20)
    with torch.no_grad():
        phi, next_phi = icm.encoder(batch.observations[:, 0]), icm.encoder(batch.next_observations[:, 0])
        one_hot = torch.eye(4)[batch.actions[:, 0]]
        predicted = icm.forward_model.network(torch.cat([phi, one_hot], 1))
    expected = 0.3 / 2 * ((predicted - next_phi) ** 2).sum(1)
    torch.testing.assert_close(icm.compute(batch).flatten(), expected)


def flat(batch):
    return Transitions(*(x.flatten(0, 1) for x in vars(batch).values() if x is not None))


def test_gradients_flow_where_the_paper_says():
    # Equation (7): (1 − β) L_I + β L_F, minimised over the features, the inverse and the forward model together.
    torch.manual_seed(0)
    batch = flat(walk(32))
    inverse_only, forward_only, both = (ICM(SPACE, ACTIONS, beta=beta) for beta in (0.0, 1.0, 0.2))
    assert gradients(inverse_only, inverse_only.loss(batch)[0]) == {"encoder", "inverse_model"}
    assert gradients(forward_only, forward_only.loss(batch)[0]) == {"encoder", "forward_model"}
    assert gradients(both, both.loss(batch)[0]) == {"encoder", "inverse_model", "forward_model"}


def test_the_forward_loss_reaches_the_features_through_both_states():
    torch.manual_seed(0)
    icm = ICM(SPACE, ACTIONS, latent_dim=3)
    phi, next_phi = torch.randn(2, 5, 3, requires_grad=True).unbind(0)
    phi.retain_grad(), next_phi.retain_grad()
    icm.forward_error(phi, torch.tensor([0, 1, 2, 3, 0]), next_phi).sum().backward()
    assert (phi.grad != 0).any() and (next_phi.grad != 0).any()


def test_beta_weighs_the_two_losses():
    torch.manual_seed(0)
    icm = ICM(SPACE, ACTIONS, beta=0.3)
    loss, log = icm.loss(flat(walk(32)))
    torch.testing.assert_close(loss.detach(), 0.7 * log["inverse_loss"] + 0.3 * log["forward_loss"])


def test_features_learn_to_tell_the_action():
    # At first the cross-entropy is that of guessing among four; one that sees the displacement gets far below.
    torch.manual_seed(0)
    icm = ICM(SPACE, ACTIONS, batch_size=128)
    first = icm.update(walk())["inverse_loss"]
    for seed in range(80):
        last = icm.update(walk(seed=seed))["inverse_loss"]
    assert first == pytest.approx(np.log(4), rel=0.1) and last < 0.3


def test_icm_rewards_what_it_has_learned_less_than_what_it_has_not():
    torch.manual_seed(0)
    icm = ICM(SPACE, ACTIONS, normalize_observations=False)
    for seed in range(100):
        icm.update(walk(seed=seed))
    assert icm.compute(walk(seed=999)).mean() < 0.2 * icm.compute(walk(seed=999, offset=3.0)).mean()


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (spaces.Discrete(3, start=5), torch.tensor([5, 7]), [np.log(3)] * 2),
        (spaces.MultiDiscrete([2, 4]), torch.tensor([[0, 3], [1, 0]]), [np.log(2) + np.log(4)] * 2),
        (spaces.MultiBinary(3), torch.tensor([[0, 1, 1], [0, 0, 0]]), [3 * np.log(2)] * 2),
        (spaces.Box(-9, 9, (2,)), torch.tensor([[1.0, 2.0], [0.0, 0.0]]), [2.5, 0.0]),
    ],
    ids=["discrete", "multidiscrete", "multibinary", "box"],
)
def test_inverse_loss_of_one_who_does_not_know(space, actions, expected):
    model = InverseModel(space, 3, (8,))
    for parameter in model.parameters():
        parameter.data.zero_()  # equal logits, or the action 0
    loss = model.loss(torch.randn(2, 3), torch.randn(2, 3), actions)
    np.testing.assert_allclose(loss.detach(), expected, rtol=1e-6)


def test_inverse_loss_is_the_cross_entropy_of_torch():
    torch.manual_seed(0)
    model, phi, next_phi = InverseModel(spaces.MultiDiscrete([2, 4]), 3), torch.randn(6, 3), torch.randn(6, 3)
    actions = torch.stack([torch.randint(2, (6,)), torch.randint(4, (6,))], 1)
    logits = model(phi, next_phi)
    expected = sum(
        torch.nn.functional.cross_entropy(part, actions[:, i], reduction="none")
        for i, part in enumerate(logits.split([2, 4], 1))
    )
    torch.testing.assert_close(model.loss(phi, next_phi, actions), expected)


# --- Disagreement


def test_the_ensemble_is_its_members_one_by_one():
    torch.manual_seed(0)
    members = [ForwardModel(ACTIONS, 5, (7, 6)) for _ in range(3)]
    ensemble = ForwardEnsemble(ACTIONS, 5, 3, (7, 6))
    for number, column in enumerate(zip(*(member.network[::2] for member in members), strict=True)):
        ensemble.weights[number].data = torch.stack([layer.weight.detach().mT for layer in column])
        ensemble.biases[number].data = torch.stack([layer.bias.detach()[None] for layer in column])
    phi, actions = torch.randn(9, 5), torch.randint(4, (9,))
    torch.testing.assert_close(ensemble(phi, actions), torch.stack([member(phi, actions) for member in members]))


def test_the_ensemble_starts_as_its_members_would():
    torch.manual_seed(0)
    ensemble = ForwardEnsemble(ACTIONS, 60, 5, (200,))
    torch.manual_seed(0)
    members = [ForwardModel(ACTIONS, 60, (200,)) for _ in range(5)]
    for m, member in enumerate(members):
        assert torch.equal(ensemble.weights[0][m], member.network[0].weight.mT)
        assert torch.equal(ensemble.biases[1][m, 0], member.network[2].bias)


def test_disagreement_is_the_variance_of_the_predictions():
    torch.manual_seed(0)
    reward, batch = Disagreement(SPACE, ACTIONS, latent_dim=6, normalize_observations=False), walk(30)
    with torch.no_grad():
        predictions = reward.models(reward.encoder(batch.observations[:, 0]), batch.actions[:, 0])
    deviations = (predictions - predictions.mean(0)) ** 2
    expected = deviations.sum(2).mean(0) / 6  # E_m ‖f_m − E f‖² / d
    torch.testing.assert_close(reward.compute(batch).flatten(), expected)
    np.testing.assert_allclose(expected, predictions.numpy().var(0).mean(-1), rtol=1e-4)


def test_models_that_agree_give_no_reward():
    reward = Disagreement(SPACE, ACTIONS)
    for parameter in reward.models.parameters():
        parameter.data.copy_(parameter[:1].expand_as(parameter))
    torch.testing.assert_close(reward.compute(walk()), torch.zeros(512, 1, 1), atol=1e-10, rtol=0)


def test_features_stay_and_every_model_learns_from_a_share_of_its_own():
    torch.manual_seed(0)
    reward = Disagreement(SPACE, ACTIONS, normalize_observations=False, update_proportion=0.5, n_models=3)
    for weights in reward.models.parameters():  # models that are equal, and would stay so on equal shares
        weights.data.copy_(weights[:1].expand_as(weights))
    before = {name: value.clone() for name, value in reward.named_parameters()}
    reward.update(walk())
    moved = {name.split(".")[0] for name, value in reward.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"models"}
    assert reward.compute(walk()).min() > 0


def test_a_model_learns_as_it_would_alone():
    torch.manual_seed(0)
    reward, batch = Disagreement(SPACE, ACTIONS, update_proportion=1.0, n_models=3, latent_dim=4), flat(walk(16))
    reward.zero_grad()
    reward.loss(batch)[0].backward()
    together = reward.models.weights[0].grad[1].clone()
    reward.zero_grad()
    phi, next_phi = reward.encoder(batch.observations), reward.encoder(batch.next_observations)
    torch.nn.functional.mse_loss(reward.models(phi, batch.actions)[1], next_phi).backward()
    torch.testing.assert_close(reward.models.weights[0].grad[1], together)


def test_disagreement_rewards_noise_less_than_the_unknown_unlike_a_prediction_error():
    # Where the second entry is noise all models end up saying its mean: little disagreement, though the error is large.
    torch.manual_seed(0)
    reward = Disagreement(SPACE, ACTIONS, normalize_observations=False, learning_rate=1e-3, latent_dim=16)
    for seed in range(150):
        log = reward.update(walk(seed=seed, noise=1.0))
    batch = walk(seed=999, noise=1.0)
    noisy, unknown = reward.compute(batch).mean(), reward.compute(walk(seed=999, offset=4.0)).mean()
    spread = reward.encoder(batch.next_observations[:, 0]).var(0).mean()
    assert log["forward_loss"] > 0.3 * spread  # it can't be predicted,
    assert noisy < 0.05 * log["forward_loss"] and noisy < 0.2 * unknown  # and has no reward


@pytest.mark.parametrize(
    ("reward_class", "kwargs", "named"),
    [
        (ICM, {"eta": 0}, "eta"),
        (ICM, {"beta": 1.5}, "beta"),
        (ICM, {"latent_dim": -1}, "latent_dim"),
        (Disagreement, {"n_models": 1}, "n_models"),
        (Disagreement, {"update_proportion": 0}, "update_proportion"),
    ],
)
def test_arguments_out_of_range_are_named(reward_class, kwargs, named):
    with pytest.raises(ValueError, match=rf"{named}.*{next(iter(kwargs.values()))}"):
        reward_class(SPACE, ACTIONS, **kwargs)


@pytest.mark.parametrize("reward_class", [ICM, Disagreement])
def test_actions_that_cannot_be_encoded_are_named(reward_class):
    for space in (spaces.Tuple([spaces.Discrete(2)]), spaces.MultiDiscrete([[2, 2], [2, 2]])):
        with pytest.raises(ValueError) as error:
            reward_class(SPACE, space)
        assert str(space) in str(error.value)
