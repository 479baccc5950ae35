"""The command line: rl_zoo3's arguments and files with our algorithms, environments and hyperparameters."""

from pathlib import Path

import pytest
import yaml
from helpers.commands import run, run_code

import envs
import sb3_ext
from sb3_ext import IRPO

# rl_zoo3 replaces Gymnasium's TimeLimit for the whole process, so nothing here imports it: it runs in processes of its own.
HYPERPARAMS = Path(sb3_ext.__file__).parent / "zoo" / "hyperparams"
GRID_IDS = list(envs.CATALOGUE["grid mazes"].horizons)


def test_train_then_enjoy(tmp_path):
    log = run(
        "train", "--algo", "irpo", "--env", "sparse/Maze1-v0", "--seed", "0", "-n", "20000", "--eval-freq", "10000",
        "-params", "n_epochs:2", "-tb", "tb", "-P", cwd=tmp_path,
    )  # fmt: skip
    assert "exploration/" in log.stdout
    folder = tmp_path / "logs" / "irpo" / "sparse-Maze1-v0_1"
    assert (folder / "sparse-Maze1-v0.zip").is_file()
    assert (folder / "best_model.zip").is_file() and (folder / "0.monitor.csv").is_file()
    assert list((tmp_path / "tb").rglob("events.out*"))
    out = run(
        "enjoy", "--algo", "irpo", "--env", "sparse/Maze1-v0", "-f", "logs", "--no-render", "-n", "500", cwd=tmp_path
    ).stdout
    assert "Success rate" in out and "Mean episode length" in out
    model = IRPO.load(folder / "sparse-Maze1-v0.zip")
    assert 20_000 <= model.num_timesteps < 20_000 + 2_048


def test_the_papers_algorithm_trains_with_its_settings_flat(tmp_path):
    log = run(
        "train", "--algo", "irpo_paper", "--env", "sparse/Maze1-v0", "--seed", "0", "-n", "5000", "--eval-freq", "-1",
        "-params", "batch_size:500", "n_exploratory_updates:1", "n_envs:12",
        "intrinsic_reward_kwargs:dict(gradient_steps=50)", cwd=tmp_path,
    )  # fmt: skip
    assert "irpo_gradient_norm" in log.stdout and "norm_ratio" in log.stdout
    model = IRPO.load(tmp_path / "logs" / "irpo_paper" / "sparse-Maze1-v0_1" / "sparse-Maze1-v0.zip")
    assert (model.paper.batch_size, model.paper.target_kl, model.gamma) == (500, 1e-3, 0.99)


def test_the_papers_yaml_is_the_papers_table():
    """PAPER: environment, K, γ, B, δ, discount of ALLO (arXiv 2601.21391, table of settings)."""
    paper = {
        "FourRooms0": (4, 0.99, 4096, 1e-3, 0.9), "FourRooms1": (4, 0.99, 4096, 1e-3, 0.9),
        "Maze0": (6, 0.99, 8192, 1e-3, 0.9), "Maze1": (6, 0.99, 8192, 1e-3, 0.9),
        "PointMaze0": (4, 0.999, 16384, 1e-3, 0.99), "PointMaze1": (4, 0.999, 16384, 1e-3, 0.99),
        "FetchReach": (4, 0.9, 4096, 1e-3, 0.99), "FetchPush": (4, 0.9995, 8192, 1e-2, 0.99),
    } | {f"AntMaze{i}": (3, 0.9999, 16384, 1e-3, 0.995) for i in range(6)}  # fmt: skip
    entries = yaml.safe_load((HYPERPARAMS / "irpo_paper.yml").read_text())
    assert {f"sparse/{name}-v0" for name in paper} == entries.keys() - {"default"}
    for name, (k, gamma, batch_size, target_kl, discount) in paper.items():
        entry = entries[f"sparse/{name}-v0"]
        rest = {key: value for key, value in entry.items() if key not in ("policy", "n_timesteps", "n_envs")}
        settings = IRPO.paper_settings(f"sparse/{name}-v0")
        assert rest == {key: value for key, value in settings.items() if key != "paper"} | settings["paper"]
        reward = entry["intrinsic_reward_kwargs"]
        found = (reward["n_rewards"], gamma, batch_size, entry["target_kl"], reward["discount"])
        assert found == (k, entry["gamma"], entry["batch_size"], target_kl, discount)
        assert (entry["exploratory_learning_rate"], entry["n_exploratory_updates"], entry["learning_rate"]) == (0.01, 5, 5e-5)
        assert entry["n_envs"] % k == 0


WITHOUT_GRIDS = {"irpo_paper", "meta_reward", "meta_gradient_reward", "rl2", "maml_trpo", "ppo_live", "a2c_live"}


@pytest.mark.parametrize("algo", sorted({path.stem for path in HYPERPARAMS.glob("*.yml")} - WITHOUT_GRIDS))
def test_every_grid_of_the_paper_has_hyperparameters(algo):
    entries = yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text())
    assert set(GRID_IDS) <= set(entries)


