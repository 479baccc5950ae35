"""The paper's IRPO as an algorithm of its own for YAML and the commands, its settings beside IRPO's arguments."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from sb3_ext.irpo import IRPO, PaperSettings

SETTINGS = {field.name for field in dataclasses.fields(PaperSettings)}


class PaperIRPO(IRPO):
    """``IRPO(paper=…)``; ``batch_size`` and ``target_kl`` are the paper's B and δ, not PPO's arguments.

    Args:
        policy: as in :class:`sb3_ext.IRPO`.
        env: as in :class:`sb3_ext.IRPO`.
        kwargs: arguments of :class:`sb3_ext.IRPO` and settings of :class:`sb3_ext.irpo.PaperSettings`. Where one is left out
            ``learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1, intrinsic_reward="allo"``.
    """

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        paper = {name: kwargs.pop(name) for name in SETTINGS & kwargs.keys()}
        if kwargs.get("_init_setup_model", True):  # otherwise SB3 is loading a model, and gives the settings afterwards
            defaults = dict(learning_rate=5e-5, ent_coef=1e-3, intrinsic_gamma=1.0, intrinsic_reward="allo")
            kwargs = defaults | kwargs | dict(paper=paper)
        super().__init__(policy, env, **kwargs)


def argument_names(algorithm: type) -> set[str]:
    """Return the names of the arguments that an algorithm takes, those behind ``**kwargs`` included."""
    names = set(inspect.signature(algorithm.__init__).parameters)  # type: ignore[misc]
    if algorithm is PaperIRPO:
        names |= SETTINGS | set(inspect.signature(IRPO.__init__).parameters) - {"kwargs"}
    return names
