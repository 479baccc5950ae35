"""Who imports whom: packages, rooms and modules, read from the source."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "irwrappers", "sb3_ext")
MAY_IMPORT = {"envs": set(), "irwrappers": set(), "sb3_ext": {"envs", "irwrappers"}}
# Rooms of sb3_ext whose code only these rooms may import; a room that is not named here serves only itself.
USED_BY = {
    "common": "everybody",
    "intrinsic": {"irpo", "zoo"},
    "irpo": {"zoo"},
    "hrl": {"zoo"},
    "learned_reward": {"lirpg", "cln"},
    "lirpg": {"zoo"},
    "cln": {"zoo"},
    "meta": {"distributed", "zoo"},
    "distributed": {"zoo"},
}
# Which rooms of sb3_ext.meta each of them may import.
META_MAY_IMPORT = {"lifetimes": set(), "outer_learners": {"lifetimes"}, "baselines": {"lifetimes", "outer_learners"}}
COMMANDS = {"train", "enjoy", "benchmark", "plot"}  # modules of sb3_ext that are a line each


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(name: str) -> list[tuple[str, str]]:
    """(module, name) of each import of ours in a module, wherever in it; the name is empty for ``import module``."""
    found = []
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return [(module, what) for module, what in found if module.split(".")[0] in PACKAGES]


def target(module: str, what: str) -> str:
    return f"{module}.{what}" if f"{module}.{what}" in FILES else module


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "sb3_ext" and len(parts) > 1 else ""


GRAPH = {name: {target(*pair) for pair in imports(name)} - {name} for name in FILES}


def test_packages_import_only_what_stands_below_them():
    for name, targets in GRAPH.items():
        package = name.split(".")[0]
        others = {one.split(".")[0] for one in targets} - {package}
        assert others <= MAY_IMPORT[package], f"{name} imports {sorted(others - MAY_IMPORT[package])}"


def test_rooms_import_only_rooms_that_serve_them():
    for name, targets in GRAPH.items():
        if not name.startswith("sb3_ext.") or room(name) in COMMANDS:
            continue
        for one in targets:
            if one.startswith("sb3_ext.") and room(one) != room(name):
                allowed = USED_BY.get(room(one), set())
                assert allowed == "everybody" or room(name) in allowed, f"{name} imports {one}"


def test_rooms_of_meta_import_only_rooms_that_serve_them():
    for name, targets in GRAPH.items():
        if name.startswith("sb3_ext.meta."):
            inner = name.split(".")[2]
            others = {(*one.split("."), "")[2] for one in targets if one.split(".")[:2] == ["sb3_ext", "meta"]} - {inner}
            assert others <= META_MAY_IMPORT[inner], f"{name} imports {sorted(others - META_MAY_IMPORT[inner])}"


def test_only_the_commands_know_rl_zoo3():
    for name, path in FILES.items():
        if room(name) != "zoo" and room(name) not in COMMANDS:
            assert "import rl_zoo3" not in path.read_text() and "from rl_zoo3" not in path.read_text(), name


def test_modules_import_each_other_in_no_circle():
    TopologicalSorter(GRAPH).prepare()  # a CycleError names the modules


@pytest.mark.parametrize("name", sorted(FILES))
def test_private_names_stay_in_their_room(name):
    for module, what in imports(name):
        private = [part for part in (*module.split("."), what) if part.startswith("_") and not part.startswith("__")]
        folder, other = name.rpartition(".")[0], module.rpartition(".")[0]
        assert not private or folder == other or folder == module or name == module, f"{name} imports {module}.{what}"


def test_no_two_public_classes_have_one_name():
    sb3 = {"MlpPolicy", "CnnPolicy", "MultiInputPolicy"}  # which every algorithm has, as in SB3
    places = {}
    for name, path in FILES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in sb3:
                places.setdefault(node.name, []).append(name)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
