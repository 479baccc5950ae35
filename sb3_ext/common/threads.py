"""The number of threads that torch uses while small networks are trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 1_000_000  # parameters; the layers of a smaller network take less time than waking a second thread
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_AT_IMPORT = torch.get_num_threads()


@contextmanager
def few_threads(*networks: nn.Module) -> Iterator[None]:
    """Context manager in which torch uses one thread, if the networks are small and the user has not set the number.

    Two threads on a network of a few thousand parameters take several times the CPU time of one and save no wall time:
    they mostly wait for each other. The number of threads is not changed

    * where ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` is set, or ``torch.set_num_threads`` was called after this package
      was imported;
    * where a network is on an accelerator, has ``SMALL`` parameters or more, or has convolutions.

    After the block the number is what it was before, unless it was changed within.

    Args:
        *networks: those that are evaluated and trained within the block.
    """
    before = torch.get_num_threads()
    chosen = before != _AT_IMPORT or any(os.environ.get(name) for name in CHOSEN_BY)
    if chosen or before == 1 or not all(_is_small(network) for network in networks):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() == 1:
            torch.set_num_threads(before)


def _is_small(network: nn.Module) -> bool:
    parameters = list(network.parameters())
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules())
    return on_cpu and not convolves and sum(parameter.numel() for parameter in parameters) < SMALL
