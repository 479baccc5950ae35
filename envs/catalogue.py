"""The catalogue: every task that ``import envs`` registers, as data.

A new environment is its file and one row of ``CATALOGUE``; ``tests/envs/test_adding_an_environment.py`` is the recipe. Names
and horizons of other libraries' tasks are tables here, so that registering them imports none of those libraries;
``tests/envs/test_catalogue.py`` checks the tables against the libraries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from envs.grid.layouts import GRID_LAYOUTS
from envs.mujoco.maze_maps import MAZE_MAPS


@dataclass(frozen=True)
class Family:
    """A row of the catalogue: tasks of one kind, with their source, their entry point and the horizon of each.

    Args:
        source: the library or paper.
        entry_point: ``"module:Class"`` of all tasks, or by id.
        horizons: the longest episode of each id, in steps; the time limit that is registered.
        vector_entry_point: ``"module:Class"`` of the native vector form, where there is one.
        kwargs: arguments of the entry point, by id.
        additional_wrappers: wrappers around every task, outside the time limit.
        labels: the source's own name of the task, by id; none for tasks of our own.
        own_limit: whether every episode ends after exactly as many steps as the horizon by the task's own rules, so that no
            time limit is registered.
        has_success: whether ``info`` holds ``is_success``.
        same_spaces: whether all tasks have the spaces of the first, so that a listing need not make each of them.
    """

    source: str
    entry_point: str | dict[str, str]
    horizons: dict[str, int]
    vector_entry_point: str | None = None
    kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)
    additional_wrappers: tuple[WrapperSpec, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    own_limit: bool = False
    has_success: bool = True
    same_spaces: bool = False

    def register(self) -> None:
        """Register the tasks with Gymnasium."""
        for env_id, horizon in self.horizons.items():
            gym.register(
                id=env_id,
                entry_point=self.entry_point if isinstance(self.entry_point, str) else self.entry_point[env_id],
                vector_entry_point=self.vector_entry_point,
                max_episode_steps=None if self.own_limit else horizon,
                kwargs=self.kwargs.get(env_id, {}),
                additional_wrappers=self.additional_wrappers,
            )


# --- Meta-World's 50 tasks; an episode is 500 steps.
METAWORLD_TASKS = tuple("""
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall button-press-wall
    coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open door-unlock drawer-close
    drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
    lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-back
    plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push
    sweep sweep-into window-close window-open
    """.split())

# --- MiniGrid's tasks and their own max_steps. Left out: Playground, which never gives a reward, and the WFC mazes, whose
# pattern images MiniGrid's wheel (3.2.0) lacks, so that they can't be made.
MINIGRID_HORIZONS: dict[str, int] = {
    "MiniGrid-BlockedUnlockPickup-v0": 576,
    "MiniGrid-DistShift1-v0": 252,
    "MiniGrid-DistShift2-v0": 252,
    "MiniGrid-DoorKey-16x16-v0": 2560,
    "MiniGrid-DoorKey-5x5-v0": 250,
    "MiniGrid-DoorKey-6x6-v0": 360,
    "MiniGrid-DoorKey-8x8-v0": 640,
    "MiniGrid-Dynamic-Obstacles-16x16-v0": 1024,
    "MiniGrid-Dynamic-Obstacles-5x5-v0": 100,
    "MiniGrid-Dynamic-Obstacles-6x6-v0": 144,
    "MiniGrid-Dynamic-Obstacles-8x8-v0": 256,
    "MiniGrid-Dynamic-Obstacles-Random-5x5-v0": 100,
    "MiniGrid-Dynamic-Obstacles-Random-6x6-v0": 144,
    "MiniGrid-Empty-16x16-v0": 1024,
    "MiniGrid-Empty-5x5-v0": 100,
    "MiniGrid-Empty-6x6-v0": 144,
    "MiniGrid-Empty-8x8-v0": 256,
    "MiniGrid-Empty-Random-5x5-v0": 100,
    "MiniGrid-Empty-Random-6x6-v0": 144,
    "MiniGrid-Fetch-5x5-N2-v0": 125,
    "MiniGrid-Fetch-6x6-N2-v0": 180,
    "MiniGrid-Fetch-8x8-N3-v0": 320,
    "MiniGrid-FourRooms-v0": 100,
    "MiniGrid-GoToDoor-5x5-v0": 100,
    "MiniGrid-GoToDoor-6x6-v0": 144,
    "MiniGrid-GoToDoor-8x8-v0": 256,
    "MiniGrid-GoToObject-6x6-N2-v0": 180,
    "MiniGrid-GoToObject-8x8-N2-v0": 320,
    "MiniGrid-KeyCorridorS3R1-v0": 270,
    "MiniGrid-KeyCorridorS3R2-v0": 270,
    "MiniGrid-KeyCorridorS3R3-v0": 270,
    "MiniGrid-KeyCorridorS4R3-v0": 480,
    "MiniGrid-KeyCorridorS5R3-v0": 750,
    "MiniGrid-KeyCorridorS6R3-v0": 1080,
    "MiniGrid-LavaCrossingS11N5-v0": 484,
    "MiniGrid-LavaCrossingS9N1-v0": 324,
    "MiniGrid-LavaCrossingS9N2-v0": 324,
    "MiniGrid-LavaCrossingS9N3-v0": 324,
    "MiniGrid-LavaGapS5-v0": 100,
    "MiniGrid-LavaGapS6-v0": 144,
    "MiniGrid-LavaGapS7-v0": 196,
    "MiniGrid-LockedRoom-v0": 190,
    "MiniGrid-MemoryS11-v0": 605,
    "MiniGrid-MemoryS13-v0": 845,
    "MiniGrid-MemoryS13Random-v0": 845,
    "MiniGrid-MemoryS17Random-v0": 1445,
    "MiniGrid-MemoryS7-v0": 245,
    "MiniGrid-MemoryS9-v0": 405,
    "MiniGrid-MultiRoom-N2-S4-v0": 40,
    "MiniGrid-MultiRoom-N4-S5-v0": 120,
    "MiniGrid-MultiRoom-N4-S5-v1": 80,
    "MiniGrid-MultiRoom-N6-v0": 120,
    "MiniGrid-ObstructedMaze-1Dl-v0": 288,
    "MiniGrid-ObstructedMaze-1Dlh-v0": 288,
    "MiniGrid-ObstructedMaze-1Dlhb-v0": 288,
    "MiniGrid-ObstructedMaze-1Q-v0": 720,
    "MiniGrid-ObstructedMaze-1Q-v1": 720,
    "MiniGrid-ObstructedMaze-2Dl-v0": 576,
    "MiniGrid-ObstructedMaze-2Dlh-v0": 576,
    "MiniGrid-ObstructedMaze-2Dlhb-v0": 576,
    "MiniGrid-ObstructedMaze-2Dlhb-v1": 576,
    "MiniGrid-ObstructedMaze-2Q-v0": 1584,
    "MiniGrid-ObstructedMaze-2Q-v1": 1584,
    "MiniGrid-ObstructedMaze-Full-v0": 3600,
    "MiniGrid-ObstructedMaze-Full-v1": 3600,
    "MiniGrid-PutNear-6x6-N2-v0": 30,
    "MiniGrid-PutNear-8x8-N3-v0": 40,
    "MiniGrid-RedBlueDoors-6x6-v0": 720,
    "MiniGrid-RedBlueDoors-8x8-v0": 1280,
    "MiniGrid-SimpleCrossingS11N5-v0": 484,
    "MiniGrid-SimpleCrossingS9N1-v0": 324,
    "MiniGrid-SimpleCrossingS9N2-v0": 324,
    "MiniGrid-SimpleCrossingS9N3-v0": 324,
    "MiniGrid-Unlock-v0": 288,
    "MiniGrid-UnlockPickup-v0": 288,
}

# --- LIRPG's delayed MuJoCo (arXiv 1804.06459)
DELAY = 20  # steps between rewards
_MUJOCO = {
    "Ant": "ant_v5:AntEnv",
    "HalfCheetah": "half_cheetah_v5:HalfCheetahEnv",
    "Hopper": "hopper_v5:HopperEnv",
    "Humanoid": "humanoid_v5:HumanoidEnv",
    "Walker2d": "walker2d_v5:Walker2dEnv",
}

# --- IRPO's tasks (arXiv 2601.21391), their horizons and its names for them
_IRPO = "IRPO (arXiv 2601.21391)"
_IRPO_PROGRAM = "the authors' program of IRPO (arXiv 2601.21391), without a result in the paper"
_IRPO_GRIDS = {"FourRooms0": 100, "FourRooms1": 100, "Maze0": 200, "Maze1": 200, "Maze2": 200}
_IRPO_POINTS = {"PointMaze0": 500, "PointMaze1": 500}
_IRPO_ANTS = {"AntMaze0": 1000, "AntMaze1": 1000, "AntMaze2": 1500, "AntMaze3": 1500, "AntMaze4": 2000, "AntMaze5": 2000}

# --- The ladders: mazes of our own; in each an untrained policy succeeds 5 to 15 times as rarely as in the one before
_GRID_LADDER = {name: 200 for name in GRID_LAYOUTS if name.startswith("GridLadder")}
_POINT_LADDER = {name: 500 for name in MAZE_MAPS if name.startswith("PointLadder")}


def _irpo_label(name: str) -> str:
    """Return the label of Maze1: "Maze-v1 in …"."""
    return f"{name[:-1]}-v{name[-1]} in {_IRPO_PROGRAM if name in ('FourRooms1', 'Maze2') else _IRPO}"


def _mazes(source: str, entry_point: str, argument: str, horizons: dict[str, int]) -> Family:
    """Return the row of the mazes ``sparse/<map>-v0``; ``argument`` is the one that takes the name of the map."""
    return Family(
        source=source,
        entry_point=entry_point,
        vector_entry_point=f"{entry_point}VectorEnv",
        horizons={f"sparse/{name}-v0": steps for name, steps in horizons.items()},
        kwargs={f"sparse/{name}-v0": {argument: name} for name in horizons},
        labels={f"sparse/{name}-v0": _irpo_label(name) for name in horizons if "Ladder" not in name},
    )


CATALOGUE: dict[str, Family] = {
    "grid mazes": _mazes("IRPO, arXiv 2601.21391", "envs.grid:GridMaze", "layout", _IRPO_GRIDS),
    "ladder of grid mazes": _mazes("irwrappers", "envs.grid:GridMaze", "layout", _GRID_LADDER),
    "random mazes": Family(
        source="irwrappers",
        entry_point="envs.grid:RandomMaze",
        vector_entry_point="envs.grid:RandomMazeVectorEnv",
        horizons={"sparse/RandomMaze-v0": 200},
    ),
    "point mazes": _mazes("Gymnasium-Robotics, maps of IRPO", "envs.mujoco.point_maze:PointMaze", "maze_map", _IRPO_POINTS),
    "ladder of point mazes": _mazes(
        "Gymnasium-Robotics, maps of irwrappers", "envs.mujoco.point_maze:PointMaze", "maze_map", _POINT_LADDER
    ),
    "ant mazes": _mazes("Gymnasium-Robotics, maps of IRPO", "envs.mujoco.ant_maze:AntMaze", "maze_map", _IRPO_ANTS),
    "Fetch": Family(
        source="Gymnasium-Robotics",
        entry_point={"sparse/FetchReach-v0": "envs.fetch:FetchReach", "sparse/FetchPush-v0": "envs.fetch:FetchPush"},
        horizons={"sparse/FetchReach-v0": 50, "sparse/FetchPush-v0": 200},
        labels={
            f"sparse/{name}-v0": f"{name} in {_IRPO}; {name}-v4 in Gymnasium-Robotics" for name in ("FetchReach", "FetchPush")
        },
    ),
    "Meta-World": Family(
        source="Meta-World",
        entry_point="envs.meta_world:MetaWorldTask",
        horizons={f"sparse/MetaWorld-{name}-v3": 500 for name in METAWORLD_TASKS},
        kwargs={f"sparse/MetaWorld-{name}-v3": {"task_name": name} for name in METAWORLD_TASKS},
        labels={f"sparse/MetaWorld-{name}-v3": f"{name}-v3 in Meta-World (arXiv 1910.10897)" for name in METAWORLD_TASKS},
        same_spaces=True,  # making all 50, a simulator's model each, would take longer than all the rest
    ),
    # rl_zoo3 takes any entry point with "minigrid" in it for MiniGrid's own and evaluates it stochastically.
    "MiniGrid": Family(
        source="MiniGrid",
        entry_point="envs.mini_grid:MiniGridTask",
        horizons={f"sparse/{name}": steps for name, steps in MINIGRID_HORIZONS.items()},
        kwargs={f"sparse/{name}": {"task_name": name} for name in MINIGRID_HORIZONS},
        labels={f"sparse/{name}": f"{name} in MiniGrid (arXiv 2306.13831)" for name in MINIGRID_HORIZONS},
    ),
    "point goal": Family(
        source="irwrappers",
        entry_point="envs.point_goal:PointGoalEnv",
        vector_entry_point="envs.point_goal:PointGoalVectorEnv",
        horizons={"sparse/PointGoal-v0": 100},
    ),
    "chain": Family(source="irwrappers", entry_point="envs.chain:Chain", horizons={"sparse/Chain-v0": 29}),
    "Deep Sea": Family(
        source="bsuite, arXiv 1908.03568; a move to the right costs 0.01/size",
        entry_point="envs.deep_sea:DeepSea",
        vector_entry_point="envs.deep_sea:DeepSeaVectorEnv",
        horizons={"sparse/DeepSea-v0": 10},
        own_limit=True,
        labels={"sparse/DeepSea-v0": "deep_sea/0 in bsuite (arXiv 1908.03568)"},
    ),
    "delayed MuJoCo": Family(
        source="Gymnasium, delay of LIRPG (arXiv 1804.06459)",
        entry_point={f"delayed/{name}-v5": f"gymnasium.envs.mujoco.{path}" for name, path in _MUJOCO.items()},
        horizons={f"delayed/{name}-v5": 1000 for name in _MUJOCO},
        labels={
            f"delayed/{name}-v5": f"{name} with delayed rewards in LIRPG (arXiv 1804.06459); {name}-v5 in Gymnasium"
            for name in _MUJOCO
        },
        has_success=False,
        # By name, because `envs` imports nothing of ours; outside the time limit, where the remaining reward is given too.
        additional_wrappers=(WrapperSpec("DelayedReward", "irwrappers.extrinsic:DelayedReward", {"delay": DELAY}),),
    ),
}


def family_of(env_id: str) -> str:
    """Return the key in ``CATALOGUE`` of the row that holds ``env_id``; a KeyError if there is none."""
    for name, family in CATALOGUE.items():
        if env_id in family.horizons:
            return name
    raise KeyError(env_id)


def all_horizons() -> dict[str, int]:
    """Return the horizon of every id in the catalogue's order, in steps."""
    return {env_id: steps for family in CATALOGUE.values() for env_id, steps in family.horizons.items()}
