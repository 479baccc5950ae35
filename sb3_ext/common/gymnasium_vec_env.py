"""Any Gymnasium vector environment as a Stable-Baselines3 ``VecEnv``, with the conventions of ``DummyVecEnv``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

TRUNCATED = "TimeLimit.truncated"
# Keys of a batched info that are not entries of single environments: SAME_STEP's data of the episode that ended, and the
# key that SB3 defines.
_RESERVED = frozenset({"final_obs", "_final_obs", "final_info", "_final_info", TRUNCATED})


class GymnasiumVecEnv(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` of n environments as an SB3 ``VecEnv`` with the same steps as ``DummyVecEnv``.

    ``step`` gives observations ``[n, …]`` (a dict or tuple of such arrays for Dict and Tuple spaces), rewards float32
    ``[n]``, dones bool ``[n]`` and a list of n info dicts. An environment that is done has been reset: its observation is the
    first of the next episode, the last one is ``info["terminal_observation"]``, ``info["TimeLimit.truncated"]``
    distinguishes a time limit from a terminal state, and ``reset_infos`` has the info of the reset.

    That is exact in every autoreset mode for ``SyncVectorEnv``, ``AsyncVectorEnv`` and each environment whose
    ``metadata["independent_envs"]`` is true (a seed per environment, and ``reset(options={"reset_mask": mask})`` any time),
    and for everything in ``SAME_STEP`` mode. Any other environment in ``NEXT_STEP`` mode (Gymnasium's
    ``CartPoleVectorEnv``, or vector wrappers, few of which know of ``reset_mask``) resets only inside its next step, and
    that step is visible: a done environment keeps its terminal observation; its next step ignores the action and returns the
    reset's observation with reward 0, done False and ``info["reset_step"] = True``.

    Environment i is seeded with ``seed + i``; a vector environment with one generator is seeded with ``seed``.

    Attributes of ``SyncVectorEnv`` and ``AsyncVectorEnv`` are those of the single environments; those of another vector
    environment are its own, repeated for each index, and its methods are called once.

    Args:
        vector_env: the vector environment.

    Raises:
        TypeError: if ``vector_env`` is not a ``gymnasium.vector.VectorEnv``.
        ValueError: if its ``metadata["autoreset_mode"]`` is missing or unknown, or if its done environments can't be reset
            separately (``DISABLED`` without independent environments).

    >>> import gymnasium as gym
    >>> env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync"))
    >>> _ = env.seed(0)
    >>> env.reset().shape
    (4, 4)
    """

    def __init__(self, vector_env: VectorEnv) -> None:
        mode = _autoreset_mode(vector_env)
        base = vector_env.unwrapped
        self.vector_env = vector_env
        self.spec = vector_env.spec
        self._separate = base if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)) else None
        self._independent = self._separate is not None or bool(vector_env.metadata.get("independent_envs", False))
        # Only these are certain to make new arrays at every step; others are copied, because callers keep observations.
        self._fresh = self._separate is vector_env and self._separate.copy
        self._end_episodes = self._how_episodes_end(mode)
        self._resetting: list[int] = []  # environments whose next step is their reset
        self._keys, _, self._dtypes = obs_space_info(vector_env.single_observation_space)  # refuses nested spaces
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = dict(vector_env.metadata)
        shape = self.action_space.shape
        self._action_shape = None if shape is None else (self.num_envs, *shape)

    def _how_episodes_end(self, mode: AutoresetMode) -> Callable[..., VecEnvObs]:
        """Return the method that handles done environments, according to the abilities of the vector environment."""
        env = self.vector_env
        if mode is AutoresetMode.SAME_STEP:
            return self._take_final
        if mode is AutoresetMode.NEXT_STEP and isinstance(self._separate, AsyncVectorEnv) and not self._separate.shared_memory:
            raise ValueError(
                f"{env} is an AsyncVectorEnv(shared_memory=False) in NEXT_STEP mode, whose workers forget that they were "
                "reset and would reset again in the next step. Expected shared_memory=True or "
                "autoreset_mode=AutoresetMode.SAME_STEP."
            )
        # Vector wrappers may lose or refuse the mask: RecordEpisodeStatistics would clear the statistics of all environments.
        if self._independent and env is env.unwrapped:
            return self._reset_alone
        remedy = (
            "Use make_vec_env, a SyncVectorEnv of single environments (wrapped singly, or by SB3's VecEnvWrappers), or "
            "autoreset_mode=AutoresetMode.SAME_STEP where the environment offers it."
        )
        if mode is AutoresetMode.DISABLED:
            raise ValueError(
                f"{env} has autoreset_mode DISABLED and environments that can't be reset alone. Use a bare SyncVectorEnv, "
                f"AsyncVectorEnv or environment with metadata['independent_envs'] = True. {remedy}"
            )
        warnings.warn(
            f"{env} resets a copy only inside its next step, so every episode begins with a step whose action is ignored "
            f"and whose reward is 0 (info['reset_step'] is True). {remedy}",
            UserWarning,
            stacklevel=3,
        )
        return self._wait_for_next_step

    def reset(self) -> VecEnvObs:
        seeds = self._seeds if self._independent else self._seeds[0]
        # Typed int by Gymnasium's base class, but environments with a generator per copy take a list.
        obs, info = self.vector_env.reset(seed=seeds, options=deepcopy(self._options[0]) or None)  # type: ignore[arg-type]
        self.reset_infos[:] = [{} for _ in range(self.num_envs)]  # in place, because make_vec_env gives the list to VecMonitor
        _unbatch(info, self.reset_infos)
        self._resetting = []
        self._reset_seeds()
        self._reset_options()
        return self._own(obs)

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Set the options of the next reset: one dict, or a list of n equal ones."""
        if isinstance(options, list):
            if len(options) != self.num_envs:
                raise ValueError(f"Expected one dict of options or a list of {self.num_envs}, got {len(options)} of them.")
            for index, other in enumerate(options):
                if not data_equivalence(options[0], other, exact=True):
                    raise ValueError(
                        f"A gymnasium vector environment takes the same options for all environments; got {options[0]} for 0 "
                        f"and {other} for {index}. Give one dict, or use SB3's DummyVecEnv."
                    )
        super().set_options(options)

    def step_async(self, actions: np.ndarray) -> None:
        if self._action_shape is not None:
            actions = np.asarray(actions)
            if actions.shape != self._action_shape:
                raise ValueError(
                    f"Expected actions of shape {self._action_shape}, one row for each of the {self.num_envs} environments; "
                    f"got shape {actions.shape}."
                )
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, terminated, truncated, info = self.vector_env.step(self._actions)
        obs = self._own(obs)
        dones = np.logical_or(terminated, truncated)
        infos: list[dict[str, Any]] = [{TRUNCATED: flag} for flag in (dones & np.logical_not(terminated)).tolist()]
        _unbatch(info, infos)
        if self._resetting:
            self._mark_reset_steps(infos)
        if dones.any():
            obs = self._end_episodes(obs, dones, info, infos)
        return obs, np.array(rewards, dtype=np.float32), dones, infos

    def _take_final(self, obs: VecEnvObs, dones: np.ndarray, info: dict[str, Any], infos: list[dict]) -> VecEnvObs:
        """SAME_STEP: done environments are reset already, and their ``info`` is that of the reset."""
        if "final_obs" not in info:
            raise ValueError(
                f"{self.vector_env} declares autoreset_mode SAME_STEP, but gave no info['final_obs'] for environments "
                f"{np.flatnonzero(dones).tolist()} that are done; its info has {sorted(info)}."
            )
        done = np.flatnonzero(dones)
        for index, terminal in zip(done.tolist(), _rows(info["final_obs"], done), strict=True):
            flag = infos[index].pop(TRUNCATED)
            self.reset_infos[index] = infos[index]
            infos[index] = {TRUNCATED: flag, "terminal_observation": terminal}
            if "episode" in self.reset_infos[index]:
                # Gymnasium's RecordEpisodeStatistics puts the ended episode's statistics beside the reset's info.
                infos[index]["episode"] = self.reset_infos[index].pop("episode")
        _unbatch(info.get("final_info", {}), infos, dones)
        return obs

    def _reset_alone(self, obs: VecEnvObs, dones: np.ndarray, info: dict[str, Any], infos: list[dict]) -> VecEnvObs:
        """Independent environments in NEXT_STEP or DISABLED mode: reset the done ones now."""
        self._keep_terminal(obs, dones, infos)
        obs, reset_info = self.vector_env.reset(options={"reset_mask": dones.copy()})
        for index in np.flatnonzero(dones).tolist():
            self.reset_infos[index] = {}
        _unbatch(reset_info, self.reset_infos, dones)
        return self._own(obs)

    def _wait_for_next_step(self, obs: VecEnvObs, dones: np.ndarray, info: dict[str, Any], infos: list[dict]) -> VecEnvObs:
        """Native NEXT_STEP: nothing can be reset before the next step."""
        self._resetting = self._keep_terminal(obs, dones, infos)
        return obs

    def _mark_reset_steps(self, infos: list[dict[str, Any]]) -> None:
        for index in self._resetting:
            self.reset_infos[index] = {key: value for key, value in infos[index].items() if key != TRUNCATED}
            infos[index]["reset_step"] = True
        self._resetting = []

    def _keep_terminal(self, obs: VecEnvObs, dones: np.ndarray, infos: list[dict]) -> list[int]:
        done = np.flatnonzero(dones)
        for index, terminal in zip(done.tolist(), _rows(obs, done), strict=True):
            infos[index]["terminal_observation"] = terminal
        return done.tolist()

    def _own(self, obs: Any) -> VecEnvObs:
        """Return ``obs`` as arrays of the space's dtypes that the vector environment does not write to later."""
        if self._fresh:
            return obs
        parts = {None: obs} if self._keys == [None] else obs
        return dict_to_obs(self.observation_space, {key: np.array(parts[key], self._dtypes[key]) for key in self._keys})

    def close(self) -> None:
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the frames of ``vector_env.render()``, one uint8 ``[height, width, 3]`` for each environment."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"Images need render_mode='rgb_array'; this environment's is {self.render_mode!r}.", stacklevel=2)
            return [None] * self.num_envs
        frames: Any = self.vector_env.render()
        return list(frames) if frames is not None else [None] * self.num_envs

    def has_attr(self, attr_name: str) -> bool:
        if self._separate is not None:  # without fetching a value, which from another process may not be possible
            return all(self._call_separate("has_wrapper_attr", (attr_name,)))
        return any(hasattr(layer, attr_name) for layer in self._layers())

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if self._separate is not None:
            self._require(attr_name, indices)
            return self._call_separate("get_wrapper_attr", (attr_name,), indices=indices)
        value = getattr(self._layer(attr_name), attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if self._separate is not None:
            self._call_separate("set_wrapper_attr", (attr_name, value), indices=indices)
            return
        given = sorted(set(self._get_indices(indices)))
        if given != list(range(self.num_envs)):
            raise ValueError(
                f"{self.vector_env} has one {attr_name!r} for all {self.num_envs} environments, so it can't be set for "
                f"{given} alone. Set it for all (indices=None), or use a SyncVectorEnv."
            )
        setattr(self._layer(attr_name) if self.has_attr(attr_name) else self.vector_env, attr_name, value)

    def env_method(self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs) -> list[Any]:
        if self._separate is not None:
            self._require(method_name, indices)
            return self._call_separate(method_name, method_args, method_kwargs, indices)
        result = getattr(self._layer(method_name), method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        if isinstance(self._separate, SyncVectorEnv):
            return [env_util.is_wrapped(self._separate.envs[index], wrapper_class) for index in self._get_indices(indices)]
        if isinstance(self._separate, AsyncVectorEnv):
            # A wrapper can't leave its process; its name can: "<Monitor<TimeLimit<…>>>".
            descriptions = self._call_separate("__str__", indices=indices)
            return [wrapper_class.__name__ in re.findall(r"<(\w+)", description) for description in descriptions]
        wrapped = any(isinstance(layer, wrapper_class) for layer in self._layers())
        return [wrapped for _ in self._get_indices(indices)]

    def _layers(self) -> Iterator[VectorEnv]:
        layer = self.vector_env
        while isinstance(layer, VectorWrapper):
            yield layer
            layer = layer.env
        yield layer

    def _layer(self, name: str) -> VectorEnv:
        """Return the outermost of the vector environment and its wrappers that has attribute ``name``."""
        for layer in self._layers():
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"{self.vector_env} has no attribute {name!r}.")

    def _require(self, name: str, indices: VecEnvIndices) -> None:
        # Checked first, because an exception in a worker of AsyncVectorEnv ends the worker.
        if not all(self._call_separate("has_wrapper_attr", (name,), indices=indices)):
            raise AttributeError(f"The environments of {self.vector_env} have no attribute {name!r}.")

    def _call_separate(
        self, name: str, args: tuple = (), kwargs: dict | None = None, indices: VecEnvIndices = None
    ) -> list[Any]:
        """Call method ``name`` of the environments ``indices`` only, which ``VectorEnv.call`` can't."""
        chosen = list(self._get_indices(indices))
        if isinstance(self._separate, SyncVectorEnv):
            return [self._separate.envs[index].get_wrapper_attr(name)(*args, **(kwargs or {})) for index in chosen]
        assert isinstance(self._separate, AsyncVectorEnv)
        self._separate._assert_is_running()
        pipes = [self._separate.parent_pipes[index] for index in chosen]
        for pipe in pipes:
            pipe.send(("_call", (name, args, kwargs or {})))
        replies = [pipe.recv() for pipe in pipes]
        # It expects num_envs results; the environments that were not called did not fail.
        self._separate._raise_if_errors([success for _, success in replies] + [True] * (self.num_envs - len(chosen)))
        return [reply for reply, _ in replies]


def _autoreset_mode(vector_env: Any) -> AutoresetMode:
    if not isinstance(vector_env, VectorEnv):
        raise TypeError(
            f"GymnasiumVecEnv expects a gymnasium.vector.VectorEnv, got {type(vector_env).__name__}. Make one with "
            "gym.make_vec(id, num_envs=n); put single environments in SB3's DummyVecEnv."
        )
    mode = vector_env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise ValueError(
            f"{vector_env} has metadata['autoreset_mode'] = {mode!r}; expected one of {list(AutoresetMode)}. "
            "Declare there when the environment resets."
        ) from None


def _rows(batch: Any, done: np.ndarray) -> list[Any]:
    """Return the observations of the environments ``done`` (indices) as a list, copied."""
    if isinstance(batch, dict):
        columns = {key: _rows(value, done) for key, value in batch.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(batch, tuple):
        return list(zip(*(_rows(value, done) for value in batch), strict=True))
    rows = batch[done]  # an array of n observations, or (SAME_STEP) an array of n objects that are observations
    return list(deepcopy(rows) if rows.dtype == object else rows)


def _unbatch(batched: dict[str, Any], infos: list[dict[str, Any]], only: np.ndarray | None = None) -> None:
    """Write the entries of environment i in Gymnasium's dict of arrays into ``infos[i]``.

    ``batched["_key"]``, bool ``[n]``, marks the environments that have ``batched["key"]``; without it all have. ``only``,
    bool ``[n]``, restricts the environments. Values are arrays ``[n, …]`` or dicts of the same form; others are the same for
    all environments.
    """
    for key, value in batched.items():
        if key in _RESERVED or (key[:1] == "_" and key[1:] in batched):
            continue
        mask = batched.get("_" + key)
        if only is not None:
            mask = only if mask is None else mask & only
        targets = infos
        if mask is not None and not mask.all():
            targets = [infos[index] for index in np.flatnonzero(mask).tolist()]
        else:
            mask = None
        for target, entry in zip(targets, _entries(value, len(infos), mask), strict=True):
            target[key] = entry


def _entries(value: Any, n: int, mask: np.ndarray | None) -> list[Any]:
    """Return the values of the environments in ``mask`` (None: all) in order, as Python scalars if ``value`` is 1-D."""
    if isinstance(value, dict):
        nested: list[dict[str, Any]] = [{} for _ in range(n)]
        _unbatch(value, nested)
        return nested if mask is None else [nested[index] for index in np.flatnonzero(mask).tolist()]
    if not isinstance(value, np.ndarray) or value.shape[:1] != (n,):
        return [value] * (n if mask is None else int(mask.sum()))
    if value.dtype == object:  # objects that the environment may change later
        return list(deepcopy(value if mask is None else value[mask]))
    if value.ndim == 1:
        return value.tolist() if mask is None else value[mask].tolist()
    return list(value.copy() if mask is None else value[mask])
