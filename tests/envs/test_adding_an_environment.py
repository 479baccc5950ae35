"""How to add an environment: its file, and one row of ``envs.catalogue.CATALOGUE``. Nothing else changes.

1. Write ``envs/<family>.py`` with a ``gymnasium.Env``: flat ``Box`` observations, a ``Discrete`` or bounded ``Box`` action
   space, ``metadata`` and ``render_mode``, ``info["is_success"]`` after every reset and step, and all randomness from
   ``self.np_random``. The checks of arguments and actions are in ``envs.action_checks``. Three hooks are optional:
   ``position_indices``, ``transition_graph()`` and, for an exact value in ``envs/untrained.csv``, ``success_transitions()``.
2. Where it can be stepped in batches, add a subclass of ``envs.vector.BatchedEnv`` that defines ``_begin``, ``_advance``,
   ``_observe`` and ``_frame``. Optional too.
3. Add a row to ``CATALOGUE``: source, entry points, and the horizon of each id.

``import envs`` then registers it with Gymnasium; ``make_vec_env`` steps the native vector form; ``python -m envs`` lists,
describes and records it; ``python -m envs.untrained`` measures it; ``tests/envs/test_catalogue.py`` checks it like every other
task.

The tests below follow these steps with the file ``FILE`` and the row ``ROW``.
"""

import importlib
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.vector_forms import play_both
from stable_baselines3.common.env_checker import check_env as check_sb3

import envs
from envs import __main__ as command
from envs import untrained
from envs.catalogue import CATALOGUE, Family
from sb3_ext.common.vec_env import make_vec_env

FILE = '''
"""A corridor of cells: ``Corridor`` and its vectorised form ``CorridorVectorEnv``."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.action_checks import check_discrete, check_integer, check_render_mode
from envs.rendering import render_grid
from envs.vector import BatchedEnv


class Corridor(gym.Env):
    """Walk to the right end of a corridor from a cell in its left half; reward 1 and the end of the episode there.

    Args:
        length: number of cells, at least 4.
        render_mode: ``None`` or ``"rgb_array"``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    position_indices = (0,)
    action_meaning = "0 (left) or 1 (right)"

    def __init__(self, length=6, render_mode=None):
        check_render_mode(render_mode)
        self.length = check_integer("length", length, 4)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, self.length - 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._cell = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._cell = int(self.np_random.integers(self.length // 2))
        return np.array([self._cell], dtype=np.float32), {"is_success": False}

    def step(self, action):
        check_discrete(action, self.action_space, self.action_meaning)
        self._cell = max(self._cell + (1 if action else -1), 0)
        success = self._cell == self.length - 1
        return np.array([self._cell], dtype=np.float32), float(success), success, False, {"is_success": success}

    def render(self):
        return self._frame(self._cell) if self.render_mode == "rgb_array" else None

    def _frame(self, cell):
        return render_grid(np.zeros((1, self.length), dtype=bool), np.array([self.length - 1, 0]), np.array([cell, 0]))


class CorridorVectorEnv(BatchedEnv):
    """``num_envs`` environments like :class:`Corridor`, stepped together."""

    position_indices = Corridor.position_indices

    def __init__(
        self, num_envs=1, length=6, max_episode_steps=None, render_mode=None, autoreset_mode=AutoresetMode.NEXT_STEP
    ):
        self._single = Corridor(length, render_mode)
        super().__init__(num_envs, self._single, max_episode_steps, autoreset_mode)
        self._cells = np.zeros(num_envs, dtype=np.int64)

    def _begin(self, indices, options):
        for index in indices.tolist():  # one by one, because each samples from its own generator
            self._cells[index] = self._rng(index).integers(self._single.length // 2)

    def _advance(self, actions, active):
        self._cells = np.maximum(self._cells + np.where(actions == 1, 1, -1), 0)
        return self._reward_at_goal(self._cells == self._single.length - 1)

    def _observe(self, indices=slice(None)):
        return self._cells[indices, None].astype(np.float32)

    def _frame(self, index):
        return self._single._frame(self._cells[index])
'''

ROW = Family(
    source="irwrappers",
    entry_point="corridor_of_a_test:Corridor",
    vector_entry_point="corridor_of_a_test:CorridorVectorEnv",
    horizons={"sparse/ShortCorridor-v0": 40, "sparse/LongCorridor-v0": 20},
    kwargs={"sparse/LongCorridor-v0": {"length": 12}},
)
IDS = list(ROW.horizons)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The file and the row; both are gone after the test."""
    (tmp_path / "corridor_of_a_test.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CATALOGUE, "corridors", ROW)
    with monkeypatch.context() as registry:
        registry.setattr("gymnasium.envs.registration.registry", dict(gym.registry))
        registry.setattr(gym, "registry", gym.envs.registration.registry)
        for family in CATALOGUE.values():  # what `import envs` does
            for env_id in family.horizons:
                gym.registry.pop(env_id, None)
        importlib.reload(envs)
        yield


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("env_id", IDS)
class TestAFileAndARow:
    def test_gymnasium_makes_it_and_both_checkers_pass(self, env_id):
        env = gym.make(env_id, render_mode="rgb_array")
        assert env.spec.max_episode_steps == ROW.horizons[env_id]
        check_gymnasium(env.unwrapped)
        check_sb3(env)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_its_vector_form_equals_single_environments(self, env_id, mode):
        vector_env = gym.make_vec(env_id, num_envs=5, autoreset_mode=mode)
        singles = SyncVectorEnv([partial(gym.make, env_id, disable_env_checker=True)] * 5, autoreset_mode=mode)
        rng = np.random.default_rng(0)
        ends = np.zeros(2, dtype=int)
        for _, _, terminated, truncated, _ in play_both(vector_env, singles, lambda _: rng.integers(2, size=5), 300, seed=4):
            ends += [terminated.sum(), truncated.sum()]
        assert ends[1] > 0 and (ends[0] > 0 or env_id == "sparse/LongCorridor-v0")
        with pytest.raises(ValueError, match=r"Invalid action 2 of environment 1; expected 0 \(left\) or 1 \(right\)"):
            gym.make_vec(env_id, num_envs=2).step(np.array([0, 2]))

    def test_make_vec_env_takes_the_vector_form(self, env_id):
        env = make_vec_env(env_id, 3, seed=0)
        assert type(env.unwrapped.vector_env.unwrapped).__name__ == "CorridorVectorEnv"
        assert env.reset().shape == (3, 1)

    def test_the_commands_know_it(self, env_id, capsys, tmp_path):
        assert command.main(["sparse/*Corridor-v0"]) == 0
        listed = capsys.readouterr().out
        assert "corridors - irwrappers" in listed and env_id in listed
        assert command.main([env_id]) == 0
        assert "corridor_of_a_test:Corridor" in capsys.readouterr().out
        assert command.main([env_id, "--render", str(tmp_path / "film.gif"), "--steps", "3"]) == 0
        assert (tmp_path / "film.gif").exists()
        table = tmp_path / "table.csv"
        assert untrained.main([env_id, "--output", str(table), "--seconds", "0"]) == 0
        assert list(untrained.read_table(table)) == [env_id]
