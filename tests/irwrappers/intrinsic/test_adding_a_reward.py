"""How to add an intrinsic reward.

1. Write one file, ``irwrappers/intrinsic/<name>.py``, with a subclass of ``IntrinsicReward`` under ``@register("<name>")``.
   All modules in that folder are imported with the package; a module elsewhere must be imported before its name is used.
2. Set ``n_rewards`` and define ``compute``, which is pure: transitions ``[T, B, …]`` in, rewards ``[T, B, n_rewards]`` out.
   Use ``ObservationNormalizer`` or ``Encoder``, which take all of SB3's observation spaces, and refuse others.
3. Define what else it needs: ``learn`` if it has parameters; ``advance`` if it has counts or an episodic memory, which are
   buffers, and with the latter ``forget`` and ``has_episode_memory = True``; ``fit`` and ``needs_fit`` if it is trained before
   its first use. A reward of networks is a ``NetworkReward``, one with an episodic memory an ``EpisodicMemoryReward``.
4. Write the docstring: a first line that says what the reward is (``python -m irwrappers`` shows it), the equation, the
   source, and an entry for each argument.
5. Test the equation against numbers by hand in ``tests/irwrappers/intrinsic/test_<name>.py``. The facts that hold for every
   reward (shapes, purity, saving, splitting batches, the wrappers, ``IntrinsicPPO``) are tested for all of
   ``INTRINSIC_REWARDS``: there is nothing to add, except, to ``QUICK`` in
   ``tests/helpers/random_steps.py``, arguments that make it quick.
6. Add it to the table in ``README.md`` and to ``CHANGELOG.md``.

The tests below follow these steps with a toy.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from irwrappers import INTRINSIC_REWARDS, IntrinsicReward, Transitions, VecIntrinsicReward, make_intrinsic_reward, register
from irwrappers.__main__ import main

ROOT = Path(__file__).resolve().parents[3]

TOY = '''
from torch.utils._pytree import tree_leaves

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.encoder import ObservationNormalizer, check_observation_space, flatten_steps
from irwrappers.intrinsic.registry import register


@register("toy_step_length")
class StepLength(IntrinsicReward):
    """The length of a step: r = |s' - s|, over all entries.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
    """

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        check_observation_space(observation_space, type(self).__name__)
        self.preprocess = ObservationNormalizer(observation_space, enabled=False)

    def compute(self, batch):
        states = (self.preprocess(flatten_steps(x)) for x in (batch.observations, batch.next_observations))
        parts = zip(*map(tree_leaves, states), strict=True)
        lengths = sum((after - before).flatten(1).abs().sum(1) for before, after in parts)
        return lengths.view(batch.n_steps, batch.n_envs, 1)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The module with the toy, imported, and forgotten again after the test."""
    (tmp_path / "toy_step_length.py").write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toy_step_length")
    del INTRINSIC_REWARDS["toy_step_length"], sys.modules["toy_step_length"]


def test_it_is_built_by_name_and_its_equation_holds(toy):
    reward = make_intrinsic_reward("toy_step_length", spaces.Box(-9, 9, (2,)), spaces.Discrete(2))
    assert type(reward) is toy.StepLength
    now, after = torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]]), torch.tensor([[[1.0, 2.0]], [[0.0, 2.5]]])
    never = torch.zeros(2, 1, dtype=torch.bool)
    assert reward.compute(Transitions(now, torch.zeros(2, 1), after, never, never)).flatten().tolist() == [3.0, 1.5]


@pytest.mark.usefixtures("toy")
def test_wrappers_take_its_name_and_a_typing_error_suggests_it():
    env = VecIntrinsicReward(DummyVecEnv([lambda: gym.make("CartPole-v1")]), "toy_step_length", normalize_reward=False, seed=0)
    before = env.reset()
    after, rewards, _, infos = env.step([0])
    assert infos[0]["reward_intrinsic"] == pytest.approx(abs(after - before).sum(), rel=1e-6)
    assert rewards[0] == pytest.approx(1 + infos[0]["reward_intrinsic"])
    with pytest.raises(ValueError, match="Did you mean 'toy_step_length'"):
        make_intrinsic_reward("toy_step_lenght", env.observation_space, env.action_space)


@pytest.mark.usefixtures("toy")
def test_the_command_lists_it_with_the_first_line_of_its_docstring(capsys):
    main()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["toy_step_length"] == "The length of a step: r = |s' - s|, over all entries."
    assert lines.keys() == INTRINSIC_REWARDS.keys()
    assert all(line.endswith(".") for line in lines.values())


def test_the_tests_of_every_reward_include_it(tmp_path):
    (tmp_path / "toy_step_length.py").write_text(TOY, encoding="utf-8")
    folder = ROOT / "tests" / "irwrappers" / "intrinsic"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "toy_step_length", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-k", "toy_step_length", str(folder / "test_intrinsic_rewards.py")]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_names_are_unique_and_only_rewards_are_registered():
    with pytest.raises(ValueError, match=r"'rnd' is irwrappers.intrinsic.rnd.RND already.*another name"):

        @register("rnd")
        class Other(IntrinsicReward):
            pass

    with pytest.raises(TypeError, match=r"subclass of IntrinsicReward, got .*dict"):
        register("dict")(dict)
    assert register("rnd")(INTRINSIC_REWARDS["rnd"]) is INTRINSIC_REWARDS["rnd"]  # a module that is imported again
