"""MiniGrid's tasks with observations that an MLP or a CNN policy takes, and a 0/1 reward.

* ``MiniGridTask`` - one of the tasks in ``envs.catalogue.MINIGRID_HORIZONS``.
* ``FlatView``, ``PixelView`` - MiniGrid's symbolic view as a vector and as an image, in batches.

The file is not called ``minigrid``: rl_zoo3 takes an entry point with that word in it for MiniGrid's own environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from envs.action_checks import check_discrete, check_option, check_render_mode, did_you_mean
from envs.catalogue import MINIGRID_HORIZONS

VIEW = 7  # cells: the agent sees a square of this side before it
TILE = 8  # pixels a cell
REWARDS = ("success", "time")


class FlatView:
    """The view, the direction and what varies in the mission, all one-hot, as one uint8 vector of zeros and ones.

    For each of the 7 × 7 cells, column by column from the left and each from the far end, 20 entries: object type (11),
    colour (6) and door state (3), the layout of MiniGrid's ``OneHotPartialObsWrapper``. Then 4 for the direction (right,
    down, left, up), and one block for each word of the mission that has more than one possible value (none for most tasks).

    One-hot, because the codes of MiniGrid are names: a door (4) is not more than a wall (2), nor the mean of a wall and a
    ball (6).

    Args:
        mission_space: MiniGrid's ``MissionSpace``.
    """

    def __init__(self, mission_space: Any) -> None:
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

        sizes = [len(names) for names in (OBJECT_TO_IDX, COLOR_TO_IDX, STATE_TO_IDX)]
        self._codes = [np.eye(size, dtype=np.uint8) for size in sizes]
        self._directions = np.eye(4, dtype=np.uint8)
        self._missions = _one_hot_missions(mission_space)
        mission_size = next(iter(self._missions.values())).size if self._missions else 0
        self.space = spaces.Box(0, 1, (VIEW * VIEW * sum(sizes) + 4 + mission_size,), dtype=np.uint8)

    def __call__(self, images: np.ndarray, directions: Sequence[int], missions: Sequence[str]) -> np.ndarray:
        """Return the observations ``[n, …]`` of n views.

        Args:
            images: MiniGrid's ``image``, ``[n, 7, 7, 3]``.
            directions: MiniGrid's ``direction``, n integers.
            missions: MiniGrid's ``mission``, n texts.
        """
        cells = np.concatenate([one_hot[images[..., i]] for i, one_hot in enumerate(self._codes)], axis=-1)
        parts = [cells.reshape(len(images), -1), self._directions[directions]]
        if self._missions:
            parts.append(np.stack([self._missions[mission] for mission in missions]))
        return np.concatenate(parts, axis=1)


def _one_hot_missions(mission_space: Any) -> dict[str, np.ndarray]:
    """Return every mission's text with a one-hot block for each of its words that vary; empty if it is always the same."""
    words = mission_space.ordered_placeholders or []
    if all(len(choices) == 1 for choices in words):
        return {}
    blocks = [np.eye(len(choices), dtype=np.uint8) if len(choices) > 1 else np.zeros((1, 0), np.uint8) for choices in words]
    return {
        mission_space.mission_func(*(choices[i] for choices, i in zip(words, chosen, strict=True))): np.concatenate(
            [block[i] for block, i in zip(blocks, chosen, strict=True)]
        )
        for chosen in product(*(range(len(choices)) for choices in words))
    }


