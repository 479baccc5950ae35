"""What a benchmark's table says, against cases worked by hand: tiny results.csv files with a scoring.json beside them."""

import io

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def few_resamples(command, monkeypatch):
    """No test is about an interval's third digit."""
    from sb3_ext.zoo.benchmark import bootstrap

    monkeypatch.setattr(bootstrap, "REPETITIONS", 100)


def csv_of(text):
    """Columns env algo seed timesteps success return, and commit if it differs; the rest is filled in."""
    rows = pd.read_csv(io.StringIO(text.strip()), sep=r"\s+", dtype={"commit": str})
    defaults = {"suite": "tiny", "actions": "sampled", "wall_s": 1.0, "commit": "abc1234"}
    return rows.assign(**{name: value for name, value in defaults.items() if name not in rows})


def report(command, folder, rows, **scoring):
    from sb3_ext.zoo.benchmark.scores import Scoring

    rows.to_csv(folder / "results.csv", index=False)
    if scoring:
        Scoring(**scoring).write(folder)
    command.plot_again([str(folder)])
    table = pd.read_csv(folder / "table.csv", dtype={"commits": str})
    path = folder / "comparison.csv"
    return table, pd.read_csv(path) if path.is_file() else None, (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.9, 1.0], 20),  # at the threshold is enough
        ([0.95, 0.5, 1.0], 30),  # lost once: only the evaluation after that counts
        ([1.0, 1.0, 1.0], 10),
        ([1.0, 1.0, 0.8], np.nan),  # not at the end
        ([0.0, 0.0, 0.0], np.nan),
        ([0.0, np.nan, 1.0], 30),  # an unknown score is not at the threshold
    ],
)
def test_steps_to_a_threshold_that_is_held(scores, expected):
    from sb3_ext.zoo.benchmark.scores import held_at

    assert held_at(np.array([10, 20, 30]), np.array(scores), 0.9) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([10, 20, 40], 20), ([10, 20, np.nan], 20), ([10, np.nan, np.nan], np.nan), ([10, 20, np.nan, np.nan], 20), ([7], 7)],
)
def test_the_median_is_never_where_most_seeds_do_not(steps, expected):
    from sb3_ext.zoo.benchmark.scores import median_step

    assert median_step(np.array(steps, dtype=float)) == pytest.approx(expected, nan_ok=True)


def test_the_area_is_the_mean_score_over_training():
    from sb3_ext.zoo.benchmark.scores import area_under_curve

    # 0.2 up to step 10, then a line to 1.0 at 30 (mean 0.6), then 1.0 up to 40: (10 · 0.2 + 20 · 0.6 + 10 · 1.0) / 40
    assert area_under_curve(np.array([10, 30, 40]), np.array([0.2, 1.0, 1.0])) == pytest.approx(0.6)
    assert area_under_curve(np.array([25]), np.array([-3.0])) == -3


SUCCESSES = """
env  algo seed timesteps success return
maze irpo 0    100       0.0     0.0
maze irpo 0    200       1.0     0.5
maze irpo 1    100       1.0     0.5
maze irpo 1    200       0.9     0.4
maze irpo 2    100       0.0     0.0
maze irpo 2    200       0.8     0.1
maze ppo  0    100       0.0     0.0
maze ppo  0    200       0.0     0.0
maze ppo  1    100       0.0     0.0
maze ppo  1    200       0.95    0.5
maze ppo  2    100       0.0     0.0
maze ppo  2    200       0.0     0.0
"""


