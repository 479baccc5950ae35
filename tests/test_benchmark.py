"""The benchmark command: runs that continue exactly, rows that are kept once, and tables that say what the rows say."""

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import envs  # noqa: F401

pytest.importorskip("rliable")

IRPO = {
    "n_envs": 20, "batch_size": 400, "n_exploratory_updates": 1, "intrinsic_reward": "random",
    "intrinsic_reward_kwargs": {"n_rewards": 2},
}  # fmt: skip
PPO = {"n_envs": 8, "n_steps": 32, "batch_size": 64, "n_epochs": 1}
SUITE = {
    "description": "two tiny contenders",
    "evaluations": 3,
    "episodes": 4,
    "actions": ["argmax", "sampled"],
    "environments": {"sparse/FourRooms0-v0": {"timesteps": 12_000}},
    "contenders": {
        "small irpo": {"algo": "irpo_paper", "seeds": 1, "hyperparams": IRPO},
        "ppo": {"algo": "ppo", "seeds": 2, "hyperparams": PPO},
    },
}
COLUMNS = ["suite", "env", "algo", "seed", "timesteps", "wall_s", "success", "return", "commit", "actions"]


@pytest.fixture(scope="module")
def command():
    """The command's module. Importing rl_zoo3 replaces Gymnasium's TimeLimit: other tests are given the old one back."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (gymnasium.wrappers, gymnasium.wrappers.common):
            patch.setattr(module, "TimeLimit", module.TimeLimit)
        from sb3_ext.zoo.benchmark import command

        command._extend_rl_zoo3()
        yield command


@pytest.fixture(scope="module")
def benchmark(command):
    def call(suite, out, *arguments):
        out.mkdir(parents=True, exist_ok=True)
        path = out.parent / "tiny.yml"
        path.write_text(yaml.safe_dump(suite))
        command.benchmark([str(path), "--out", str(out), *arguments])

    return call


@pytest.fixture(scope="module")
def finished(benchmark, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    benchmark(SUITE, out)
    return out


def results(out):
    return pd.read_csv(out / "results.csv").drop(columns="wall_s")


def folder(out, label="small irpo", seed=0):
    return out / "sparse-FourRooms0-v0" / label / f"seed-{seed}"


def test_files_and_columns(finished):
    for name in ("config.json", "evaluations.csv", "progress.csv", "checkpoint.zip", "model.zip", "done.json"):
        assert (folder(finished) / name).is_file(), name
    rows = pd.read_csv(finished / "results.csv")
    assert list(rows.columns) == COLUMNS and set(rows.algo) == {"small irpo", "ppo"} and set(rows.suite) == {"tiny"}
    ppo = rows[(rows.algo == "ppo") & (rows.seed == 1) & (rows.actions == "sampled")]
    assert ppo.timesteps.tolist() == [4096, 8192, 12_032]  # the first rollouts (of 256) that begin in a new third, and the end
    assert (rows.groupby(["algo", "seed", "actions"]).wall_s.diff().dropna() > 0).all()
    for name in (
        "sample_efficiency_argmax.png",
        "sample_efficiency_sampled.png",
        "gradient_norms.png",
        "performance_profile.png",
    ):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    text = "".join((finished / name).read_text() for name in ("README.md", "table.md", "table.csv", "results.csv"))
    assert "python -m sb3_ext.benchmark tiny.yml" in text and str(finished.parent) not in text


def test_commits_that_look_like_numbers_are_kept(finished, tmp_path):
    from sb3_ext.zoo.benchmark import schedule

    commits = ["5201e69", "0012345"]
    for seed, commit in enumerate(commits):
        shutil.copytree(folder(finished), folder(tmp_path, seed=seed))
        rows = pd.read_csv(folder(finished) / "evaluations.csv", dtype={"commit": str})
        rows.assign(commit=commit).to_csv(folder(tmp_path, seed=seed) / "evaluations.csv", index=False)
    schedule.collect(tmp_path)
    assert pd.read_csv(tmp_path / "results.csv", dtype=str).commit.unique().tolist() == commits


def test_finished_runs_are_left_alone_and_other_settings_are_an_error(finished, benchmark, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("model.zip")}
    readme = (finished / "README.md").read_text()
    benchmark(SUITE, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("model.zip")} == before
    assert (finished / "README.md").read_text() == readme
    with pytest.raises(SystemExit):
        benchmark(SUITE, finished, "--budget", "0.5")
    assert "timesteps was 12000 and is 6000" in capsys.readouterr().err


def learned(model):
    """Timesteps and everything that learning changes, optimisers aside."""
    names = [name for name in model._get_torch_save_params()[0] if "optimizer" not in name]
    return model.num_timesteps, copy.deepcopy({name: getattr(model, name).state_dict() for name in names})


def killed_at_its_second_checkpoint(benchmark, suite, out, *arguments):
    """Ends as a killed process does, after the rows of its second evaluation were written and before its checkpoint was.

    Returns what had been learned at the first checkpoint.
    """
    from sb3_ext.zoo.benchmark import run

    save, saved = run._save_checkpoint, []

    def killed(model, path, wall_s):
        if path.is_file():
            raise KeyboardInterrupt
        saved.append(learned(model))
        save(model, path, wall_s)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "_save_checkpoint", killed)
        benchmark(suite, out, *arguments)
    return saved[0]


def test_a_killed_run_of_irpo_as_it_is_continues_as_the_unbroken_one(benchmark, tmp_path):
    small = {"n_envs": 4, "n_steps": 32, "batch_size": 64, "n_epochs": 1, "intrinsic_reward": ["rnd", "count"]}
    suite = changed(contenders={"small irpo": {"algo": "irpo", "seeds": 1, "hyperparams": small, "settings": "default"}})
    killed_at_its_second_checkpoint(benchmark, suite, tmp_path / "killed")
    benchmark(suite, tmp_path / "killed")
    benchmark(suite, tmp_path / "unbroken")
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "unbroken"))


def test_a_killed_run_continues_as_the_unbroken_one(finished, benchmark, tmp_path):
    out = tmp_path / "out"
    killed_at_its_second_checkpoint(benchmark, SUITE, out, "--algo", "small irpo")
    assert len(pd.read_csv(folder(out) / "evaluations.csv")) == 4 and not (folder(out) / "done.json").exists()
    benchmark(SUITE, out, "--algo", "small irpo")
    unbroken = results(finished).query("algo == 'small irpo'").reset_index(drop=True)
    pd.testing.assert_frame_equal(results(out), unbroken)
    progress = [
        pd.read_csv(folder(at) / "progress.csv").filter(regex="gradient|total_timesteps|_return").sort_index(axis=1)
        for at in (out, finished)
    ]
    pd.testing.assert_frame_equal(*progress)


HRL = {**PPO, "intrinsic_reward": "random", "intrinsic_reward_kwargs": {"n_rewards": 2}, "option_fraction": 0.5}


@pytest.mark.parametrize("algo", ["hrl", "ppo_drnd"])
def test_a_killed_baseline_goes_on_from_its_checkpoint(benchmark, tmp_path, monkeypatch, algo):
    """The states of their environments are not saved: what follows is no copy of the unbroken run, but as long."""
    from sb3_ext.zoo.benchmark import run

    out, begun, restore = tmp_path / "out", [], run._restore
    contender = {"algo": algo, "seeds": 1, "hyperparams": HRL if algo == "hrl" else PPO}
    suite = changed(contenders={algo: contender}, environments={"sparse/FourRooms0-v0": {"timesteps": 6000}})
    saved = killed_at_its_second_checkpoint(benchmark, suite, out)
    before = pd.read_csv(folder(out, algo) / "evaluations.csv")
    monkeypatch.setattr(run, "_restore", lambda model: begun.append(learned(model)) or restore(model))
    benchmark(suite, out)
    after = pd.read_csv(folder(out, algo) / "evaluations.csv")
    torch.testing.assert_close(begun[0], saved, rtol=0, atol=0)
    assert saved[0] == before.timesteps[0]
    pd.testing.assert_frame_equal(after[:2], before[:2])
    assert (
        after.timesteps[:4].tolist() == before.timesteps.tolist()
        and 6000 <= after.timesteps[5] < 6000 + 256
        and len(after) == 6
    )
    if algo == "hrl":  # one option was trained at the checkpoint, the other then
        assert run.ALGOS[algo].load(folder(out, algo) / "model.zip").n_trained_options == 2


def test_overwrite_runs_anew_what_has_other_settings_and_nothing_else(finished, benchmark, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    files = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in ("model.zip", "done.json", "config.json")
    }
    contenders = {**SUITE["contenders"], "ppo": {"algo": "ppo", "seeds": 2, "hyperparams": {**PPO, "n_epochs": 2}}}
    other = folder(out, "ppo", 1) / "a file of the old run"
    other.touch()
    with pytest.raises(SystemExit):
        benchmark(changed(contenders=contenders), out, "--seeds", "1")
    assert "hyperparams.n_epochs was 1 and is 2" in capsys.readouterr().err
    benchmark(changed(contenders=contenders), out, "--seeds", "1", "--overwrite")
    anew = {path for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert anew == {path for path in files if path.parent == folder(out, "ppo", 0)} and other.is_file()
    assert json.loads((folder(out, "ppo", 0) / "config.json").read_text())["run"]["hyperparams"]["n_epochs"] == 2
    rows, before = results(out), results(finished)
    same = "not (algo == 'ppo' and seed == 0)"
    pd.testing.assert_frame_equal(rows.query(same).reset_index(drop=True), before.query(same).reset_index(drop=True))
    capsys.readouterr()
    benchmark(changed(contenders=contenders), out, "--seeds", "1", "--overwrite")
    assert "2 runs" in (printed := capsys.readouterr().out) and "2 of them finished before" in printed


def test_a_failed_run_is_reported_and_the_others_go_on(benchmark, tmp_path, monkeypatch, capsys):
    from sb3_ext.zoo.benchmark import schedule

    def broken(run, out, threads):
        if run.label == "ppo" and run.seed == 0:
            raise RuntimeError("the floor is lava")
        execute(run, out, threads)

    execute = schedule.execute
    monkeypatch.setattr(schedule, "execute", broken)
    with pytest.raises(SystemExit) as ended:
        benchmark(SUITE, tmp_path / "out", "--algo", "ppo", "--budget", "0.1")
    assert ended.value.code == 1 and "the floor is lava" in capsys.readouterr().err
    assert "the floor is lava" in (folder(tmp_path / "out", "ppo", 0) / "error.txt").read_text()
    assert set(results(tmp_path / "out").seed) == {1}


def test_plot_remakes_everything_from_the_csv_files_alone(finished, command, tmp_path):
    for name in ("results.csv", "gradient_norms.csv", "scoring.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    command.plot_again([str(tmp_path), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "table.csv").read_text() == (finished / "table.csv").read_text()
    assert len(list((tmp_path / "again").glob("*.png"))) == 5


def rows_of(final_success, steps=(100, 200)):
    """Two evaluations of each seed: half of its success, then all of it; seed s a little later than s - 1."""
    return pd.DataFrame(
        {"env": "e", "algo": "a", "actions": "argmax", "seed": seed, "timesteps": at + seed, "wall_s": 1.0, "return": 0.0,
         "success": success * share}
        for seed, success in enumerate(final_success)
        for at, share in zip(steps, (0.5, 1.0), strict=True)
    )  # fmt: skip


def test_table_has_rliables_interquartile_mean(command):
    from rliable.metrics import aggregate_iqm

    from sb3_ext.zoo.benchmark.table import all_curves, summarize

    success = [0.0, 0.2, 0.9, 1.0, 1.0, 0.7, 0.6, 0.1]
    rows = rows_of(success)
    row = summarize(rows, all_curves(rows)).iloc[0]
    # sorted: 0 .1 | .2 .6 .7 .9 | 1 1
    assert row.success == pytest.approx((0.2 + 0.6 + 0.7 + 0.9) / 4) == aggregate_iqm(np.array(success)[:, None])
    assert row.success_low < row.success < row.success_high and row.seeds == 8 and row.solved == 3


def test_curves_hold_each_seeds_last_result(command):
    from sb3_ext.zoo.benchmark.table import all_curves, markdown, summarize

    rows = rows_of([1.0, 1.0])
    curve = all_curves(rows)["e", "a", "argmax"]
    assert curve.timesteps.tolist() == [101, 200, 201] and curve.success.tolist() == [0.5, 0.75, 1.0]
    alone = rows_of([1.0])
    table = summarize(alone, all_curves(alone))
    assert np.isnan(table.success_low[0]) and table.held_at[0] == 200
    assert "| 1.000 |" in markdown(table) and "| 1 of 1 |" in markdown(table)


def test_a_task_that_knows_no_success_has_none_in_tables_and_plots(command, tmp_path):
    rows = rows_of([1.0, 1.0]).assign(success=np.nan)
    rows["return"] = [1.0, 2.0, 3.0, 4.0]
    rows.to_csv(tmp_path / "results.csv", index=False)
    command.plot_again([str(tmp_path)])
    header, _, row = (tmp_path / "table.md").read_text().splitlines()[:3]
    assert "success" not in header and "return" in header and "| 3.000 [2.000, 4.000] |" in row
    assert np.isnan(pd.read_csv(tmp_path / "table.csv").success[0])
    assert (tmp_path / "sample_efficiency_argmax.png").is_file()


def test_return_is_discounted_and_success_is_the_environments(command):
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from sb3_ext.zoo.benchmark.run import evaluate

    class Corridor(gymnasium.Env):
        """Pays 1 at the third step; only even episodes are a success."""

        observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(2)
        episode, tells = -1, True

        def reset(self, *, seed=None, options=None):
            self.t, self.episode = 0, self.episode + 1
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.t += 1
            info = {"is_success": self.episode % 2 == 0} if self.tells else {}
            return np.full(1, self.t, np.float32), float(self.t == 3), self.t == 3, False, info

    class Model:
        gamma, device = 0.5, __import__("torch").device("cpu")

        def predict(self, observations, **_):
            return np.zeros(len(observations), int), None

    assert evaluate(Model(), DummyVecEnv([Corridor]), episodes=4, deterministic=True) == (0.5, 0.25)
    assert evaluate(Model(), DummyVecEnv([Corridor]), episodes=4, deterministic=True, discounted=False) == (0.5, 1.0)
    Corridor.tells = False
    assert evaluate(Model(), DummyVecEnv([Corridor]), episodes=4, deterministic=True) == (None, 0.25)
    # Of a game, its score and not what a wrapper around it pays: Monitor stands beneath, as rl_zoo3 has it.
    worth_ten = [lambda: gymnasium.wrappers.TransformReward(Monitor(Corridor()), lambda reward: 10 * reward)]
    assert evaluate(Model(), DummyVecEnv(worth_ten), episodes=4, deterministic=True) == (None, 2.5)
    assert evaluate(Model(), DummyVecEnv(worth_ten), episodes=4, deterministic=True, discounted=False) == (None, 1.0)


def test_suites_are_valid_and_known(command):
    from sb3_ext.zoo.benchmark import speed, suites

    assert {"irpo-grid", "irpo-mujoco", "irpo-ablation", "lirpg-delayed", "speed"} <= set(suites.suite_names())
    for name in suites.suite_names():
        suite = suites.load_suite(name)  # checks environments, labels and numbers
        if "speed" in suite:
            assert speed.plan(suite, 1.0, (), ())
    ablation = suites.plan(suites.load_suite("irpo-ablation"))
    sizes = {"sparse/Maze1-v0": 8192, "sparse/FourRooms0-v0": 4096}  # those of irpo_paper.yml
    assert len(ablation) == (23 + 8) * 3 and all(run.hyperparams["batch_size"] == sizes[run.env] for run in ablation)
    vector = {name for name, spec in gymnasium.registry.items() if spec.vector_entry_point and name.startswith("sparse/")}
    ladder = {name for name in vector if "Ladder" in name}  # other maps of environments that are measured
    assert vector - ladder <= set(suites.load_suite("speed")["speed"]["environments"])


def test_suites_evaluate_sampled_and_argmax_actions(command):
    """But for lifetimes, whose agents always sample."""
    from sb3_ext.zoo.benchmark import suites

    for name in suites.suite_names():
        suite = suites.load_suite(name)
        for env, settings in suite.get("environments", {}).items():
            actions = settings.get("actions", suite.get("actions", suites.ACTIONS))
            assert env.startswith("lifetime/") or set(actions) == set(suites.ACTIONS), f"{name}: {env}"


def changed(**changes):
    return {**SUITE, **changes}


@pytest.mark.parametrize(
    ("suite", "arguments", "message"),
    [
        (SUITE, ["--env", "sparse/FourRoom-v0"], "Closest: sparse/FourRooms0-v0"),
        (SUITE, ["--algo", "smal irpo"], "Closest: small irpo"),
        (SUITE, ["--budget", "0"], "--budget must be a number in (0"),
        (SUITE, ["--seeds", "0"], "--seeds must be an integer in [1"),
        (SUITE, ["--jobs", "0"], "--jobs must be at least 1"),
        (changed(undiscounted="no"), [], "undiscounted must be true or false, got 'no'"),
        (changed(episode=3), [], "Unknown key 'episode'. Closest: episodes"),
        (changed(environments={"sparse/FourRooms9-v0": {"timesteps": 1}}), [], "sparse/FourRooms"),
        (changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "contenders": {"pppo": {}}}}), [], "Closest: ppo"),
        (
            changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "evaluate_in": {"b": {"sise": 5}}}}),
            [],
            "sparse/Maze1-v0: evaluate_in: b: ",
        ),
        (changed(environments={"no_module_of_mine:A-v0": {"timesteps": 1}}), [], "No module named 'no_module_of_mine'"),
        (changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "score_range": [1, 0]}}), [], "the lower one first"),
        (changed(contenders={"a": {"algo": "irpo", "seeds": 1, "settings": "tune"}}), [], "must be one of 'tuned', 'default'"),
        (changed(contenders={"a": {"algo": "irpoo", "seeds": 1}}), [], "Unknown algorithm 'irpoo'. Closest: irpo"),
        (changed(contenders={"a": {"algo": "irpo", "seeds": 1, "hyperparams": {"tau": 1}}}), [], "'tau' for sparse/FourRooms"),
    ],
)
def test_mistakes_are_named_before_work_starts(benchmark, tmp_path, capsys, suite, arguments, message):
    with pytest.raises(SystemExit) as ended:
        benchmark(suite, tmp_path / "out", *arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def runs_of(suite, tmp_path):
    from sb3_ext.zoo.benchmark.suites import load_suite, plan

    (tmp_path / "suite.yml").write_text(yaml.safe_dump(suite, sort_keys=False))
    return plan(load_suite(str(tmp_path / "suite.yml")))


def test_default_settings_are_the_constructors_and_what_the_suite_gives(command, tmp_path):
    contenders = {
        "tuned": {"algo": "ppo", "seeds": 1},
        "default": {"algo": "ppo", "seeds": 1, "hyperparams": "default"},
        "small": {"algo": "ppo", "seeds": 1, "settings": "default", "hyperparams": {"n_steps": 256}},
    }
    suite = changed(
        contenders=contenders, environments={"sparse/FourRooms0-v0": {"timesteps": 1, "hyperparams": {"n_envs": 8}}}
    )
    tuned, default, small = runs_of(suite, tmp_path)
    assert tuned.hyperparams["n_steps"] == 128 and tuned.hyperparams["n_envs"] == 8
    assert default.hyperparams == {"n_envs": 8, "policy": "auto"}
    assert small.hyperparams == {"n_envs": 8, "policy": "auto", "n_steps": 256}


def test_the_model_of_a_default_contender_has_the_defaults_of_its_class(benchmark, tmp_path):
    from stable_baselines3 import PPO as StablePPO

    suite = changed(
        settings="default",
        contenders={"ppo": {"algo": "ppo", "seeds": 1, "hyperparams": {"n_envs": 2}}},
        environments={"CartPole-v1": {"timesteps": 1, "episodes": 1, "threshold": 475}},
    )
    benchmark(suite, tmp_path / "out")
    model = StablePPO.load(tmp_path / "out" / "CartPole-v1" / "ppo" / "seed-0" / "model.zip")
    default = StablePPO("MlpPolicy", "CartPole-v1")
    for name in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "learning_rate", "policy_kwargs"):
        assert getattr(model, name) == getattr(default, name), name
    assert model.n_envs == 2 and model.seed == 0


CORRIDOR = """
import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 99, (1,)), gym.spaces.Discrete(2)

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.full(1, self.at, np.float32), {}

    def step(self, action):
        self.at = max(0, self.at + 2 * int(action) - 1)
        return np.full(1, self.at, np.float32), -1.0, self.at == self.length, False, {}


