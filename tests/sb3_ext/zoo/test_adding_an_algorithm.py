"""The recipe of CONTRIBUTING.md: an algorithm is its folder, one registry entry and its YAML file."""

import json

import pytest
import yaml
from helpers.commands import run_code

# Folder of the algorithm: PPO with a bias of the rewards that may be a schedule.
TOY = """
from stable_baselines3 import PPO
from stable_baselines3.common.utils import FloatSchedule


class Toy(PPO):
    def __init__(self, policy, env, n_steps=2048, batch_size=64, seed=None, verbose=0, tensorboard_log=None, device="auto",
                 _init_setup_model=True, *, reward_bias=0.0):
        super().__init__(policy, env, n_steps=n_steps, batch_size=batch_size, seed=seed, verbose=verbose, device=device,
                         tensorboard_log=tensorboard_log, _init_setup_model=_init_setup_model)
        self.reward_bias = reward_bias

    def train(self):
        self.rollout_buffer.rewards += FloatSchedule(self.reward_bias)(self._current_progress_remaining)
        super().train()
"""
YAML = {
    "default": {"policy": "auto", "n_timesteps": 128, "n_envs": 2, "n_steps": 32, "batch_size": 32, "reward_bias": "lin_0.5"}
}
ENTRY = """
import sys
from pathlib import Path

from sb3_ext.zoo import register_algorithm
from toy.toy import Toy

register_algorithm("toy", Toy, schedules=("reward_bias",), hyperparams=Path("toy.yml"))
"""


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.py").write_text(TOY)
    (tmp_path / "toy.yml").write_text(yaml.safe_dump(YAML))
    return tmp_path


def test_it_trains_with_its_yaml_file_and_is_evaluated(toy):
    train = (
        "from sb3_ext.zoo import train\nsys.argv = ['train', '--algo', 'toy', '--env', 'sparse/Maze1-v0', '--eval-freq', '-1']"
    )
    log = run_code(f"{ENTRY}{train}\ntrain()", toy).stdout
    assert "('n_steps', 32)" in log and "reward_bias" in log
    folder = toy / "logs" / "toy" / "sparse-Maze1-v0_1"
    assert (folder / "sparse-Maze1-v0.zip").is_file()
    enjoy = "from sb3_ext.zoo import enjoy\nsys.argv = ['enjoy', '--algo', 'toy', '--env', 'sparse/Maze1-v0', '-f', 'logs']"
    log = run_code(f"{ENTRY}{enjoy}\nsys.argv += ['--no-render', '-n', '500']\nenjoy()", toy).stdout
    assert "Success rate" in log


def test_its_schedule_falls_linearly(toy):
    model = """
from sb3_ext.zoo.benchmark.run import _Manager
from sb3_ext.zoo.benchmark.suites import Run, resolve_hyperparams

hyperparams = resolve_hyperparams("toy", "CartPole-v1", {}, 128)
run = Run("suite", "CartPole-v1", "toy", "toy", 0, 128, 1, 1, ["argmax"], hyperparams)
model = _Manager(run, Path("run")).setup_experiment()[0]
print("bias", model.reward_bias(1.0), model.reward_bias(0.5))
"""
    assert run_code(ENTRY + model, toy).stdout.splitlines()[-1] == "bias 0.5 0.25"


def test_it_is_a_contender_of_a_benchmark(toy):
    pytest.importorskip("rliable")
    suite = {
        "description": "a toy",
        "evaluations": 1,
        "episodes": 1,
        "environments": {"CartPole-v1": {"timesteps": 64}},
        "contenders": {"toy": {"algo": "toy", "seeds": 1}},
    }
    (toy / "tiny.yml").write_text(yaml.safe_dump(suite))
    run_code(f"{ENTRY}from sb3_ext.zoo.benchmark import main\nmain(['tiny.yml', '--out', 'out'])", toy)
    config = json.loads((toy / "out" / "CartPole-v1" / "toy" / "seed-0" / "config.json").read_text())
    assert config["run"]["hyperparams"]["reward_bias"] == "lin_0.5"
    assert (toy / "out" / "table.md").is_file()


def test_a_name_belongs_to_one_algorithm(toy):
    code = """
try:
    register_algorithm("irpo", Toy)
except ValueError as error:
    print(error)
"""
    assert run_code(ENTRY + code, toy).stdout.strip() == "--algo irpo is registered already, for IRPO; choose another name."
