"""The suite of speed and memory."""

import numpy as np
import pandas as pd
import pytest


def test_speed_measures_every_form(command, tmp_path, monkeypatch):
    from sb3_ext.zoo.benchmark import speed

    n_envs = dict.fromkeys(speed.FORMS, 2)
    irpo = dict(batch_size=64, n_exploratory_updates=1, intrinsic_reward="random", intrinsic_reward_kwargs={"n_rewards": 2})
    measurements = [
        speed.Measurement("environment", "sparse/Maze1-v0", "", 0.01, 1, n_envs),
        speed.Measurement("IRPO", "sparse/Maze1-v0", "tiny", 1, 1, hyperparams=irpo, algo="irpo_paper"),
        *(
            speed.Measurement("learned reward", "CartPole-v1", label, 1, 1, hyperparams={"n_steps": 64}, algo=label.lower())
            for label in ("PPO", "LIRPG")
        ),
    ]
    monkeypatch.setattr(speed, "run_in_processes", lambda function, jobs: [function(*job) for job in jobs])
    rows = speed.measure_all(measurements, tmp_path)
    assert rows.variant.tolist() == [*speed.FORMS, "tiny", "PPO", "LIRPG"]
    assert (rows.steps_per_s > 0).all() and (rows.peak_mib.iloc[-3:] > 1).all()
    table = pd.read_csv(tmp_path / "table.csv").set_index("variant").reference_is_faster
    assert table["vectorised"] == table["PPO"] == 1 and np.isnan(table["tiny"])
    rates = rows.set_index("variant").steps_per_s
    assert table["LIRPG"] == pytest.approx(rates["PPO"] / rates["LIRPG"])
    assert "| environment | sparse/Maze1-v0 | SubprocVecEnv | 2 |" in (tmp_path / "table.md").read_text()