def test_the_table_counts_the_seeds_that_solve_a_task_and_says_when(command, tmp_path):
    table, _, text = report(command, tmp_path, csv_of(SUCCESSES))
    irpo, ppo = (table[table.algo == algo].iloc[0] for algo in ("irpo", "ppo"))
    assert (irpo.solved, irpo.seeds, irpo.held_at) == (2, 3, 200) and irpo.threshold == 0.9  # held from 200, 100 and never
    assert irpo.success == pytest.approx(0.9)  # the mean, of three seeds
    # Trapezoids: (0 + (0 + 1) / 2) / 2, (1 + 0.95) / 2, (0 + 0.4) / 2
    assert irpo.area == pytest.approx((0.25 + 0.975 + 0.2) / 3) and irpo.area_low <= irpo.area <= irpo.area_high
    assert ppo.solved == 1 and np.isnan(ppo.held_at)
    lines = {line.split(" | ")[1]: line for line in text.splitlines() if line.startswith("| maze")}
    assert "| 2 of 3 | success 0.9 | 200 |" in lines["irpo"] and "| 1 of 3 | success 0.9 | never |" in lines["ppo"]


RETURNS = """
env  algo seed timesteps success return
cart ppo  0    100       nan     100
cart ppo  0    200       nan     500
cart ppo  1    100       nan     480
cart ppo  1    200       nan     475
cart irpo 0    100       nan     100
cart irpo 0    200       nan     250
cart irpo 1    100       nan     100
cart irpo 1    200       nan     450
"""


def test_a_threshold_of_the_return_where_a_task_knows_no_success(command, tmp_path):
    cart = {"threshold": 475, "score_range": [0, 500]}
    table, comparison, text = report(
        command, tmp_path, csv_of(RETURNS), contenders=["ppo", "irpo"], environments={"cart": cart}
    )
    assert table.algo.tolist() == ["ppo", "irpo"] and table.metric.unique().tolist() == ["return"]
    assert table.solved.tolist() == [2, 0] and table.held_at[0] == 100 and np.isnan(table.held_at[1])
    assert "| 2 of 2 | return 475 | 100 |" in text and "| 0 of 2 | return 475 | never |" in text
    assert comparison.set_index("algo").iqm.to_dict() == pytest.approx({"ppo": (1 + 0.95) / 2, "irpo": (0.5 + 0.9) / 2})


def test_without_a_threshold_a_return_is_neither_solved_nor_normalised(command, tmp_path):
    table, comparison, text = report(command, tmp_path, csv_of(RETURNS))
    assert table.solved.isna().all() and comparison is None and "| 2 seeds | none |  |" in text
    assert not (tmp_path / "performance_profile.png").exists()


def test_plot_takes_thresholds_from_a_suite_where_the_folder_has_none(command, tmp_path, capsys):
    csv_of(RETURNS).replace({"env": {"cart": "CartPole-v1"}}).to_csv(tmp_path / "results.csv", index=False)
    command.plot_again([str(tmp_path), "--suite", "swap"])
    assert pd.read_csv(tmp_path / "table.csv").solved.tolist() == [0, 2]  # irpo comes first in the suite
    with pytest.raises(SystemExit):
        command.plot_again([str(tmp_path), "--suite", "swop"])
    assert "Closest: swap" in capsys.readouterr().err


def test_a_threshold_of_the_return_goes_before_success(command, tmp_path):
    table, *_ = report(command, tmp_path, csv_of(SUCCESSES), contenders=[], environments={"maze": {"threshold": 0.45}})
    assert table.set_index("algo").solved.to_dict() == {"irpo": 1, "ppo": 1}


TWO_TASKS = """
env algo  seed timesteps success return
a   ppo   0    100       0.0     0
a   ppo   1    100       0.6     0
b   ppo   0    100       nan     -200
b   ppo   1    100       nan     -150
a   irpo  0    100       1.0     0
a   irpo  1    100       0.6     0
b   irpo  0    100       nan     -100
b   irpo  1    100       nan     -200
a   trpo  0    100       0.2     0
a   trpo  1    100       0.3     0
a   trpo  2    100       0.4     0
"""


