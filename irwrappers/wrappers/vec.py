"""``VecIntrinsicReward``: an intrinsic reward around a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from irwrappers.intrinsic.registry import RewardChoice
from irwrappers.serialization import check_same_spaces, describe_space, plain, read_state, write_state
from irwrappers.transitions import EpisodeEnds, OriginalView
from irwrappers.wrappers.bonus import EPISODE, EXTRINSIC, INTRINSIC, BonusProperties, IntrinsicBonus
from irwrappers.wrappers.coefficients import Coefficient

# Arguments whose names in files are those of the first version: older files and newer ones can be read alike.
NAMES_IN_FILES = {
    "intrinsic_reward": "reward", "intrinsic_coef": "coef", "intrinsic_reward_kwargs": "reward_kwargs",
    "intrinsic_weights": "weights",
}  # fmt: skip


class VecIntrinsicReward(BonusProperties, VecEnvWrapper):
    """A ``VecEnv`` whose reward is ``extrinsic_coef · r_ext + intrinsic_coef · r_int``.

    Every step's info has both parts, ``info["reward_extrinsic"]`` and ``info["reward_intrinsic"]`` (normalised, before its
    coefficient), and the last of an episode ``info["intrinsic_episode"] = {"r": sum of the bonuses, "l": steps}``. A
    ``Monitor`` or ``VecMonitor`` beneath reports the environment's own returns: put it there.

    *Learning.* The reward is computed after each step and learns every ``learn_every`` steps, from the batch ``[learn_every,
    n_envs]`` of them. Before the first reset a reward that needs it (RND's observation statistics, ALLO's walks) is fitted on
    at most ``warmup_steps`` random steps, after which the environment is seeded as it was: these steps (``num_warmup_steps``)
    count neither in SB3's ``num_timesteps`` nor in the schedule, and a ``Monitor`` beneath writes their episodes to its file.

    *Normalisation.* Each channel is divided by the running deviation of its discounted return R_t = γ R_{t−1} + r_t, which
    runs along time in each environment and, being non-episodic, across the ends of episodes (RND: Burda et al., arXiv
    1810.12894, §2.4). Unlike RND, which does so after a rollout, the deviation is updated at every step; R_0 = 0 is counted
    with it, so that the first steps have a scale. The result is clipped, as ``VecNormalize`` clips.

    *Evaluation.* With ``training=False`` (argument or attribute) the environment's reward passes unchanged, nothing is
    computed, learned or fitted, and ``reward_intrinsic`` is 0. rl_zoo3's ``vec_env_wrapper`` also wraps the evaluation
    environment: ``python -m sb3_ext.train`` sets ``training = False`` there. Under rl_zoo3's own ``train`` that environment
    adds bonuses and trains a model of its own; evaluation returns are the environment's all the same, for the ``Monitor`` lies
    beneath.

    *With VecNormalize.* The reward model sees original observations in either order.
    :class:`~irwrappers.IntrinsicRewardCallback` warns or refuses where the order is wrong; this wrapper does not know what is
    around it.

    - ``VecNormalize(VecIntrinsicReward(venv), norm_reward=False)``: recommended, and rl_zoo3's order. With
      ``norm_reward=True`` the sum is divided by the deviation of the sum's return: the bonus is part of those statistics, and
      the coefficients do not keep their meaning.
    - ``VecIntrinsicReward(VecNormalize(venv))``: the bonus is added to the normalised reward, each on statistics of its own.
      For on-policy algorithms only: SB3's off-policy algorithms store ``VecNormalize``'s original reward, which does not
      include the bonus, and so never see it.

    A reset in the middle of episodes cuts them: the reward's episodic memory is cleared, and the steps collected for the next
    update are kept.

    Args:
        venv: the environment.
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
        total_timesteps: environment steps (of all environments together) over which a schedule of ``intrinsic_coef`` runs;
            afterwards the coefficient stays.
        training: add the bonus and train the reward model; see *Evaluation*.
        seed: of the reward's networks, warm-up and minibatches, independent of torch's global generator. None: sampled from
            NumPy's, which SB3's ``set_random_seed`` seeds.
        device: of the reward model.

    Raises:
        ValueError: an unknown reward, a number out of range, a reward built for other spaces; in ``step`` and ``reset``
            observations or bonuses that are not finite, with the indices of their environments.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> env = make_vec_env("MountainCar-v0", n_envs=2, seed=0)
    >>> env = VecIntrinsicReward(env, "random", intrinsic_coef=0.5, intrinsic_reward_kwargs={"n_rewards": 1})
    >>> _ = env.reset()
    >>> _, rewards, _, infos = env.step([2, 2])
    >>> float(infos[1]["reward_extrinsic"]), bool(rewards[1] == -1 + 0.5 * infos[1]["reward_intrinsic"])
    (-1.0, True)
    """

    def __init__(
        self,
        venv: VecEnv,
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
        super().__init__(venv)
        self._view = OriginalView(venv)
        settings: dict[str, Any] = dict(
            intrinsic_coef=intrinsic_coef, extrinsic_coef=extrinsic_coef, intrinsic_reward_kwargs=intrinsic_reward_kwargs,
            intrinsic_weights=intrinsic_weights, learn_every=learn_every, normalize_reward=normalize_reward,
            gamma=gamma, episodic=episodic, clip_reward=clip_reward, warmup_steps=warmup_steps,
            total_timesteps=total_timesteps, training=training, seed=seed,
        )  # fmt: skip
        self.bonus = IntrinsicBonus(intrinsic_reward, *self._spaces(), venv.num_envs, device=device, **settings)
        self._arguments = {"intrinsic_reward": intrinsic_reward, **settings, "seed": self.bonus.seed}

    def _spaces(self) -> tuple[Any, Any]:
        """Return the environment's observation space, beneath any ``VecNormalize``, and its action space."""
        return _original_observation_space(self.venv, self._view), self.action_space

    def reset(self) -> VecEnvObs:
        if self.bonus.needs_warm_up:
            inner = self.venv.unwrapped
            seeds, options = inner._seeds, inner._options  # set by the user, for the reset below
            self.bonus.warm_up(self.venv)
            inner._seeds, inner._options = seeds, options
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        self.bonus.begin(self._original(observations))
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        with self._view.terminals_kept():
            observations, rewards, dones, infos = self.venv.step_wait()
        original = self._original(observations)
        ends = EpisodeEnds(dones, infos)
        next_observations = ends.next_observations(original, original=True)
        reset_steps = ends.reset_steps
        valid = ~reset_steps if reset_steps.any() else None
        total, intrinsic = self.bonus.step(
            self._actions, next_observations, original, rewards, ends.terminated, ends.truncated, valid
        )
        for info, extrinsic, bonus in zip(infos, rewards.tolist(), intrinsic.tolist(), strict=True):
            info[EXTRINSIC], info[INTRINSIC] = extrinsic, bonus
        if self.training:
            for index in ends.indices.tolist():
                infos[index][EPISODE] = self.bonus.end_episode(index)
        return observations, total, dones, infos

    def _original(self, observations: Any) -> Any:
        return observations if self._view.normalize is None else self._view.normalize.get_original_obs()

    # Saving

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings, reward and running statistics to one file (safetensors; loading it runs no code).

        The steps collected since the last update are not in it; continue from a reset, as with ``VecNormalize``.
        """
        observation_space, action_space = self._spaces()
        header = {
            "wrapper": type(self).__name__,
            "reward_class": type(self.intrinsic_reward).__name__,
            "observation_space": describe_space(observation_space),
            "action_space": describe_space(action_space),
            # Values that JSON cannot hold (an instance, a function) are null here, and load() asks for them.
            "arguments": {
                NAMES_IN_FILES.get(name, name): [value is None, plain(value)] for name, value in self._arguments.items()
            },
        }
        write_state(path, header, self.bonus.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], venv: VecEnv, **arguments: Any) -> VecIntrinsicReward:
        """Put the saved wrapper around ``venv``, whose number of environments may differ.

        Args:
            path: of the file.
            venv: with the spaces of the saved one.
            **arguments: constructor arguments to use instead of the saved ones. A reward given as an instance and a function
                as ``intrinsic_coef`` are not saved and must be given again.

        Raises:
            ValueError: other spaces, a missing or different reward, or a file that :meth:`save` did not write.
        """
        header, state = read_state(path)
        try:
            return cls._from_state(path, venv, header, state, arguments)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged, or its reward is another one: {type(error).__name__}: {str(error).strip()[:200]}."
            ) from error

    @classmethod
    def _from_state(
        cls, path: str | os.PathLike[str], venv: VecEnv, header: dict[str, Any], state: Any, arguments: dict[str, Any]
    ) -> VecIntrinsicReward:
        saved = (header["observation_space"], header["action_space"])
        given = (_original_observation_space(venv, OriginalView(venv)), venv.action_space)
        check_same_spaces(saved, given, f"{str(path)!r} was saved")
        chosen = dict(arguments)
        names = {in_file: name for name, in_file in NAMES_IN_FILES.items()}
        for in_file, (was_none, value) in header["arguments"].items():
            name = names.get(in_file, in_file)
            if name not in arguments:
                if value is None and not was_none:
                    raise ValueError(
                        f"{str(path)!r} does not hold the argument {name!r}, which can't be written as data. Give it again: "
                        f"load(path, venv, {name}=…), as it was"
                        + (f" (a {header['reward_class']} with the same arguments)." if name == "intrinsic_reward" else ".")
                    )
                chosen[name] = value
        wrapper = cls(venv, **chosen)
        wrapper.bonus.load_state_dict(state)
        return wrapper

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the environment, to be pickled; :meth:`set_venv` gives one back, as in ``VecNormalize``."""
        return {name: value for name, value in self.__dict__.items() if name not in ("venv", "class_attributes", "_view")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.venv = None  # type: ignore[assignment]

    def set_venv(self, venv: VecEnv) -> None:
        """Wrap ``venv`` after unpickling."""
        if self.venv is not None:
            raise ValueError("This VecIntrinsicReward has an environment already; wrap the new one in another.")
        self._view = OriginalView(venv)
        known = (self.intrinsic_reward.observation_space, self.intrinsic_reward.action_space)
        given = (_original_observation_space(venv, self._view), venv.action_space)
        check_same_spaces(known, given, "the wrapper was pickled")
        self.venv, self.num_envs, self.render_mode = venv, venv.num_envs, venv.render_mode
        self.class_attributes = dict(inspect.getmembers(self.__class__))
        returns = self.bonus.returns
        self.bonus.start(venv.num_envs)
        if len(returns) == venv.num_envs:
            self.bonus.returns = returns


def _original_observation_space(venv: VecEnv, view: OriginalView) -> Any:
    return (venv if view.normalize is None else view.normalize.venv).observation_space
