"""The catalogue on the command line.

python -m envs                                          # every task: spaces, horizon, source, vectorised or not, and the
                                                        # share of an untrained policy's episodes that succeed
python -m envs "sparse/MetaWorld-*"                     # those of a pattern
python -m envs sparse/PointMaze1-v0                      # one task and its arguments
python -m envs sparse/PointMaze1-v0 --render out.gif     # one episode of random actions, recorded
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import math
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from tqdm import tqdm

from envs.action_checks import did_you_mean
from envs.catalogue import CATALOGUE, all_horizons, family_of
from envs.untrained import UntrainedSuccess, read_table

SUFFIXES = (".gif", ".png", ".mp4")
MAX_FPS = 30  # of a recording: GIF players slow down what is faster than 50


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m envs", description="List the sparse-reward tasks, or record one.")
    parser.add_argument("task", nargs="?", default="*", help="an id, or a pattern such as 'sparse/MetaWorld-*' (default: all)")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help=f"record an episode of random actions: {_either(SUFFIXES)}"
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the recorded episode and its actions (default: 0)")
    parser.add_argument("--steps", type=_at_least(1), help="the most to record (default: the task's horizon)")
    parser.add_argument("--fps", type=_at_least(1), help="steps shown a second (default: the task's own)")
    given = parser.parse_args(arguments)
    given.task = given.task.removeprefix("envs:")

    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pattern = any(character in given.task for character in "*?[")
    ids = [env_id for env_id in all_horizons() if fnmatchcase(env_id, given.task)]
    if not ids:
        return _fail(_unknown(given.task, pattern), 2)
    if given.render is not None:
        if pattern:
            return _fail(f"--render records one task; {given.task!r} is a pattern.", 2)
        problem = _problem_with(given.render)
        return _fail(problem, 2) if problem else record(given.task, given.render, given.seed, given.steps, given.fps)
    print(table(ids) if pattern else describe(given.task))
    return 0


# --- listing


def table(ids: list[str]) -> str:
    """Return the tasks by family, a line each."""
    rows = []
    known: dict[str, tuple[str, str]] = {}
    untrained = read_table()
    for env_id in tqdm(ids, desc="Making each task once", leave=False, disable=None):
        name = family_of(env_id)
        family = CATALOGUE[name]
        shown = known.get(name) or _spaces(env_id)
        if family.same_spaces:
            known[name] = shown
        vectorised = "yes" if family.vector_entry_point else "no"
        rows.append((env_id, *shown, str(family.horizons[env_id]), vectorised, str(untrained.get(env_id, "-"))))
    titles = ("id", "observation", "action", "horizon", "vectorised", "untrained success")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [_line(titles, widths)]
    for name, members in groupby(rows, key=lambda row: family_of(row[0])):
        lines += ["", f"{name} - {CATALOGUE[name].source}", *(_line(row, widths) for row in members)]
    note = (
        "untrained success: the share of an untrained policy's episodes that succeed, exact or with its 95 % interval; "
        "-: the task does not report success, or was not measured"
    )
    return "\n".join([*lines, "", f"{len(rows)} tasks", *textwrap.wrap(note, 118)])


def describe(env_id: str) -> str:
    """Return the facts of one task: spaces, horizon, source, arguments."""
    spec, family = gym.spec(env_id), CATALOGUE[family_of(env_id)]
    observation, action = _spaces(env_id, bounds=True)
    facts = {
        "observation": observation,
        "action": action,
        "horizon": f"{family.horizons[env_id]} steps",
        "untrained": _in_full(read_table().get(env_id)),
        "source": family.source,
        "known as": family.labels.get(env_id, "a task of this library"),
        "entry point": str(spec.entry_point),
        "vectorised": str(spec.vector_entry_point or "no"),
    }
    about = ""
    with contextlib.suppress(ModuleNotFoundError), _quiet():
        creator = load_env_creator(str(spec.entry_point))
        facts["arguments"] = ", ".join(_arguments(creator, spec.kwargs))
        about = (inspect.getdoc(creator) or "").partition("\n\n")[0]
    lines = [env_id]
    for name, value in facts.items():
        lines.append(textwrap.fill(value, 118, initial_indent=f"  {name:<13}", subsequent_indent=" " * 15))
    return "\n".join([*lines, "", about]).rstrip()


def _in_full(untrained: UntrainedSuccess | None) -> str:
    if untrained is None:
        return "the task does not report success, or was not measured"
    if untrained.exact:
        return f"{untrained.success:.4g} of the episodes succeed with uniformly random actions (exact)"
    return (
        f"{untrained.success:.4g} of the episodes succeed (95 % interval {untrained.low:.2g} to {untrained.high:.2g}; "
        f"{untrained.successes} of {untrained.episodes}, seed {untrained.seed}, {untrained.date})"
    )


def _spaces(env_id: str, bounds: bool = False) -> tuple[str, str]:
    """Return the observation and action space in words, or the package that the task needs."""
    try:
        with _quiet():
            env = gym.make(env_id, disable_env_checker=True)
    except ModuleNotFoundError as error:
        return f"needs {error.name}", "?"
    except Exception as error:  # one library that is broken here does not hide the other tasks
        return f"fails: {type(error).__name__}", "?"
    shown = _in_words(env.observation_space, bounds), _in_words(env.action_space, bounds)
    env.close()
    return shown


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what libraries print when they are imported; their errors are still raised."""
    with contextlib.redirect_stdout(io.StringIO()) as noise, contextlib.redirect_stderr(noise):
        yield