class PixelView:
    """The view as an image, uint8 ``[56, 56, 3]``, the agent at the bottom looking up; large enough for SB3's NatureCNN.

    It equals MiniGrid's ``RGBImgPartialObsWrapper``, but is assembled from the symbolic view and a table of tiles, which makes
    a step three times as fast. As there, neither direction nor mission are visible.

    Args:
        mission_space: not used; both views take the same arguments.
    """

    def __init__(self, mission_space: Any = None) -> None:
        self._tiles, self._agent_tiles = _tiles()
        self.space = spaces.Box(0, 255, (VIEW * TILE, VIEW * TILE, 3), dtype=np.uint8)

    def __call__(self, images: np.ndarray, directions: Sequence[int], missions: Sequence[str]) -> np.ndarray:
        """Return the observations ``[n, 56, 56, 3]`` of n views; the arguments are those of :class:`FlatView`."""
        kind, colour, state = np.moveaxis(images, -1, 0)
        tiles = self._tiles[kind, colour, state]  # [n, column, row, y, x, 3]
        here = (slice(None), VIEW // 2, VIEW - 1)
        tiles[here] = self._agent_tiles[kind[here], colour[here], state[here]]
        return tiles.transpose(0, 2, 3, 1, 4, 5).reshape(len(images), *self.space.shape)


@cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Return images ``[types, colours, states, TILE, TILE, 3]`` of a cell: without the agent, and with it."""
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    codes = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX))
    tables = np.empty((2, *codes, TILE, TILE, 3), dtype=np.uint8)
    for agent, *code in np.ndindex(2, *codes):
        tables[agent, *code] = Grid.render_tile(
            WorldObj.decode(*code),
            agent_dir=3 if agent else None,
            highlight=code[0] != OBJECT_TO_IDX["unseen"],
            tile_size=TILE,
        )
    return tables[0], tables[1]


VIEWS: dict[str, type[FlatView] | type[PixelView]] = {"flat": FlatView, "rgb": PixelView}


class MiniGridTask(gym.Env[np.ndarray, np.int64]):
    """A MiniGrid task; reward 1 and the end of the episode on success, 0 before it.

    Success is what MiniGrid rewards. Steps, dynamics and the episode of a seed are MiniGrid's own, and the running
    ``MiniGridEnv`` is ``env.unwrapped.minigrid``. Actions: 0 left, 1 right, 2 forward, 3 pick up, 4 drop, 5 toggle, 6 done
    (the first three in ``Dynamic-Obstacles``). ``info["is_success"]`` on every step.

    The agent sees only what is before it: ``Memory`` needs a policy with a memory (sb3-contrib's ``RecurrentPPO``), the
    tasks of many rooms gain by one. In ``Fetch``, ``GoToDoor``, ``GoToObject`` and ``PutNear`` the mission says which object
    is meant, and ``obs="rgb"`` does not show it: use ``obs="flat"`` there. In MiniGrid's ``ObstructedMaze`` ``1Q-v0``,
    ``2Dlhb-v0``, ``2Q-v0`` and ``Full-v0`` a ball may replace the box with the key, so that 2 to 9 % of the episodes have no
    solution; ``-v1`` has corrected that.

    The time limit is Gymnasium's (``gym.make(id, max_episode_steps=…)``), by default MiniGrid's ``max_steps``.

    Source: Chevalier-Boisvert et al., "Minigrid & Miniworld", NeurIPS 2023.

    Args:
        task_name: MiniGrid's id, e.g. ``"MiniGrid-DoorKey-8x8-v0"``.
        obs: ``"flat"``, a vector (:class:`FlatView`), or ``"rgb"``, an image (:class:`PixelView`).
        reward: ``"success"``, 1 on success and else 0; or ``"time"``, MiniGrid's own: 1 − 0.9 t/T on success at step t, with T
            MiniGrid's ``max_steps`` (0.1 if a longer limit lets t pass T), and −1 on a collision in ``Dynamic-Obstacles``.
        render_mode: ``None`` or ``"rgb_array"``, the whole grid with the agent's view in a lighter colour.

    >>> import gymnasium as gym, envs
    >>> env = gym.make("sparse/MiniGrid-Empty-5x5-v0", reward="time")
    >>> env.reset(seed=0)[0].shape
    (984,)
    >>> for action in (2, 2, 1, 2, 2):
    ...     observation, reward, terminated, truncated, info = env.step(action)
    >>> round(reward, 3), terminated, info
    (0.955, True, {'is_success': True})
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's convention)

    def __init__(self, task_name: str, obs: str = "flat", reward: str = "success", render_mode: str | None = None) -> None:
        check_option("obs", obs, VIEWS)
        check_option("reward", reward, REWARDS)
        check_render_mode(render_mode)
        self.task_name = task_name
        self.reward = reward
        self.render_mode = render_mode
        self.minigrid = _make_minigrid(task_name, render_mode)
        self._view = VIEWS[obs](self.minigrid.observation_space["mission"])
        self.observation_space = self._view.space
        self.action_space = self.minigrid.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.minigrid.np_random = self.np_random  # one generator, seeded as MiniGrid would: the same episodes
        observation, _ = self.minigrid.reset(options=options)
        return self._observe(observation), {"is_success": False}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        check_discrete(action, self.action_space, f"from 0 to {self.minigrid.action_space.n - 1}")
        # The time limit is Gymnasium's, also one beyond MiniGrid's, after which the reward would fall below 0.
        self.minigrid.step_count = min(self.minigrid.step_count, self.minigrid.max_steps - 1)
        observation, reward, terminated, _, _ = self.minigrid.step(int(action))
        success = reward > 0
        if self.reward == "success":
            reward = success
        return self._observe(observation), float(reward), terminated, False, {"is_success": success}

    def render(self) -> np.ndarray | None:
        return self.minigrid.render()

    def close(self) -> None:
        self.minigrid.close()

    def _observe(self, observation: dict[str, Any]) -> np.ndarray:
        return self._view(observation["image"][None], [observation["direction"]], [observation["mission"]])[0]


def _make_minigrid(task_name: str, render_mode: str | None) -> Any:
    """Return the bare ``MiniGridEnv``, without ``gym.make``'s wrappers and its notice that a later version exists."""
    if task_name not in MINIGRID_HORIZONS:
        hint = did_you_mean(task_name, MINIGRID_HORIZONS, "`python -m envs` lists them.")
        raise ValueError(f"Unknown MiniGrid task {task_name!r}. {hint}")
    import minigrid  # noqa: F401 (registers its tasks)

    spec = gym.spec(task_name)
    assert isinstance(spec.entry_point, str)
    return load_env_creator(spec.entry_point)(**spec.kwargs, render_mode=render_mode)
