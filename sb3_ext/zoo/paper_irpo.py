"""The paper's IRPO as an algorithm of its own for YAML and the commands, its settings beside IRPO's arguments."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from sb3_ext.irpo import IRPO, PaperSettings

SHARED = (
    *("learning_rate", "gamma", "gae_lambda", "normalize_advantage", "ent_coef", "max_grad_norm", "stats_window_size"),
    *("tensorboard_log", "policy_kwargs", "verbose", "seed", "device", "_init_setup_model"),
    *("intrinsic_reward", "intrinsic_reward_kwargs", "intrinsic_gamma"),
)  # arguments of IRPO that its algorithm uses
SETTINGS = {field.name for field in dataclasses.fields(PaperSettings)}


class PaperIRPO(IRPO):
    """``IRPO(paper=…)``; ``batch_size`` and ``target_kl`` are the paper's B and δ, not PPO's arguments.

    Args:
        policy: as in :class:`sb3_ext.IRPO`.
        env: as in :class:`sb3_ext.IRPO`.
        kwargs: the arguments of :class:`sb3_ext.IRPO` named in ``SHARED``, and settings of
            :class:`sb3_ext.irpo.PaperSettings`. Where one is left out ``learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1,
            intrinsic_reward="allo"``.
    """

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        paper = {name: kwargs.pop(name) for name in SETTINGS & kwargs.keys()}
        if kwargs.get("_init_setup_model", True):  # otherwise SB3 is loading a model, and gives the settings afterwards
            defaults = dict(learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1.0, intrinsic_reward="allo")
            kwargs = defaults | kwargs | dict(paper=paper)
        super().__init__(policy, env, **kwargs)


# What the commands read: PPO's arguments that the paper's algorithm does not have are none of its own.
_PARAMETERS = inspect.signature(IRPO.__init__).parameters
PaperIRPO.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_PARAMETERS[name] for name in ("self", "policy", "env")]
    + [_PARAMETERS[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in SHARED]
    + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(SETTINGS)]
)
