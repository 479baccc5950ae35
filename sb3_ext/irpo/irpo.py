"""``IRPO("MlpPolicy", env)``: PPO with exploratory policies, after arXiv 2601.21391; the paper's own is in ``paper.py``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from irwrappers import IntrinsicReward
from irwrappers.transitions import frozen_statistics
from irwrappers.validation import check_range
from sb3_ext.common.checkpoint import IterationCheckpoint, WeightsToResume
from sb3_ext.common.original_space import original_observation_space
from sb3_ext.common.sb3_arguments import default_n_steps, sb3_arguments
from sb3_ext.common.supported_envs import check_early_resets, check_spaces
from sb3_ext.common.threads import few_threads
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.intrinsic.policies import CnnPolicy, IntrinsicActorCriticPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.irpo import policies as stacked
from sb3_ext.irpo.base_update import slow_if_solved
from sb3_ext.irpo.evidence import Schedule as TurnSchedule
from sb3_ext.irpo.evidence import discount, varies, verdict
from sb3_ext.irpo.explorer import Explorer, Explorers, make_channels
from sb3_ext.irpo.follow import mean_kl
from sb3_ext.irpo.paper import PaperAlgorithm
from sb3_ext.irpo.paper_settings import PaperSettings, paper_settings
from sb3_ext.irpo.turns import SeparateGenerators, TurnRecorder, turn_limit, warn_of_endless_episodes, warn_of_short_run

SelfIRPO = TypeVar("SelfIRPO", bound="IRPO")

DEFAULT_N_ENVS = 8  # for an environment given by its id
RECENT_EPISODES = 16  # of a base policy that learns, whose returns are compared with those of an exploratory policy
KL_BATCH = 512  # observations on which the logged KL divergence is estimated


class IRPO(PaperAlgorithm, IterationCheckpoint, PPO):
    """PPO with K exploratory policies, which search for rewards, mostly while the base policy's own returns are all equal.

    The base policy is trained as in PPO: rollouts, clipped epochs, critic, optimiser. PPO trains each exploratory policy too,
    on an intrinsic reward of its own beside the extrinsic one (:class:`sb3_ext.IntrinsicPPO`). Training is a sequence of
    *turns*: one policy acts from reset, in all environments, until each of them has ended an episode (the base policy for a
    whole run), and learns after every rollout. Returns decide which policy acts next (``sb3_ext.irpo.evidence``):

    * while all returns of the base policy are equal it does not learn, and the exploratory policies take turns;
    * otherwise it trains alone for a run of 4 to 16 rollouts, longer while it improves and shorter where it does not; one
      exploratory policy acts between two runs;
    * it *moves* to an exploratory policy whose returns exceed its own by two standard errors, and *follows* the gradient
      there, within a KL divergence of 0.01, where that policy's returns differ and are higher, and its own are all equal;
    * its learning rate is reduced where hardly anything is left to gain (``sb3_ext.irpo.base_update``).

    ``IRPO(…, **IRPO.paper_settings(env_id))`` is the algorithm of the paper: exploratory policies begin at the base policy in
    every iteration, and it only follows their gradients. ``paper`` has settings of its own in place of PPO's rollouts, epochs,
    clipping, ``vf_coef`` and ``target_kl``, and of the coefficients, ``pull_back`` and ``max_episode_steps``.

    ``save`` within a turn stores the policy as it is, and the state at the turn's start: a loaded run that is continued with
    ``reset_num_timesteps=False`` equals the uninterrupted run.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
            ``sb3_ext.intrinsic.IntrinsicActorCriticPolicy`` (with ``paper`` of ``sb3_ext.irpo.IRPOPolicy``).
        env: an environment, an SB3 ``VecEnv``, or a registered id, of which 8 environments are made.
        learning_rate: as in PPO, of the base and the exploratory policies; with ``paper`` of the critics.
        n_steps: of a rollout in each environment. None: ``max(1, 2048 // n_envs)``, 2048 transitions in all.
        batch_size: as in PPO, transitions in a minibatch.
        n_epochs: as in PPO.
        gamma: discount of the extrinsic return, in [0, 1].
        gae_lambda: as in PPO.
        clip_range: as in PPO.
        clip_range_vf: as in PPO.
        normalize_advantage: as in PPO.
        ent_coef: as in PPO, of the base and the exploratory policies.
        vf_coef: as in PPO.
        max_grad_norm: as in PPO; with ``paper`` the largest norm of every gradient, the exploratory policies' too.
        use_sde: must be False.
        sde_sample_freq: unused.
        rollout_buffer_class: as in PPO, of the base policy.
        rollout_buffer_kwargs: as in PPO.
        target_kl: as in PPO, of the base and the exploratory policies: an update stops early beyond 1.5 times this.
        stats_window_size: as in PPO.
        tensorboard_log: as in PPO.
        policy_kwargs: as in PPO.
        verbose: as in PPO; 1 also prints which intrinsic rewards ``"auto"`` chose.
        seed: of weights, environments and actions. Each turn is seeded from (seed, number of the turn).
        device: as in PPO.
        _init_setup_model: as in PPO.
        intrinsic_reward: a name (``irwrappers.make_intrinsic_reward``), an instance, ``{name: arguments}`` or a list of these:
            one exploratory policy for each, or for each of its rewards if it has several. A list in the list is one policy
            with their sum. ``"auto"``: ``["rnd", "count"]`` for discrete observations, else ``[["rnd", "visits"]]``. None: no
            exploratory policies, SB3's PPO weight for weight.
        intrinsic_reward_kwargs: arguments for a name.
        intrinsic_gamma: discount of the intrinsic returns, in [0, 1].
        extrinsic_coef: weight of the extrinsic advantage of an exploratory policy, in units of the range of its returns.
        intrinsic_coef: weight of its intrinsic advantage; a number or a schedule of the remaining progress.
        pull_back: multiply followed gradients by the transposed Jacobian of the exploratory policy's last PPO updates.
        max_episode_steps: steps of each environment after which a turn ends with a warning although an episode has not ended;
            that episode is bootstrapped. None: the environment's own time limit, or 10 000.
        paper: settings of the paper's algorithm, a mapping or a :class:`sb3_ext.irpo.PaperSettings`; None: as described here.

    Raises:
        ValueError: for an argument out of range, before anything runs, and for NaN from the environment.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    _paper_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": stacked.MlpPolicy,
        "CnnPolicy": stacked.CnnPolicy,
        "MultiInputPolicy": stacked.MultiInputPolicy,
    }
    policy: Any
    paper: Any
    _boundary_attributes = (
        *IterationCheckpoint._boundary_attributes,
        *("_tracked_returns", "_carries", "_direct_left", "_direct_run"),
        *("_schedule", "_base_returns", "_explored_timesteps", "_learned_timesteps", "_n_moves", "_n_rollouts"),
    )

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int | None = None,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
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
        intrinsic_reward: str | IntrinsicReward | dict[str, dict[str, Any]] | list[Any] | None = "auto",
        intrinsic_reward_kwargs: dict[str, Any] | None = None,
        intrinsic_gamma: float = 0.99,
        extrinsic_coef: float = 2.0,
        intrinsic_coef: float | Schedule = 1.0,
        pull_back: bool = False,
        max_episode_steps: int | None = None,
        paper: PaperSettings | Mapping[str, Any] | None = None,
    ) -> None:
        self.intrinsic_reward_spec = intrinsic_reward
        self.intrinsic_reward_kwargs = intrinsic_reward_kwargs or {}
        self.intrinsic_gamma = intrinsic_gamma
        self.extrinsic_coef = extrinsic_coef
        self.intrinsic_coef = intrinsic_coef
        self.pull_back = pull_back
        self.max_episode_steps = max_episode_steps
        self.paper = PaperSettings(**paper) if isinstance(paper, Mapping) else paper
        self._check_arguments(learning_rate, gamma, gae_lambda, ent_coef, max_grad_norm, use_sde)
        if self.paper is not None:
            self.policy_aliases = self._paper_aliases  # type: ignore[misc]
        self._begin_paper()
        if isinstance(env, str):
            env = make_vec_env(env, n_envs=DEFAULT_N_ENVS) if self.paper is None else self._make_paper_env(env)
        arguments = sb3_arguments(PPO, locals()) | dict(env=env, _init_setup_model=False)
        arguments["n_steps"] = default_n_steps(env.num_envs if isinstance(env, VecEnv) else 1) if n_steps is None else n_steps
        self.n_steps_given = n_steps
        with warnings.catch_warnings():
            if n_steps is None:  # the user can do nothing about the size of a rollout that is the default
                warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            super().__init__(**arguments)
        self._iteration = 0
        self._base_seed = seed if seed is not None else int(np.random.randint(2**31 - 1))
        self.explorers = Explorers()
        self._schedule = TurnSchedule(0)
        self._base_returns: list[float] = []  # the base policy's latest
        self._explored_timesteps = self._learned_timesteps = self._n_moves = self._n_rollouts = 0
        self._callback_generators = SeparateGenerators()
        self._log_interval: int | None = 1
        self._last_kl = 0.0
        self._moved = self._warned = False
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(
        self, learning_rate: Any, gamma: float, gae_lambda: float, ent_coef: float, max_grad_norm: float | None, use_sde: bool
    ) -> None:
        check_range("learning_rate", learning_rate, 0)
        for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda), ("intrinsic_gamma", self.intrinsic_gamma)):
            check_range(name, value, 0, 1, schedule=False)
        for name, value in (("ent_coef", ent_coef), ("extrinsic_coef", self.extrinsic_coef)):
            check_range(name, value, 0, schedule=False)
        check_range("intrinsic_coef", self.intrinsic_coef, 0)
        check_range("max_grad_norm", max_grad_norm, 0, open_low=True, optional=True)
        check_range("max_episode_steps", self.max_episode_steps, 1, integer=True, optional=True)
        if use_sde:
            raise ValueError("IRPO does not support gSDE (use_sde=True): its noise would outlast the turn of a policy.")

    @staticmethod
    def paper_settings(env_id: str) -> dict[str, Any]:
        """Return the arguments with which IRPO is the paper's algorithm at its settings for ``env_id``.

        Args:
            env_id: one of the paper's tasks, ``sparse/FourRooms0-v0`` … ``sparse/AntMaze5-v0``.

        Raises:
            ValueError: for another id.
        """
        return paper_settings(env_id)

    # ------------------------------------------------------------------ set-up

    @property
    def n_exploratory(self) -> int:
        """K, the number of exploratory policies."""
        return len(self.explorers) if self.paper is None else self._n_channels

    @property
    def explores(self) -> bool:
        """Whether there are exploratory policies; without them this is PPO."""
        return self.paper is not None or self.intrinsic_reward_spec is not None

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, self.action_space)
        if self.paper is not None:
            self._setup_paper()
            return
        if not issubclass(self.policy_class, IntrinsicActorCriticPolicy):
            raise ValueError(
                "IRPO needs a policy derived from sb3_ext.intrinsic.IntrinsicActorCriticPolicy, got "
                f"{self.policy_class.__name__}."
            )
        if self.n_steps_given is None:  # a saved model may be loaded with another number of environments
            self.n_steps = default_n_steps(self.n_envs)
        PPO._setup_model(self)
        if self.explores:
            self.to_resume = WeightsToResume()
        if self.explores and self.env is not None:
            self._make_explorers()

    def _make_explorers(self) -> None:
        """Build the exploratory policies, with the state that was kept if the model was loaded without an environment."""
        assert self.env is not None
        original_space = original_observation_space(self.env)
        channels = make_channels(self.intrinsic_reward_spec, self.intrinsic_reward_kwargs, original_space, self.action_space)
        kept = self.explorers.kept_state
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PPO has warned already when the base policy was built
            self.explorers = Explorers(Explorer(self, reward, name) for reward, name in channels)
        for number, explorer in enumerate(self.explorers):
            explorer.seed = (self._base_seed + number) % 2**31
        if kept is not None:
            self.explorers.load_state_dict(kept)
        if self._schedule.n_exploratory != len(channels):
            self._schedule = TurnSchedule(len(channels))
        if self.verbose >= 1 and self.intrinsic_reward_spec == "auto":
            print(f"Exploratory policies with the intrinsic rewards {', '.join(name for _, name in channels)}")

    # ------------------------------------------------------------------ learning

    def learn(
        self: SelfIRPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "IRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfIRPO:
        """Train for ``total_timesteps`` environment steps, those of exploratory policies included. Arguments as in SB3."""
        total_timesteps = int(total_timesteps)
        if not self.explores:
            return PPO.learn(self, total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)  # type: ignore[arg-type]
        check_early_resets(self.env)
        self._go_back_to_resume(continues=not reset_num_timesteps)
        with frozen_statistics(self._vec_normalize_env):  # the reset must not update the statistics twice in a continued run
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        if reset_num_timesteps:
            self._explored_timesteps = self._learned_timesteps = self._n_rollouts = 0
        if self.num_timesteps < total_timesteps:
            self._fit_rewards(total_timesteps, progress_bar or self.verbose >= 1)
        callback.on_training_start(locals(), globals())
        self._log_interval = log_interval
        with few_threads(self.policy) if self.paper is None else nullcontext():
            self._learn(total_timesteps, callback, log_interval)
        callback.on_training_end()
        return self

    def _learn(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None) -> None:
        iteration = 0
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self._boundary = self._snapshot()
            try:
                finished = self._turn(callback) if self.paper is None else self._paper_iteration(callback)
            except BaseException:
                self._restore(self._boundary)  # so that a model saved after an interruption resumes exactly
                self._boundary = None
                raise
            if not finished:
                if self.paper is not None:
                    steps = self.num_timesteps
                    self._restore(self._boundary)
                    self.num_timesteps = steps  # a callback stopped training: its steps count
                break
            self._boundary = None
            iteration += 1
            if self.paper is not None and log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(iteration)
        self._boundary = None

    def _fit_rewards(self, total_timesteps: int, progress_bar: bool) -> None:
        if self.paper is not None:
            self._fit_intrinsic_reward(total_timesteps, progress_bar)
            return
        to_come = total_timesteps - self.num_timesteps
        warn_of_short_run(to_come, self.n_steps, self.n_envs)
        for explorer in self.explorers:
            explorer.begin_turn()
            explorer.fit_reward(min(max(self.n_steps * self.n_envs, total_timesteps // 50), to_come // 10))

    # ------------------------------------------------------------------ a turn

    def _turn(self, callback: BaseCallback) -> bool:
        """Let one policy act and learn, then update base policy and schedule; return False if a callback stopped training."""
        assert self.env is not None
        number = self._schedule.next_actor()
        actor: PPO = self if number is None else self.explorers[number]
        seed = int(np.random.SeedSequence([self._base_seed, self._iteration]).generate_state(1)[0] % 2**31)
        set_random_seed(seed, self.device.type == "cuda")
        self.env.seed(seed)
        before, n_rollouts, limit = self.num_timesteps, 0, turn_limit(self.env, self.max_episode_steps)
        recorder = TurnRecorder(callback, self.env, discount(self.gamma, limit), self._callback_generators)
        planned = self._schedule.left if number is None else 1
        with frozen_statistics(self._vec_normalize_env):
            actor._last_obs = self.env.reset()  # type: ignore[assignment]
            actor._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)
            if isinstance(actor, Explorer):
                actor.begin_turn()
            while True:
                if not actor.collect_rollouts(self.env, recorder, actor.rollout_buffer, self.n_steps):  # type: ignore[arg-type]
                    return False
                n_rollouts += 1
                self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
                over = n_rollouts >= planned and (bool(recorder.ended.all()) or recorder.n_steps >= limit)
                if over and not recorder.ended.all():
                    self._warned = self._warned or warn_of_endless_episodes(limit)
                    recorder.cut()
                if isinstance(actor, Explorer):
                    self._learn_from_exploration(actor, recorder, last=over)
                else:
                    self._learn_alone(recorder)
                    over = over or (bool(recorder.ended.all()) and not varies(self._base_returns))
                self._log_turn(actor, recorder)
                if over or self.num_timesteps >= self._total_timesteps:
                    break
        recorder.update_statistics(self._vec_normalize_env)
        informative = varies(self._base_returns)
        if number is None:
            self._schedule.after_base(recorder.returns, n_rollouts, informative)
        else:
            self._explored_timesteps += self.num_timesteps - before
            self._schedule.after_exploration(recorder.returns, self._moved, informative)
        self._iteration += 1
        return True

    def _learn_alone(self, recorder: TurnRecorder) -> None:
        """Update the base policy by PPO if its latest returns vary."""
        new = recorder.take_new()
        self._base_returns = (self._base_returns + new)[-max(len(new), RECENT_EPISODES) :]
        if varies(self._base_returns) or varies(recorder.unfinished):
            with slow_if_solved(self, *self._schedule.left_to_gain(new)):
                self.train()
            self._learned_timesteps += self.n_steps * self.n_envs

    def _learn_from_exploration(self, explorer: Explorer, recorder: TurnRecorder, last: bool) -> None:
        """Update an exploratory policy by PPO; after the ``last`` rollout of its turn the base policy may move or follow."""
        self._moved = False
        self.policy.set_training_mode(False)
        explorer.policy.set_training_mode(False)
        decision = verdict(self._base_returns, recorder.returns) if last else "alone"
        self._last_kl = mean_kl(self.policy, explorer.policy, next(explorer.rollout_buffer.get(KL_BATCH)).observations)
        explorer.train()
        self._learned_timesteps += self.n_steps * self.n_envs
        if decision == "follow":
            self.policy.set_training_mode(False)
            explorer.policy.set_training_mode(False)
            for key, value in explorer.lead(self.policy, self.pull_back).items():
                self.logger.record(f"exploration/{key}", value)
        if decision == "move":
            self.policy.load_state_dict(explorer.policy.state_dict())
            self.policy.optimizer.load_state_dict(explorer.policy.optimizer.state_dict())
            self._base_returns = list(recorder.returns)
            self._n_moves += 1
            self._moved = True

    def _log_turn(self, actor: PPO, recorder: TurnRecorder) -> None:
        record = self.logger.record
        record("exploration/share", self._explored_timesteps / max(1, self.num_timesteps))
        record("exploration/transitions_learned", self._learned_timesteps)
        record("exploration/moves", self._n_moves)
        record("exploration/run_length", self._schedule.run)
        if isinstance(actor, Explorer):
            actor.logger.record("kl", self._last_kl)
            actor.logger.record("rewarded", float(recorder.rewarded))
            if recorder.returns:
                actor.logger.record("return", float(np.mean(recorder.returns)))
        elif recorder.returns:
            record("rollout/base_return", float(np.mean(recorder.returns)))
        self._n_rollouts += 1
        if self._log_interval is not None and self._n_rollouts % self._log_interval == 0:
            self.dump_logs(self._n_rollouts)

    # ------------------------------------------------------------------ saving

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment as SB3 does, and build the exploratory policies if there was none before."""
        super().set_env(env, force_reset)
        if self.paper is None and self.explores and not self.explorers:
            self._make_explorers()

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        if self.paper is not None:
            return ["policy", "policy.optimizer", "intrinsic_reward", "intrinsic_std"], []
        return ["policy", "policy.optimizer", *(["explorers", "to_resume"] if self.explores else [])], []

    def _excluded_save_params(self) -> list[str]:
        generators = ("_generator", "_reward_seeds", "_callback_generators")
        return [*super()._excluded_save_params(), *generators, "explorers", "intrinsic_reward", "intrinsic_std"]
