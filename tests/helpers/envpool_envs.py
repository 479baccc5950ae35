"""Environments and functions that the tests of envpool share."""

import pytest

from sb3_ext.common.vec_env import make_vec_env

pytest.importorskip("envpool")

from sb3_ext.common.envpool import _SAME_METAWORLD

METAWORLD = [f"sparse/MetaWorld-{name}-v3" for name in sorted(_SAME_METAWORLD)]
RESAMPLED = {"resample_task": True, "goal_observable": True}


def pooled(env_id, n_envs=2, seed=0, **env_kwargs):
    return make_vec_env(env_id, n_envs, seed=seed, env_kwargs=env_kwargs, backend="envpool")
