"""Files that run no code when they are read: safetensors for tensors, JSON in its header for the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from irwrappers.files import replacing

_HEADER = "irwrappers"


def write_state(path: str | os.PathLike[str], header: Mapping[str, Any], state: Any) -> None:
    """Write a header and a state to one file.

    Args:
        path: of the file; folders are created.
        header: what JSON can hold.
        state: tensors, arrays and plain values in dicts, lists and tuples.

    Raises:
        TypeError: the state has a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({**header, "state": _pack(state, "state", tensors)})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata={_HEADER: text})


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """Read the header and the state that :func:`write_state` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by :func:`write_state`, or has NaN among its numbers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(str(path), "pt") as file:
            header = dict(json.loads((file.metadata() or {})[_HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        state = _unpack(header.pop("state"), tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a file that save() of an irwrappers wrapper wrote.") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise ValueError(f"{str(path)!r} has NaN in {name}: it was saved after training had failed, or changed since.")
    return header, state


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> list[Any]:
    """Return ``[kind, content]`` for JSON, and add the tensors to ``tensors`` under unique names."""
    if isinstance(value, np.ndarray):
        return ["array", _pack(torch.as_tensor(value), name, tensors)[1]]
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return ["tensor", name]
    if isinstance(value, Mapping):
        return ["dict", [[_key(k, name), _pack(v, f"{name}.{k}", tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_pack(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return ["value", value]
    raise TypeError(
        f"{name} is a {type(value).__name__}; expected tensors, arrays, numbers, strings and dicts or lists of them. Write "
        "get_extra_state of the reward so that it returns such."
    )


def _key(key: Any, name: str) -> str | int:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise TypeError(f"{name} has the key {key!r}; expected strings or integers.")


def _unpack(packed: list[Any], tensors: dict[str, Tensor]) -> Any:
    kind, content = packed
    if kind in ("tensor", "array"):
        return tensors[content] if kind == "tensor" else tensors[content].numpy()
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        values = [_unpack(value, tensors) for value in content]
        return values if kind == "list" else tuple(values)
    return content


def plain(value: Any) -> Any:
    """Return ``value`` if JSON can hold it, else None."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


def describe_space(space: spaces.Space) -> Any:
    """Return kind, shape and type of a space for JSON, without its bounds."""
    if isinstance(space, spaces.Dict):
        return {key: describe_space(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [describe_space(part) for part in space.spaces]
    text = type(space).__name__
    if isinstance(space, spaces.Discrete):
        return f"{text}({int(space.n)}, start={int(space.start)})"
    if isinstance(space, spaces.MultiDiscrete):
        return f"{text}({space.nvec.tolist()}, start={space.start.tolist()})"
    return f"{text}({space.shape}, {space.dtype})"


def check_same_spaces(given: tuple[Any, Any], expected: tuple[Any, Any], what: str) -> None:
    """Raise ``ValueError`` unless observation and action spaces have the same kind, shape and type.

    Args:
        given: (observation space, action space), as spaces or as :func:`describe_space` returns them.
        expected: likewise, those of the environment.
        what: subject and verb of the message, such as "the reward was built".
    """
    for kind, one, other in zip(("observation", "action"), given, expected, strict=True):
        texts = [describe_space(space) if isinstance(space, spaces.Space) else space for space in (one, other)]
        if texts[0] != texts[1]:
            raise ValueError(
                f"Different {kind} spaces: {what} for {texts[0]}, the environment has {texts[1]}. Use the same environment "
                "and the same wrappers around it, or a new reward."
            )
