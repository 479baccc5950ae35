"""The benchmark command as a user types it: interrupted or killed, it leaves no process and can be resumed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import commands
from helpers.benchmark_runs import IRPO, changed, folder, results


def test_results_come_back_in_order_and_an_error_is_raised(command):
    from sb3_ext.zoo.benchmark.processes import run_in_processes

    finished = []
    assert run_in_processes(divmod, [(7, 2), (9, 4)], 2, finished.append) == [(3, 1), (2, 1)] and sorted(finished) == [0, 1]
    with pytest.raises(ZeroDivisionError) as raised:
        run_in_processes(divmod, [(1, 0)])
    assert "Traceback" in raised.value.__notes__[0]


def test_a_process_that_dies_is_reported_and_the_others_go_on(command):
    from sb3_ext.zoo.benchmark.processes import ProcessDied, run_in_processes

    died = {}
    assert run_in_processes(os._exit, [(3,), (4,)], 1, died=died.__setitem__) == [None, None]
    assert "exit code 3" in str(died[0]) and "exit code 4" in str(died[1])
    with pytest.raises(ProcessDied, match="exit code 5"):
        run_in_processes(os._exit, [(5,)])


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
    assert "the same command resumes" in said and "Traceback" not in said
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


@on_linux
def test_a_killed_measurement_leaves_no_process(tmp_path):
    ppo = {"algo": "ppo", "env": "CartPole-v1", "hyperparams": {}, "iterations": 10**6, "repeats": 1}
    speed = {"repeats": 1, "seconds": 1.0, "iterations": 1, "environments": {}, "algorithms": {"learned reward": {"PPO": ppo}}}
    process = typed(tmp_path, {"description": "endless", "speed": speed})
    wait_until(lambda: len(alive(process.pid)) == 3)  # multiprocessing has one of its own
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
