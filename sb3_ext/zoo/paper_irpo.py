"""The paper's IRPO as one algorithm for YAML files and the command line: its settings are constructor arguments."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from sb3_ext.irpo import IRPO, PaperSettings

SHARED = (
    *("learning_rate", "gamma", "gae_lambda", "normalize_advantage", "ent_coef", "max_grad_norm", "stats_window_size"),
    *("tensorboard_log", "policy_kwargs", "verbose", "seed", "device", "_init_setup_model"),
    *("intrinsic_reward", "intrinsic_reward_kwargs", "intrinsic_gamma"),
)  # arguments of IRPO that the paper's algorithm uses
SETTINGS = {field.name for field in dataclasses.fields(PaperSettings)}


class PaperIRPO(IRPO):
    """``IRPO(paper=…)`` with the settings of :class:`sb3_ext.irpo.PaperSettings` as arguments of its own.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of ``sb3_ext.irpo.IRPOPolicy``.
        env: as in :class:`sb3_ext.IRPO`.
        learning_rate: learning rate of the critics, a number or a schedule; default: 5e-5, the paper's.
        gamma: discount of the extrinsic return.
        gae_lambda: as in PPO.
        normalize_advantage: as in PPO.
        ent_coef: entropy coefficient; default: 1e-3, the paper's.
        max_grad_norm: largest norm of every gradient, clipped inside the graph.
        stats_window_size: as in PPO.
        tensorboard_log: as in PPO.
        policy_kwargs: as in PPO.
        verbose: as in PPO.
        seed: seed of weights, environments and actions; iteration i is seeded from (seed, i).
        device: as in PPO.
        _init_setup_model: as in PPO.
        intrinsic_reward: as in :class:`sb3_ext.IRPO`; default: ``"allo"``, the paper's.
        intrinsic_reward_kwargs: arguments of an intrinsic reward given by its name.
        intrinsic_gamma: discount of the intrinsic returns; default: 1, the paper's.
        base_learning_rate: learning rate of ``base_update="sgd"``.
        base_update: ``"trust_region"`` or ``"sgd"``.
        batch_size: B, number of transitions of each collection of each policy; not PPO's minibatch size.
        blend: how the true gradient is blended into IRPO's; None, the paper's: not at all.
        blend_start: fraction of training at which ``"abrupt"`` changes over and ``"exponential"`` is half-way.
        bootstrap_truncated: whether to bootstrap episodes that a time limit ended; the paper does not.
        carry_over: while no policy receives a reward, how far from the base policy towards their last weights the exploratory
            policies begin, in [0, 1]; 0 in the paper.
        cg_damping: added to the diagonal of the trust region's Fisher matrix.
        cg_max_steps: number of conjugate-gradient steps of the trust region.
        deploy: policy that ``predict`` uses, ``"best_exploratory"`` or ``"base"``.
        ema_decay: β of ``weighting="ema"``.
        exploratory_ent_coef: entropy coefficient of the exploratory updates.
        exploratory_learning_rate: α, learning rate of the exploratory updates.
        exploratory_optimizer: ``"sgd"``, the paper's, or ``"adam"``.
        fit_fraction: largest fraction of ``total_timesteps`` that fits the intrinsic reward.
        line_search_max_iter: largest number of steps of the trust region's line search.
        line_search_shrinking_factor: factor by which the line search shrinks a step.
        n_critic_minibatches: number of minibatches of a critic's pass over a batch.
        n_exploratory_updates: N, number of intrinsic updates of each exploratory policy in an iteration.
        pull_back: whether to pull extrinsic gradients back through the exploratory updates; False: first order.
        surrogate: ``"ratio"`` or the authors' ``"log_prob"``.
        target_kl: δ of the trust region in nats, a number or a schedule; not PPO's early stopping.
        temperature: τ of ``weighting="softmax"``, a number or a schedule.
        temperature_decay: fraction of training over which τ of ``weighting="ema"`` falls.
        updates_per_batch: number of intrinsic updates from each batch; 1 in the paper.
        weighting: of the K gradients: ``"softmax"``, ``"ema"``, ``"argmax"`` or ``"uniform"``.
    """

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        paper = {name: kwargs.pop(name) for name in SETTINGS & kwargs.keys()}
        if kwargs.get("_init_setup_model", True):  # otherwise SB3 is loading a model and sets its attributes later
            defaults = dict(learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1.0, intrinsic_reward="allo")
            kwargs = defaults | kwargs | dict(paper=paper)
        super().__init__(policy, env, **kwargs)


# The commands read the signature: it has no arguments of PPO that the paper's algorithm ignores.
_PARAMETERS = inspect.signature(IRPO.__init__).parameters
PaperIRPO.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_PARAMETERS[name] for name in ("self", "policy", "env")]
    + [_PARAMETERS[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in SHARED]
    + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(SETTINGS)]
)
