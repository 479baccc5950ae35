"""PPO with the rewards of a trained reward model: the one-line swap."""

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
from sb3_ext.common.checkpoint import WholeSave
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.meta.lifetimes.task_batches import flat_actions
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork
from sb3_ext.meta.outer_learners.reward_model import RewardComputer, RewardModel

SelfMetaRewardPPO = TypeVar("SelfMetaRewardPPO", bound="MetaRewardPPO")


class MetaRewardPPO(WholeSave, PPO):
    """PPO on the rewards (or the advantages) of a trained :class:`RewardModel`; of the environment it uses
    ``info["is_success"]`` alone (Pappalardo, Ramele & Santos, arXiv 2407.21546).

    The model's input is observations, actions, their probabilities, the success signal (``irwrappers.SuccessSignal``'s: the
    earlier a success, the more; -0.2 for an episode without) and its own last reward. Its memory is the whole life of this
    agent, over every call of ``learn`` and in saved files. Each parallel environment is a lifetime of its own to it; it was
    trained on agents with one, and begins anew where an agent continues with another number of environments. The end of an
    episode counts as terminal, also by a time limit. The rewards enter the rollout buffer after ``on_rollout_end``. Use
    environments like those of its training: ``reward_model.env`` are their arguments, ``reward_model.record["family"]`` the
    tasks.

    Arguments that are None are the settings of the agents that the model was trained with. A model of advantages gives them
    as they are: they are not normalised, and no critic is trained (``vf_coef=0``). Logs ``meta/reward_mean``,
    ``meta/reward_std`` and ``meta/success``, the share of a rollout's finished episodes that succeeded.

    Args:
        policy: as in PPO.
        env: a Gymnasium environment, an SB3 ``VecEnv`` or a registered id.
        learning_rate: as in PPO; None: the model's.
        n_steps: steps of each environment in a rollout; None: all together collect a batch of the model's agents.
        batch_size: transitions in a minibatch; None: the model's number of minibatches.
        n_epochs: as in PPO; None: the model's.
        gamma: as in PPO; None: the model's.
        gae_lambda: as in PPO; None: the model's.
        clip_range: as in PPO; None: the model's.
        clip_range_vf: as in PPO.
        normalize_advantage: as in PPO; None: the model's.
        ent_coef: as in PPO; None: the model's.
        vf_coef: as in PPO; None: the model's.
        max_grad_norm: as in PPO; None: the model's.
        use_sde: as in PPO.
        sde_sample_freq: as in PPO.
        rollout_buffer_class: as in PPO.
        rollout_buffer_kwargs: as in PPO.
        target_kl: as in PPO.
        stats_window_size: as in PPO.
        tensorboard_log: as in PPO.
        policy_kwargs: as in PPO; sizes and initial deviation are the model's by default.
        verbose: as in PPO.
        seed: as in PPO.
        device: as in PPO.
        _init_setup_model: as in PPO.
        reward_model: a path, a name (:func:`sb3_ext.meta.reward_model_names`) or a :class:`RewardModel`.
        max_episode_steps: T of the success signal; None: the environment's own (``env.spec.max_episode_steps``).

    Raises:
        ValueError: for an unknown model, spaces other than those of its training, no limit of an episode's steps, or an
            environment without ``info["is_success"]``.

    >>> import envs, gymnasium as gym
    >>> env = gym.make("sparse/PointGoal-v0", goal_angle=1.3, max_episode_steps=25, goal_radius=0.15)
    >>> model = MetaRewardPPO("MlpPolicy", env, reward_model="point_goal", device="cpu")
    """

    reward_model: RewardModel
    _reward_computer: RewardComputer

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
        given = {name: value for name, value in sb3_arguments(PPO, locals()).items() if value is not None}
        if reward_model is None:
            if _init_setup_model:
                raise ValueError("MetaRewardPPO needs a reward model: give reward_model=, a path or a name.")
            settings: dict[str, Any] = {}  # SB3's load sets all attributes
        else:
            self.reward_model = reward_model if isinstance(reward_model, RewardModel) else RewardModel.load(reward_model)
            settings = self._defaults()
        if max_episode_steps is not None:
            check_range("max_episode_steps", max_episode_steps, 1, integer=True)
        self.max_episode_steps = max_episode_steps
        self._memory: tuple[np.ndarray, ...] | None = None
        self._elapsed, self._succeeded = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)  # of the running episodes
        super().__init__(**(dict(env=env) | settings | given | dict(_init_setup_model=False)))
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

    def _setup_model(self) -> None:
        if not isinstance(self.reward_model, RewardModel):  # given to SB3's load
            self.reward_model = RewardModel.load(self.reward_model)
        self.reward_model.check_spaces(self.observation_space, self.action_space)
        inner, given = self.reward_model.inner, self.policy_kwargs  # load() compares it with the argument of that name
        arch = list(inner.net_arch)
        self.policy_kwargs = {"net_arch": dict(pi=arch, vf=arch), "log_std_init": inner.log_std_init} | given
        super()._setup_model()
        self.policy_kwargs = given
        self.reward_network: MetaRewardNetwork = deepcopy(self.reward_model.network).to(self.device)
        if self.env is not None:  # a model that is loaded to predict may have none
            self._horizon = self._find_horizon(self.env)
        self._reward_computer = RewardComputer(self.reward_network, self.n_envs, self.device)
        if self._memory is not None:  # the memory of a saved agent
            if [part.shape for part in self._memory] == [part.shape for part in self._reward_computer.memory]:
                self._reward_computer.memory = self._memory
            else:
                warnings.warn(
                    "The reward model begins with an empty memory: the saved one is of another number of environments than "
                    f"{self.n_envs}, or of another model.",
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
            # gym.make_vec has a limit that the user gave among the arguments.
            limit = None if spec is None else spec.kwargs.get("max_episode_steps", spec.max_episode_steps)
        if limit is None:
            raise ValueError(
                "The length of the environment's episodes is not known (it has no spec.max_episode_steps); give "
                "max_episode_steps."
            )
        trained = self.reward_model.env.get("max_episode_steps", limit)
        if limit != trained:
            warnings.warn(
                f"This reward model was trained on episodes of {trained} steps, and these have {limit}: its rewards may be "
                f"poor. Its environments were made with {self.reward_model.env}.",
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
        rewards = self._reward_computer.compute(*self._model_inputs(rollout_buffer, recorder))
        self._memory = self._reward_computer.memory
        self.logger.record("meta/reward_mean", float(rewards.mean()))
        self.logger.record("meta/reward_std", float(rewards.std()))
        self._put_into_buffer(rewards, rollout_buffer)
        return True

    def _model_inputs(self, buffer: RolloutBuffer, recorder: _Recorder) -> tuple[Tensor, ...]:
        """Return the inputs of ``RewardComputer.compute`` for the rollout that was collected last."""
        steps = (buffer.buffer_size, buffer.n_envs)
        actions = flat_actions(self.action_space, buffer.actions.reshape(steps[0] * steps[1], -1)).reshape(*steps, -1)
        observations = np.stack(recorder.observations).reshape(*steps, -1)
        columns = (np.exp(buffer.log_probs), np.stack(recorder.signals), buffer.episode_starts)
        to_tensor = lambda x: torch.as_tensor(np.asarray(x, np.float32), device=self.device)  # noqa: E731
        return to_tensor(observations), to_tensor(actions), *(to_tensor(column) for column in columns)

    def _put_into_buffer(self, rewards: np.ndarray, buffer: RolloutBuffer) -> None:
        """Put rewards or advantages ``[T, B]`` into the buffer, in place of the environment's."""
        if self.reward_model.signal == "advantage":
            buffer.advantages = rewards
            buffer.returns = buffer.advantages + buffer.values
            return
        buffer.rewards = rewards
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
        return [*super()._excluded_save_params(), "reward_network", "_reward_computer"]


class _Recorder(VecEnvWrapper):
    """Recorder of inputs of the reward model that SB3's buffer does not hold: original observations and the success signal.

    Args:
        venv: the environment.
        seen: observations before the first step.
        elapsed: steps of the running episodes ``[B]``, updated in place.
        succeeded: whether the running episodes have succeeded ``[B]``, updated in place.
        horizon: T of the success signal.
    """

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
                "A reward model needs successes, and this environment has no info['is_success']; wrap it in "
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