def _in_words(space: spaces.Space, bounds: bool) -> str:
    if not isinstance(space, spaces.Box):
        return str(space)
    shape = ", ".join(map(str, space.shape))
    return f"Box({shape}) of {space.dtype} in [{space.low.min():g}, {space.high.max():g}]" if bounds else f"Box({shape})"


def _arguments(creator: Callable, registered: dict[str, Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(creator).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield f"**{name}"
        else:
            yield f"{name}={registered.get(name, parameter.default)!r}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return (
        "  "
        + "  ".join(cell.rjust(n) if cell.isdigit() else cell.ljust(n) for cell, n in zip(cells, widths, strict=True)).rstrip()
    )


def _unknown(task: str, pattern: bool) -> str:
    if pattern:
        return f"No task matches {task!r}; `python -m envs` lists them all."
    return f"Unknown task {task!r}. {did_you_mean(task, all_horizons(), '`python -m envs` lists them all.')}"


# --- recording


def record(env_id: str, path: Path, seed: int, steps: int | None, fps: int | None) -> int:
    """Record an episode of random actions; return the exit code."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo's own default needs a screen
    try:
        with _quiet():
            env = gym.make(env_id, render_mode="rgb_array", disable_env_checker=True)
        env.action_space.seed(seed)
        env.reset(seed=seed)
        first = _frame(env)
    except ModuleNotFoundError as error:
        return _fail(f"{env_id} needs {error.name}; install it first.", 1)
    except Exception as error:
        if "mujoco" not in traceback.format_exc():
            raise
        return _fail(_no_pictures(env_id, error), 1)

    horizon = all_horizons()[env_id]
    steps = min(steps or horizon, horizon)
    fps = fps or env.metadata.get("render_fps") or MAX_FPS
    every = math.ceil(fps / MAX_FPS)
    total, length, success, over = 0.0, 0, None, False
    with _recording(path, fps / every) as add, tqdm(total=steps, desc=env_id, leave=False, disable=None) as bar:
        add(first)
        while not over and length < steps:
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            total, length, over = total + float(reward), length + 1, terminated or truncated
            success = success or info.get("is_success")
            if over or length == steps or length % every == 0:
                add(_frame(env))
            bar.update()
    env.close()
    outcome = "" if success is None else ", success" if success else ", no success"
    print(f"{path}: {env_id}, {length} steps, return {total:g}{outcome}")
    return 0


@contextlib.contextmanager
def _recording(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], Any]]:
    """Yield a function that adds a frame, uint8 ``[height, width, 3]``, to a film; write the film to ``path`` at the end."""
    if path.suffix.lower() == ".mp4":
        import imageio.v2 as imageio

        film: Any = imageio.get_writer(path, fps=fps, macro_block_size=2)
        with film:
            yield film.append_data
        return
    from PIL import Image

    images: list[Image.Image] = []
    # A GIF's frames have 256 colours each, which take a third of the memory; a PNG has one palette for all or none.
    palette = path.suffix.lower() == ".gif"
    yield lambda frame: images.append(Image.fromarray(frame).quantize() if palette else Image.fromarray(frame))
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)


def _frame(env: gym.Env) -> np.ndarray:
    return np.asarray(env.render(), dtype=np.uint8)


def _no_pictures(env_id: str, error: Exception) -> str:
    return (
        f"{env_id} can't be rendered: {type(error).__name__}: {error}\n"
        f"MuJoCo renders with OpenGL, here through MUJOCO_GL={os.environ.get('MUJOCO_GL', 'glfw')}. Without a screen set "
        "MUJOCO_GL=egl (Debian and Ubuntu: apt install libegl1) or MUJOCO_GL=osmesa (libosmesa6), with one MUJOCO_GL=glfw."
    )


def _problem_with(path: Path) -> str | None:
    if path.suffix.lower() not in SUFFIXES:
        return f"--render writes {_either(SUFFIXES)}; {str(path)!r} ends in none of them."
    if not path.parent.is_dir():
        return f"There is no folder {str(path.parent)!r} to write {path.name!r} to; make it first."
    if path.is_dir():
        return f"{str(path)!r} is a folder; --render takes the name of a file."
    return None


# --- words


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return int(text)

    return parse


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def command() -> NoReturn:
    """Run ``python -m envs``, also as the console script ``irw-envs``, and exit with its status."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    command()
