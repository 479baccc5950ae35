"""Random numbers that do not advance the global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators (the CPU's, and that of ``device``) within the block, and restore their states after it.

    Args:
        seed: of both generators.
        device: whose generator is seeded beside the CPU's.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs that are not restored
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
