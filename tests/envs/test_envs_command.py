"""``python -m envs``: the list, one task, a recording, and what it says when something is missing or wrong."""

import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence

from envs import CATALOGUE
from envs import __main__ as command
from envs.untrained import read_table

IDS = [env_id for family in CATALOGUE.values() for env_id in family.horizons]
UNTRAINED = read_table()
CHEAP = ["sparse/Maze1-v0", "sparse/RandomMaze-v0", "sparse/PointGoal-v0"]  # no library but ours


def run(capsys, *arguments):
    """(exit code, stdout, stderr)."""
    try:
        code = command.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


def frames(path):
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]


# --- the list


def test_the_whole_catalogue_is_listed_with_what_its_tasks_are():
    result = subprocess.run([sys.executable, "-m", "envs"], capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  ") and "/" in line}
    assert list(rows) == IDS and f"{len(IDS)} tasks" in result.stdout
    assert result.stderr == ""
    for name, family in CATALOGUE.items():
        assert f"\n{name} - {family.source}\n" in result.stdout
        for env_id, horizon in family.horizons.items():
            vectorised = "yes" if family.vector_entry_point else "no"
            spaces, untrained = r"(Box|Discrete)\(\d+\)", re.escape(str(UNTRAINED.get(env_id, "-")))
            assert re.search(rf"  {spaces} +{spaces} +{horizon}  {vectorised} +{untrained}$", rows[env_id])
    for env_id in CHEAP:
        env = gym.make(env_id)
        assert f"  Box({env.observation_space.shape[0]}) " in rows[env_id]


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name, family in CATALOGUE.items() if family.same_spaces])
def test_families_of_which_one_task_is_made_have_the_same_spaces(family):
    shown = {command._spaces(env_id) for env_id in CATALOGUE[family].horizons}
    assert len(shown) == 1


def test_a_pattern_lists_what_matches_it(capsys):
    code, out, _ = run(capsys, "sparse/*Maze1-v0")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "sparse/" in line] == [
        f"sparse/{name}Maze1-v0" for name in ("", "Point", "Ant")
    ]


@pytest.mark.parametrize("prefix", ["", "envs:"])
def test_an_id_describes_its_task(capsys, prefix):
    code, out, _ = run(capsys, prefix + "sparse/PointGoal-v0")
    facts = {line.split()[0]: line.split(None, 1)[1] for line in out.splitlines() if line.startswith("  ")}
    assert code == 0 and out.startswith("sparse/PointGoal-v0\n") and "hidden goal on a circle" in out
    assert facts["observation"] == "Box(2) of float32 in [-1.5, 1.5]" and facts["horizon"] == "100 steps"
    assert "goal_angle=None" in facts["arguments"]
    maze = run(capsys, "sparse/Maze2-v0")[1]
    assert "layout='Maze2'" in maze  # as registered
    assert "Maze-v2 in the authors' program of IRPO" in maze
    assert "2.335e-05 of the episodes succeed with uniformly random actions (exact)" in maze
    assert re.search(r"untrained +0\.0\d+ of the episodes succeed \(95 % interval 0\.0\d+ to 0\.0\d+; \d+ of \d+, seed 0", out)
    assert "the task does not report success" in run(capsys, "delayed/Hopper-v5")[1]


def test_a_missing_or_broken_library_does_not_break_the_list(capsys, monkeypatch):
    make = gym.make

    def make_without(env_id, **kwargs):
        if env_id == "sparse/PointMaze1-v0":
            raise ModuleNotFoundError("No module named 'simulator'", name="simulator")
        if env_id == "sparse/AntMaze1-v0":
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")
        return make(env_id, **kwargs)

    monkeypatch.setattr(gym, "make", make_without)
    code, out, _ = run(capsys, "sparse/*Maze1-v0")
    assert code == 0
    assert re.search(r"sparse/Maze1-v0 +Box\(4\) +Discrete\(4\) +200  yes +0.037 exact", out)
    assert re.search(r"sparse/PointMaze1-v0 +needs simulator +\? +500  yes", out)
    assert re.search(r"sparse/AntMaze1-v0 +fails: AttributeError +\? +1000  yes", out)


# --- a recording


