"""Runs of a benchmark: their files and rows, what is run again, and how a model is evaluated."""

import json
import shutil

import gymnasium
import numpy as np
import pandas as pd
import pytest
from helpers.benchmark_runs import PPO, SUITE, changed, folder, results

COLUMNS = ["suite", "env", "algo", "seed", "timesteps", "wall_s", "success", "return", "commit", "actions"]


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


def test_return_is_discounted_and_success_is_the_environments(command):
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from sb3_ext.zoo.benchmark.run import evaluate

    class Corridor(gymnasium.Env):
        """Gives a reward of 1 at the third step; only even episodes are a success."""

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
    # The score of a game, not the rewards of a wrapper around it: rl_zoo3 puts Monitor beneath the wrapper.
    worth_ten = [lambda: gymnasium.wrappers.TransformReward(Monitor(Corridor()), lambda reward: 10 * reward)]
    assert evaluate(Model(), DummyVecEnv(worth_ten), episodes=4, deterministic=True) == (None, 2.5)
    assert evaluate(Model(), DummyVecEnv(worth_ten), episodes=4, deterministic=True, discounted=False) == (None, 1.0)


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


def test_evaluation_in_other_environments_than_the_one_of_training(benchmark, tmp_path):
    """The arguments of training are those of evaluation, but for what evaluate_in changes."""
    from sb3_ext.zoo.benchmark import run

    mazes = {"timesteps": 300, "evaluate_in": {"unseen": {"maze_seed": None}}}
    ppo = {"algo": "ppo", "seeds": 1, "hyperparams": {**PPO, "env_kwargs": "dict(size=5, maze_seed=list(range(3)))"}}
    suite = changed(environments={"sparse/RandomMaze-v0": mazes}, contenders={"ppo": ppo})

    def count_mazes(model, env, episodes, deterministic, discounted):
        env.seed(0)
        return 0.0, len({observation.tobytes() for _ in range(30) for observation in env.reset()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "evaluate", count_mazes)
        benchmark(suite, tmp_path / "out")
    n_mazes = results(tmp_path / "out").groupby("env")["return"].unique()
    assert n_mazes["sparse/RandomMaze-v0"] == [3] and (n_mazes["sparse/RandomMaze-v0, unseen"] > 3).all() and len(n_mazes) == 2
