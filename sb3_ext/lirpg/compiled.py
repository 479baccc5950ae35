"""Compile a function of tensors that computes gradients, so that many small operations run in a few calls."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten


class Compiled:
    """``function`` as a compiled graph for each new set of shapes.

    ``torch.compile`` alone cannot trace ``torch.autograd.grad(…, create_graph=True)``. Here ``make_fx`` traces the operations
    of autograd with the others, and ``torch.compile`` receives only operations on tensors.

    Args:
        function: takes nested dicts, lists and named tuples of tensors, numbers and None, returns such a nest of tensors, and
            has no side effects. Numbers may change from call to call: they are passed as tensors ``[]`` of float64. Every
            other value that it uses must be among the ``settings`` of a call, or must not change.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._graphs: dict[Hashable, tuple[Callable[..., Any], Any]] = {}

    def __call__(self, *args: Any, settings: Hashable = ()) -> Any:
        """Return ``function(*args)``, outside any graph of autograd.

        Args:
            *args: arguments of the function.
            settings: values that the graph depends on; a new one compiles a new graph.
        """
        leaves, spec = tree_flatten(args)
        tensors = [x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in leaves if x is not None]
        tensors = [tensor.detach() for tensor in tensors]
        key = (settings, *(x is None for x in leaves), *((x.shape, x.dtype, x.device) for x in tensors))
        if key not in self._graphs:
            self._graphs[key] = self._compile(leaves, spec, tensors)
        graph, out = self._graphs[key]
        with torch.no_grad():
            return tree_unflatten(graph(*tensors), out)

    def _compile(self, leaves: list[Any], spec: Any, tensors: list[Tensor]) -> tuple[Callable[..., Any], Any]:
        out: Any = None

        def flat(*given: Tensor) -> list[Tensor]:
            nonlocal out
            rest = iter(given)
            results, out = tree_flatten(
                self._function(*tree_unflatten([x if x is None else next(rest) for x in leaves], spec))
            )
            return results

        with _no_validation():
            graph = make_fx(flat)(*tensors)
        return torch.compile(graph, fullgraph=True, dynamic=False), out


@contextlib.contextmanager
def _no_validation() -> Iterator[None]:
    """Switch off the argument checks of torch's distributions, which need values that a traced tensor does not have."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def check_compiler(device: torch.device) -> None:
    """Raise an error, before work starts, where ``torch.compile`` would fail after minutes.

    Args:
        device: of the tensors.

    Raises:
        RuntimeError: the device is a CPU and there is no C++ compiler.
    """
    name = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", name)
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise RuntimeError(
            f"compile=True needs a C++ compiler on a CPU, and there is no {compiler!r}: install it (Debian: apt "
            "install g++), name another in the environment variable CXX, or leave compile=False."
        )
