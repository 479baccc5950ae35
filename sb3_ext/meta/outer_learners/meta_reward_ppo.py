"""PPO that is paid by a trained reward model: the one-line swap."""

from __future__ import annotations

import os
import warnings
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from torch import Tensor

from irwrappers.extrinsic.signal import success_signal
from irwrappers.validation import check_range
from sb3_ext.meta.lifetimes.task_batches import flat_actions
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork
from sb3_ext.meta.outer_learners.reward_model import Paymaster, RewardModel

SelfMetaRewardPPO = TypeVar("SelfMetaRewardPPO", bound="MetaRewardPPO")


class MetaRewardPPO(PPO):
    """PPO on the rewards (or the advantages) that a trained :class:`RewardModel` gives; of the environment it uses
    ``info["is_success"]`` alone (Pappalardo, Ramele & Santos, arXiv 2407.21546).

    The model sees observations, actions, their probabilities, the success signal (``irwrappers.SuccessSignal``'s: the earlier
    a success, the more; -0.2 for an episode without) and its own last payment, and remembers all of this agent's life, over
    every call of ``learn`` and in saved files. Each copy of the environment is a lifetime of its own to it; it was trained on
    agents with one, and begins anew where an agent goes on with another number of copies. The end of an episode counts as
    terminal, also by a time limit. Payments enter the rollout buffer after ``on_rollout_end``. Give the model environments
    like those it knows: ``reward_model.env`` are their arguments, ``reward_model.record["family"]`` the tasks.

    Args:
        reward_model: a path, a name (:func:`sb3_ext.meta.reward_model_names`) or a :class:`RewardModel`.
        max_episode_steps: T of the success signal; default: the environment's own (``env.spec.max_episode_steps``).

    The others are SB3's, in its order. Those left out are the settings of the agents that the model was trained with;
    ``n_steps`` and ``batch_size`` so that all copies together collect as many steps. A model of advantages is taken at its
    word: they are not normalised, and no critic is trained (``vf_coef=0``). Logs ``meta/payment_mean``, ``meta/payment_std``
    and ``meta/success``, the share of a rollout's finished episodes that succeeded.

    Raises:
        ValueError: an unknown model, spaces other than those it was trained on, no limit to an episode's steps, or an
            environment without ``info["is_success"]``.

    >>> import envs, gymnasium as gym
    >>> env = gym.make("sparse/PointGoal-v0", goal_angle=1.3, max_episode_steps=25, goal_radius=0.15)
    >>> model = MetaRewardPPO("MlpPolicy", env, reward_model="point_goal", device="cpu")
    """

    reward_model: RewardModel
    _paymaster: Paymaster

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int | None = None,
        gamma: float | None = None,
        gae_lambda: float | None = None,
        clip_range: float | Schedule | None = None,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool | None = None,
        ent_coef: float | None = None,
        vf_coef: float | None = None,
        max_grad_norm: float | None = None,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        reward_model: str | os.PathLike[str] | RewardModel | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        given: dict[str, Any] = dict(
            learning_rate=learning_rate, n_epochs=n_epochs, gamma=gamma, gae_lambda=gae_lambda, clip_range=clip_range,
            normalize_advantage=normalize_advantage, ent_coef=ent_coef, vf_coef=vf_coef,
        )  # fmt: skip
        if reward_model is None:
            if _init_setup_model:
                raise ValueError("MetaRewardPPO is paid by a reward model: give reward_model=, a path or a name.")
            settings: dict[str, Any] = {}  # SB3's load sets all of it
        else:
            self.reward_model = reward_model if isinstance(reward_model, RewardModel) else RewardModel.load(reward_model)
            settings = self._defaults()
        settings |= {name: value for name, value in given.items() if value is not None}
        if max_episode_steps is not None:
            check_range("max_episode_steps", max_episode_steps, 1, integer=True)
        self.max_episode_steps = max_episode_steps
        self._memory: tuple[np.ndarray, ...] | None = None
        self._elapsed, self._succeeded = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)  # of the running episodes
        super().__init__(
            policy,
            env,
            n_steps=2048 if n_steps is None else n_steps,
            batch_size=64 if batch_size is None else batch_size,
            clip_range_vf=clip_range_vf,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=self._policy_kwargs(policy_kwargs) if reward_model is not None else policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            **settings,
        )
        if max_grad_norm is not None:
            self.max_grad_norm = max_grad_norm
        elif reward_model is not None:
            inner = self.reward_model.inner.max_grad_norm
            self.max_grad_norm = float("inf") if inner is None else inner
        if reward_model is not None:
            inner_steps, n_minibatches = self.reward_model.inner.n_steps, self.reward_model.inner.n_minibatches
            self.n_steps = max(2, inner_steps // self.n_envs) if n_steps is None else n_steps
            self.batch_size = max(2, self.n_steps * self.n_envs // n_minibatches) if batch_size is None else batch_size
        if _init_setup_model:
            self._setup_model()

    def _defaults(self) -> dict[str, Any]:
        inner, advantages = self.reward_model.inner, self.reward_model.signal == "advantage"
        return dict(
            learning_rate=inner.learning_rate,
            n_epochs=inner.n_epochs,
            gamma=inner.gamma,
            gae_lambda=inner.gae_lambda,
            clip_range=inner.clip_range,
            ent_coef=inner.ent_coef,
            normalize_advantage=inner.normalize_advantage and not advantages,
            vf_coef=0.0 if advantages else inner.vf_coef,
        )

    def _policy_kwargs(self, given: dict[str, Any] | None) -> dict[str, Any]:
        inner = self.reward_model.inner
        arch = list(inner.net_arch)
        return {"net_arch": dict(pi=arch, vf=arch), "log_std_init": inner.log_std_init} | (given or {})

    def _setup_model(self) -> None:
        if not isinstance(self.reward_model, RewardModel):  # given to SB3's load
            self.reward_model = RewardModel.load(self.reward_model)
        self.reward_model.check_spaces(self.observation_space, self.action_space)
        super()._setup_model()
        self.reward_network: MetaRewardNetwork = deepcopy(self.reward_model.network).to(self.device)
        if self.env is not None:  # a loaded agent may have none, to predict
            self._horizon = self._find_horizon(self.env)
        self._paymaster = Paymaster(self.reward_network, self.n_envs, self.device)
        if self._memory is not None:  # saved agents go on living
            if [part.shape for part in self._memory] == [part.shape for part in self._paymaster.memory]:
                self._paymaster.memory = self._memory
            else:
                warnings.warn(
                    "The reward model begins with an empty memory: what this agent had lived was with another number of "
                    f"copies of its environment than {self.n_envs}, or paid by another model.",
                    stacklevel=2,
                )
        if len(self._elapsed) != self.n_envs:
            self._elapsed, self._succeeded = np.zeros(self.n_envs, dtype=np.int64), np.zeros(self.n_envs, dtype=bool)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        assert self.env is not None
        self._horizon = self._find_horizon(self.env)

    def _find_horizon(self, env: VecEnv) -> int:
        limit = self.max_episode_steps
        if limit is None:
            spec = env.get_attr("spec")[0]
            # gym.make_vec leaves a limit of one's own among the arguments.
            limit = None if spec is None else spec.kwargs.get("max_episode_steps", spec.max_episode_steps)
        if limit is None:
            raise ValueError(
                "The environment does not say how long its episodes are at most (spec.max_episode_steps); give "
                "max_episode_steps."
            )
        trained = self.reward_model.env.get("max_episode_steps", limit)
        if limit != trained:
            warnings.warn(
                f"This reward model was trained on episodes of {trained} steps, and these have {limit}: it may pay poorly. "
                f"Its environments were made with {self.reward_model.env}.",
                stacklevel=2,
            )
        return int(limit)

    # ------------------------------------------------------------------ rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_episode_starts is not None
        self._elapsed[self._last_episode_starts] = 0
        self._succeeded[self._last_episode_starts] = False
        recorder = _Recorder(env, self._last_obs, self._elapsed, self._succeeded, self._horizon)
        if not super().collect_rollouts(recorder, callback, rollout_buffer, n_rollout_steps):
            return False
        if recorder.ended:
            self.logger.record("meta/success", recorder.ended_well / recorder.ended)
        payments = self._paymaster.pay(*self._paid_for(rollout_buffer, recorder))
        self._memory = self._paymaster.memory
        self.logger.record("meta/payment_mean", float(payments.mean()))
        self.logger.record("meta/payment_std", float(payments.std()))
        self._take(payments, rollout_buffer)
        return True

    def _paid_for(self, buffer: RolloutBuffer, recorder: _Recorder) -> tuple[Tensor, ...]:
        """What the model sees of the rollout just collected, see :meth:`Paymaster.pay`."""
        steps = (buffer.buffer_size, buffer.n_envs)
        actions = flat_actions(self.action_space, buffer.actions.reshape(steps[0] * steps[1], -1)).reshape(*steps, -1)
        observations = np.stack(recorder.observations).reshape(*steps, -1)
        columns = (np.exp(buffer.log_probs), np.stack(recorder.signals), buffer.episode_starts)
        to_tensor = lambda x: torch.as_tensor(np.asarray(x, np.float32), device=self.device)  # noqa: E731
        return to_tensor(observations), to_tensor(actions), *(to_tensor(column) for column in columns)

    def _take(self, payments: np.ndarray, buffer: RolloutBuffer) -> None:
        """Put the payments into the buffer, in place of what SB3 found there."""
        if self.reward_model.signal == "advantage":
            buffer.advantages = payments
            buffer.returns = buffer.advantages + buffer.values
            return
        buffer.rewards = payments
        with torch.no_grad():
            last_values = self.policy.predict_values(self.policy.obs_to_tensor(self._last_obs)[0])  # type: ignore[arg-type]
        buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)  # type: ignore[arg-type]

    def learn(
        self: SelfMetaRewardPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MetaRewardPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMetaRewardPPO:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reward_network", "_paymaster"]


class _Recorder(VecEnvWrapper):
    """Notes what the reward model sees of each step and SB3's buffer does not hold: original observations before the step and
    the success signal. Counts in ``elapsed`` and ``succeeded`` ``[B]``, of the running episodes."""

    def __init__(self, venv: VecEnv, seen: Any, elapsed: np.ndarray, succeeded: np.ndarray, horizon: int) -> None:
        super().__init__(venv)
        self._normalize = unwrap_vec_normalize(venv)
        self._before = self._original(seen)
        self._elapsed, self._succeeded, self._horizon = elapsed, succeeded, horizon
        self.observations: list[np.ndarray] = []
        self.signals: list[np.ndarray] = []
        self.ended, self.ended_well = 0, 0  # episodes

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        if any("is_success" not in info for info in infos):
            raise ValueError(
                "A reward model is told of successes, and this environment has no info['is_success']; wrap it in "
                "irwrappers.SuccessSignal, whose arguments say what a success is."
            )
        success = np.array([bool(info["is_success"]) for info in infos])
        first = success & ~self._succeeded
        self._succeeded |= success
        self.signals.append(success_signal(first, dones & ~self._succeeded, self._elapsed, self._horizon))
        self.observations.append(np.array(self._before))
        self._before = self._original(observations)
        self.ended += int(dones.sum())
        self.ended_well += int((dones & self._succeeded).sum())
        self._elapsed += 1
        self._elapsed[dones], self._succeeded[dones] = 0, False
        return observations, rewards, dones, infos

    def _original(self, observations: Any) -> Any:
        return observations if self._normalize is None else self._normalize.get_original_obs()
