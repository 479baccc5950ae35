"""What IRPO takes, checked before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sb3_ext.common.arguments import check_choice, check_range
from sb3_ext.irpo.mixture import BLENDS

if TYPE_CHECKING:
    from sb3_ext.irpo.irpo import IRPO


def check_arguments(
    model: IRPO, learning_rate: Any, gamma: float, gae_lambda: float, ent_coef: float, max_grad_norm: float | None
) -> None:
    """Raise ValueError for the first one out of range. Those not given here are attributes of ``model`` already."""
    for name in ("batch_size", "cg_max_steps", "line_search_max_iter"):
        check_range(name, getattr(model, name), 1, integer=True)
    check_range("n_exploratory_updates", model.n_exploratory_updates, 1, integer=True)
    check_range("n_critic_minibatches", model.n_critic_minibatches, 1, model.batch_size, integer=True)
    check_range("learning_rate", learning_rate, 0)
    for name in ("exploratory_learning_rate", "base_learning_rate", "target_kl", "temperature"):
        check_range(name, getattr(model, name), 0, open_low=True)
    for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda), ("intrinsic_gamma", model.intrinsic_gamma)):
        check_range(name, value, 0, 1)
    for name in ("temperature_decay", "ema_decay", "line_search_shrinking_factor", "fit_fraction"):
        check_range(name, getattr(model, name), 0, 1, open_low=True)
    check_range("cg_damping", model.cg_damping, 0)
    check_range("ent_coef", ent_coef, 0)
    if max_grad_norm is not None:
        check_range("max_grad_norm", max_grad_norm, 0, open_low=True)
    check_range("updates_per_batch", model.updates_per_batch, 1, integer=True)
    if model.updates_per_batch > 1 and model.surrogate != "ratio":
        raise ValueError(
            f"updates_per_batch={model.updates_per_batch} weighs a batch by π/π_old, which surrogate={model.surrogate!r} "
            'does not hold; use surrogate="ratio".'
        )
    check_range("exploratory_ent_coef", model.exploratory_ent_coef, 0)
    check_range("carry_over", model.carry_over, 0, 1)
    check_range("blend_start", model.blend_start, 0, 1, open_low=True)
    if model.blend is not None:
        check_choice("blend", model.blend, BLENDS)
    for share in model.pruning:
        check_range("pruning", share, 0, 1)
    if list(model.pruning) != sorted(model.pruning):
        raise ValueError(f"pruning must be rising shares of training, got {list(model.pruning)}.")
    check_choice("surrogate", model.surrogate, ("ratio", "log_prob"))
    check_choice("weighting", model.weighting, ("softmax", "ema", "argmax", "uniform"))
    check_choice("base_update", model.base_update, ("trust_region", "sgd"))
    check_choice("deploy", model.deploy, ("best_exploratory", "base"))
