"""Wrappers that change when and for what the environment's own reward is given.

* ``DelayedReward`` - the sum of the last n rewards every n steps, and the rest at the end of the episode.
* ``EpisodicReward`` - the whole return at the end of the episode.
* ``SparseReward`` - a reward at the first success of an episode, and 0 elsewhere.
* ``SuccessSignal`` - a reward at the first success, larger if it is earlier; a negative one after an episode without success.
* ``PotentialShaping`` - the reward plus γΦ(s′) − Φ(s), which keeps optimal policies optimal.

Each has a form around a ``gymnasium.vector.VectorEnv``, ``VectorDelayedReward`` and so on, with the same rewards in every
autoreset mode. All of them put ``info["original_reward"]`` into every step: the environment's own reward, also beneath
several wrappers.

>>> import gymnasium as gym
>>> from irwrappers.extrinsic import EpisodicReward, PotentialShaping
>>> env = EpisodicReward(PotentialShaping(gym.make("CartPole-v1", max_episode_steps=3), potential=lambda obs: 10.0, gamma=0.5))
>>> _ = env.reset(seed=0)
>>> [(reward, info["original_reward"]) for _, reward, _, _, info in [env.step(0) for _ in range(3)]]
[(0.0, 1.0), (0.0, 1.0), (-12.0, 1.0)]
"""

from irwrappers.extrinsic.delayed import DelayedReward, EpisodicReward, VectorDelayedReward, VectorEpisodicReward
from irwrappers.extrinsic.shaping import PotentialShaping, VectorPotentialShaping
from irwrappers.extrinsic.signal import SuccessSignal, VectorSuccessSignal
from irwrappers.extrinsic.sparse import SparseReward, VectorSparseReward

__all__ = [
    "DelayedReward",
    "EpisodicReward",
    "PotentialShaping",
    "SparseReward",
    "SuccessSignal",
    "VectorDelayedReward",
    "VectorEpisodicReward",
    "VectorPotentialShaping",
    "VectorSparseReward",
    "VectorSuccessSignal",
]
