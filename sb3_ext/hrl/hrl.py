"""HRL: options trained on intrinsic rewards, and PPO choosing among them (a baseline of Cho & Tran, arXiv 2601.21391)."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch.utils._pytree import tree_map

from irwrappers import IntrinsicReward, make_intrinsic_reward
from irwrappers.serialization import check_same_spaces
from irwrappers.validation import check_choice, check_range
from sb3_ext.common.checkpoint import WholeSave
from sb3_ext.common.original_space import original_observation_space
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.common.supported_envs import check_early_resets, check_spaces
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.hrl.buffers import OptionDictRolloutBuffer, OptionRolloutBuffer
from sb3_ext.hrl.option_rollout import collect_choices
from sb3_ext.hrl.options import PPO_ARGUMENTS, Options, OptionTraining, Primitive

SelfHRL = TypeVar("SelfHRL", bound="HRL")

DEFAULT_N_ENVS = 64  # for an environment given by its id


class HRL(WholeSave, PPO):
    """PPO over options and single actions. Each option is trained before by PPO on one channel of an intrinsic reward.

    A run has three parts: the intrinsic reward is fitted (ALLO's random walks), the options are trained one after the other,
    and PPO learns to choose. Options act without sampling and run ``option_steps`` steps, or to the end of the episode. Each
    environment step counts in ``num_timesteps`` in all three, and callbacks see those of the last two. While options are
    trained ``predict`` uses a policy over the choices that has not been trained yet.

    A choice that lasts k steps is one transition of a semi-Markov decision process
    (:func:`~sb3_ext.hrl.semi_mdp_advantages`). At the end of a rollout every option is interrupted and every environment gets
    a new choice, so the last observation is bootstrapped with the value of choosing there.

    ``predict`` has a state, as in recurrent policies: pass on what it returns, as ``evaluate_policy`` does, or every call
    makes a new choice. It returns actions of the environment; ``model.policy`` is the policy over the choices.

    The authors' program differs: one random action instead of the single actions (here for continuous actions only), an
    option that also ends where its critic is negative, and a discount for each choice instead of each step. It spends four
    fifths of all steps on the options.

    A run saved while options were trained continues with the weights of the option in training; its optimiser and the scale
    of its reward are initialised again.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or an ``ActorCriticPolicy`` class: of the choices and,
            with weights of its own, of every option.
        env: an environment, an SB3 ``VecEnv`` or a registered id, of which 64 environments are made.
        learning_rate: as in PPO.
        n_steps: environment steps of each environment in a rollout.
        batch_size: choices in a minibatch.
        n_epochs: as in PPO.
        gamma: discount of each environment step, in [0, 1].
        gae_lambda: λ of each choice, in [0, 1].
        clip_range: as in PPO.
        clip_range_vf: as in PPO.
        normalize_advantage: as in PPO.
        ent_coef: as in PPO.
        vf_coef: as in PPO.
        max_grad_norm: as in PPO.
        use_sde: must be False: choices are discrete.
        sde_sample_freq: unused.
        rollout_buffer_class: a subclass of ``sb3_ext.hrl.buffers.OptionRolloutBuffer``. Default: by the observation space.
        rollout_buffer_kwargs: further arguments of the rollout buffer.
        target_kl: as in PPO.
        stats_window_size: as in PPO.
        tensorboard_log: as in PPO.
        policy_kwargs: as in PPO, of the policy over the choices and of every option.
        verbose: as in PPO.
        seed: seed of weights, environments and actions.
        device: as in PPO.
        _init_setup_model: as in PPO.
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, ``{name: arguments}`` or a list of these;
            there is an option for each of its channels.
        intrinsic_reward_kwargs: arguments for a name.
        option_steps: environment steps that an option runs.
        option_fraction: share of ``total_timesteps`` that trains options, in equal parts and whole rollouts; every option
            gets at least one rollout.
        fit_fraction: largest share of ``total_timesteps`` that fitting the intrinsic reward takes.
        option_kwargs: PPO's hyperparameters for the options; others are those for the choices. ``batch_size`` counts
            environment steps here; default: a quarter of a rollout.
        primitive_actions: single actions among the choices: ``"each"`` action of a Discrete space, one ``"random"`` action,
            ``"none"``, or ``"auto"``: each for Discrete spaces, random for others.

    Raises:
        ValueError: for an argument out of range, an unknown one in ``option_kwargs``, a reward built for other spaces.
    """

    policy: ActorCriticPolicy
    rollout_buffer: OptionRolloutBuffer
    intrinsic_reward: IntrinsicReward
    options: Options

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int = 256,
        n_epochs: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
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
        intrinsic_reward: Any = "allo",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        option_steps: int = 10,
        option_fraction: float = 0.4,
        fit_fraction: float = 0.1,
        option_kwargs: dict[str, Any] | None = None,
        primitive_actions: Primitive = "auto",
    ) -> None:
        check_range("option_steps", option_steps, 1, integer=True)
        check_range("option_fraction", option_fraction, 0, 1, open_low=True)
        check_range("fit_fraction", fit_fraction, 0, 1, open_low=True)
        check_choice("primitive_actions", primitive_actions, ("auto", "each", "random", "none"))
        unknown = set(option_kwargs or {}) - set(PPO_ARGUMENTS)
        if unknown:
            raise ValueError(f"option_kwargs takes {', '.join(PPO_ARGUMENTS)}; got {', '.join(map(repr, sorted(unknown)))}.")
        if use_sde:
            raise ValueError("HRL does not support gSDE (use_sde=True): its choices are discrete.")
        if rollout_buffer_class is not None and not issubclass(rollout_buffer_class, OptionRolloutBuffer):
            raise ValueError(
                "HRL learns from choices: rollout_buffer_class must be a subclass of sb3_ext.hrl.buffers.OptionRolloutBuffer, "
                f"got {rollout_buffer_class.__name__}."
            )
        if isinstance(env, str):
            env = make_vec_env(env, n_envs=DEFAULT_N_ENVS)
        with warnings.catch_warnings():  # SB3 compares batch_size with the steps of a rollout, but it counts choices
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")
            super().__init__(**sb3_arguments(PPO, locals()) | dict(_init_setup_model=False))
        self.intrinsic_reward_spec = intrinsic_reward
        self.intrinsic_reward_kwargs = intrinsic_reward_kwargs or {}
        self.option_steps = option_steps
        self.option_fraction = option_fraction
        self.fit_fraction = fit_fraction
        self.option_kwargs = option_kwargs or {}
        self.primitive_actions: Primitive = primitive_actions
        self.n_trained_options = 0
        self._options_begin = 0  # num_timesteps at which the training of the first option began
        self._training: OptionTraining | None = None
        if self.env is not None:
            self.original_observation_space = original_observation_space(self.env)
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, self.action_space)
        self.set_random_seed(self.seed)
        reward = make_intrinsic_reward(
            self.intrinsic_reward_spec, self.original_observation_space, self.action_space, **self.intrinsic_reward_kwargs
        )
        known = (reward.observation_space, reward.action_space)
        check_same_spaces(known, (self.original_observation_space, self.action_space), "the intrinsic reward was built")
        self.intrinsic_reward = reward.to(self.device)
        self._setup_lr_schedule()
        make: Any = partial(
            self.policy_class, self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        policies = [make().to(self.device) for _ in range(reward.n_rewards)]
        self.options = Options(policies, self.action_space, self.option_steps, self.primitive_actions)
        self.options.train(False)
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = OptionDictRolloutBuffer if is_dict else OptionRolloutBuffer
        # SB3 builds policy and buffer for the model's action space; afterwards it is the environment's again.
        action_space, self.action_space = self.action_space, self.options.space
        try:
            super()._setup_model()
        finally:
            self.action_space = action_space

    @property
    def n_options(self) -> int:
        """K, the number of options: one for each channel of the intrinsic reward."""
        return self.intrinsic_reward.n_rewards

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "HRL",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        assert self.env is not None
        check_early_resets(self.env)
        spaces_now = (original_observation_space(self.env), self.action_space)
        check_same_spaces((self.original_observation_space, self.action_space), spaces_now, "the model was built")
        total_timesteps, callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        begins = reset_num_timesteps or self.intrinsic_reward.needs_fit
        if self.intrinsic_reward.needs_fit and self.num_timesteps < total_timesteps:
            self._fit_intrinsic_reward(total_timesteps, progress_bar)
        if begins:
            self._options_begin = self.num_timesteps - int(self.n_trained_options * self._steps_per_option)
        self._training = None
        return total_timesteps, callback

    def _fit_intrinsic_reward(self, total_timesteps: int, progress_bar: bool) -> None:
        assert self.env is not None
        budget = max(int(self.fit_fraction * (total_timesteps - self.num_timesteps)), self.n_envs)
        seed = self.seed if self.seed is not None else int(np.random.randint(2**31 - 1))
        try:
            self.num_timesteps += self.intrinsic_reward.fit(self.env, budget, seed=seed, progress_bar=progress_bar)
        except ValueError as error:
            error.add_note(f"learn({total_timesteps}) with fit_fraction={self.fit_fraction} gives fit() {budget} steps.")
            raise
        self.intrinsic_reward.to(self.device)
        self._reset_env()

    def _reset_env(self) -> None:
        assert self.env is not None
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.n_envs, dtype=bool)

    # ------------------------------------------------------------------ learning

    @property
    def _steps_per_option(self) -> float:
        return self.option_fraction * self._total_timesteps / self.n_options

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout of the option in training or, when all are trained, of choices."""
        if self.n_trained_options == self.n_options:
            assert isinstance(rollout_buffer, OptionRolloutBuffer)
            return collect_choices(self, env, callback, rollout_buffer, n_rollout_steps)
        if self._training is None:
            end = self._options_begin + int((self.n_trained_options + 1) * self._steps_per_option)
            self._training = OptionTraining(self, self.n_trained_options, end)
        return self._training.collect_rollouts(callback)

    def train(self) -> None:
        """Update by PPO the option whose rollout was collected, or the policy over the choices."""
        if self._training is None:
            super().train()
        elif self._training.train():
            self._training = None
            self.n_trained_options += 1
            if self.n_trained_options == self.n_options:
                self._reset_env()

    def learn(
        self: SelfHRL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "HRL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfHRL:
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if self.n_trained_options < self.n_options and self.num_timesteps >= self._total_timesteps:
            warnings.warn(
                f"The run of {self._total_timesteps} steps ended when {self.n_trained_options} of {self.n_options} options "
                f"were trained: each takes at least one rollout of {self.n_envs} environments. Continue "
                "with learn(…, reset_num_timesteps=False), or use more steps, fewer environments or a smaller n_steps.",
                UserWarning,
                stacklevel=2,
            )
        self._training = None
        return self

    # ------------------------------------------------------------------ acting, saving

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return the environment's actions, and the state to pass to the next call.

        Args:
            observation: one, or those of n environments.
            state: int arrays (choice ``[n]``, its remaining steps ``[n]``) that the last call returned; None: choose anew.
            episode_start: bool ``[n]``, environments at the start of an episode, which choose anew.
            deterministic: use the most likely choice; options never sample, ``primitive_actions="random"`` always does.

        Raises:
            ValueError: for a state of another number of environments.
        """
        self.policy.set_training_mode(False)
        observations, is_batch = self.policy.obs_to_tensor(observation)
        n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        choices, remaining = np.zeros((2, n), dtype=np.int64) if state is None else map(np.array, state)
        if remaining.shape != (n,):
            raise ValueError(f"Expected a state of {n} environments, got {len(remaining)}; pass state=None to begin.")
        if episode_start is not None:
            remaining[np.asarray(episode_start, dtype=bool)] = 0
        rows = np.flatnonzero(remaining == 0)
        if len(rows):
            with torch.no_grad():
                chosen = self.policy._predict(tree_map(lambda x: x[rows], observations), deterministic=deterministic)
            choices[rows] = chosen.cpu().numpy()
            remaining[rows] = self.options.durations[choices[rows]]
        actions = self.options.act(choices, observations)
        return actions if is_batch else np.asarray(actions[0]), (choices, remaining - 1)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_training"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "options", "intrinsic_reward"], []
