"""MAML-TRPO: a policy that one gradient step adapts to a task (Finn, Abbeel & Levine 2017, arXiv 1703.03400)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

from irwrappers.validation import check_choice, check_range
from sb3_ext.common.episode_rollout import env_actions
from sb3_ext.common.optimizers import Params, global_norm
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.common.trust_region import trust_region_step
from sb3_ext.meta.baselines.adaptation import Learner, TaskData
from sb3_ext.meta.baselines.maml_policy import MAMLPolicy
from sb3_ext.meta.baselines.trial_vec_env import TrialVecEnv
from sb3_ext.meta.lifetimes.dense_rewards import dense_reward
from sb3_ext.meta.outer_learners.linear_baseline import linear_baseline, normalized_advantages
from sb3_ext.meta.outer_learners.outer_loop import OuterLoop


class Trials(NamedTuple):
    """Data of B trials.

    Attributes:
        batches: the batches.
        lifetimes: ``info["lifetime"]`` at the end of each trial.
    """

    batches: list[TaskData]
    lifetimes: list[dict[str, Any]]


class Adaptation(NamedTuple):
    """Result of :meth:`MAMLTRPO.adapt` on B tasks.

    Attributes:
        tasks: the tasks.
        before: share of successful episodes before the first adaptation ``[B]``.
        after: share of successful episodes after the last adaptation ``[B]``.
        params: adapted weights ``[B, ...]``; a policy takes those of one task by ``load_state_dict(…, strict=False)``.
    """

    tasks: list[Any]
    before: np.ndarray
    after: np.ndarray
    params: Params


class MAMLTRPO(OuterLoop):
    """Learn the weights from which policy-gradient steps on a task's success signal improve the policy most.

    An iteration runs the B trials of a :class:`TrialVecEnv`. Each task has its own weights, which take a plain gradient step
    after every batch of the trial but the last; the outer step follows the gradient of the last batch's objective through
    those steps (second order), within a trust region: the mean KL divergence between the adapted policies before and after it.
    Advantages are of a linear regression on observation and time for each task and batch, and normalised. The end of an
    episode counts as terminal, and an episode that the end of a batch divides continues in the next.

    ``num_timesteps`` counts every step on every task. ``rollout/success_first`` is the share of successful episodes before
    adaptation, ``rollout/success`` after it. Tasks, environments and sampling are seeded from (seed, iteration), and ``save``
    during an iteration stores its beginning, so that a run continued from a checkpoint with ``reset_num_timesteps=False``
    equals the uninterrupted run.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of :class:`MAMLPolicy`.
        env: a :class:`TrialVecEnv` with ``n_batches`` of at least 2, which makes ``n_batches − 1`` adaptation steps, and
            ``history=False``, since the weights are the memory; the paper's baseline has batches of 2000 steps.
        learning_rate: α of the adaptation.
        gamma: discount of a step, of adaptation and outer step.
        gae_lambda: λ, of both.
        target_kl: δ of the outer step in nats, a number or a schedule of the remaining progress.
        cg_max_steps: number of conjugate-gradient steps of the outer step.
        cg_damping: added to the diagonal of its Fisher matrix.
        line_search_shrinking_factor: factor by which its line search shrinks a step.
        line_search_max_iter: largest number of steps of its line search.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of weights, tasks, environments and actions.
        device: of the policy.
        _init_setup_model: whether the networks are built at once.
        inner_signal: reward of the adaptation: ``"sparse"``, the success signal, or ``"shaped"``, the task's dense reward,
            which a new task must then have too.

    Raises:
        ValueError: for an argument out of range or another environment, before anything runs.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MAMLPolicy}
    policy: MAMLPolicy

    def __init__(
        self,
        policy: str | type[MAMLPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 0.07,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        target_kl: float | Schedule = 1e-3,
        cg_max_steps: int = 10,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.7,
        line_search_max_iter: int = 15,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        inner_signal: Literal["sparse", "shaped"] = "sparse",
    ) -> None:
        check_range("learning_rate", learning_rate, 0)
        check_range("gamma", gamma, 0, 1)
        check_range("gae_lambda", gae_lambda, 0, 1)
        check_choice("inner_signal", inner_signal, ("sparse", "shaped"))
        check_range("target_kl", target_kl, 0, open_low=True)
        check_range("cg_max_steps", cg_max_steps, 1, integer=True)
        check_range("cg_damping", cg_damping, 0)
        check_range("line_search_shrinking_factor", line_search_shrinking_factor, 0, 1, open_low=True)
        check_range("line_search_max_iter", line_search_max_iter, 1, integer=True)
        self.gamma, self.gae_lambda, self.inner_signal = gamma, gae_lambda, inner_signal
        self.target_kl, self.cg_max_steps, self.cg_damping = target_kl, cg_max_steps, cg_damping
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        super().__init__(
            **sb3_arguments(OuterLoop, locals()),
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        if self.env is not None:
            self._lifetime_env()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        self.policy.set_training_mode(False)

    # ------------------------------------------------------------------ learning

    def _lifetime_env(self) -> TrialVecEnv:
        return _trials(self.env)

    def _iterate(self, env: TrialVecEnv, callback: BaseCallback, seed: int) -> bool:
        assert self.env is not None
        self.env.seed(seed)
        callback.on_rollout_start()

        def on_step(step: dict[str, Any]) -> bool:
            self.num_timesteps += len(step["dones"])
            self._update_info_buffer(step["infos"], step["dones"])
            callback.update_locals(step)
            return callback.on_step()

        trials = self._collect(self.env, torch.Generator(self.device).manual_seed(seed), on_step)
        if trials is None:
            return False
        callback.on_rollout_end()
        self._train(trials.batches)
        self._log_success(trials.lifetimes)
        self._n_updates += 1
        return True

    @torch.no_grad()
    def _collect(self, env: VecEnv, generator: torch.Generator, on_step: Callable[[dict[str, Any]], bool]) -> Trials | None:
        """Return whole trials, each batch with the policies adapted to those before it; None if ``on_step`` stopped them."""
        inner, learner, n = _trials(env), self._learner(), env.num_envs
        observations: Any = env.reset()
        ages = np.zeros(n, dtype=np.int64)
        batches: list[TaskData] = []
        act: Callable[..., tuple[Tensor, Tensor]] | None = None
        for number in range(inner.n_batches):
            params = learner.adapt(self.policy.theta, batches, n)
            is_last = number == inner.n_batches - 1
            steps: list[tuple[Tensor, ...]] = []
            noise = learner.distribution.sample_noise((inner.n_steps, n), generator, self.device)
            if act is None:  # traced, without the Python code around the tensor operations: half the time of a step
                act = make_fx(lambda *arguments: learner.act(*arguments))(params, self._tensor(observations), noise[0])
            for noise_of_step in noise:
                seen = self._tensor(observations)
                outputs, actions = act(params, seen, noise_of_step)
                observations, objective, dones, infos = env.step(env_actions(self.action_space, actions.cpu().numpy()))
                last = inner.last_step
                rewards = (
                    objective if is_last else (last.signal if self.inner_signal == "sparse" else dense_reward(last.shaped))
                )
                steps.append((seen, actions, outputs, *map(self._tensor, (ages, rewards, last.done))))
                ages = np.where(last.done, 0, ages + 1)
                if not on_step({"new_obs": observations, "rewards": objective, "dones": dones, "infos": infos}):
                    return None
            following = np.stack([info["terminal_observation"] for info in infos]) if is_last else observations
            batches.append(self._data(steps, self._tensor(following), self._tensor(ages)))
        return Trials(batches, [info["lifetime"] for info in infos])

    def _data(self, steps: list[tuple[Tensor, ...]], observations: Tensor, ages: Tensor) -> TaskData:
        """Return a batch; ``observations`` and ``ages`` are those after its last step."""
        seen, actions, outputs, ages_seen, rewards, done = (torch.stack(column) for column in zip(*steps, strict=True))
        ended = done.bool()
        values = linear_baseline(
            torch.cat([seen, observations[None]]), torch.cat([ages_seen, ages[None]]), rewards, ended, self.gamma
        )
        return TaskData(seen, actions, outputs, normalized_advantages(rewards, values, ended, self.gamma, self.gae_lambda))

    def _train(self, batches: list[TaskData]) -> None:
        """Take the outer step."""
        learner, theta = self._learner(), self.policy.theta
        *inner, outer = batches
        gradient = grad(learner.objective)(theta, inner, outer)
        step = trust_region_step(
            theta,
            gradient,
            lambda params: learner.kl_divergence(params, inner, outer),
            self.target_kl(self._current_progress_remaining) if callable(self.target_kl) else self.target_kl,
            cg_max_steps=self.cg_max_steps,
            cg_damping=self.cg_damping,
            shrinking_factor=self.line_search_shrinking_factor,
            max_backtracks=self.line_search_max_iter,
        )
        self.policy.assign(step.params)
        self.logger.record("train/gradient_norm", float(global_norm(gradient)))
        self.logger.record("train/kl_divergence", step.kl)
        self.logger.record("train/line_search_steps", step.backtracks)
        self.logger.record("train/is_line_search_success", float(step.accepted))
        self.logger.record("train/learning_rate", learner.learning_rate)
        if isinstance(self.action_space, spaces.Box):
            self.logger.record("train/std", float(theta["log_std"].exp().mean()))

    def _learner(self) -> Learner:
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        return Learner(self.policy.actor, self.policy.distribution, learning_rate)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)

    # ------------------------------------------------------------------ use

    def adapt(self, env: VecEnv) -> Adaptation:
        """Adapt to the tasks of one trial of ``env``, a test split for instance, without changing this model.

            family = PointGoal(split="test")
            model.adapt(TrialVecEnv(family, 60, n_batches=2, history=False, seed=0)).after.mean()

        Args:
            env: a :class:`TrialVecEnv`; with more batches than in training the policy adapts more often. The same seed gives
                the same result.

        Raises:
            ValueError: for another environment, or other spaces.
        """
        _trials(env)
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        trials = self._collect(env, torch.Generator(self.device).manual_seed(self._base_seed), lambda step: True)
        assert trials is not None
        with torch.no_grad():
            params = self._learner().adapt(self.policy.theta, trials.batches[:-1], env.num_envs)
        success = np.array([one["success"] for one in trials.lifetimes])
        return Adaptation([one["task"] for one in trials.lifetimes], success[:, 0], success[:, -1], params)

    # ------------------------------------------------------------------ files

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []


def _trials(env: Any) -> TrialVecEnv:
    """Return the trials below any wrappers."""
    inner = getattr(env, "unwrapped", None)
    if not isinstance(inner, TrialVecEnv):
        raise ValueError(f"MAMLTRPO needs a sb3_ext.meta.TrialVecEnv, which samples tasks from a family; got {env}.")
    if inner.n_batches < 2:
        raise ValueError(
            f"MAMLTRPO adapts after each batch of a trial but the last: n_batches of the TrialVecEnv must be at least 2, got "
            f"{inner.n_batches}."
        )
    return inner
