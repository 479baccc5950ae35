"""``IntrinsicRewardWrapper``: an intrinsic reward around one Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.core import ActType, ObsType

from irwrappers.intrinsic.registry import RewardChoice
from irwrappers.wrappers.bonus import EPISODE, EXTRINSIC, INTRINSIC, BonusProperties, IntrinsicBonus
from irwrappers.wrappers.coefficients import Coefficient


class IntrinsicRewardWrapper(
    BonusProperties, gym.Wrapper[ObsType, ActType, ObsType, ActType], gym.utils.RecordConstructorArgs
):
    """A Gymnasium environment whose reward is ``extrinsic_coef · r_ext + intrinsic_coef · r_int``.

    Bonuses, entries of ``info`` and the handling of resets are those of :class:`~irwrappers.VecIntrinsicReward` around a
    ``VecEnv`` of one environment; see there. With Stable-Baselines3 prefer that one: n parallel environments then share a
    reward model, which learns from common batches.

    Put it outside ``TimeLimit`` (as ``gym.make`` gives the environment): episodic memories end with the episode.

    Args:
        env: the environment.
        intrinsic_reward: a name (``"rnd"``), ``{name: arguments}``, an instance, or a list of these, as in
            :func:`~irwrappers.make_intrinsic_reward`.
        intrinsic_coef: of the bonus: a number, ``"lin_0.1"`` (from 0.1 down to 0) or a function of the remaining progress (1
            to 0). The last two need ``total_timesteps``.
        extrinsic_coef: of the environment's reward.
        intrinsic_reward_kwargs: constructor arguments of a reward given by name.
        intrinsic_weights: of the reward's channels in the bonus. Default: 1 each; the signed pairs of ALLO, ExactLaplacian and
            RandomNetworkReward cancel and need them.
        learn_every: steps of each environment between two updates of the reward model.
        normalize_reward: divide by the running deviation.
        gamma: discount factor of the return whose deviation it is. RND's 0.99.
        episodic: reset that return to 0 at the end of every episode.
        clip_reward: largest absolute value of a normalised channel, or None.
        warmup_steps: largest number of environment steps for ``fit``; 0: none.
        total_timesteps: environment steps over which a schedule of ``intrinsic_coef`` runs;
            afterwards the coefficient stays.
        training: add the bonus and train the reward model; else the environment's reward passes.
        seed: of the reward's networks, warm-up and minibatches, independent of torch's global generator. None: sampled from
            NumPy's, which SB3's ``set_random_seed`` seeds.
        device: of the reward model.

    Raises:
        ValueError: as in :class:`~irwrappers.VecIntrinsicReward`.

    >>> import gymnasium as gym
    >>> env = gym.make("MountainCar-v0")
    >>> env = IntrinsicRewardWrapper(env, "random", intrinsic_coef=0.5, intrinsic_reward_kwargs={"n_rewards": 1})
    >>> _ = env.reset(seed=0)
    >>> _, reward, _, _, info = env.step(2)
    >>> info["reward_extrinsic"], bool(reward == np.float32(-1 + 0.5 * info["reward_intrinsic"]))
    (-1.0, True)
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        intrinsic_reward: RewardChoice,
        intrinsic_coef: Coefficient = 1.0,
        extrinsic_coef: float = 1.0,
        intrinsic_reward_kwargs: Mapping[str, Any] | None = None,
        intrinsic_weights: Sequence[float] | None = None,
        learn_every: int = 128,
        normalize_reward: bool = True,
        gamma: float = 0.99,
        episodic: bool = False,
        clip_reward: float | None = 10.0,
        warmup_steps: int = 10_000,
        total_timesteps: int | None = None,
        training: bool = True,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        settings: dict[str, Any] = dict(
            intrinsic_coef=intrinsic_coef, extrinsic_coef=extrinsic_coef, intrinsic_reward_kwargs=intrinsic_reward_kwargs,
            intrinsic_weights=intrinsic_weights, learn_every=learn_every, normalize_reward=normalize_reward,
            gamma=gamma, episodic=episodic, clip_reward=clip_reward, warmup_steps=warmup_steps,
            total_timesteps=total_timesteps, training=training, seed=seed, device=device,
        )  # fmt: skip
        gym.utils.RecordConstructorArgs.__init__(self, intrinsic_reward=intrinsic_reward, **settings)
        gym.Wrapper.__init__(self, env)
        self.bonus = IntrinsicBonus(intrinsic_reward, env.observation_space, env.action_space, 1, **settings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        if self.bonus.needs_warm_up:
            self.bonus.warm_up(self.env)
        observation, info = super().reset(seed=seed, options=options)
        self.bonus.begin(_batched(self.env.observation_space, observation))
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        batched = _batched(self.env.observation_space, observation)
        flags = np.array([terminated]), np.array([truncated])
        total, bonus = self.bonus.step(np.asarray(action)[None], batched, batched, np.array([reward], np.float32), *flags)
        info = {**info, EXTRINSIC: float(reward), INTRINSIC: float(bonus[0])}
        if self.training and (terminated or truncated):
            info[EPISODE] = self.bonus.end_episode(0)
        return observation, float(total[0]), terminated, truncated, info


def _batched(space: spaces.Space, observation: Any) -> Any:
    """Return one observation as a batch of one, with the types that an SB3 ``VecEnv`` gives."""
    if isinstance(space, spaces.Dict):
        return {key: _batched(part, observation[key]) for key, part in space.spaces.items()}
    return np.asarray(observation, dtype=space.dtype)[None]
