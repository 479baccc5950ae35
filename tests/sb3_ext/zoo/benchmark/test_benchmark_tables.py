"""Tables and learning curves of tiny results."""

import numpy as np
import pandas as pd
import pytest


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
