"""Small models of the algorithms that learn a reward."""

import numpy as np
import torch
from gymnasium import spaces
from helpers.walk import walks

from sb3_ext import CLN, LIRPG, LIRPGA2C

SIZE = {
    LIRPG: dict(n_steps=32, batch_size=16, n_epochs=2),
    LIRPGA2C: dict(n_steps=8),
    CLN: dict(n_steps=32, batch_size=16, n_epochs=2, n_reward_steps=3, segment_length=4, segments_per_step=5),
}
OBSERVATIONS = {
    "box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "dict": ("MultiInputPolicy", spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))),
}
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]


def make(algorithm, env=None, policy="MlpPolicy", seed=0, **kwargs):
    """Return a small model of ``algorithm`` on a drifting point."""
    return algorithm(policy, env or walks(), seed=seed, device="cpu", **SIZE[algorithm] | kwargs)


def state_of(model):
    """Return every tensor that learns."""
    tensors = []
    for part in (model.policy, model.reward_network, model.extrinsic_critic):
        tensors += part.state_dict().values()
    for optimizer in (model.policy.optimizer, model.reward_optimizer, model.extrinsic_optimizer):
        tensors += [value for row in optimizer.state_dict()["state"].values() for value in row.values()]
    return [torch.as_tensor(value).clone() for value in tensors]
