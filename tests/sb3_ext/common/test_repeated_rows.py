"""Batches with repeated rows against plain ones."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from sb3_ext.common import repeated_rows as grouped_module
from sb3_ext.common.repeated_rows import group_rows, minibatches

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
