"""Python expressions in YAML, read as data: nothing is evaluated."""

from __future__ import annotations

import ast
from typing import Any

import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_ext.intrinsic import IntrinsicDictReplayBuffer, IntrinsicReplayBuffer

NAMES: dict[str, Any] = {
    each.__name__: each for each in (HerReplayBuffer, IntrinsicReplayBuffer, IntrinsicDictReplayBuffer, RMSpropTFLike)
}
_CALLS: dict[str, Any] = {"dict": dict, "list": list, "tuple": tuple, "range": range}
_MODULES = {"nn": nn, "th.optim": torch.optim}
LONGEST_RANGE = 1_000_000


def read_literal(text: str) -> Any:
    """Return the value of ``dict(…)``, ``list(range(…))``, numbers, strings, lists, the classes of ``NAMES`` and of ``nn``.

    Args:
        text: a Python expression, as rl_zoo3 has them in YAML.

    Raises:
        ValueError: for anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{text!r} is not data: {error}") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        given = [_value(each) for each in node.args]
        if any(each.arg is None for each in node.keywords):
            raise ValueError("** is not allowed")
        if node.func.id == "range" and max((abs(each) for each in given), default=0) > LONGEST_RANGE:
            raise ValueError(f"a range beyond {LONGEST_RANGE} is not allowed")
        return _CALLS[node.func.id](*given, **{str(each.arg): _value(each.value) for each in node.keywords})
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(each) for each in node.elts)
    if isinstance(node, (ast.Constant, ast.UnaryOp)):
        return ast.literal_eval(node)
    return _named(ast.unparse(node))


def _named(name: str) -> Any:
    """Return the class of ``NAMES``, ``nn.…`` or ``th.optim.…`` with this name."""
    module, _, last = name.rpartition(".")
    found = getattr(_MODULES[module], last, None) if module in _MODULES else NAMES.get(name)
    if isinstance(found, type) and not last.startswith("_"):
        return found
    raise ValueError(f"{name} is not allowed")