@pytest.mark.parametrize("env_id", CHEAP)
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_recording_shows_the_episode_of_its_seed(capsys, tmp_path, env_id, suffix):
    path = tmp_path / f"film{suffix}"
    code, out, _ = run(capsys, env_id, "--render", path, "--seed", 3, "--steps", 40)
    env = gym.make(env_id, render_mode="rgb_array")
    env.action_space.seed(3)
    env.reset(seed=3)
    expected, total, length, over = [env.render()], 0.0, 0, False
    while not over and length < 40:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total, length, over = total + reward, length + 1, terminated or truncated
        expected.append(env.render())
    success = "success" if info["is_success"] else "no success"
    assert code == 0 and out == f"{path}: {env_id}, {length} steps, return {total:g}, {success}\n"
    changing = [image for image, before in zip(expected[1:], expected, strict=False) if not np.array_equal(image, before)]
    assert all(map(np.array_equal, frames(path), [expected[0], *changing])) and len(frames(path)) == 1 + len(changing)
    assert Image.open(path).info["duration"] >= 50  # a step at 20 a second; what stays as it was is one longer frame


def test_a_fast_task_shows_every_other_step(capsys, tmp_path):
    path = tmp_path / "film.gif"
    assert run(capsys, "sparse/PointGoal-v0", "--render", path, "--steps", 41, "--fps", 50)[0] == 0
    assert len(frames(path)) == 22 and Image.open(path).info["duration"] == 40  # the first, 20 of 40, the last


def test_a_film(capsys, tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    assert run(capsys, "sparse/PointGoal-v0", "--render", path, "--steps", 10)[0] == 0
    shown = [frame for frame in imageio.get_reader(path)]  # its length is not known to list()
    assert len(shown) == 11 and shown[0].shape == (240, 240, 3)


def test_a_simulator_is_recorded_without_a_screen(capsys, tmp_path):
    path = tmp_path / "film.gif"
    code, out, err = run(capsys, "sparse/PointMaze1-v0", "--render", path, "--steps", 3)
    assert code == 0 and f"{path}: sparse/PointMaze1-v0, 3 steps, return 0, no success" in out, err
    assert frames(path)[0].std() > 10


def test_where_nothing_can_be_rendered_it_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    path = tmp_path / "film.gif"
    arguments = [sys.executable, "-m", "envs", "delayed/Hopper-v5", "--render", path]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == "" and "Traceback" not in result.stderr
    assert "delayed/Hopper-v5 can't be rendered" in result.stderr and "MUJOCO_GL=nonsense" in result.stderr
    assert "set MUJOCO_GL=egl" in result.stderr and not path.exists()


# --- wrong use: said at once, before anything is made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sparse/PointMaz-v1"], r"Unknown task 'sparse/PointMaz-v1'. Did you mean 'sparse/PointMaze1-v0' or .*\n"),
        (["PointGoal-v0"], r"Unknown task 'PointGoal-v0'. Did you mean .*'sparse/PointGoal-v0.*\n"),
        (["@"], "Unknown task '@'. `python -m envs` lists them all.\n"),
        (["sparse/Metaworld-*"], r"No task matches 'sparse/Metaworld-\*'; `python -m envs` lists them all.\n"),
        (["sparse/P*", "--render", "a.gif"], r"--render records one task; 'sparse/P\*' is a pattern.\n"),
        (["--render", "a.gif"], r"--render records one task; '\*' is a pattern.\n"),
        (["sparse/Maze1-v0", "--render", "a.avi"], "--render writes .gif, .png or .mp4; 'a.avi' ends in none of them.\n"),
        (["sparse/Maze1-v0", "--render", "gif"], "--render writes .gif, .png or .mp4; 'gif' ends in none of them.\n"),
        (["sparse/Maze1-v0", "--render", "no/a.gif"], "There is no folder 'no' to write 'a.gif' to; make it first.\n"),
        (["sparse/Maze1-v0", "--render", "folder.gif"], "'folder.gif' is a folder; --render takes the name of a file.\n"),
        (["sparse/Maze1-v0", "--seed", "-1"], "(?s).*--seed: '-1' is not an integer of at least 0\n"),
        (["sparse/Maze1-v0", "--steps", "0"], "(?s).*--steps: '0' is not an integer of at least 1\n"),
        (["sparse/Maze1-v0", "--fps", "fast"], "(?s).*--fps: 'fast' is not an integer of at least 1\n"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_made(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.gif").mkdir()
    monkeypatch.setattr(gym, "make", None)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and re.fullmatch(message, err)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gif"]
