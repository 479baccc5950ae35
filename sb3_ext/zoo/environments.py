"""Environments for rl_zoo3: registration of ours, and their vectorised forms."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from irwrappers import VecIntrinsicReward
from sb3_ext.common.vec_env import make_vec_env

# Wrappers that gym.make adds, whose effect the vectorised forms include.
_GYM_MAKE_WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)


def import_envs() -> None:
    """Register the environments of ``envs`` and the families of tasks ``lifetime/…`` with Gymnasium.

    Raises:
        ImportError: if another package called ``envs``, such as a folder of the user's, is found first.
    """
    module = importlib.import_module("envs")
    if not hasattr(module, "GRID_LAYOUTS"):
        path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ["?"])))
        raise ImportError(
            f"`import envs` found {path}, which stands in front of the `envs` package of irwrappers. Run from another folder, "
            "rename that folder, or take it off PYTHONPATH."
        )
    importlib.import_module("sb3_ext.zoo.lifetime_families").register_lifetimes()


def import_environment(env_id: str) -> str:
    """Import the module of ``module:id``, which registers the environment with Gymnasium, and return the id alone.

    Args:
        env_id: Gymnasium id, or ``module:id``.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return name


def is_atari(env_id: str) -> bool:
    """Return whether an id is that of an Atari game, whether or not ale-py, which registers it, is installed.

    Args:
        env_id: Gymnasium id.
    """
    return env_id.startswith("ALE/") or "NoFrameskip-v" in env_id


def require_atari(env_id: str) -> None:
    """Raise an error for an Atari game if ale-py, which registers the games, is not installed.

    Args:
        env_id: Gymnasium id.

    Raises:
        ImportError: which names the extra to install.
    """
    if is_atari(env_id) and importlib.util.find_spec("ale_py") is None:
        raise ImportError(f'{env_id} is an Atari game, and ale-py is not installed: pip install "irwrappers[atari]"')


def native_vec_env(env_fns: Sequence[Callable[[], gym.Env]], **kwargs: Any) -> VecEnv:
    """Return the vectorised form of an environment if it has one, else a ``DummyVecEnv``; a ``vec_env_cls`` for SB3.

    rl_zoo3 passes functions that make single environments, so one is made to read its registration.

    Args:
        env_fns: functions that make the single environments.
        **kwargs: arguments of ``DummyVecEnv``; with any, there is no vectorised form.
    """
    vec_env = None
    if not kwargs:
        probe = env_fns[0]()
        vec_env = _native_form(probe, max(2, len(env_fns)))
        probe.close()
        if vec_env is not None and len(env_fns) > 1:
            return vec_env
    single = DummyVecEnv(list(env_fns), **kwargs)
    if vec_env is None:
        return single
    vec_env.close()
    return PassThroughVecEnv(single)


class PassThroughVecEnv(VecEnvWrapper):
    """``VecEnv`` wrapper that changes nothing.

    It takes the place that ``VecMonitor`` has around a vectorised form, since SB3 copies the statistics of a ``VecNormalize``
    to the evaluation environment wrapper by wrapper and both must have the same number of wrappers.

    Args:
        venv: the environment to wrap.
        observation_space: replaces that of ``venv``; None: the same.
        action_space: replaces that of ``venv``; None: the same.
    """

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()


def without_bonus(env: VecEnv) -> VecEnv:
    """Make an environment one for evaluation: it adds no intrinsic reward, and its reward model does not learn.

    Args:
        env: changed in place.

    Returns:
        ``env``.
    """
    wrapper = unwrap_vec_wrapper(env, VecIntrinsicReward)
    if wrapper is not None:
        wrapper.training = False
    return env


def _native_form(probe: gym.Env, n_envs: int) -> VecEnv | None:
    if not isinstance(probe, Monitor) or probe.spec is None:
        return None
    inner: Any = probe
    while isinstance(inner, gym.Wrapper):
        if not isinstance(inner, (Monitor, *_GYM_MAKE_WRAPPERS)):
            return None  # a wrapper of the user's, which the vectorised form would drop
        inner = inner.env
    writer, monitor_dir = probe.results_writer, None
    if writer is not None:
        monitor_dir = os.path.dirname(writer.file_handler.name)
        writer.close()
    spec = probe.spec
    known = gym.spec(spec.id).kwargs
    changed = {key: value for key, value in spec.kwargs.items() if key not in known or known[key] != value}
    if spec.max_episode_steps != gym.spec(spec.id).max_episode_steps:
        if (spec.max_episode_steps or 0) <= 0:
            return None  # only gym.make takes -1, no limit
        changed["max_episode_steps"] = spec.max_episode_steps
    vec_env = make_vec_env(
        spec.id,
        n_envs=n_envs,
        env_kwargs=changed,
        monitor_dir=monitor_dir,
        monitor_kwargs={"info_keywords": probe.info_keywords} if probe.info_keywords else None,
    )
    if isinstance(vec_env.unwrapped, DummyVecEnv):
        vec_env.close()
        return None
    return vec_env