def test_improvement_and_shares_over_environments(command, tmp_path):
    scoring = {"contenders": ["irpo", "ppo", "trpo"], "environments": {"a": {}, "b": {"score_range": [-200, -100]}}}
    _, comparison, text = report(command, tmp_path, csv_of(TWO_TASKS), **scoring)
    irpo, ppo, trpo = (comparison[comparison.algo == algo].iloc[0] for algo in ("irpo", "ppo", "trpo"))
    # irpo over ppo. a: 1 and 0.6 against 0 and 0.6: 3 wins and a tie of 4; b: 1 and 0 against 0 and 0.5: 2 wins and a tie.
    assert ppo.improvement == pytest.approx((3.5 / 4 + 2.5 / 4) / 2) and ppo.shared == 2
    assert trpo.improvement == 1.0 and trpo.shared == 1  # a alone
    assert np.isnan(irpo.improvement) and (comparison.over == "irpo").all()
    assert ppo.improvement_low < ppo.improvement < ppo.improvement_high
    # Shares and IQM are over a, the one environment of all three.
    assert comparison.environments.tolist() == [1, 1, 1] and comparison.seeds.tolist() == [2, 2, 3]
    assert (irpo["above_0.5"], irpo["above_0.9"], ppo["above_0.5"], trpo["above_0.5"]) == (1, 0.5, 0.5, 0)
    assert irpo.iqm == pytest.approx(0.8)
    for name in ("performance_profile.png", "probability_of_improvement.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "P(irpo better)" in text


def test_profiles_are_rliables(command):
    from rliable.library import create_performance_profile

    from sb3_ext.zoo.benchmark.comparison import THRESHOLDS, shares_above

    scores = np.random.default_rng(0).random((6, 3)).round(2)
    profiles, _ = create_performance_profile({"": scores}, THRESHOLDS, reps=10)
    np.testing.assert_allclose(shares_above(scores, THRESHOLDS), profiles[""])


def test_intervals_are_the_same_again_and_leave_the_generator_alone(command):
    from sb3_ext.zoo.benchmark.bootstrap import bootstrap, interquartile_means

    scores = np.random.default_rng(0).random((5, 1, 1))
    np.random.seed(3)
    first = bootstrap(scores, interquartile_means)
    expected = np.random.random()
    np.random.seed(3)
    assert expected == np.random.random()
    assert all(np.array_equal(a, b) for a, b in zip(first, bootstrap(scores, interquartile_means), strict=True))


def committed(**commits):
    """SUCCESSES with the commits of some contenders' seeds changed: algo_seed=commit."""
    rows = csv_of(SUCCESSES)
    for name, commit in commits.items():
        algo, seed = name.split("_")
        rows.loc[(rows.algo == algo) & (rows.seed == int(seed)), "commit"] = commit
    return rows


def test_a_table_of_one_commit_says_nothing_of_commits(command, tmp_path):
    table, _, text = report(command, tmp_path, committed())
    assert "commits**" not in text and "†" not in text and set(table.commits) == {"abc1234"}


def test_contenders_of_different_commits_are_listed(command, tmp_path):
    _, _, text = report(command, tmp_path, committed(ppo_0="0012345", ppo_1="0012345", ppo_2="0012345"))
    assert "**Runs of several commits**" in text and "†" not in text
    assert "- `abc1234`: irpo (maze)" in text and "- `0012345`: ppo (maze)" in text


def test_a_contender_of_mixed_commits_is_marked(command, tmp_path):
    table, _, text = report(command, tmp_path, committed(ppo_1="def5678"))
    assert table.set_index("algo").commits.to_dict() == {"irpo": "abc1234", "ppo": "abc1234 def5678"}
    assert text.count("| ppo † |") == 2 and "irpo †" not in text  # in both tables
    assert "- `def5678`: ppo (maze seed 1)" in text and "† the runs behind this row come from several commits." in text


def test_a_run_that_went_on_with_another_commit_is_marked(command, tmp_path):
    rows = committed()
    rows.loc[(rows.algo == "irpo") & (rows.seed == 2) & (rows.timesteps == 200), "commit"] = "abc1234-dirty"
    _, _, text = report(command, tmp_path, rows)
    assert "| irpo † |" in text and "- `abc1234-dirty`: irpo (maze seed 2)" in text