gym.register("Corridor-v0", Corridor)
"""


def test_an_environment_of_ones_own_is_cut_and_named_in_the_suite(benchmark, tmp_path, monkeypatch):
    (tmp_path / "my_corridors.py").write_text(CORRIDOR)
    monkeypatch.syspath_prepend(tmp_path)
    endless = {"id": "my_corridors:Corridor-v0", "env_kwargs": {"length": 10**6}, "max_episode_steps": 7, "timesteps": 64}
    suite = changed(
        environments={"long corridor": {**endless, "threshold": -3}},
        contenders={"ppo": {"algo": "ppo", "seeds": 1, "settings": "default", "hyperparams": PPO}},
    )
    benchmark(suite, tmp_path / "out")
    rows = results(tmp_path / "out")
    # Undiscounted, for it has a threshold; without the limit the evaluation would never end.
    assert set(rows.env) == {"long corridor"} and set(rows["return"]) == {-7.0} and rows.success.isna().all()


def test_an_environment_without_tuned_settings_is_an_error_that_names_the_defaults(command, tmp_path):
    suite = changed(environments={"CliffWalking-v1": {"timesteps": 1}}, contenders={"a": {"algo": "rl2", "seeds": 1}})
    with pytest.raises(ValueError, match=r"Hyperparameters not found for rl2-CliffWalking-v1 .* `settings: default`"):
        runs_of(suite, tmp_path)


def test_unknown_suite(command, capsys):
    with pytest.raises(SystemExit):
        command.benchmark(["irpo-grids"])
    assert "Closest: irpo-grid" in capsys.readouterr().err


@pytest.mark.slow  # those below that interrupt it type it as well
def test_runs_in_processes_of_their_own(tmp_path):
    """From the command line, as it is typed."""
    suite = changed(episodes=2, environments={"sparse/FourRooms0-v0": {"timesteps": 300}})
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(suite))
    commands.run("benchmark", "tiny.yml", "--jobs", "2", "--algo", "ppo", "--out", "out", cwd=tmp_path)
    assert set(results(tmp_path / "out").seed) == {0, 1}
    assert json.loads((folder(tmp_path / "out", "ppo", 1) / "config.json").read_text())["run"]["timesteps"] == 300


def typed(tmp_path, suite):
    """The command as it is typed, with two jobs, as the leader of a process group of its own."""
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-m", "sb3_ext.benchmark", "tiny.yml", "--jobs", "2", "--out", "out"]
    with open(tmp_path / "stderr", "w") as stderr:
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=tmp_path, env=one_thread, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # "pytest &" in a script ignores it
        )  # fmt: skip


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(group):
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append(stat.parent.name)
    return found


def table(out):
    return pd.read_csv(out / "table.csv").drop(columns="wall_s")


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@on_linux
def test_ctrl_c_ends_all_processes_and_the_command_goes_on(benchmark, tmp_path):
    environments = {"sparse/FourRooms0-v0": {"timesteps": 4000}, "sparse/FourRooms1-v0": {"timesteps": 16_000}}
    irpo = {"algo": "irpo_paper", "seeds": 1, "hyperparams": IRPO}
    suite, out = changed(contenders={"irpo": irpo}, environments=environments), tmp_path / "out"
    short, long = (out / f"sparse-FourRooms{i}-v0" / "irpo" / "seed-0" for i in range(2))
    process = typed(tmp_path, suite)
    wait_until(lambda: (short / "done.json").is_file() and (long / "checkpoint.zip").is_file())
    process.send_signal(signal.SIGINT)  # to the command alone; a terminal sends it to the others as well
    assert process.wait(120) == 130
    said = (tmp_path / "stderr").read_text()
    assert "the same command goes on" in said and "Traceback" not in said
    wait_until(lambda: not alive(process.pid))
    assert not list(out.rglob("error.txt"))
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("model.zip") if (path.parent / "done.json").is_file()}
    rows = pd.read_csv(out / "results.csv")
    assert short / "model.zip" in finished and len(finished) == 1 and len(rows.groupby(["env", "seed"])) == len(finished)
    assert "2 runs, interrupted" in (out / "README.md").read_text()
    benchmark(suite, out)
    benchmark(suite, tmp_path / "unbroken")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    pd.testing.assert_frame_equal(table(out), table(tmp_path / "unbroken"))
    pd.testing.assert_frame_equal(results(out), results(tmp_path / "unbroken"))


@on_linux
def test_a_killed_command_leaves_no_process_and_normalised_observations_go_on(benchmark, tmp_path):
    normalized = {**IRPO, "normalize": "dict(norm_obs=True, norm_reward=False)"}
    contenders = {"small irpo": {"algo": "irpo_paper", "seeds": 1, "hyperparams": normalized}}
    suite, out = changed(contenders=contenders, environments={"sparse/FourRooms0-v0": {"timesteps": 16_000}}), tmp_path / "out"
    process = typed(tmp_path, suite)
    wait_until((folder(out) / "checkpoint.zip").is_file)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
    assert not (folder(out) / "done.json").exists()
    benchmark(suite, out)
    benchmark(suite, tmp_path / "unbroken")
    pd.testing.assert_frame_equal(results(out), results(tmp_path / "unbroken"))


def test_evaluation_in_other_environments_than_the_one_of_training(benchmark, tmp_path):
    """The arguments of training are those of evaluation, but for what evaluate_in changes."""
    from sb3_ext.zoo.benchmark import run

    mazes = {"timesteps": 300, "evaluate_in": {"unseen": {"maze_seed": None}}}
    ppo = {"algo": "ppo", "seeds": 1, "hyperparams": {**PPO, "env_kwargs": "dict(size=5, maze_seed=list(range(3)))"}}
    suite = changed(environments={"sparse/RandomMaze-v0": mazes}, contenders={"ppo": ppo})

    def mazes_drawn(model, env, episodes, deterministic, discounted):
        env.seed(0)
        return 0.0, len({observation.tobytes() for _ in range(30) for observation in env.reset()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "evaluate", mazes_drawn)
        benchmark(suite, tmp_path / "out")
    drawn = results(tmp_path / "out").groupby("env")["return"].unique()
    assert drawn["sparse/RandomMaze-v0"] == [3] and (drawn["sparse/RandomMaze-v0, unseen"] > 3).all() and len(drawn) == 2


def test_speed_measures_every_form(command, tmp_path, monkeypatch):
    from sb3_ext.zoo.benchmark import speed

    copies = dict.fromkeys(speed.FORMS, 2)
    irpo = dict(batch_size=64, n_exploratory_updates=1, intrinsic_reward="random", intrinsic_reward_kwargs={"n_rewards": 2})
    measurements = [
        speed.Measurement("environment", "sparse/Maze1-v0", "", 0.01, 1, copies),
        speed.Measurement("IRPO", "sparse/Maze1-v0", "tiny", 1, 1, hyperparams=irpo, algo="irpo_paper"),
        *(
            speed.Measurement("learned reward", "CartPole-v1", label, 1, 1, hyperparams={"n_steps": 64}, algo=label.lower())
            for label in ("PPO", "LIRPG")
        ),
    ]
    monkeypatch.setattr(speed, "_in_process", lambda function, one: function(one))
    rows = speed.measure_all(measurements, tmp_path)
    assert rows.variant.tolist() == [*speed.FORMS, "tiny", "PPO", "LIRPG"]
    assert (rows.steps_per_s > 0).all() and (rows.peak_mib.iloc[-3:] > 1).all()
    table = pd.read_csv(tmp_path / "table.csv").set_index("variant").reference_is_faster
    assert table["vectorised"] == table["PPO"] == 1 and np.isnan(table["tiny"]) and table["LIRPG"] > 1
    assert "| environment | sparse/Maze1-v0 | SubprocVecEnv | 2 |" in (tmp_path / "table.md").read_text()


@on_linux
def test_a_killed_measurement_leaves_no_process(tmp_path):
    ppo = {"algo": "ppo", "env": "CartPole-v1", "hyperparams": {}, "iterations": 10**6, "repeats": 1}
    speed = {"repeats": 1, "seconds": 1.0, "iterations": 1, "environments": {}, "algorithms": {"learned reward": {"PPO": ppo}}}
    process = typed(tmp_path, {"description": "endless", "speed": speed})
    wait_until(lambda: len(alive(process.pid)) == 3)  # multiprocessing has one of its own
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
