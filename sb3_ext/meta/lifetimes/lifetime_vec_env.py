"""An environment whose step is a step of B learning agents, and whose action is their reward."""

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
from sb3_ext.meta.lifetimes.dense_rewards import bounded_dense_rewards, dense_reward
from sb3_ext.meta.lifetimes.inner_agents import InnerAgents, InnerBatch, InnerSettings, sample_order
from sb3_ext.meta.lifetimes.lifetime_statistics import LifetimeStatistics, Objective
from sb3_ext.meta.lifetimes.shared_vec_env import SharedVecEnv
from sb3_ext.meta.lifetimes.task_batches import TaskBatch, TaskStep, flat_actions, make_task_batch

Signal = Literal["reward", "advantage", "shaped", "progress", "sparse"]
SIGNALS: tuple[Signal, ...] = ("reward", "advantage", "shaped", "progress", "sparse")
MAX_DENSITY = 10.0  # largest observed density of an inner action: it grows without bound as a policy gets certain
BOUND = 1e6  # of the action space, which must be finite for SB3; never reached


class LifetimeVecEnv(SharedVecEnv):
    """B agents, each of which learns one task from scratch. A step is one step of every agent, an episode a whole lifetime.

    A step's action is the reward of each agent for its last transition (``signal="reward"``) or its advantage
    (``"advantage"``). The other signals are baselines: the action is ignored, and the agents receive the task's dense reward
    (``"shaped"``), how much it grows (``"progress"``, see ``dense_rewards.bounded_dense_rewards``) or the success signal
    (``"sparse"``). After every ``settings.n_steps`` steps but the last they make a PPO update.

    The reward of a step is the outer learner's objective: ``"shaped"``, ``info["shaped_reward"]`` divided so that its running
    mean over tasks of one kind is 1e-4 in size; or ``"sparse"``, the reward of ``irwrappers.SuccessSignal``.

    The observation (``Dict``) describes the transition that is to be rewarded (Pappalardo, Ramele & Santos, arXiv 2407.21546):

    * ``observation`` ``[n_obs]``, ``action`` ``[n_actions]`` (discrete ones one-hot);
    * ``scalars`` ``[4]``: probability (density, at most 10) of that action; 3 × the success signal; the agent's last reward; 2
      where an episode began. As in the paper's program, the probability of the last reward is not among them.

    All lifetimes end together; ``info`` then holds ``lifetime``: ``success`` ``[n_batches]``, the share of successful ones
    among the episodes that ended in each batch, and ``shaped``, ``sparse``: returns. ``seed(s)`` determines tasks, agents and
    environments of the resets that follow, differently for each reset.

    Args:
        family: an ``envs.tasks.TaskDistribution``.
        n_lifetimes: B.
        signal: rewards of the agents: ``"reward"``, ``"advantage"``, ``"shaped"``, ``"progress"`` or ``"sparse"``.
        objective: reward of the outer learner: ``"shaped"`` or ``"sparse"``.
        lifetimes_per_task: number of successive agents that share a task, its initial states and their first weights.
        settings: of the inner loop, or a dict of what differs from :class:`InnerSettings`'s defaults.
        env_kwargs: arguments of every environment, ``{"max_episode_steps": 25}`` for instance.
        n_jobs: number of processes, for environments that have no vectorised form and for ``MetaReward(n_shards=…)``.
        seed: of tasks, agents and environments; None: sampled from NumPy's global generator.
        device: of the inner networks.

    Attributes:
        before_update: function that is called with the arguments of each update of the agents (the batch, the observations
            after it, the order of its steps), or None.
        last_step: result of the agents' last step, a ``task_batches.TaskStep``.
        last_rewards: rewards of the agents for the step before it ``[B]``.

    Raises:
        ValueError: for an argument out of range.
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
        self._statistics = LifetimeStatistics(n_lifetimes, self.settings.n_steps, self.settings.n_batches, objective)
        self.before_update: Callable[[InnerBatch, Tensor, Tensor], None] | None = None
        self._reset_count, self._base_seed = 0, 0
        self._sent: tuple[Tensor, Tensor, Tensor] | None = None  # actions, log probabilities, values of a step under way
        super().__init__(n_lifetimes, observation_space, spaces.Box(-BOUND, BOUND, (1,), np.float32))
        self.seed(seed if seed is not None else int(np.random.randint(2**31 - 1)))

    # ------------------------------------------------------------------ VecEnv

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all following resets: the i-th samples from (seed, i)."""
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
        self._observed_rewards = torch.zeros(self.num_envs, device=self.device)
        self._shaped_before = np.zeros(self.num_envs)
        self._statistics.begin(self.tasks)
        self._steps: list[tuple[Tensor, ...]] = []
        self._rewards: list[Tensor] = []
        return self._inner_step()

    def step_async(self, actions: np.ndarray) -> None:
        self._given = actions

    def step_wait(self) -> VecEnvStepReturn:
        step = self.last_step
        self._reward_agents(step)
        rewards, done = self._statistics.add(step), self._statistics.done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if not done and self._statistics.elapsed % self.settings.n_steps == 0:
            self._update()
        if done:
            infos, terminal = self._statistics.infos(), self._observed
            observations = self.reset()
            for index, info in enumerate(infos):
                info["terminal_observation"] = {name: value[index] for name, value in terminal.items()}
        else:
            observations = self._inner_step()
        return observations, rewards, np.full(self.num_envs, done), infos

    def close(self) -> None:
        self._batch.close()

    def get_state(self) -> dict[str, Any]:
        """Return what outlives a lifetime, the running scale of shaped rewards, as JSON types for :meth:`set_state`."""
        return self._statistics.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the state that :meth:`get_state` returned."""
        self._statistics.set_state(state)

    def mean_shaped(self) -> np.ndarray:
        """Return the running mean size of the shaped reward, for each agent's kind of task ``[B]``; 0 at first."""
        return self._statistics.mean_shaped()

    def shard(self, n_shards: int) -> dict[str, Any]:
        """Return the arguments of an environment with one of ``n_shards`` parts of the lifetimes, in one process.

        Args:
            n_shards: number of parts.

        Raises:
            ValueError: if the lifetimes, or the groups with one task, can't be divided evenly.
        """
        if self.num_envs % (n_shards * self.lifetimes_per_task):
            raise ValueError(
                f"{self.num_envs} lifetimes, {self.lifetimes_per_task} for each task, can't be divided evenly into {n_shards} "
                "shards; choose n_lifetimes as a multiple of n_shards * lifetimes_per_task."
            )
        return {"n_lifetimes": self.num_envs // n_shards, **self.arguments, "n_jobs": 1}

    def describe(self) -> dict[str, Any]:
        """Return family, inner settings and arguments of the environments as JSON types, for the record of a reward model."""
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
        noise = self.agents.distribution.sample_noise((self.num_envs,), self._generator, self.device)
        self._sent = self.agents.act(self._inner_observations, noise)
        self._batch.send(env_actions(self.inner_action_space, self._sent[0].cpu().numpy()))

    def _inner_step(self) -> VecEnvObs:
        """Let every agent act, and return the observations of the outer learner."""
        if self._sent is None:
            self._act()
        assert self._sent is not None
        (actions, log_probs, values), self._sent = self._sent, None
        self.last_step: TaskStep = self._batch.receive()
        done = self._tensor(self.last_step.done)
        self._steps.append((self._inner_observations, actions, log_probs, values, done))
        probability = log_probs.exp().clamp(max=MAX_DENSITY)
        begins = 2.0 * self._tensor(self._episode_begins)
        scalars = torch.stack([probability, 3.0 * self._tensor(self.last_step.signal), self._observed_rewards, begins], 1)
        self._observed = {
            "observation": self._inner_observations.cpu().numpy(),
            "action": flat_actions(self.inner_action_space, actions.cpu().numpy()).astype(np.float32),
            "scalars": scalars.float().cpu().numpy(),
        }
        self._inner_observations = self._tensor(self.last_step.observations)
        self._episode_begins = self.last_step.done
        if (self._statistics.elapsed + 1) % self.settings.n_steps:
            self._act()  # no reward changes it before the next update, so processes step while rewards are computed
        return self._observed

    def _reward_agents(self, step: TaskStep) -> None:
        if self.signal in ("reward", "advantage"):
            given = self._tensor(np.asarray(self._given, dtype=np.float32).reshape(self.num_envs))
        elif self.signal == "progress":
            shaped = np.stack([self._shaped_before, step.shaped])
            begins = self._observed["scalars"][:, 3] > 0
            given = self._tensor(bounded_dense_rewards("progress", shaped, np.stack([begins, ~begins]), self.mean_shaped())[1])
            self._shaped_before = step.shaped
        else:
            given = self._tensor(dense_reward(step.shaped) if self.signal == "shaped" else step.signal)
        self._observed_rewards = self.last_rewards = given
        self._rewards.append(given)

    def _update(self) -> None:
        observations, actions, log_probs, values, done = (torch.stack(parts) for parts in zip(*self._steps, strict=True))
        batch = InnerBatch(observations, actions, log_probs, values, torch.stack(self._rewards), done.bool())
        order = sample_order(self.settings.n_epochs, self.settings.n_steps, self.num_envs, self._generator)
        if self.before_update is not None:
            self.before_update(batch, self._inner_observations, order)
        self.agents.update(batch, self._inner_observations, order, are_advantages=self.signal == "advantage")
        self._steps, self._rewards = [], []

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
