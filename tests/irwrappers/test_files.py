"""A file that we write is whole or is the one before: disks that fill up, and processes that are killed while they save."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from irwrappers.files import replacing, write_text
from irwrappers.serialization import read_state, write_state
from sb3_ext import IntrinsicPPO

SAVES = """
import sys
import torch
from sb3_ext import IntrinsicPPO
model = IntrinsicPPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[256, 256]), device="cpu")
print("ready", flush=True)
while True:
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(1.0)
    model.save(sys.argv[1])
"""


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "results.csv"
    write_text(path, "whole\n")
    with pytest.raises(OSError, match="No space"), replacing(path) as temporary:
        temporary.write_text("ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "whole\n" and [each.name for each in tmp_path.iterdir()] == ["results.csv"]
    write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"


def test_what_killed_processes_left_is_deleted_and_what_others_write_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, other = tmp_path / f".a.zip.{ended.pid}.tmp", tmp_path / f".a.zip.{os.getppid()}.tmp"
    left.touch()
    other.touch()
    write_text(tmp_path / "a.zip", "x")
    assert not left.exists() and other.exists()


@pytest.mark.parametrize("kind", ["model", "state"])
def test_a_full_disk_leaves_the_saved_one(kind, tmp_path, monkeypatch):
    path = tmp_path / "saved.zip"
    model = IntrinsicPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    save = (lambda: model.save(path)) if kind == "model" else (lambda: write_state(path, {}, {"a": torch.ones(3)}))
    save()
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "close", full)
    monkeypatch.setattr("irwrappers.serialization.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save()
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["saved.zip"]


def test_a_model_is_saved_to_the_name_that_sb3_gives_it(tmp_path):
    model, memory = IntrinsicPPO("MlpPolicy", "CartPole-v1", device="cpu"), io.BytesIO()
    for name, file in (("model", "model.zip"), ("a.b", "a.b"), ("in/a/folder", "in/a/folder.zip")):
        model.save(tmp_path / name)
        assert (tmp_path / file).is_file()
    model.save(memory)
    assert zipfile.is_zipfile(memory)
    write_state(tmp_path / "x" / "y.safetensors", {"k": 1}, {"a": torch.ones(2)})
    header, state = read_state(tmp_path / "x" / "y.safetensors")
    assert header["k"] == 1 and torch.equal(state["a"], torch.ones(2))


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
def test_a_kill_while_it_saves_leaves_a_whole_model(tmp_path):
    path = tmp_path / "model.zip"
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.013 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with zipfile.ZipFile(path) as saved:
            assert saved.testzip() is None
    IntrinsicPPO.load(path, device="cpu").save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.zip"]
