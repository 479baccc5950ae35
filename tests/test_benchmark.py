"""The benchmark command: runs that continue exactly, rows that are kept once, and tables that say what the rows say."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pandas as pd
import pytest
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
    "environments": {"sparse/FourRooms-v0": {"timesteps": 12_000}},
    "contenders": {
        "small irpo": {"algo": "irpo", "seeds": 1, "hyperparams": IRPO},
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
    return out / "sparse-FourRooms-v0" / label / f"seed-{seed}"


def test_files_and_columns(finished):
    for name in ("config.json", "evaluations.csv", "progress.csv", "checkpoint.zip", "model.zip", "done.json"):
        assert (folder(finished) / name).is_file(), name
    rows = pd.read_csv(finished / "results.csv")
    assert list(rows.columns) == COLUMNS and set(rows.algo) == {"small irpo", "ppo"} and set(rows.suite) == {"tiny"}
    ppo = rows[(rows.algo == "ppo") & (rows.seed == 1) & (rows.actions == "sampled")]
    assert ppo.timesteps.tolist() == [4096, 8192, 12_032]  # the first rollouts (of 256) that begin in a new third, and the end
    assert (rows.groupby(["algo", "seed", "actions"]).wall_s.diff().dropna() > 0).all()
    for name in ("sample_efficiency_argmax.png", "sample_efficiency_sampled.png", "gradient_norms.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    text = "".join((finished / name).read_text() for name in ("README.md", "table.md", "table.csv", "results.csv"))
    assert "python -m sb3_ext.benchmark tiny.yml" in text and str(finished.parent) not in text


def test_finished_runs_are_left_alone_and_other_settings_are_an_error(finished, benchmark, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("model.zip")}
    readme = (finished / "README.md").read_text()
    benchmark(SUITE, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("model.zip")} == before
    assert (finished / "README.md").read_text() == readme
    with pytest.raises(SystemExit):
        benchmark(SUITE, finished, "--budget", "0.5")
    assert "timesteps was 12000 and is 6000" in capsys.readouterr().err


def test_a_killed_run_continues_as_the_unbroken_one(finished, benchmark, command, tmp_path, monkeypatch):
    """Killed after the second evaluation's rows were written and before its checkpoint was."""
    from sb3_ext.zoo.benchmark import run

    save = run._save_checkpoint

    def killed(model, path, wall_s):
        if path.is_file():
            raise KeyboardInterrupt
        save(model, path, wall_s)

    monkeypatch.setattr(run, "_save_checkpoint", killed)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        benchmark(SUITE, out, "--algo", "small irpo")
    assert len(pd.read_csv(folder(out) / "evaluations.csv")) == 4 and not (folder(out) / "done.json").exists()
    monkeypatch.undo()
    benchmark(SUITE, out, "--algo", "small irpo")
    unbroken = results(finished).query("algo == 'small irpo'").reset_index(drop=True)
    pd.testing.assert_frame_equal(results(out), unbroken)
    progress = [
        pd.read_csv(folder(at) / "progress.csv").filter(regex="gradient|total_timesteps|_return").sort_index(axis=1)
        for at in (out, finished)
    ]
    pd.testing.assert_frame_equal(*progress)


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
    for name in ("results.csv", "gradient_norms.csv"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    command.plot_again([str(tmp_path), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "table.csv").read_text() == (finished / "table.csv").read_text()
    assert len(list((tmp_path / "again").glob("*.png"))) == 3


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
    assert row.success_low < row.success < row.success_high and row.seeds == 8 and np.isnan(row.solved_at)


def test_curves_hold_each_seeds_last_result(command):
    from sb3_ext.zoo.benchmark.table import all_curves, markdown, summarize

    rows = rows_of([1.0, 1.0])
    curve = all_curves(rows)["e", "a", "argmax"]
    assert curve.timesteps.tolist() == [101, 200, 201] and curve.success.tolist() == [0.5, 0.75, 1.0]
    alone = rows_of([1.0])
    table = summarize(alone, all_curves(alone))
    assert np.isnan(table.success_low[0]) and table.solved_at[0] == 200
    assert "| 1.000 |" in markdown(table)


def test_return_is_discounted_and_success_is_the_environments(command):
    from stable_baselines3.common.vec_env import DummyVecEnv

    from sb3_ext.zoo.benchmark.run import evaluate

    class Corridor(gymnasium.Env):
        """Pays 1 at the third step; only even episodes are a success."""

        observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(2)
        episode = -1

        def reset(self, *, seed=None, options=None):
            self.t, self.episode = 0, self.episode + 1
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.t += 1
            info = {"is_success": self.episode % 2 == 0}
            return np.full(1, self.t, np.float32), float(self.t == 3), self.t == 3, False, info

    class Model:
        gamma, device = 0.5, __import__("torch").device("cpu")

        def predict(self, observations, **_):
            return np.zeros(len(observations), int), None

    assert evaluate(Model(), DummyVecEnv([Corridor]), episodes=4, deterministic=True) == (0.5, 0.25)


def test_suites_are_valid_and_known(command):
    from sb3_ext.zoo.benchmark import speed, suites

    assert {"irpo-grid", "irpo-mujoco", "irpo-ablation", "speed"} <= set(suites.suite_names())
    for name in suites.suite_names():
        suite = suites.load_suite(name)  # checks environments, labels and numbers
        if "speed" in suite:
            assert speed.plan(suite, 1.0, (), ())
    ablation = suites.plan(suites.load_suite("irpo-ablation"))
    assert len(ablation) == 18 * 3 and all(run.hyperparams["batch_size"] == 4096 for run in ablation)
    vector = {name for name, spec in gymnasium.registry.items() if spec.vector_entry_point and name.startswith("sparse/")}
    assert vector <= set(suites.load_suite("speed")["speed"]["environments"])


def changed(**changes):
    return {**SUITE, **changes}


@pytest.mark.parametrize(
    ("suite", "arguments", "message"),
    [
        (SUITE, ["--env", "sparse/FourRoom-v0"], "Closest: sparse/FourRooms-v0"),
        (SUITE, ["--algo", "smal irpo"], "Closest: small irpo"),
        (SUITE, ["--budget", "0"], "--budget must be a number in (0"),
        (SUITE, ["--seeds", "0"], "--seeds must be an integer in [1"),
        (SUITE, ["--jobs", "0"], "--jobs must be at least 1"),
        (changed(episode=3), [], "Unknown key 'episode'. Closest: episodes"),
        (changed(environments={"sparse/FourRooms-v9": {"timesteps": 1}}), [], "sparse/FourRooms-v"),
        (changed(environments={"sparse/Maze-v1": {"timesteps": 1, "contenders": {"pppo": {}}}}), [], "Closest: ppo"),
        (changed(contenders={"a": {"algo": "irpoo", "seeds": 1}}), [], "Unknown algorithm 'irpoo'. Closest: irpo"),
        (changed(contenders={"a": {"algo": "irpo", "seeds": 1, "hyperparams": {"tau": 1}}}), [], "'tau' for sparse/FourRooms"),
    ],
)
def test_mistakes_are_named_before_work_starts(benchmark, tmp_path, capsys, suite, arguments, message):
    with pytest.raises(SystemExit) as ended:
        benchmark(suite, tmp_path / "out", *arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_unknown_suite(command, capsys):
    with pytest.raises(SystemExit):
        command.benchmark(["irpo-grids"])
    assert "Closest: irpo-grid" in capsys.readouterr().err


def test_runs_in_processes_of_their_own(tmp_path):
    """From the command line, as it is typed."""
    suite = changed(episodes=2, environments={"sparse/FourRooms-v0": {"timesteps": 300}})
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-m", "sb3_ext.benchmark", "tiny.yml", "--jobs", "2", "--algo", "ppo", "--out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert set(results(tmp_path / "out").seed) == {0, 1}
    assert json.loads((folder(tmp_path / "out", "ppo", 1) / "config.json").read_text())["run"]["timesteps"] == 300


def test_speed_measures_every_form(command, tmp_path, monkeypatch):
    from sb3_ext.zoo.benchmark import speed

    copies = dict.fromkeys(speed.FORMS, 2)
    irpo = dict(batch_size=64, n_exploratory_updates=1, intrinsic_reward="random", intrinsic_reward_kwargs={"n_rewards": 2})
    measurements = [
        speed.Measurement("environment", "sparse/Maze-v1", "", 0.01, 1, copies),
        speed.Measurement("IRPO", "sparse/Maze-v1", "tiny", 1, 1, hyperparams=irpo),
    ]
    monkeypatch.setattr(speed, "_in_process", lambda function, one: function(one))
    rows = speed.measure_all(measurements, tmp_path)
    assert rows.variant.tolist() == [*speed.FORMS, "tiny"] and (rows.steps_per_s > 0).all() and rows.peak_mib.iloc[-1] > 1
    assert "| environment | sparse/Maze-v1 | SubprocVecEnv | 2 |" in (tmp_path / "table.md").read_text()
