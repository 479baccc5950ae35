"""Two commands in one folder, and files of a benchmark that are damaged."""

import os
import subprocess
import sys

import pytest

SUITE = """
description: one run
environments: {CartPole-v1: {timesteps: 600}}
contenders: {ppo: {algo: ppo, seeds: 1, hyperparams: {n_steps: 32, n_envs: 2, batch_size: 32, n_epochs: 1}, settings: default}}
evaluations: 2
episodes: 1
"""
HOLDS = """
import sys, time
from pathlib import Path
from sb3_ext.zoo.benchmark.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(SUITE)
    return path


def test_a_second_command_names_the_first_and_a_killed_one_holds_nothing(command, tmp_path, suite, capsys):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(SystemExit) as stopped:
            command.benchmark([str(suite), "--out", str(out)])
        assert stopped.value.code == 2
        assert f"in use by another command, process {process.pid} on " in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    with command.locked(out):
        assert str(os.getpid()) in (out / ".lock-holder.json").read_text()


def test_a_mistake_leaves_no_folder(command, tmp_path, suite):
    with pytest.raises(SystemExit):
        command.benchmark([str(suite), "--out", str(tmp_path / "out"), "--env", "NoSuch-v0"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 3}'])
def test_a_damaged_config_is_named(command, tmp_path, suite, capsys, text):
    out = tmp_path / "out"
    folder = out / "CartPole-v1" / "ppo" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    with pytest.raises(SystemExit):
        command.benchmark([str(suite), "--out", str(out)])
    assert str(folder / "config.json") in capsys.readouterr().err
    assert not (out / ".lock-holder.json").exists() and (out / ".lock").exists()
