"""What every test needs before the libraries are imported."""

import multiprocessing
import os
import sys

import torch

# One thread: the networks here are small, and two threads on a busy machine wait for each other.
torch.set_num_threads(1)

# What processes of environments and commands all import, once for all of them: it takes seconds. Nothing of ours is among it.
multiprocessing.set_forkserver_preload(["torch", "torch._dynamo", "stable_baselines3"])

# Pictures of MuJoCo without a screen.
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")
