"""``train`` that is killed, terminated or started twice, and ``train --resume FOLDER``."""

import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.commands import run
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import load_results

from sb3_ext import CLN, IRPO

TRAIN = [sys.executable, "-m", "sb3_ext.train"]
IRPO_RUN = [
    "--algo", "irpo", "--env", "CartPole-v1", "--seed", "3", "-n", "6000", "--eval-freq", "1000", "--save-freq", "800",
    "-params", "n_steps:32", "n_envs:4", "n_epochs:1", "batch_size:128",
]  # fmt: skip
FOLDER = "logs/irpo/CartPole-v1_1"


def listen_to_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which processes of a shell's background ignore


def start(cwd, *arguments):
    return subprocess.Popen(
        [*TRAIN, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=None if sys.platform == "win32" else listen_to_ctrl_c,
    )


def end_when(process, found, number):
    """Send a signal once ``found()`` is true, and return the output."""
    while process.poll() is None and not found():
        time.sleep(0.02)
    process.send_signal(number)
    return process.communicate()[0]


def weights(path, algorithm=IRPO):
    return torch.cat([value.flatten() for value in algorithm.load(path, device="cpu").policy.parameters()])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run("train", *IRPO_RUN, cwd=folder)
    return weights(folder / FOLDER / "CartPole-v1.zip")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_was_ended_goes_on_to_the_same_weights(number, tmp_path, unbroken):
    folder = tmp_path / FOLDER
    process = start(tmp_path, *IRPO_RUN)
    out = end_when(process, lambda: len(list(folder.glob("rl_model_*"))) >= 2, number)
    if number == signal.SIGKILL:
        assert not (folder / "CartPole-v1.zip").exists()
        newest = max(folder.glob("rl_model_*"), key=lambda path: int(path.stem.split("_")[2]))
        newest.write_bytes(newest.read_bytes()[:2000])  # as a disk may leave it
    else:
        assert process.returncode == 130
        assert f"saved as {FOLDER}/CartPole-v1.zip. To continue: python -m sb3_ext.train --resume {FOLDER}" in out
    out = run("train", "--resume", FOLDER, cwd=tmp_path).stdout
    assert (f"{newest.name} is damaged and not used" in out) if number == signal.SIGKILL else ("damaged" not in out)
    assert "Continuing" in out
    assert torch.equal(weights(folder / "CartPole-v1.zip"), unbroken)
    steps = np.load(folder / "evaluations.npz")["timesteps"]
    assert len(steps) >= 5 and (np.diff(steps) > 0).all()
    earlier, later = list(folder.glob("*-0.monitor.csv")), [
        each for each in folder.glob("*.monitor.csv") if "-0" not in each.name
    ]
    lines = [len(path.read_text().splitlines()) - 2 for path in (*earlier, *later)]
    assert earlier and later and len(load_results(str(folder))) == sum(lines)  # SB3 reads both
    assert sorted(path.name for path in (tmp_path / "logs" / "irpo").iterdir()) == ["CartPole-v1_1"]


def test_statistics_and_schedules_of_a_normalised_run_go_on(tmp_path):
    given = [
        "--algo", "ppo", "--env", "Pendulum-v1", "--seed", "0", "--eval-freq", "-1", "--save-freq", "512",
        "-params", "n_steps:64", "n_envs:2", "n_epochs:1", "normalize:True", "learning_rate:'lin_1e-3'",
        "use_sde:False", "policy:'MlpPolicy'",
    ]  # fmt: skip
    run("train", *given, "-n", "2048", cwd=tmp_path)
    folder = tmp_path / "logs" / "ppo" / "Pendulum-v1_1"
    for name in ("Pendulum-v1.zip", "rl_model_2048_steps.zip", "rl_model_1536_steps.zip"):
        (folder / name).unlink()
    run("train", "--resume", str(folder), cwd=tmp_path)
    model = PPO.load(folder / "Pendulum-v1.zip", device="cpu")
    assert model.num_timesteps == 2048 and model._n_updates in (15, 16)  # SB3 saves before the update of a rollout
    assert model.policy.optimizer.param_groups[0]["lr"] == 0  # the schedule came to its end
    with open(folder / "Pendulum-v1" / "vecnormalize.pkl", "rb") as file:
        assert pickle.load(file).obs_rms.count == pytest.approx(2048 + 2 * 2, abs=5)  # and the resets'


def test_a_replay_buffer_that_was_saved_goes_on_with_its_run(tmp_path):
    given = [
        "--algo", "cln", "--env", "Pendulum-v1", "--seed", "0", "-n", "512", "--eval-freq", "-1", "--save-freq", "128",
        "-params", "n_steps:64", "n_envs:2", "n_epochs:1", "n_reward_steps:2",
    ]  # fmt: skip
    for arguments, said in (([], "begins empty"), (["--save-replay-buffer"], "With the replay buffer of")):
        run("train", *given, *arguments, "-f", f"logs{len(arguments)}", cwd=tmp_path)
        folder = tmp_path / f"logs{len(arguments)}" / "cln" / "Pendulum-v1_1"
        for name in ("Pendulum-v1.zip", "rl_model_512_steps.zip"):
            (folder / name).unlink()
        out = run("train", "--resume", str(folder), cwd=tmp_path).stdout
        assert said in out and "rl_model_replay_buffer_384_steps.pkl" in out
        assert CLN.load(folder / "Pendulum-v1.zip", device="cpu").num_timesteps == 512


def test_two_that_start_together_have_a_folder_each(tmp_path):
    given = ["--algo", "intrinsic_ppo", "--env", "CartPole-v1", "-n", "100", "--eval-freq", "-1", "-params", "n_steps:32"]
    processes = [start(tmp_path, *given) for _ in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    folders = sorted((tmp_path / "logs" / "intrinsic_ppo").iterdir())
    assert [path.name for path in folders] == [f"CartPole-v1_{number}" for number in (1, 2, 3)]
    assert all((path / "CartPole-v1.zip").is_file() for path in folders)


def test_a_folder_without_a_run_or_a_checkpoint_is_named(tmp_path):
    failed = run("train", "--resume", "nothing", cwd=tmp_path, check=False)
    assert failed.returncode and "nothing is not the folder of a run that can be continued" in failed.stderr
    given = ["--algo", "intrinsic_ppo", "--env", "CartPole-v1", "-n", "100", "--eval-freq", "-1", "-params", "n_steps:32"]
    run("train", *given, cwd=tmp_path)
    folder = tmp_path / "logs" / "intrinsic_ppo" / "CartPole-v1_1"
    (folder / "CartPole-v1.zip").unlink()
    failed = run("train", "--resume", str(folder), cwd=tmp_path, check=False)
    assert failed.returncode and "no whole checkpoint" in failed.stderr and "--save-freq" in failed.stderr
