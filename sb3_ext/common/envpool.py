"""EnvPool's C++ environments behind our ids: what ``make_vec_env(id, n, backend="envpool")`` uses (extra ``[envpool]``).

EnvPool (Weng et al., arXiv 2206.10558) implements the sources' environments again. Compared with the sources, version 1.2.5
against MuJoCo 3.3.0, Gymnasium 1.4.0, Gymnasium-Robotics 1.4.2, MiniGrid 3.2.0 and Meta-World 3.1.1:

======================  ==============================================================================================
task                    EnvPool against the source, and what is done about it
======================  ==============================================================================================
``delayed/…-v5``        Start states: one distribution. Dynamics: EnvPool's MuJoCo is 3.6, and since 3.5 the margins of two
                        geoms add up, where the larger one counted: Hopper, Ant and Humanoid land earlier. EnvPool gets
                        Gymnasium's own models, with halved margins if the installed MuJoCo is older. Equal then to 1e-11
                        (Humanoid 1e-5 before MuJoCo 3.3.6) until contacts make rounding errors grow. Rewards: to 1e-7.
``FetchReach``          Start states: one distribution. Dynamics: equal to 1e-6 over whole episodes.
``FetchPush``           EnvPool starts the arm 0.1 mm off: corrected. Before MuJoCo 3.4 the fingers touch the table
                        elsewhere and the gripper starts 2.4 mm lower: refused there. Else equal to 1e-6 until contacts.
``MiniGrid-…``          Start states: one distribution of whole grids. Dynamics, missions and rewards: equal. Refused are
                        all ``ObstructedMaze``\\ s but ``2Dl`` (boxes blue and not grey, other rooms, other starts: see
                        ``_OTHER_MINIGRID``), and ``MultiRoom-N4-S5-v1``, which is missing.
``MetaWorld-…``         EnvPool samples a task at every reset: refused unless ``resample_task=True``. It follows Meta-World
                        3.0.0, and MuJoCo's contacts have changed. ``_SAME_METAWORLD`` are the tasks in which start states
                        have one distribution, and experts' episodes are equal to 3e-4 with success in the same step; the
                        others are refused.
======================  ==============================================================================================

Spaces, horizons, terminations and ``is_success`` are equal in all tasks that are not refused. A seed gives the same episodes
in every run, but other episodes than with ``backend=None``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from envs.vector import BatchedEnv

NO_LIMIT = 2**30  # steps: the time limit is ours, because EnvPool calls a terminal state in the last step truncated

_SAME_METAWORLD = frozenset("""
    basketball button-press-topdown button-press-wall coffee-button coffee-pull coffee-push drawer-close drawer-open
    faucet-close faucet-open reach reach-wall window-open
    """.split())
_OTHER_MINIGRID = {  # by pattern: how EnvPool's task differs
    r"MiniGrid-ObstructedMaze-1Dl(hb?)?-v\d": "lays nine rooms where MiniGrid has two, and puts the ball elsewhere",
    r"MiniGrid-ObstructedMaze-(2Dlhb?|1Q|2Q)-v\d": "paints boxes blue that are grey in MiniGrid",
    r"MiniGrid-ObstructedMaze-Full-v\d": "starts the agent in a side room, and paints boxes blue that are grey in MiniGrid",
    r"MiniGrid-MultiRoom-N4-S5-v1": "does not have it",
}


class PooledEnv(BatchedEnv):
    """A task in an EnvPool as a vector environment, in SAME_STEP mode.

    EnvPool takes seeds only when it is made: every reset with a seed makes a new one, which takes milliseconds for most
    tasks, but a second for 16 environments of Fetch or Meta-World.

    Args:
        num_envs: number of parallel environments.
        task_id: EnvPool's id.
        single: the environment to equal, from ``gym.make``; its spaces and time limit are used, and it is not stepped.
    """

    arguments: ClassVar[frozenset[str]] = frozenset()  # of the single environment, that can be expressed here

    def __init__(self, num_envs: int, task_id: str, single: gym.Env) -> None:
        assert single.spec is not None
        super().__init__(num_envs, single, single.spec.max_episode_steps, AutoresetMode.SAME_STEP)
        self.spec = single.spec
        self._arguments = single.spec.kwargs
        self.task_id = task_id
        self.pool: Any = None
        self._current = np.zeros_like(self.observation_space.sample())

    @classmethod
    def find(cls, spec: EnvSpec, kwargs: dict[str, Any]) -> str:
        """Return EnvPool's id of the task, or raise ValueError with the difference of EnvPool's task."""
        raise NotImplementedError

    # --- methods of subclasses

    def _config(self) -> dict[str, Any]:
        """Return arguments of ``envpool.make``."""
        return {}

    def _translate(self, observations: Any, info: dict[str, Any], indices: np.ndarray | slice) -> np.ndarray:
        """Return the single environment's observations of the environments ``indices``, from EnvPool's."""
        return observations

    def _judge(
        self, rewards: np.ndarray, terminated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rewards, terminated and success of a step, from EnvPool's."""
        raise NotImplementedError

    # --- the interface of BatchedEnv

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if isinstance(seed, (int, np.integer)) or any(one is not None for one in seed or ()):
            if not np.all((options or {}).get("reset_mask", True)):
                raise ValueError("EnvPool can't seed some environments alone: give seeds for a reset of all of them.")
            self.pool = None
        return super().reset(seed=seed, options=options)

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        if self.pool is None:
            self.pool = self._make_pool()
        observations, info = self.pool.reset(indices.astype(np.int32))
        self._current[indices] = self._translate(observations, info, indices)

    def _make_pool(self) -> Any:
        seeds = [int(self._rng(index).integers(2**31)) for index in range(self.num_envs)]
        return _envpool().make_gymnasium(
            self.task_id, num_envs=self.num_envs, seed=seeds, max_episode_steps=NO_LIMIT, **self._config()
        )

    def _advance(self, actions: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, _, info = self.pool.step(actions)
        self._current[:] = self._translate(observations, info, slice(None))
        return self._judge(rewards.astype(np.float64), terminated, info)

    def _observe(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        return self._current[indices].copy()

    def close_extras(self, **kwargs: Any) -> None:
        self.pool = None


class MujocoPool(PooledEnv):
    """Gymnasium's MuJoCo locomotion tasks, v5, in an EnvPool. ``info`` has none of the source's entries.

    Args:
        num_envs: number of parallel environments.
        task_id: EnvPool's id.
        single: the environment to equal.
    """

    def __init__(self, num_envs: int, task_id: str, single: gym.Env) -> None:
        super().__init__(num_envs, task_id, single)
        self._file = Path(single.unwrapped.fullpath)  # type: ignore[attr-defined]

    @classmethod
    def find(cls, spec: EnvSpec, kwargs: dict[str, Any]) -> str:
        return str(spec.entry_point).partition(":")[2].replace("Env", "-v5")

    def _make_pool(self) -> Any:
        with _model(self._file) as self._base_path:
            return super()._make_pool()

    def _config(self) -> dict[str, Any]:
        return {"base_path": self._base_path, "xml_file": self._file.name}

    def _judge(
        self, rewards: np.ndarray, terminated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return rewards, terminated, np.zeros(self.num_envs, dtype=bool)

    def _info(self, success: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        return {}  # these tasks have no success


@contextmanager
def _model(file: Path) -> Iterator[str]:
    """Yield a ``base_path`` for EnvPool with Gymnasium's model ``file``, with contacts that begin where they do in the
    installed MuJoCo. Halving is exact because all geoms of a model have one margin, that of its default class."""
    tree = ElementTree.parse(file)
    if _mujoco_version() < (3, 5):
        for geom in tree.iter("geom"):
            if "margin" in geom.attrib:
                geom.set("margin", repr(float(geom.attrib["margin"]) / 2))
    with TemporaryDirectory() as folder:
        path = Path(folder, "mujoco", "assets_gym", file.name)
        path.parent.mkdir(parents=True)
        tree.write(path)
        yield folder


class FetchPool(PooledEnv):
    """``sparse/FetchReach-v0`` and ``sparse/FetchPush-v0`` in an EnvPool.

    Args:
        num_envs: number of parallel environments.
        task_id: EnvPool's id.
        single: the environment to equal.
    """

    arguments = frozenset({"random_start"})

    def __init__(self, num_envs: int, task_id: str, single: gym.Env) -> None:
        super().__init__(num_envs, task_id, single)
        task: Any = single.unwrapped
        self._random_start: bool | None = getattr(task, "random_start", None)  # None: the task does not have the option
        self._centre, self._half = task.source.initial_gripper_xpos, task.source.target_range
        self._too_near = 2 * task.source.distance_threshold

    @classmethod
    def find(cls, spec: EnvSpec, kwargs: dict[str, Any]) -> str:
        task = str(spec.entry_point).partition(":")[2]
        if task == "FetchPush" and _mujoco_version() < (3, 4):
            raise ValueError("with the MuJoCo installed, older than 3.4, the gripper starts 2.4 mm lower than EnvPool's")
        return f"{task}-v4"

    def _config(self) -> dict[str, Any]:
        return {"initial_slide0": 0.405} if self.task_id == "FetchPush-v4" else {}

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        super()._begin(indices, options)
        if self._random_start is not None and (self._random_start or options.get("random_start", False)):
            self._move_anywhere(indices)

    def _move_anywhere(self, indices: np.ndarray) -> None:
        """Move the gripper to a random start as ``FetchReach`` does."""
        from envs.fetch import START_STEPS

        starts = np.stack([self._sample_start(index) for index in indices.tolist()])
        for _ in range(START_STEPS):
            actions = np.zeros((len(indices), 4), dtype=np.float32)
            actions[:, :3] = np.clip((starts - self._current[indices, 10:13]) / 0.05, -1, 1)
            observations, *_, info = self.pool.step(actions, indices.astype(np.int32))
            self._current[indices] = self._translate(observations, info, indices)

    def _sample_start(self, index: int) -> np.ndarray:
        while True:
            start = self._centre + self._rng(index).uniform(-self._half, self._half, size=3)
            if self._ignore_goal[index] or np.linalg.norm(start - self._current[index, 13:]) > self._too_near:
                return start

    def _translate(self, observations: Any, info: dict[str, Any], indices: np.ndarray | slice) -> np.ndarray:
        parts = ("observation", "achieved_goal", "desired_goal")
        return np.concatenate([observations[part] for part in parts], axis=1)

    def _judge(
        self, rewards: np.ndarray, terminated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        success = (info["is_success"] > 0) & ~self._ignore_goal
        return success.astype(np.float64), success.copy(), success


class MiniGridPool(PooledEnv):
    """``sparse/MiniGrid-…`` in an EnvPool, with both kinds of observation and of reward.

    Args:
        num_envs: number of parallel environments.
        task_id: EnvPool's id.
        single: the environment to equal.
    """

    arguments = frozenset({"obs", "reward"})

    def __init__(self, num_envs: int, task_id: str, single: gym.Env) -> None:
        from envs.mini_grid import VIEWS

        super().__init__(num_envs, task_id, single)
        task: Any = single.unwrapped
        self._view = VIEWS[self._arguments.get("obs", "flat")](task.minigrid.observation_space["mission"])
        self._missions = np.full(num_envs, "", dtype=object)
        self._horizon = task.minigrid.max_steps
        self._timed = task.reward == "time"

    @classmethod
    def find(cls, spec: EnvSpec, kwargs: dict[str, Any]) -> str:
        for pattern, difference in _OTHER_MINIGRID.items():
            if re.fullmatch(pattern, kwargs["task_name"]):
                raise ValueError(f"EnvPool {difference}")
        return kwargs["task_name"]

    def _translate(self, observations: Any, info: dict[str, Any], indices: np.ndarray | slice) -> np.ndarray:
        if not isinstance(indices, slice):  # after a reset
            self._missions[indices] = [bytes(row).rstrip(b"\0").decode() for row in observations["mission"]]
        return self._view(observations["image"], observations["direction"], self._missions[indices].tolist())

    def _judge(
        self, rewards: np.ndarray, terminated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        success = rewards > 0
        if not self._timed:
            return success.astype(np.float64), terminated, success
        steps = np.minimum(self._elapsed + 1, self._horizon)
        return np.where(success, 1 - 0.9 * steps / self._horizon, rewards), terminated, success


class MetaWorldPool(PooledEnv):
    """``sparse/MetaWorld-…-v3`` with ``resample_task=True`` in an EnvPool.

    Args:
        num_envs: number of parallel environments.
        task_id: EnvPool's id.
        single: the environment to equal.
    """

    arguments = frozenset({"goal_observable", "resample_task"})
    extras: ClassVar[tuple[str, ...]] = (
        "success", "near_object", "grasp_success", "grasp_reward", "in_place_reward", "obj_to_target", "unscaled_reward"
    )  # fmt: skip

    def __init__(self, num_envs: int, task_id: str, single: gym.Env) -> None:
        super().__init__(num_envs, task_id, single)
        self._succeeded = np.zeros(num_envs, dtype=bool)
        self._extras = {key: np.zeros(num_envs) for key in (*self.extras, "shaped_reward")}

    @classmethod
    def find(cls, spec: EnvSpec, kwargs: dict[str, Any]) -> str:
        if not kwargs.get("resample_task", False):
            raise ValueError("EnvPool samples a new task at every reset; use resample_task=True, or another backend")
        if kwargs["task_name"] not in _SAME_METAWORLD:
            raise ValueError(
                "EnvPool follows Meta-World 3.0.0 on another MuJoCo, and its start states, rewards or contacts differ here; "
                f"they are equal in {', '.join(sorted(_SAME_METAWORLD))}"
            )
        return "MetaWorld/" + "".join(word.capitalize() for word in kwargs["task_name"].split("-")) + "-v3"

    def _config(self) -> dict[str, Any]:
        return {"partially_observable": not self._arguments.get("goal_observable", False)}

    def _begin(self, indices: np.ndarray, options: dict[str, Any]) -> None:
        super()._begin(indices, options)
        self._succeeded[indices] = False

    def _translate(self, observations: Any, info: dict[str, Any], indices: np.ndarray | slice) -> np.ndarray:
        space: Any = self.single_observation_space
        return np.clip(observations, space.low, space.high)

    def _judge(
        self, rewards: np.ndarray, terminated: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = (info["success"] > 0) & ~self._succeeded
        self._succeeded |= first
        self._extras = {**{key: info[key] for key in self.extras}, "shaped_reward": rewards}
        return first.astype(np.float64), np.zeros(self.num_envs, dtype=bool), self._succeeded.copy()

    def _extra_info(self) -> dict[str, np.ndarray]:
        return {key: value.copy() for key, value in self._extras.items()}


_POOLS: dict[str, type[PooledEnv]] = {
    "envs.fetch:FetchReach": FetchPool,
    "envs.fetch:FetchPush": FetchPool,
    "envs.mini_grid:MiniGridTask": MiniGridPool,
    "envs.meta_world:MetaWorldTask": MetaWorldPool,
    "gymnasium.envs.mujoco.ant_v5:AntEnv": MujocoPool,
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": MujocoPool,
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": MujocoPool,
    "gymnasium.envs.mujoco.humanoid_v5:HumanoidEnv": MujocoPool,
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": MujocoPool,
}
_DELAYED_REWARD = "irwrappers.extrinsic:DelayedReward"


def make_envpool(spec: EnvSpec | None, n_envs: int, env_kwargs: dict[str, Any]) -> VectorEnv:
    """Return a registered task in an EnvPool, with the task's spaces, rewards, horizon and ``is_success``.

    Args:
        spec: the task's registration.
        n_envs: number of parallel environments.
        env_kwargs: arguments of ``gym.make``.

    Raises:
        ImportError: if EnvPool is not installed.
        ValueError: if EnvPool does not have this task or has a different one, or can't express an argument.
    """
    _envpool()
    pool = None if spec is None or not isinstance(spec.entry_point, str) else _POOLS.get(spec.entry_point)
    if spec is None or pool is None:
        raise ValueError(f"EnvPool does not have {spec.id if spec else 'what is not registered'}.")
    wrappers = [wrapper for wrapper in spec.additional_wrappers if wrapper.entry_point != _DELAYED_REWARD]
    known = pool.arguments | {"max_episode_steps", "render_mode"}
    wrong = sorted(set(env_kwargs) - known) + sorted(set(spec.kwargs) - known - {"task_name"})
    if wrappers or wrong or env_kwargs.get("render_mode") is not None:
        given = wrong or [wrapper.name for wrapper in wrappers] or [f"render_mode={env_kwargs['render_mode']!r}"]
        raise ValueError(f"EnvPool can't express {', '.join(given)} for {spec.id}; it takes {', '.join(sorted(known))}.")
    try:
        task_id = pool.find(spec, {**spec.kwargs, **env_kwargs})
    except ValueError as difference:
        raise ValueError(f"EnvPool is not used for {spec.id}: {difference}.") from None
    single = gym.make(spec, **env_kwargs)
    vector_env: VectorEnv = pool(n_envs, task_id, single)
    single.close()
    for wrapper in spec.additional_wrappers:
        from irwrappers.extrinsic import VectorDelayedReward

        vector_env = VectorDelayedReward(vector_env, **(wrapper.kwargs or {}))
    return vector_env


def _envpool() -> Any:
    try:
        import envpool
    except ImportError as error:
        raise ImportError('EnvPool is not installed: pip install "irwrappers[envpool]"') from error
    return envpool


def _mujoco_version() -> tuple[int, ...]:
    import mujoco

    return tuple(int(part) for part in mujoco.__version__.split(".")[:2])
