"""No module of irwrappers imports another that needs it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "irwrappers"


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_have_an_order():
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    imports = {}
    for name, path in paths.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
        imports[name] = {node.module for node in nodes} & paths.keys()
        imports[name] |= {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} & paths.keys()
    assert "irwrappers.intrinsic.base" in imports["irwrappers.intrinsic.registry"]
    assert list(TopologicalSorter(imports).static_order())  # CycleError names the modules of a circle
