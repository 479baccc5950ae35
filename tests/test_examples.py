"""Every example runs as it stands, at a tiny budget."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {
    "quickstart": ["--path", "model"],
    "own_maze": ["--gif", "maze.gif"],
    "rnd_minigrid": ["--timesteps", "2000", "--env", "sparse/MiniGrid-Empty-5x5-v0"],
    "any_env": ["--timesteps", "4000"],
    "cln_hopper": ["--timesteps", "4000"],
    "lirpg_chain": ["--timesteps", "2000"],
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_example_runs(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--timesteps", "20000", *ARGUMENTS.get(name, [])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert "uccess" in capsys.readouterr().out
    if name == "own_maze":
        assert (tmp_path / "maze.gif").stat().st_size > 1000
