"""Docstrings against signatures: an entry for each parameter, none that is stale, and references to things that exist."""

import importlib
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import is_typeddict

import gymnasium
import pytest

# rl_zoo3 replaces Gymnasium's TimeLimit when it is imported, which the modules of the command line do; other tests need it.
_PATCHED = (gymnasium.wrappers, gymnasium.wrappers.common, gymnasium.envs.registration)
_TIME_LIMIT = gymnasium.wrappers.TimeLimit
importlib.import_module("rl_zoo3")
for _module in _PATCHED:
    _module.TimeLimit = _TIME_LIMIT

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "irwrappers", "sb3_ext")
SCRIPTS = {"sb3_ext.train", "sb3_ext.enjoy", "sb3_ext.benchmark", "sb3_ext.plot"}  # a module that runs on import
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):$", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+)(?: \([^)]*\))?: ", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([\w.]+)`")
DOTTED = re.compile(r"``((?:envs|irwrappers|sb3_ext)(?:\.\w+)+)(?:\(.*?\))?``")
FILE = re.compile(r"``?((?:envs|irwrappers|sb3_ext|tests|examples)/[\w./-]+\.\w+)``?")


def module_names():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name not in SCRIPTS and parts[-1] != "__main__":
                yield name


MODULES = list(module_names())


def defined_in(module):
    """Public classes and functions that a module defines."""
    for name, thing in list(vars(module).items()):
        if getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_"):
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield name, thing


def classes_and_functions():
    for name in MODULES:
        for _, thing in defined_in(importlib.import_module(name)):
            yield thing


def entries(docstring, sections=("Args",)):
    """Names in the sections of a docstring in Google's style."""
    text = inspect.cleandoc(docstring or "")
    parts = SECTION.split(text)
    found = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title in sections:
            section = re.split(r"\n\n(?=\S)", body)[0]
            found += [entry.lstrip("*") for entry in ENTRY.findall(section)]
    return found


def constructor(cls):
    """The parameters of a constructor and the docstring that documents them; None where another library defines it."""
    if is_typeddict(cls) or getattr(cls, "_is_protocol", False):
        return None
    method = "__new__" if hasattr(cls, "_fields") else "__init__"
    owner = next((base for base in cls.__mro__ if method in vars(base)), object)
    if owner.__module__.split(".")[0] not in PACKAGES:
        return None
    parameters = list(inspect.signature(getattr(owner, method)).parameters.values())[1:]
    fields = ("Args", "Attributes") if hasattr(cls, "_fields") or is_dataclass(cls) else ("Args",)
    return parameters, entries(cls.__doc__, fields) or entries(owner.__doc__, fields)


CLASSES = [thing for thing in classes_and_functions() if inspect.isclass(thing) and constructor(thing)]
FUNCTIONS = [thing for thing in classes_and_functions() if inspect.isfunction(thing)]


def full_name(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


@pytest.mark.parametrize("cls", CLASSES, ids=full_name)
def test_each_constructor_parameter_has_one_entry(cls):
    parameters, documented = constructor(cls)
    names = [one.name for one in parameters if one.name != "args" and not one.name.startswith("_ray")]  # Ray adds its own
    missing = [name for name in names if name not in documented]
    assert not missing, f"{full_name(cls)} has no entry for {missing}"
    assert len(documented) == len(set(documented)), f"{full_name(cls)} documents a parameter twice: {documented}"
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        stale = set(documented) - {one.name for one in parameters}
        assert not stale, f"{full_name(cls)} documents {stale}, which the constructor does not take"


@pytest.mark.parametrize("function", FUNCTIONS, ids=full_name)
def test_functions_document_their_parameters_or_none(function):
    documented, parameters = entries(function.__doc__), inspect.signature(function).parameters
    stale = set(documented) - set(parameters)
    assert not stale, f"{full_name(function)} documents {stale}, which it does not take"
    if documented:
        missing = set(parameters) - set(documented)
        assert not missing, f"{full_name(function)} has no entry for {missing}"


def resolves(reference, module, owner):
    """Whether a dotted name exists, seen from a module or a class."""
    parts = reference.split(".")
    for scope in (owner, module):
        if scope is not None and reaches(scope, parts):
            return True
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return reaches(found, parts[length:])
    return False


def reaches(thing, names):
    for name in names:
        annotated = {key for base in getattr(thing, "__mro__", ()) for key in getattr(base, "__annotations__", ())}
        if not hasattr(thing, name):
            # an attribute that the constructor sets
            source = inspect.getsource(thing) if inspect.isclass(thing) else ""
            return names[-1] == name and (name in annotated or f"self.{name}" in source)
        thing = getattr(thing, name)
    return True


def docstrings(module):
    """Each docstring of a module with the class that it stands in, if any."""
    yield module.__doc__, None
    for _, thing in defined_in(module):
        yield thing.__doc__, thing if inspect.isclass(thing) else None
        if inspect.isclass(thing):
            for method in list(vars(thing).values()):
                function = getattr(method, "fget", None) or getattr(method, "__func__", method)
                if inspect.isfunction(function):
                    yield function.__doc__, thing


@pytest.mark.parametrize("name", MODULES)
def test_references_in_docstrings_exist(name):
    module = importlib.import_module(name)
    for text, owner in docstrings(module):
        for reference in [*ROLE.findall(text or ""), *DOTTED.findall(text or "")]:
            assert resolves(reference, module, owner), f"{name}: {reference} does not exist"
        for file in FILE.findall(text or ""):
            assert (ROOT / file).exists(), f"{name}: {file} does not exist"
