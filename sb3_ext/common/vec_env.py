"""``make_vec_env``: SB3's, which steps all environments at once where the environment has a form that can."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_ext.common.gymnasium_vec_env import GymnasiumVecEnv

__all__ = ["GymnasiumVecEnv", "make_vec_env"]

BACKENDS = (None, "auto", "envpool")


def make_vec_env(
    env_id: str | EnvSpec | Callable[..., gym.Env],
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    backend: str | None = None,
) -> VecEnv:
    """Return ``n_envs`` monitored and seeded environments, in the fastest form that behaves as SB3's ``make_vec_env``.

    An environment whose registration has a vector form that takes ``autoreset_mode`` is stepped in that form, as
    ``VecMonitor(GymnasiumVecEnv(…))``, and ``monitor_dir`` then gets one file for all environments. All others, and every
    argument that this form can't fulfil (a ``wrapper_class``, a ``vec_env_cls``, other ``monitor_kwargs`` than
    ``info_keywords``), goes to SB3's ``make_vec_env``. Both give the same trajectories.

    Args:
        env_id: an id (``"sparse/Maze1-v0"``, or ``"module:id"`` to import ``module`` first), an ``EnvSpec``, or a function
            that makes a single environment.
        n_envs: number of parallel environments.
        seed: as in SB3.
        start_index: as in SB3.
        monitor_dir: as in SB3.
        wrapper_class: as in SB3.
        env_kwargs: as in SB3.
        vec_env_cls: as in SB3.
        vec_env_kwargs: as in SB3.
        monitor_kwargs: as in SB3.
        wrapper_kwargs: as in SB3.
        backend: ``None`` as above. ``"envpool"``: EnvPool's C++ environments, or an error with the reason why not; the tasks
            are the same, the episodes of a seed are others (``sb3_ext.common.envpool`` lists the differences), and nothing is
            rendered. ``"auto"``: EnvPool if it can be used, else as with ``None``; the form is printed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}.")
    special: dict[str, Any] = {
        "wrapper_class": wrapper_class,
        "vec_env_cls": vec_env_cls,
        "vec_env_kwargs": vec_env_kwargs,
        "monitor_kwargs": {key: value for key, value in (monitor_kwargs or {}).items() if key != "info_keywords"},
    }
    special = {name: value for name, value in special.items() if value}  # arguments that only single environments can fulfil
    vectorized, reason = _make_pooled(env_id, n_envs, env_kwargs or {}, special, backend)
    if vectorized is None and n_envs > 1 and not special:
        vectorized = _make_native(env_id, n_envs, env_kwargs or {})
    if backend == "auto":
        form = "single environments" if vectorized is None else type(vectorized.unwrapped).__name__
        print(f"make_vec_env: {form if reason else 'EnvPool'} for {_name(env_id)}. {reason}".rstrip())
    if vectorized is None:
        return env_util.make_vec_env(
            partial(_make_single, env_id) if isinstance(env_id, EnvSpec) else env_id,
            n_envs=n_envs,
            seed=seed,
            start_index=start_index,
            monitor_dir=monitor_dir,
            wrapper_class=wrapper_class,
            env_kwargs=env_kwargs,
            vec_env_cls=vec_env_cls,  # type: ignore[arg-type]  # SB3 names only its own two classes
            vec_env_kwargs=vec_env_kwargs,
            monitor_kwargs=monitor_kwargs,
            wrapper_kwargs=wrapper_kwargs,
        )
    filename = None if monitor_dir is None else os.path.join(monitor_dir, str(start_index))
    venv = GymnasiumVecEnv(vectorized)
    env = VecMonitor(venv, filename=filename, **(monitor_kwargs or {}))
    env.reset_infos = venv.reset_infos  # SB3's wrappers don't pass them on; the DummyVecEnv in its place would have them
    if seed is not None:
        env.action_space.seed(seed + start_index)
    env.seed(seed)  # without start_index, as SB3 does
    return env


def _make_pooled(
    env_id: Any, n_envs: int, env_kwargs: dict[str, Any], special: dict[str, Any], backend: str | None
) -> tuple[VectorEnv | None, str]:
    """Return the task in an EnvPool, or None and the reason why not (an error with ``backend="envpool"``)."""
    if backend is None:
        return None, ""
    from sb3_ext.common.envpool import make_envpool

    try:
        if special:
            raise ValueError(f"EnvPool takes no {', '.join(special)}; leave out either that or the backend.")
        return make_envpool(_find_spec(env_id), n_envs, env_kwargs), ""
    except (ImportError, ValueError) as reason:
        if backend == "envpool":
            raise
        return None, str(reason)


def _name(env_id: Any) -> str:
    return env_id if isinstance(env_id, str) else getattr(env_id, "id", "environment")


def _make_native(env_id: Any, n_envs: int, env_kwargs: dict[str, Any]) -> VectorEnv | None:
    """Return the environment's own vector form in SAME_STEP mode, or None if none equals ``n_envs`` single environments."""
    spec = _find_spec(env_id)
    if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    creator = spec.vector_entry_point
    signature = inspect.signature(load_env_creator(creator) if isinstance(creator, str) else creator)
    required: dict[str, Any] = {"num_envs": n_envs, "autoreset_mode": AutoresetMode.SAME_STEP}
    try:
        signature.bind(**{**spec.kwargs, **env_kwargs, **required})
    except TypeError:  # arguments of gym.make (disable_env_checker, …), or wrong ones: gym.make raises the error
        return None
    # gym.make reads None as the registered limit and -1 as no limit, and shows other render modes through wrappers.
    steps, images = env_kwargs.get("max_episode_steps", 1), env_kwargs.get("render_mode") in (None, "rgb_array")
    if "autoreset_mode" not in signature.parameters or steps is None or steps < 1 or not images:
        return None
    return _with_images(partial(gym.make_vec, spec, **required), env_kwargs)


def _find_spec(env_id: Any) -> EnvSpec | None:
    if isinstance(env_id, EnvSpec):
        return env_id
    if not isinstance(env_id, str):
        return None
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (ImportError, gym.error.Error):  # an id without its version, or a mistake that gym.make explains
        return None


def _make_single(spec: EnvSpec, **kwargs: Any) -> gym.Env:
    return _with_images(partial(gym.make, spec), kwargs)


def _with_images(make: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """Return ``make(**kwargs)``, by default with ``render_mode="rgb_array"`` if the environment has it, as in SB3."""
    try:
        return make(**{"render_mode": "rgb_array", **kwargs})
    except TypeError:
        return make(**kwargs)
