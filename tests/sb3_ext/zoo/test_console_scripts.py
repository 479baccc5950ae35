"""The console scripts are the commands ``python -m …``."""

import tomllib
from pathlib import Path

import pytest
from helpers.commands import run_code, run_module_as_typed

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MODULES = {f"irw-{name}": f"sb3_ext.{name}" for name in ("train", "enjoy", "benchmark", "plot")} | {"irw-envs": "envs"}


def test_every_command_has_a_script():
    assert SCRIPTS.keys() == MODULES.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_the_help_of_its_module(name, tmp_path):
    """What pip writes: a file that imports the function and calls it."""
    module, function = SCRIPTS[name].split(":")
    code = f"import sys\nfrom {module} import {function}\nsys.argv = ['/bin/{name}', '--help']\nsys.exit({function}())"
    script = run_code(code, tmp_path).stdout
    typed = run_module_as_typed(MODULES[name], "--help", cwd=tmp_path).stdout
    assert script.startswith("usage: ")
    after_usage = [text.partition("\n\n")[2] for text in (script, typed)]
    assert after_usage[0] == after_usage[1] and after_usage[0]
    if name in ("irw-benchmark", "irw-plot"):
        assert script.startswith(f"usage: {name} ") and typed.startswith(f"usage: python -m {MODULES[name]} ")