RESOLVED = """
import yaml
from sb3_ext.zoo.benchmark.suites import resolve_hyperparams
from sb3_ext.zoo.algorithms import HYPERPARAMS

for algo in ("lirpg", "lirpg_a2c", "ppo_live", "a2c_live"):
    for env in yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text()):
        if env != "default":
            resolve_hyperparams(algo, env, {}, 1000)
            print(algo, env)
"""


def test_settings_for_learned_rewards_and_their_baselines_are_arguments_of_the_algorithms(tmp_path):
    found = run_code(RESOLVED, tmp_path).stdout.splitlines()
    assert {"lirpg delayed/Hopper-v5", "lirpg_a2c CartPole-v1", "ppo_live delayed/Ant-v5"} <= set(found)


EVERY_ID = """
import yaml
from envs.catalogue import CATALOGUE
from sb3_ext.zoo.algorithms import HYPERPARAMS, find_algorithm
from sb3_ext.zoo.benchmark.suites import resolve_hyperparams
from sb3_ext.zoo.lifetime_families import lifetime_ids

yaml.safe_load = lambda stream: yaml.load(stream, yaml.CSafeLoader)  # the files are read again for each
tasks = [name for family in CATALOGUE.values() for name in family.horizons] + ["MountainCar-v0", "ALE/Pong-v5"]
lifetimes = lifetime_ids()
assert len(tasks) > 100 and len(lifetimes) > 50
for algo in (path.stem for path in HYPERPARAMS.glob("*.yml")):
    known, others = (lifetimes, tasks) if find_algorithm(algo).learns_from_families else (tasks, lifetimes)
    for env in known:
        found = resolve_hyperparams(algo, env, {}, 1000)
        assert found["policy"] and found.get("n_envs", 1) >= 1, (algo, env, found)
    for env in others[:3]:
        try:
            resolve_hyperparams(algo, env, {}, 1000)
        except ValueError as error:
            assert "Hyperparameters not found" in str(error) and algo in str(error), error
        else:
            raise AssertionError((algo, env))
    print(algo)
"""


def test_every_algorithm_has_hyperparameters_for_every_id(tmp_path):
    assert set(run_code(EVERY_ID, tmp_path).stdout.split()) == {path.stem for path in HYPERPARAMS.glob("*.yml")}


POLICIES = """
import numpy as np
from gymnasium import spaces
from sb3_ext.zoo.manager import policy_for

image, small = (spaces.Box(0, 255, (side, side, 3), np.uint8) for side in (64, 7))
for space in (spaces.Box(-1, 1, (3,)), spaces.Discrete(4), small, image, spaces.Dict(a=image)):
    print(policy_for(space))
"""


def test_the_policy_of_a_default_entry_follows_the_observations(tmp_path):
    chosen = run_code(POLICIES, tmp_path).stdout.split()
    assert chosen == ["MlpPolicy", "MlpPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"]


@pytest.mark.parametrize(("algo", "env"), [("intrinsic_ppo", "FrozenLake-v1"), ("ppo_live", "Acrobot-v1")])
def test_default_entries_train(algo, env, tmp_path):
    log = run("train", "--algo", algo, "--env", env, "-n", "100", "--eval-freq", "-1", cwd=tmp_path)
    assert "('n_envs', 8)" in log.stdout and "Using 'default' hyperparameters" in log.stdout


WITHOUT_ALE = """
import sys

sys.modules["ale_py"] = None
from sb3_ext.zoo.benchmark.suites import load_suite, plan
from sb3_ext.zoo.cli import enjoy, train

suite = load_suite("lirpg-atari")  # which --list reads
sys.argv = ["train", "--algo", "lirpg_a2c", "--env", "BreakoutNoFrameskip-v4"]
for command in (train, enjoy, lambda: plan(suite)):
    try:
        command()
    except ImportError as error:
        print(error)
"""


def test_without_ale_py_a_game_names_the_extra(tmp_path):
    done = run_code(WITHOUT_ALE, tmp_path)
    message = 'BreakoutNoFrameskip-v4 is an Atari game, and ale-py is not installed: pip install "irwrappers[atari]"'
    assert done.stdout.splitlines() == 3 * [message]


def test_a_game_trains(tmp_path):
    env = "BreakoutNoFrameskip-v4"
    budget = ["-n", "40", "--eval-freq", "-1", "-params", "n_envs:4"]
    log = run("train", "--algo", "lirpg_a2c", "--env", env, *budget, cwd=tmp_path)
    assert "Stacking 4 frames" in log.stdout
    assert (tmp_path / "logs" / "lirpg_a2c" / f"{env}_1" / f"{env}.zip").is_file()


def test_our_hyperparameters_serve_our_environments_and_rl_zoo3s_the_others(tmp_path):
    script = "from sb3_ext.zoo.manager import *; print([hyperparams_file(a, e) for a in ('irpo', 'ppo') for e in %r])"
    ids = ["sparse/Maze1-v0", "CartPole-v1", "ALE/Pong-v5", "Taxi-v3"]
    out = run_code(script % ids, tmp_path)
    irpo, ppo = str(HYPERPARAMS / "irpo.yml"), str(HYPERPARAMS / "ppo.yml")
    assert out.stdout.strip() == str([irpo] * 4 + [ppo, None, None, ppo])


