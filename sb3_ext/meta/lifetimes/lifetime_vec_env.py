"""``LifetimeVecEnv``: an environment whose step is a step of B learning agents, and whose action is what they are paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from irwrappers.validation import check_choice, check_range
from sb3_ext.common.episode_rollout import env_actions
from sb3_ext.meta.lifetimes.dense_rewards import dense_reward, taught_payments
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, InnerSettings, draw_order
from sb3_ext.meta.lifetimes.lifetime_statistics import LifetimeRecord, Objective
from sb3_ext.meta.lifetimes.shared_vec_env import SharedVecEnv
from sb3_ext.meta.lifetimes.task_batches import TaskBatch, TaskStep, flat_actions, make_task_batch

Signal = Literal["reward", "advantage", "shaped", "progress", "sparse"]
SIGNALS: tuple[Signal, ...] = ("reward", "advantage", "shaped", "progress", "sparse")
MAX_DENSITY = 10.0  # of an inner action, as it is observed: a density grows without bound as a policy gets certain
BOUND = 1e6  # of the action: finite, as SB3 wants it, and never reached


class LifetimeVecEnv(SharedVecEnv):
    """B agents, each learning one task from scratch; one step is one step of each of them, an episode a whole lifetime.

    A step's action is what each agent is paid for the transition it has just made (``signal="reward"``) or its advantage
    (``"advantage"``). With ``"shaped"``, ``"progress"`` (how much the shaped reward grows, ``imitation.taught_payments``) and
    ``"sparse"`` the action is ignored and the agents are paid by the task: the baselines. After every ``settings.n_steps``
    steps but the last they make a PPO update. The reward of a step is what the transition is worth to the outer learner:
    ``"shaped"``, ``info["shaped_reward"]`` divided so that its running mean over tasks of one kind is 1e-4 in size; or
    ``"sparse"``, what ``irwrappers.SuccessSignal`` pays.

    Observation (``Dict``), of the transition to be paid (Pappalardo, Ramele & Santos, arXiv 2407.21546):

    * ``observation`` ``[n_obs]``, ``action`` ``[n_actions]`` (discrete ones one-hot);
    * ``scalars`` ``[4]``: probability (density, at most 10) of that action; 3 × the success signal; the last payment; 2 where
      an episode began. As in the paper's program, the probability of the last payment is not among them.

    All lifetimes end together; ``info`` then holds ``lifetime``: ``success`` ``[n_batches]``, the share of the episodes ended
    in each batch that succeeded, and ``shaped``, ``sparse``: returns. ``seed(s)`` fixes tasks, agents and environments
    of the resets to come, each with its own.

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        n_lifetimes: B. lifetimes_per_task: so many agents in a row share a task, its start states and their first weights.
        settings: of the inner loop, or a dict of what differs from :class:`InnerSettings`'s defaults.
        env_kwargs: for every environment, ``{"max_episode_steps": 25}`` for instance.
        n_jobs: processes, for environments that have no vectorised form and for ``MetaReward(n_shards=…)``. device: of the
            inner networks.

    ``before_update``, if set, is called with what ``agents.update`` is about to get: the batch, the observations after it and
    the order of its steps.
    """

    def __init__(
        self,
        family: Any,
        n_lifetimes: int = 30,
        signal: Signal = "reward",
        objective: Objective = "shaped",
        lifetimes_per_task: int = 1,
        settings: InnerSettings | dict[str, Any] | None = None,
        env_kwargs: dict[str, Any] | None = None,
        n_jobs: int = 1,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        check_choice("signal", signal, SIGNALS)
        check_choice("objective", objective, ("shaped", "sparse"))
        check_range("n_lifetimes", n_lifetimes, 1, integer=True)
        check_range("lifetimes_per_task", lifetimes_per_task, 1, integer=True)
        check_range("n_jobs", n_jobs, 1, integer=True)
        if n_lifetimes % lifetimes_per_task:
            raise ValueError(f"n_lifetimes={n_lifetimes} must be a multiple of lifetimes_per_task={lifetimes_per_task}.")
        self.family, self.signal, self.objective = family, signal, objective
        self.lifetimes_per_task = lifetimes_per_task
        self.settings = settings if isinstance(settings, InnerSettings) else InnerSettings(**(settings or {}))
        self.env_kwargs, self.n_jobs, self.device = dict(env_kwargs or {}), n_jobs, torch.device(device)
        self.inner_action_space: spaces.Space = family.action_space
        n_obs, n_actions = spaces.flatdim(family.observation_space), spaces.flatdim(family.action_space)
        self.arguments: dict[str, Any] = dict(
            family=family, signal=signal, objective=objective, lifetimes_per_task=lifetimes_per_task, settings=self.settings,
            env_kwargs=self.env_kwargs, n_jobs=n_jobs,
        )  # fmt: skip
        observation_space = spaces.Dict(
            observation=spaces.Box(-np.inf, np.inf, (n_obs,), np.float32),
            action=spaces.Box(-np.inf, np.inf, (n_actions,), np.float32),
            scalars=spaces.Box(-np.inf, np.inf, (4,), np.float32),
        )
        self._batch: TaskBatch = make_task_batch(family, self.env_kwargs, n_jobs)
        self._record = LifetimeRecord(n_lifetimes, self.settings.n_steps, self.settings.n_batches, objective)
        self.before_update: Callable[[InnerBatch, Tensor, Tensor], None] | None = None
        self._reset_count, self._base_seed = 0, 0
        self._sent: tuple[Tensor, Tensor, Tensor] | None = None  # actions, log probabilities, values of a step under way
        super().__init__(n_lifetimes, observation_space, spaces.Box(-BOUND, BOUND, (1,), np.float32))
        self.seed(seed if seed is not None else int(np.random.randint(2**31 - 1)))

    # ------------------------------------------------------------------ VecEnv

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Fix all resets to come: the i-th draws from (seed, i)."""
        if seed is not None:
            self._base_seed, self._reset_count = int(seed), 0
        return [seed] * self.num_envs

    def reset(self) -> VecEnvObs:
        streams = np.random.SeedSequence([self._base_seed, self._reset_count]).spawn(4)
        self._reset_count += 1
        n_tasks = self.num_envs // self.lifetimes_per_task
        rng = np.random.default_rng(streams[0])
        self.tasks = [
            task for task in (self.family.sample(rng) for _ in range(n_tasks)) for _ in range(self.lifetimes_per_task)
        ]
        seeds = np.repeat(streams[1].generate_state(n_tasks), self.lifetimes_per_task).tolist()
        weights = torch.Generator().manual_seed(int(streams[2].generate_state(1)[0]))
        self._generator = torch.Generator(self.device).manual_seed(int(streams[3].generate_state(1)[0]))
        self.agents = InnerAgents(
            self.num_envs,
            self.family.observation_space,
            self.inner_action_space,
            self.settings,
            weights,
            self.device,
            group_size=self.lifetimes_per_task,
        )
        self._sent = None
        self._inner_observations = self._tensor(self._batch.begin(self.tasks, seeds))
        self._episode_begins = np.ones(self.num_envs, dtype=bool)
        self._payments = torch.zeros(self.num_envs, device=self.device)
        self._shaped_before = np.zeros(self.num_envs)
        self._record.begin(self.tasks)
        self._steps: list[tuple[Tensor, ...]] = []
        self._paid: list[Tensor] = []
        return self._inner_step()

    def step_async(self, actions: np.ndarray) -> None:
        self._given = actions

    def step_wait(self) -> VecEnvStepReturn:
        step = self.last_step
        self._pay(step)
        rewards, done = self._record.add(step), self._record.done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if not done and self._record.elapsed % self.settings.n_steps == 0:
            self._update()
        if done:
            infos, terminal = self._record.infos(), self._observed
            observations = self.reset()
            for index, info in enumerate(infos):
                info["terminal_observation"] = {name: value[index] for name, value in terminal.items()}
        else:
            observations = self._inner_step()
        return observations, rewards, np.full(self.num_envs, done), infos

    def pay_earlier(self, payments: np.ndarray) -> None:
        """Replace what the agents were paid for the last k steps of the running inner batch, ``[k, B]``."""
        if len(payments):
            self._paid[-len(payments) :] = self._tensor(payments).unbind()

    def close(self) -> None:
        self._batch.close()

    def get_state(self) -> dict[str, Any]:
        """What outlives a lifetime: the running scale of shaped rewards; JSON-ready, for :meth:`set_state`."""
        return self._record.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_state` gave."""
        self._record.set_state(state)

    def mean_shaped(self) -> np.ndarray:
        """The running mean size of the shaped reward of each agent's kind of task ``[B]``; 0 before anything was seen."""
        return self._record.mean_shaped()

    def shard(self, n_shards: int) -> dict[str, Any]:
        """Arguments of an environment of the same kind with one of ``n_shards`` parts of the lifetimes, in one process.

        Raises:
            ValueError: the lifetimes (or groups of those with one task) can't be shared out evenly.
        """
        if self.num_envs % (n_shards * self.lifetimes_per_task):
            raise ValueError(
                f"{self.num_envs} lifetimes, {self.lifetimes_per_task} a task, can't be shared out evenly among {n_shards} "
                "shards."
            )
        return {"n_lifetimes": self.num_envs // n_shards, **self.arguments, "n_jobs": 1}

    def describe(self) -> dict[str, Any]:
        """Family, inner settings and environment arguments, JSON-ready: what a reward model was trained on."""
        family = {"class": type(self.family).__name__, "split": self.family.split}
        family |= {name: getattr(self.family, name) for name in ("name", "upper_half", "seed") if hasattr(self.family, name)}
        settings = asdict(self.settings)
        return {
            "family": family,
            "signal": self.signal,
            "objective": self.objective,
            "inner": settings,
            "env": self.env_kwargs,
        }

    # ------------------------------------------------------------------ the inner loop

    def _act(self) -> None:
        noise = self.agents.distribution.draw_noise((self.num_envs,), self._generator, self.device)
        self._sent = self.agents.act(self._inner_observations, noise)
        self._batch.send(env_actions(self.inner_action_space, self._sent[0].cpu().numpy()))

    def _inner_step(self) -> VecEnvObs:
        """Every agent acts; returns what the outer learner sees of the transitions."""
        if self._sent is None:
            self._act()
        assert self._sent is not None
        (actions, log_probs, values), self._sent = self._sent, None
        self.last_step: TaskStep = self._batch.receive()
        done = self._tensor(self.last_step.done)
        self._steps.append((self._inner_observations, actions, log_probs, values, done))
        probability = log_probs.exp().clamp(max=MAX_DENSITY)
        begins = 2.0 * self._tensor(self._episode_begins)
        scalars = torch.stack([probability, 3.0 * self._tensor(self.last_step.signal), self._payments, begins], 1)
        self._observed = {
            "observation": self._inner_observations.cpu().numpy(),
            "action": flat_actions(self.inner_action_space, actions.cpu().numpy()).astype(np.float32),
            "scalars": scalars.float().cpu().numpy(),
        }
        self._inner_observations = self._tensor(self.last_step.observations)
        self._episode_begins = self.last_step.done
        if (self._record.elapsed + 1) % self.settings.n_steps:
            self._act()  # no payment changes it before the next update, so processes step while this one is being paid
        return self._observed

    def _pay(self, step: TaskStep) -> None:
        if self.signal in ("reward", "advantage"):
            given = self._tensor(np.asarray(self._given, dtype=np.float32).reshape(self.num_envs))
        elif self.signal == "progress":
            shaped = np.stack([self._shaped_before, step.shaped])
            begins = self._observed["scalars"][:, 3] > 0
            given = self._tensor(taught_payments("progress", shaped, np.stack([begins, ~begins]), self.mean_shaped())[1])
            self._shaped_before = step.shaped
        else:
            given = self._tensor(dense_reward(step.shaped) if self.signal == "shaped" else step.signal)
        self._payments = self.last_paid = given
        self._paid.append(given)

    def _update(self) -> None:
        observations, actions, log_probs, values, done = (torch.stack(parts) for parts in zip(*self._steps, strict=True))
        batch = InnerBatch(observations, actions, log_probs, values, torch.stack(self._paid), done.bool())
        order = draw_order(self.settings.n_epochs, self.settings.n_steps, self.num_envs, self._generator)
        if self.before_update is not None:
            self.before_update(batch, self._inner_observations, order)
        self.agents.update(batch, self._inner_observations, order, are_advantages=self.signal == "advantage")
        self._steps, self._paid = [], []

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
