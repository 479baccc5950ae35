"""The search for hyperparameters: equal for all contenders, recorded, and the same after an interruption."""

import inspect
import json

import pandas as pd
import pytest
import yaml

PPO = {"n_envs": 8, "n_steps": 32, "batch_size": 64, "n_epochs": 1}
SPACE = {"rollout": [64, 128], "normalize_advantage": [True, False], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
SUITE = {
    "description": "two contenders to tune",
    "evaluations": 2,
    "episodes": 2,
    "actions": ["argmax", "sampled"],
    "environments": {"CartPole-v1": {"timesteps": 256, "threshold": 475}},
    "search": {"seeds": 1, "spaces": {"a": SPACE, "b": SPACE}},
    "settings": "default",
    "contenders": {
        "a": {"algo": "ppo", "seeds": 1, "hyperparams": PPO},
        "b": {"algo": "ppo", "seeds": 1, "hyperparams": {**PPO, "gamma": 0.9}},
    },
}


@pytest.fixture(scope="module")
def benchmark(command):
    def call(out, *arguments, **changes):
        out.mkdir(parents=True, exist_ok=True)
        path = out.parent / "tune.yml"
        path.write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False))
        command.benchmark([str(path), "--out", str(out), *arguments])

    return call


@pytest.fixture(scope="module")
def searched(benchmark, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "out"
    benchmark(out, "--search", "3")
    return out


def trials(out):
    return pd.read_csv(out / "search" / "trials.csv", dtype={"seeds": str}).drop(columns="wall_s")


def test_every_contender_has_the_same_trials_steps_and_seeds(searched):
    rows = trials(searched)
    assert rows.groupby("algo").trial.apply(list).to_dict() == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert set(rows.seeds) == {"1000"} and set(rows.timesteps) == {256} and set(rows.state) == {"complete"}
    a, b = (rows[rows.algo == label].params.tolist() for label in "ab")
    assert a == b and a[0] == "{}" and a[1] != a[2]  # at random: the same for the same space
    for row in rows[rows.trial > 0].itertuples():
        params, hyperparams = json.loads(row.params), json.loads(row.hyperparams)
        assert 1e-4 <= params["learning_rate"] <= 1e-2 and hyperparams["n_steps"] == params["rollout"] // 8
        assert hyperparams["learning_rate"] == params["learning_rate"] and hyperparams["batch_size"] == 64
    assert not (searched / "results.csv").exists()


def test_the_value_is_the_area_of_the_sampled_actions(searched):
    rows = pd.read_csv(searched / "search" / "trial-001" / "CartPole-v1" / "a" / "seed-1000" / "evaluations.csv")
    (first, at), (last, end) = rows[rows.actions == "sampled"][["return", "timesteps"]].to_numpy()
    expected = (at * first + (end - at) * (first + last) / 2) / end
    assert trials(searched).query("algo == 'a' and trial == 1").value.item() == pytest.approx(expected)


def test_an_interrupted_search_goes_on_as_the_unbroken_one(benchmark, searched, tmp_path, monkeypatch):
    from sb3_ext.zoo.benchmark import schedule

    out, execute, executed = tmp_path / "out", schedule.execute, []

    def interrupted(run, folder, threads):
        if len(executed) == 3:  # in the second trial, between the two contenders
            raise KeyboardInterrupt
        executed.append(run)
        execute(run, folder, threads)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(schedule, "execute", interrupted)
        benchmark(out, "--search", "2")
    assert trials(out).trial.tolist() == [0, 0]
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("model.zip")}
    assert len(finished) == 3
    benchmark(out, "--search", "2")
    benchmark(out, "--search", "3")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    pd.testing.assert_frame_equal(trials(out), trials(searched))
    assert (out / "search" / "best.yml").read_text() == (searched / "search" / "best.yml").read_text()


def test_the_suite_runs_with_the_best_settings(benchmark, searched):
    best = yaml.safe_load((searched / "search" / "best.yml").read_text())["CartPole-v1"]
    rows = trials(searched)
    for label in "ab":
        own = rows[rows.algo == label]
        top = json.loads(own.loc[own.value.idxmax()].params)
        assert best[label] == (
            {} if not top else {**{name: top[name] for name in top if name != "rollout"}, "n_steps": top["rollout"] // 8}
        )
    benchmark(searched, "--best", "--algo", "a")
    config = json.loads((searched / "CartPole-v1" / "a" / "seed-0" / "config.json").read_text())
    assert config["run"]["hyperparams"] == {**PPO, "policy": "auto", **best["a"]}
    assert pd.read_csv(searched / "results.csv").seed.unique().tolist() == [0]  # the trials are no results
    assert "--search 3" in (text := (searched / "README.md").read_text()) and "--best" in text


def test_a_failed_trial_is_recorded_and_not_the_best(benchmark, tmp_path, monkeypatch, capsys):
    from sb3_ext.zoo.benchmark import schedule

    execute = schedule.execute

    def broken(run, folder, threads):
        if "trial-001" in str(folder):
            raise RuntimeError("the loss is no number")
        execute(run, folder, threads)

    monkeypatch.setattr(schedule, "execute", broken)
    with pytest.raises(SystemExit):
        benchmark(tmp_path / "out", "--search", "3", "--algo", "a")
    assert "the loss is no number" in capsys.readouterr().err
    assert trials(tmp_path / "out").state.tolist() == ["complete", "failed", "complete"]
    assert "| 3 | 1 |" in (tmp_path / "out" / "search" / "search.md").read_text()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--search", "0"], "--search must be an integer in [1"),
        ({}, ["--search", "2", "--seeds", "2"], "with seeds 1000, and now it is 1000 1001"),
        ({}, ["--search", "2", "--budget", "0.5"], "with timesteps 256, and now it is 128"),
        ({"hyperparams": {"ent_coef": 0.1}}, ["--search", "2"], "with other settings"),
        ({"search": {"spaces": {"a": {"learning_rat": [1]}}}}, ["--search", "2"], "Did you mean 'learning_rate'"),
        ({"search": {"spaces": {"c": {}}}}, ["--search", "2"], "Unknown contender 'c'"),
        ({"contenders": {"a": {"algo": "rl2", "seeds": 1}}, "search": {}}, ["--search", "1"], "no search space for a (rl2)"),
    ],
)
def test_mistakes_are_named_before_work_starts(benchmark, searched, capsys, changes, arguments, message):
    with pytest.raises(SystemExit) as ended:
        benchmark(searched, *arguments, **changes)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_spaces_have_the_algorithms_names_and_the_same_rollouts(command):
    from rl_zoo3.utils import ALGOS

    from sb3_ext.zoo.benchmark.search import SPACES, _distribution

    spaces = yaml.safe_load(SPACES.read_text())
    assert {"ppo", "trpo", "intrinsic_ppo", "irpo"} <= set(spaces)
    for algo, space in spaces.items():
        arguments = inspect.signature(ALGOS[algo].__init__).parameters
        assert set(space) - {"rollout"} <= set(arguments), algo
        assert space["rollout"] == [512, 1024, 2048, 4096, 8192] and all(_distribution(entry) for entry in space.values())
