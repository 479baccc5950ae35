"""Wrappers that change when and for what the environment's own reward is paid.

* ``DelayedReward`` - pays the sum of the last n rewards every n steps, and the rest at the end of the episode.
* ``EpisodicReward`` - pays the whole return at the end of the episode.
* ``SparseReward`` - pays once, at the first success of an episode.
* ``SuccessSignal`` - pays an early success more than a late one, and fines an episode without.
* ``PotentialShaping`` - adds γΦ(s′) − Φ(s), which helps and leaves the optimal policy what it was.

Each has a form around a ``gymnasium.vector.VectorEnv``, ``VectorDelayedReward`` and so on, which pays every copy what the
single form would, whatever the autoreset mode. All of them put ``info["original_reward"]`` into every step: what the
environment itself paid, also beneath several wrappers.

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
