"""The untrained success of every task: the exact values again, and that measurements resume, count and bound as they say."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import CATALOGUE, untrained
from envs.untrained import Sampler, UntrainedSuccess, estimate, exact_success, measure, read_table, sample_actions, write_table

TABLE = read_table()
IDS = [env_id for family in CATALOGUE.values() for env_id in family.horizons]
EXACT = [f"sparse/{name}-v0" for name in ("FourRooms0", "FourRooms1", "Maze0", "Maze1", "Maze2", "DeepSea")]
GRID_LADDER = [f"sparse/GridLadder{i}-v0" for i in range(1, 7)]
POINT_LADDER = [f"sparse/PointLadder{i}-v0" for i in range(1, 7)]


# --- the table


def test_every_task_that_reports_success_has_a_row():
    assert list(TABLE) == [env_id for env_id in IDS if not env_id.startswith("delayed/")]
    assert {env_id for env_id, row in TABLE.items() if row.exact} == {*EXACT, *GRID_LADDER}


@pytest.mark.parametrize("env_id", EXACT + GRID_LADDER)
def test_the_exact_success_is_what_the_table_says(env_id):
    row = TABLE[env_id]
    assert row.success == pytest.approx(exact_success(env_id), rel=1e-12)
    assert row.low is row.high is row.episodes is row.successes is row.seed is None


def test_the_measured_rows_are_their_counts():
    for row in TABLE.values():
        if not row.exact:
            assert row == estimate(row.id, row.successes, row.episodes, row.seed, row.date)
            assert 0 <= row.low <= row.success <= row.high <= 1


def test_the_grid_ladder_goes_from_3_percent_to_below_1e_5_in_steps_of_5_to_10():
    success = np.array([TABLE[env_id].success for env_id in GRID_LADDER])
    assert 0.02 < success[0] < 0.05 and success[-1] < 1e-5
    assert ((success[:-1] / success[1:] > 5) & (success[:-1] / success[1:] < 10)).all()


def test_each_step_of_the_point_ladder_is_rarer():
    rows = [TABLE[env_id] for env_id in POINT_LADDER]
    assert 0.02 < rows[0].low and rows[-1].high < 1e-4
    for row, rarer in pairwise(rows[:4]):
        assert rarer.high < row.low
    assert rows[-1].success <= rows[-2].success < rows[-3].success


# --- exact


def test_deep_sea_succeeds_in_one_of_2_to_the_n_episodes():
    assert exact_success("sparse/DeepSea-v0") == 2.0**-10


def test_a_corridor_by_hand():
    # S . G: from S one move in four leads on, from the middle one in four back and one in four to the goal.
    layout = gym.make("sparse/Maze1-v0", layout=["#####", "#S G#", "#####"]).unwrapped.layout
    for horizon, expected in ((1, 0), (2, 1 / 16), (3, 1 / 16 + (3 / 4 + 1 / 2) / 16)):
        success = untrained.success_of_random_actions(layout.next_state, layout.next_state == layout.goal, 0, horizon)
        assert success == pytest.approx(expected, abs=1e-15)


def test_the_exact_value_is_the_sampled_one():
    env_id, successes, n = "sparse/GridLadder1-v0", 0, 10_000
    sampler = Sampler(env_id, seed=1)
    for first in range(0, n, sampler.batch):
        successes += sampler.play(first)
    p = exact_success(env_id)
    assert abs(successes / n - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_other_tasks_are_not_exact():
    assert exact_success("sparse/RandomMaze-v0") is None and exact_success("sparse/PointMaze0-v0") is None


# --- sampled


def test_actions_are_uniform_or_a_clipped_normal():
    rng = np.random.default_rng(0)
    discrete = sample_actions(spaces.Discrete(3, start=2), rng, 9000)
    assert np.abs(np.bincount(discrete, minlength=5)[2:] - 3000).max() < 250 and discrete.min() == 2
    box = sample_actions(spaces.Box(-1, 1, (2,), np.float32), rng, 9000)
    assert box.shape == (9000, 2) and box.dtype == np.float32 and np.abs(box).max() == 1
    assert (np.abs(box) == 1).mean() == pytest.approx(0.3173, abs=0.02)  # beyond one standard deviation
    assert np.abs(box.mean()) < 0.03


@pytest.mark.parametrize("env_id", ["sparse/RandomMaze-v0", "sparse/MiniGrid-Empty-5x5-v0"])
def test_a_measurement_that_stopped_goes_on_to_the_same_result(env_id):
    batch = Sampler(env_id, 0).batch
    unbroken = list(measure(env_id, None, 2 * batch, 1000.0, seed=0))[-1]
    half = list(measure(env_id, None, 2 * batch, 0.0, seed=0))[-1]
    assert half.episodes == batch and list(measure(env_id, half, 2 * batch, 1000.0, seed=0))[-1] == unbroken
    assert list(measure(env_id, unbroken, 2 * batch, 1000.0, seed=0)) == []  # enough
    assert list(measure(env_id, half, batch, 0.0, seed=1))[-1].episodes == batch  # another seed begins anew


def test_an_episode_of_the_vector_form_is_counted_once():
    """Environments that are done early are reset and play on; those episodes do not count."""
    sampler = Sampler("sparse/PointGoal-v0", 0)
    played = sum(sampler.play(first) for first in (0, 1000))
    assert 0 < played < 400


@pytest.mark.parametrize("n", [10, 1000])
def test_the_interval_is_clopper_and_pearsons(n):
    row = estimate("sparse/PointGoal-v0", 0, n, 0, "2026-01-01")
    assert row.low == 0 and row.high == pytest.approx(1 - 0.025 ** (1 / n), rel=0.01)
    row = estimate("sparse/PointGoal-v0", n, n, 0, "2026-01-01")
    assert row.high == 1 and row.low == pytest.approx(0.025 ** (1 / n), rel=0.01)


# --- the file and the command


def test_a_table_round_trips_in_the_catalogues_order(tmp_path):
    rows = [
        estimate("sparse/PointGoal-v0", 3, 70, 4, "2026-01-01"),
        UntrainedSuccess("sparse/Maze1-v0", 0.1, None, None, None, None, None, "2026-01-02"),
    ]
    write_table(rows, tmp_path / "table.csv")
    assert list(read_table(tmp_path / "table.csv").values()) == rows[::-1]
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"] and read_table(tmp_path / "none.csv") == {}


def test_the_command_measures_what_matches_and_leaves_the_rest(tmp_path, capsys):
    path = tmp_path / "table.csv"
    arguments = ["--output", str(path), "--seconds", "0"]
    assert untrained.main(["sparse/Maze*-v0", "sparse/PointGoal-v0", *arguments]) == 0
    assert list(read_table(path)) == ["sparse/Maze0-v0", "sparse/Maze1-v0", "sparse/Maze2-v0", "sparse/PointGoal-v0"]
    assert "sparse/Maze1-v0: 0.037 exact\n" in capsys.readouterr().out
    before = read_table(path)
    assert untrained.main(["sparse/DeepSea-v0", *arguments]) == 0
    assert read_table(path) == before | {"sparse/DeepSea-v0": read_table(path)["sparse/DeepSea-v0"]}
    assert untrained.main(["delayed/*", *arguments]) == 2 and "No task that reports success" in capsys.readouterr().err
