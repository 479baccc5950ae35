"""Who may import whom: envs and irwrappers nothing of ours, sb3_ext both, rl_zoo3 in its zoo only; nothing heavy at import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"envs", "irwrappers", "sb3_ext", "tests", "examples"}
ALLOWED = {"envs": {"envs"}, "irwrappers": {"irwrappers"}, "sb3_ext": {"sb3_ext", "irwrappers", "envs"}}
# What a program that uses one environment or one reward should not wait for: imported where used, if at all.
HEAVY = {
    "rl_zoo3",
    "metaworld",
    "minigrid",
    "gymnasium_robotics",
    "mujoco",
    "matplotlib",
    "ray",
    "envpool",
    "ale_py",
    "rliable",
}
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported_modules(path, top_level_only=False):
    """Absolute names of the modules that a source file imports, ``importlib.import_module("…")`` included."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names]  # "from sb3_ext import zoo" is sb3_ext.zoo
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names += [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return {name for name in names if isinstance(name, str)}


def packages(modules):
    return {module.partition(".")[0] for module in modules}


def test_reads_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "a" / "b" / "c.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import x.y, z as w\nfrom u import v\nfrom . import d\nfrom ..e import f\n"
        "def g():\n    import h\n    importlib.import_module('i.j')\n    __import__('k')\n"
    )
    assert imported_modules(path) == {"x.y", "z", "u.v", "a.b.d", "a.e.f", "h", "i.j", "k"}
    assert imported_modules(path, top_level_only=True) == {"x.y", "z", "u.v", "a.b.d", "a.e.f"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_arrows(path):
    package, *inner = path.relative_to(ROOT).with_suffix("").parts
    modules = imported_modules(path)
    assert packages(modules) & OURS <= ALLOWED[package]
    in_zoo = package == "sb3_ext" and inner[:1] == ["zoo"]
    if not in_zoo:
        assert "rl_zoo3" not in packages(modules)
        # envs: what gym.make loads may, what `import envs` loads may not (test_catalogue.py).
        assert package == "envs" or not packages(imported_modules(path, top_level_only=True)) & HEAVY
    if package == "envs":
        assert not packages(modules) & {"torch", "stable_baselines3"}
    if package == "irwrappers":
        assert not packages(modules) & {"sb3_contrib", "minigrid", "metaworld", "gymnasium_robotics"}


@pytest.mark.parametrize("name", ["train", "enjoy"])
def test_the_commands_are_thin(name):
    modules = imported_modules(ROOT / "sb3_ext" / f"{name}.py")
    assert len(modules) == 1 and modules.pop().startswith("sb3_ext.zoo.")


def test_nothing_else_of_ours_reaches_into_zoo():
    for path in FILES:
        inner = path.relative_to(ROOT).with_suffix("").parts
        if (
            inner[0] == "sb3_ext"
            and inner[1] != "zoo"
            and inner[1:] not in {("train",), ("enjoy",), ("benchmark",), ("plot",)}
        ):
            assert not [module for module in imported_modules(path) if module.startswith("sb3_ext.zoo")], path


def test_what_importing_loads():
    """In one fresh interpreter, in turn: what each import adds to what Stable-Baselines3 has loaded itself."""
    code = (
        "import importlib, json, sys\n"
        "added, known = {}, set()\n"
        "for name in ('stable_baselines3', 'irwrappers', 'sb3_ext'):\n"
        "    importlib.import_module(name)\n"
        "    added[name] = sorted({module.partition('.')[0] for module in sys.modules} - known)\n"
        "    known |= set(added[name])\n"
        "print(json.dumps(added))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    added = {name: set(modules) for name, modules in json.loads(output.splitlines()[-1]).items()}
    assert "irwrappers" in added["irwrappers"] and "sb3_ext" in added["sb3_ext"]
    assert not added["irwrappers"] & (HEAVY | {"sb3_ext", "envs", "sb3_contrib"})
    assert not added["sb3_ext"] & (HEAVY | {"envs"})
