"""``VecIntrinsicReward``: an intrinsic reward around a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.serialization import check_same_spaces, describe_space, plain, read_state, write_state
from irwrappers.transitions import OriginalView
from irwrappers.wrappers.bonus import EPISODE, EXTRINSIC, INTRINSIC, Coefficient, IntrinsicBonus, RewardChoice


class VecIntrinsicReward(VecEnvWrapper):
    """Pays ``extrinsic_coef · r_ext + coef · r_int`` around a ``VecEnv``.

    Every step's info has both parts, ``info["reward_extrinsic"]`` and ``info["reward_intrinsic"]`` (normalised, before its
    coefficient), and the last of an episode ``info["intrinsic_episode"] = {"r": sum of the bonuses, "l": steps}``. A
    ``Monitor`` or ``VecMonitor`` beneath goes on reporting the environment's own returns: put it there.

    *Learning.* The reward is priced after each step and learns every ``learn_every`` steps, from the batch ``[learn_every,
    n_envs]`` of them. Before the first reset a reward that needs it (RND's observation statistics, ALLO's walks) is fitted on
    at most ``warmup_steps`` random steps, after which the environment is seeded as it was: these steps (``num_warmup_steps``)
    count neither in SB3's ``num_timesteps`` nor in the schedule, and a ``Monitor`` beneath writes their episodes to its file.

    *Normalisation.* Each channel is divided by the running deviation of its discounted return R_t = γ R_{t−1} + r_t, which
    runs along time for each copy and, being non-episodic, across the ends of episodes (RND: Burda et al., arXiv 1810.12894,
    §2.4). Unlike RND, which does so after a rollout, the deviation is brought up to date at every step; R_0 = 0 is counted
    with it, so that the first steps have a scale. The result is clipped, as ``VecNormalize`` clips.

    *Evaluation.* With ``training=False`` (argument or attribute) the environment's reward passes unchanged, nothing is
    computed, learned or fitted, and ``reward_intrinsic`` is 0. rl_zoo3's ``vec_env_wrapper`` also wraps the evaluation
    environment: ``python -m sb3_ext.train`` sets ``training = False`` there. Under rl_zoo3's own ``train`` that copy pays and
    trains a model of its own; evaluation returns are the environment's all the same, for the ``Monitor`` lies beneath.

    *With VecNormalize.* The reward model sees original observations in either order.

    - ``VecNormalize(VecIntrinsicReward(venv), norm_reward=False)``: recommended, and rl_zoo3's order. With
      ``norm_reward=True`` the sum is divided by the deviation of the sum's return: the bonus is part of those statistics, and
      a warning says so.
    - ``VecIntrinsicReward(VecNormalize(venv))``: the bonus is added to the normalised reward, each on statistics of its own.
      For on-policy algorithms only: SB3's off-policy algorithms store ``VecNormalize``'s original reward, in which there is
      no bonus, and are refused.

    A reset in the middle of episodes cuts them: the reward forgets what it remembers of them, and the steps collected for the
    next learning are kept.

    Args:
        venv: the environment.
        reward: as in :func:`make_intrinsic_reward`: a name (``"rnd"``), ``{name: arguments}``, an instance, or a list.
        coef: of the bonus: a number, ``"lin_0.1"`` (from 0.1 down to 0) or a function of the progress that remains (1 to 0).
            The last two need ``total_timesteps``.
        extrinsic_coef: of the environment's reward.
        reward_kwargs: constructor arguments of a reward given by name.
        weights: of the reward's channels in the bonus. Default: 1 each; the signed pairs of ALLO, ExactLaplacian and
            RandomNetworkReward cancel and need them.
        learn_every: steps of each copy between learning.
        normalize_reward: divide by the running deviation.
        gamma: discount of the return whose deviation it is. RND's 0.99.
        episodic: begin that return at 0 in every episode.
        clip_reward: largest absolute normalised channel, or None.
        warmup_steps: largest number of environment steps for ``fit``; 0: none.
        total_timesteps: steps of all copies over which a changing ``coef`` changes; afterwards it stays.
        training: see above.
        seed: of the reward's networks, warm-up and minibatches, drawn apart from torch's global generator. None: drawn
            from NumPy's, which SB3's ``set_random_seed`` seeds.
        device: of the reward.

    Raises:
        ValueError: an unknown reward, a number out of range, a reward built for other spaces; in ``step`` and ``reset``
            observations or bonuses that are not finite, with the copies that had them.

    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> env = make_vec_env("MountainCar-v0", n_envs=2, seed=0)
    >>> env = VecIntrinsicReward(env, "random", coef=0.5, reward_kwargs={"n_rewards": 1})
    >>> _ = env.reset()
    >>> _, rewards, _, infos = env.step([2, 2])
    >>> float(infos[1]["reward_extrinsic"]), bool(rewards[1] == -1 + 0.5 * infos[1]["reward_intrinsic"])
    (-1.0, True)
    """

    def __init__(
        self,
        venv: VecEnv,
        reward: RewardChoice,
        coef: Coefficient = 1.0,
        extrinsic_coef: float = 1.0,
        reward_kwargs: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
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
            coef=coef, extrinsic_coef=extrinsic_coef, reward_kwargs=reward_kwargs, weights=weights, learn_every=learn_every,
            normalize_reward=normalize_reward, gamma=gamma, episodic=episodic, clip_reward=clip_reward,
            warmup_steps=warmup_steps, total_timesteps=total_timesteps, training=training, seed=seed,
        )  # fmt: skip
        self.bonus = IntrinsicBonus(reward, *self._spaces(), venv.num_envs, device=device, **settings)
        self._arguments = {"reward": reward, **settings, "seed": self.bonus.seed}
        self._looked_around = False

    def _spaces(self) -> tuple[Any, Any]:
        """The environment's observation space, beneath any ``VecNormalize``, and its action space."""
        normalize = self._view.normalize
        return (self.venv if normalize is None else normalize.venv).observation_space, self.action_space

    @property
    def reward(self) -> IntrinsicReward:
        """The intrinsic reward."""
        return self.bonus.reward

    @property
    def training(self) -> bool:
        """Whether the bonus is paid and the reward learns."""
        return self.bonus.training

    @training.setter
    def training(self, value: bool) -> None:
        self.bonus.training = value

    @property
    def num_warmup_steps(self) -> int:
        """Environment steps that ``fit`` took."""
        return self.bonus.num_warmup_steps

    def pop_logs(self) -> dict[str, float]:
        """Means since the last call of bonus, coefficient, episodes' bonuses and what the reward logged while learning."""
        return self.bonus.pop_logs()

    def reset(self) -> VecEnvObs:
        if self.training and not self._looked_around:
            self._look_around()
        if self.bonus.wants_warm_up:
            inner = self.venv.unwrapped
            seeds, options = inner._seeds, inner._options  # asked for by the user, for the reset below
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
        following, ended = original, np.flatnonzero(dones).tolist()
        truncated = np.zeros(self.num_envs, dtype=bool)
        if ended:
            following = _copied(original)
            for index in ended:
                truncated[index] = infos[index].get("TimeLimit.truncated", False)
                _put(following, index, self._view.original_terminal(infos[index]))
        # GymnasiumVecEnv's mark of a step that only reset a copy.
        only_reset = np.array(["reset_step" in info for info in infos])
        valid = ~only_reset if only_reset.any() else None
        paid, intrinsic = self.bonus.step(self._actions, following, original, rewards, dones & ~truncated, truncated, valid)
        for info, extrinsic, bonus in zip(infos, rewards.tolist(), intrinsic.tolist(), strict=True):
            info[EXTRINSIC], info[INTRINSIC] = extrinsic, bonus
        if self.training:
            for index in ended:
                infos[index][EPISODE] = self.bonus.end_episode(index)
        return observations, paid, dones, infos

    def _original(self, observations: Any) -> Any:
        return observations if self._view.normalize is None else self._view.normalize.get_original_obs()

    def _look_around(self) -> None:
        """Warn or refuse where what stands around this wrapper would mislead.

        A ``VecEnv`` isn't told what wraps it; but whoever calls ``reset`` goes through the wrappers, and is on the stack.
        """
        self._looked_around = True
        frame = sys._getframe(1).f_back
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, OffPolicyAlgorithm) and self._view.normalize is not None:
                raise ValueError(
                    f"{type(caller).__name__} stores the original reward of the VecNormalize beneath VecIntrinsicReward and "
                    "would never see the bonus. Put VecNormalize around VecIntrinsicReward."
                )
            if not isinstance(caller, VecEnvWrapper):
                return
            if isinstance(caller, VecNormalize) and caller.training and caller.norm_reward:
                warnings.warn(
                    "VecNormalize(norm_reward=True) stands around VecIntrinsicReward: its running deviation is that of the "
                    "sum, bonus included, and rescales both. Pass norm_reward=False (rl_zoo3: normalize: "
                    '"dict(norm_obs=True, norm_reward=False)") to keep the coefficients as given.',
                    UserWarning,
                    stacklevel=3,
                )
            frame = frame.f_back

    # Saving

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings, reward and running statistics to one file (safetensors; loading it runs no code).

        The steps collected since the last learning are not in it; continue from a reset, as with ``VecNormalize``.
        """
        observation_space, action_space = self._spaces()
        header = {
            "wrapper": type(self).__name__,
            "reward_class": type(self.reward).__name__,
            "observation_space": describe_space(observation_space),
            "action_space": describe_space(action_space),
            # What JSON cannot hold (an instance, a function) is null here, and load() asks for it.
            "arguments": {name: [value is None, plain(value)] for name, value in self._arguments.items()},
        }
        write_state(path, header, self.bonus.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], venv: VecEnv, **arguments: Any) -> VecIntrinsicReward:
        """Put the saved wrapper around ``venv``, whose number of copies may differ.

        Args:
            path: of the file.
            venv: with the spaces of the saved one.
            arguments: constructor arguments to use instead of the saved ones. A reward given as an instance and a function
                as ``coef`` are not saved and must be given again.

        Raises:
            ValueError: other spaces, a missing or different reward, or a file that :meth:`save` did not write.
        """
        header, state = read_state(path)
        view = OriginalView(venv)
        space = (venv if view.normalize is None else view.normalize.venv).observation_space
        saved = (header["observation_space"], header["action_space"])
        check_same_spaces(saved, (space, venv.action_space), f"{str(path)!r} was saved")
        chosen = dict(arguments)
        for name, (was_none, value) in header["arguments"].items():
            if name not in arguments:
                if value is None and not was_none:
                    raise ValueError(
                        f"{str(path)!r} does not hold the argument {name!r}, which can't be written as data. Give it again: "
                        f"load(path, venv, {name}=…), as it was"
                        + (f" (a {header['reward_class']} with the same arguments)." if name == "reward" else ".")
                    )
                chosen[name] = value
        wrapper = cls(venv, **chosen)
        wrapper.bonus.load_state_dict(state)
        return wrapper

    def __getstate__(self) -> dict[str, Any]:
        """For pickling, without the environment; call :meth:`set_venv` afterwards, as with ``VecNormalize``."""
        return {name: value for name, value in self.__dict__.items() if name not in ("venv", "class_attributes", "_view")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.venv = None  # type: ignore[assignment]

    def set_venv(self, venv: VecEnv) -> None:
        """Wrap ``venv`` after unpickling."""
        if self.venv is not None:
            raise ValueError("This VecIntrinsicReward has an environment already; wrap the new one in another.")
        self._view = OriginalView(venv)
        space = (venv if self._view.normalize is None else self._view.normalize.venv).observation_space
        known = (self.reward.observation_space, self.reward.action_space)
        check_same_spaces(known, (space, venv.action_space), "the wrapper was pickled")
        self.venv, self.num_envs, self.render_mode = venv, venv.num_envs, venv.render_mode
        self.class_attributes = dict(inspect.getmembers(self.__class__))
        returns = self.bonus.returns
        self.bonus.start(venv.num_envs)
        if len(returns) == venv.num_envs:
            self.bonus.returns = returns


def _copied(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: value.copy() for key, value in observations.items()}
    return observations.copy()


def _put(observations: Any, index: int, one: Any) -> None:
    """Write the observation ``one`` of copy ``index``."""
    if isinstance(observations, dict):
        for key, part in observations.items():
            part[index] = one[key]
    else:
        observations[index] = one