def test_a_yaml_key_that_no_argument_takes_is_named_before_anything_is_made(tmp_path):
    failed = run(
        "train", "--algo", "irpo", "--env", "sparse/Maze1-v0", "-n", "1000", "-params", "exploratory_lr:0.1",
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    assert "'exploratory_lr' for sparse/Maze1-v0 is no argument of IRPO" in failed.stderr
    assert not (tmp_path / "logs").exists()


def test_ppo_trains_on_the_vectorised_form_with_our_settings(tmp_path):
    log = run("train", "--algo", "ppo", "--env", "sparse/Maze1-v0", "-n", "8192", "--eval-freq", "-1", cwd=tmp_path).stdout
    assert "('n_envs', 64)" in log


NATIVE = """
import gymnasium as gym, envs
from stable_baselines3.common.monitor import Monitor
from sb3_ext.common.vec_env import GymnasiumVecEnv
from sb3_ext.zoo import train
from sb3_ext.zoo.environments import import_envs, native_vec_env

import_envs()
maze = lambda **kwargs: gym.make("sparse/Maze1-v0", **kwargs)
is_native = lambda make: isinstance(native_vec_env([lambda: Monitor(make())] * 2).unwrapped, GymnasiumVecEnv)
native = native_vec_env([lambda: Monitor(maze(layout=["#####", "#S G#", "#####"]))] * 3)
assert isinstance(native.unwrapped, GymnasiumVecEnv) and native.observation_space.high.tolist() == [4, 2, 4, 2]
short = native_vec_env([lambda: Monitor(maze(max_episode_steps=3))] * 2)
short.reset()
assert [short.step([0, 0])[2].tolist() for _ in range(3)] == [[False] * 2, [False] * 2, [True] * 2]
assert not is_native(lambda: maze(max_episode_steps=-1))
assert is_native(maze)
assert not is_native(lambda: gym.wrappers.RescaleObservation(maze(), -1, 1))
assert not is_native(lambda: gym.make("CartPole-v1"))
"""


def test_native_form_keeps_arguments_and_leaves_wrapped_environments_alone(tmp_path):
    run_code(NATIVE, tmp_path)


def test_another_envs_folder_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    failed = run("train", "--algo", "irpo", "--env", "sparse/Maze1-v0", cwd=tmp_path, check=False)
    assert failed.returncode != 0 and "stands in front of the `envs` package" in failed.stderr


def test_enjoy_and_train_know_rl_zoo3s_flags(tmp_path):
    assert "--trained-agent" in run("train", "--help", cwd=tmp_path).stdout
    assert "--load-best" in run("enjoy", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize("algo", ["meta_reward", "meta_gradient_reward", "rl2", "maml_trpo"])
def test_meta_learners_are_trained_from_the_command_line(tmp_path, algo):
    settings = "n_steps=20, n_batches=2"
    if algo.startswith("meta_"):
        settings = f"lifetimes_per_task=2, settings=dict({settings}, n_epochs=1, n_minibatches=2)"
    params = ["n_envs:4", f"env_kwargs:dict({settings}, env_kwargs=dict(max_episode_steps=10))"]
    params += {"rl2": ["n_steps:20", "batch_size:40"], "maml_trpo": []}.get(algo, ["n_epochs:1"])
    arguments = ["train", "--algo", algo, "--env", "lifetime/PointGoal-v0", "-n", "320", "--eval-freq", "160"]
    run(*arguments, "--eval-episodes", "1", "-params", *params, cwd=tmp_path)
    folder = tmp_path / "logs" / algo / "lifetime-PointGoal-v0_1"
    assert (folder / "lifetime-PointGoal-v0.safetensors").is_file() == algo.endswith("_reward")
    assert (folder / "lifetime-PointGoal-v0.zip").is_file() and (folder / "evaluations.npz").is_file()
    if algo in ("meta_reward", "rl2"):
        enjoyed = run("enjoy", *arguments[1:5], "-f", "logs", "-n", "80", cwd=tmp_path)  # nothing to draw, and no complaint
        assert "Mean episode length: 40.00" in enjoyed.stdout


def test_a_lifetime_is_a_gymnasium_environment(tmp_path):
    script = """
import gymnasium as gym
from stable_baselines3.common.env_checker import check_env
from sb3_ext.zoo.environments import import_envs
import_envs()
settings = dict(n_steps=20, n_batches=2, n_epochs=1, n_minibatches=2, net_arch=(4,))
env = gym.make("lifetime/PointGoal-v0", settings=settings, env_kwargs=dict(max_episode_steps=10))
check_env(env.unwrapped)
env.reset(seed=0)
for step in range(40):
    *_, terminated, truncated, info = env.step([0.0])
assert terminated and not truncated and len(info["lifetime"]["success"]) == 2, info
gym.make("lifetime/ML1-reach-v3", settings=settings).close()
"""
    run_code(script, tmp_path)
