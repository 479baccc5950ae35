"""One thread: the networks here are small, and two threads on a busy machine wait for each other."""

import torch

torch.set_num_threads(1)
