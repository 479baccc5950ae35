"""Environments and functions that the tests of irpo share."""

from helpers.irpo_toys import toys
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ext.irpo import IRPO

SMALL = dict(n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu")
TWO = ["rnd", {"noise": {"n_rewards": 1}}]  # rnd has a fit, statistics and an optimiser of its own


def model_on(env=None, policy="MlpPolicy", **kwargs):
    return IRPO(policy, env or toys(), **(SMALL | dict(intrinsic_reward=TWO) | kwargs))


class At(BaseCallback):
    """Does something at one step of all environments."""

    def __init__(self, n_calls, action):
        super().__init__()
        self.at, self.action = n_calls, action

    def _on_step(self):
        return self.action() if self.n_calls == self.at else True
