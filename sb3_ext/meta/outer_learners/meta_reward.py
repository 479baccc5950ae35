"""MetaReward: learn to reward a learning agent (Pappalardo, Ramele & Santos, arXiv 2407.21546)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from irwrappers.validation import check_choice, check_range
from sb3_ext.common.sb3_arguments import sb3_arguments
from sb3_ext.meta.lifetimes.dense_rewards import Target, bounded_dense_rewards
from sb3_ext.meta.lifetimes.lifetime_statistics import MEAN_OBJECTIVE
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv
from sb3_ext.meta.outer_learners.imitation import expectile_loss, imitation_targets, running_sums
from sb3_ext.meta.outer_learners.lifetime_algorithm import LifetimeAlgorithm
from sb3_ext.meta.outer_learners.lifetime_collection import (
    Job,
    Lifetimes,
    collect,
    concatenate,
    merge_states,
    normal_log_prob,
)
from sb3_ext.meta.outer_learners.lifetime_shards import Shards, make_shards
from sb3_ext.meta.outer_learners.meta_advantage import check_horizons, meta_advantage, paper_horizons
from sb3_ext.meta.outer_learners.policies import SIGNAL, MetaRewardPolicy


class MetaReward(LifetimeAlgorithm):
    """Train an LSTM to reward PPO agents so that they learn fast; the outer loop is PPO over their whole lifetimes.

    An iteration runs the B lifetimes of a :class:`LifetimeVecEnv` from beginning to end, estimates the meta-advantage of each
    reward that an agent received (``meta_advantage``), and makes ``n_epochs`` passes of truncated back-propagation through
    time. It is first-order: nothing is differentiated through the agents' updates. ``num_timesteps`` counts every step of
    every inner agent. ``rollout/success`` is the share of successful episodes in the last inner batch,
    ``rollout/success_first`` in the first.

    *Imitation*, which is not in the paper. In the first ``imitation_iterations`` the network's rewards are regressed on those
    that follow from the task's dense reward (``info["shaped_reward"]``, known in meta-training only). The LSTM sees successes
    alone, and learns to give what the dense reward would, as far as it can be inferred so far. Some agents, half of them at
    first and then fewer, receive the dense reward itself meanwhile, because hardly any would succeed otherwise. The LSTM does
    not see these rewards, and learns from these lifetimes only what comes after the first success: before it, the path of such
    an agent reveals the goal, and a network that imitates that later rewards an agent for going wherever it goes.

    Args:
        policy: ``"MlpLstmPolicy"`` or a subclass of :class:`MetaRewardPolicy`.
        env: a :class:`LifetimeVecEnv` with ``signal="reward"`` or ``"advantage"``.
        learning_rate: of Adam; a number or a schedule of the remaining progress.
        n_epochs: passes over the lifetimes of an iteration.
        clip_range: of the probability ratio; a number or a schedule.
        ent_coef: entropy coefficient.
        vf_coef: coefficient of the value loss.
        max_grad_norm: largest norm of a gradient; None: not clipped.
        target_kl: KL divergence of the sampled rewards at which the epochs of an iteration stop; None for no limit.
        stats_window_size: episodes over which ``rollout/…`` is averaged.
        tensorboard_log: folder of the TensorBoard log, or None.
        policy_kwargs: arguments of the policy.
        verbose: 0 for no output, 1 for information, 2 for debugging.
        seed: of weights, tasks, agents and environments.
        device: of the policy.
        _init_setup_model: whether the networks are built at once.
        episode_gamma: discount of an episode of the inner agent, not of a step.
        chunk: steps of truncated back-propagation; each chunk is one optimiser step, and each epoch begins at a random offset.
        horizons: n of the n-step meta-advantages; None: the paper's, in proportion to the inner batch.
        fallback: n where no one of ``horizons`` is possible; None: the paper's, likewise.
        skip: whether rewards of the outer learner that an agent's reward cannot have influenced yet are left out.
        baseline: ``"value"``, the paper's; ``"step"``: the advantage is relative to the other lifetimes at the same step;
            ``"group"``: relative to the lifetimes of the same task (``lifetimes_per_task`` of the environment). A lifetime's
            return depends mostly on its task; these two remove that.
        imitation_iterations: number of iterations of imitation, before those of PPO; 0: the paper.
        imitation_learning_rate: at the start of imitation; it falls to 0, so that the luck of a few tasks averages out.
        imitation_expectile: expectile, over the tasks that are still possible, of the rewards of an episode so far. 0.5 is the
            mean: where the goal may be to the left or to the right it rewards going between. Towards 1 it is the highest:
            rewards add up to the progress towards the nearest goal that has not been searched for in vain, which
            ``visit_memory`` of the network records.
        imitation_target: ``"reward"``, the dense reward of each step, or ``"progress"``, how much it grew since the step
            before. Where it says how near the goal is, as in Meta-World, agents learn more from progress (three to five times
            the successes on reach and door-close); where it is a progress already, as in PointGoal, use ``"reward"``.
        n_shards: number of groups in which the lifetimes are run, each with its own seeds and scale of the objective: in the
            environment's ``n_jobs`` processes or on several machines (``sb3_ext.distributed``), with the same result. As many
            groups as cores are the fastest. ``set_env`` closes the groups of the environment before.

    Raises:
        ValueError: for an argument out of range and for an environment of another kind.
    """

    shards: Shards | None

    def __init__(
        self,
        policy: str | type[MetaRewardPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 5e-5,
        n_epochs: int = 12,
        clip_range: float | Schedule = 0.2,
        ent_coef: float = 3e-3,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        target_kl: float | None = 0.01,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        episode_gamma: float = 0.9,
        chunk: int = 400,
        horizons: list[int] | None = None,
        fallback: list[int] | None = None,
        skip: bool = True,
        baseline: Literal["value", "step", "group"] = "value",
        imitation_iterations: int = 0,
        imitation_learning_rate: float = 1e-3,
        imitation_expectile: float = 0.5,
        imitation_target: Target = "reward",
        n_shards: int = 1,
    ) -> None:
        check_choice("baseline", baseline, ("value", "step", "group"))
        check_choice("imitation_target", imitation_target, ("reward", "progress"))
        for name, value in (("n_epochs", n_epochs), ("chunk", chunk)):
            check_range(name, value, 1, integer=True, schedule=False)
        check_range("episode_gamma", episode_gamma, 0, 1)
        check_range("imitation_iterations", imitation_iterations, 0, integer=True)
        check_range("imitation_expectile", imitation_expectile, 0.5, 0.999)
        check_range("n_shards", n_shards, 1, integer=True)
        check_range("imitation_learning_rate", imitation_learning_rate, 0, schedule=False)
        for name, coefficient in (("ent_coef", ent_coef), ("vf_coef", vf_coef)):
            check_range(name, coefficient, 0, schedule=False)
        check_range("clip_range", clip_range, 0, open_low=True)
        for name, limit in (("max_grad_norm", max_grad_norm), ("target_kl", target_kl)):
            if limit is not None:
                check_range(name, limit, 0, open_low=True, schedule=False)
        for name, steps in (("horizons", horizons), ("fallback", fallback)):
            if steps is not None:
                check_horizons(name, steps)
        self.n_epochs, self.episode_gamma, self.clip_range = n_epochs, episode_gamma, clip_range
        self.ent_coef, self.vf_coef, self.max_grad_norm, self.target_kl = ent_coef, vf_coef, max_grad_norm, target_kl
        self.chunk, self.horizons, self.fallback, self.skip = chunk, horizons, fallback, skip
        self.baseline, self.imitation_iterations = baseline, imitation_iterations
        self.imitation_learning_rate, self.imitation_expectile = imitation_learning_rate, imitation_expectile
        self.imitation_target, self.n_shards, self.shards = imitation_target, n_shards, None
        super().__init__(**sb3_arguments(LifetimeAlgorithm, locals()))

    def _iterate(self, env: LifetimeVecEnv, callback: BaseCallback, seed: int) -> bool:
        compared = {"value": 2, "step": env.num_envs, "group": env.lifetimes_per_task}[self.baseline]
        if compared < 2:
            raise ValueError(
                f"baseline={self.baseline!r} compares lifetimes, and there is one: give the LifetimeVecEnv more "
                f"{'lifetimes_per_task' if self.baseline == 'group' else 'n_lifetimes'}."
            )
        self._generator = torch.Generator(self.device).manual_seed(seed)
        callback.on_rollout_start()
        imitates = self._iteration < self.imitation_iterations
        dense_share = 0.5 * (1 - self._iteration / self.imitation_iterations) if imitates else 0.0
        lifetimes = self._collect(env, callback, seed, dense_share, noise=not imitates)
        if lifetimes is None:
            return False
        callback.update_locals(locals())
        callback.on_rollout_end()
        if imitates:
            self._imitate(lifetimes)
        else:
            self._train(lifetimes, env)
        return True

    def _collect(
        self, env: LifetimeVecEnv, callback: BaseCallback, seed: int, dense_share: float, noise: bool
    ) -> Lifetimes | None:
        """Return lifetimes in which a share of the agents receives the dense reward; None if a callback stopped them."""

        on_step = self._step_counter(env, callback)
        before, per_shard = env.get_state(), env.num_envs // self.n_shards
        seeds = [seed] if self.n_shards == 1 else np.random.SeedSequence(seed).generate_state(self.n_shards).tolist()
        jobs = [Job(int(one), round(dense_share * per_shard), noise, before, self.imitation_target) for one in seeds]
        if self.shards is None and self.n_shards == 1:
            result = collect(self.policy.network, env, jobs[0], on_step)
            if result is None:
                return None
            results = [result]
        else:
            if self.shards is None:
                self.shards = make_shards(env, self.n_shards)
            results = self.shards.run(self.policy.network, jobs)
        infos = [info for result in results for info in result.infos]
        if self.shards is not None:  # the steps were taken in the shards; callbacks count calls
            for step in range(1, env.settings.lifetime + 1):
                last = step == env.settings.lifetime
                infos_of_step = infos if last else [{} for _ in range(env.num_envs)]
                if not on_step(None, np.zeros(env.num_envs, np.float32), np.full(env.num_envs, last), infos_of_step):
                    return None
        env.set_state(merge_states([result.state for result in results], before))
        self._log_lifetimes(infos)
        return concatenate([result.lifetimes for result in results])

    def _advantages(self, lifetimes: Lifetimes, env: LifetimeVecEnv) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised advantages, value targets and where they are defined, ``[T, B]``."""
        paper = paper_horizons(env.settings.n_steps)
        result = meta_advantage(
            lifetimes.rewards * self._reward_scale(lifetimes, env),
            lifetimes.values,
            lifetimes.episodes,
            steps_per_update=env.settings.n_steps,
            gamma=self.episode_gamma,
            horizons=paper[0] if self.horizons is None else self.horizons,
            fallback=paper[1] if self.fallback is None else self.fallback,
            skip=self.skip,
        )
        in_time = torch.arange(len(result.defined), device=self.device) < self._last_update(env)
        defined = result.defined & in_time[:, None]
        advantages, targets = result.advantages, result.advantages + lifetimes.values
        if self.baseline != "value":
            # The return from here on, without the value, less the mean of the lifetimes that it is compared with.
            groups = env.lifetimes_per_task if self.baseline == "group" else env.num_envs
            compared = targets.unflatten(1, (-1, groups))
            advantages = (compared - compared.mean(2, keepdim=True)).flatten(1)
        chosen = advantages[defined]
        if len(chosen) < 2:
            raise ValueError(
                f"No reward of an agent has an advantage with horizons={self.horizons} and fallback={self.fallback}."
            )
        return (advantages - chosen.mean()) / (chosen.std() + 1e-8), targets, defined

    @staticmethod
    def _last_update(env: LifetimeVecEnv) -> int:
        """Return the step of the agents' last update: later rewards have no effect, and are not learned from."""
        return env.settings.n_steps * (env.settings.n_batches - 1)

    def _reward_scale(self, lifetimes: Lifetimes, env: LifetimeVecEnv) -> float:
        """Return the factor that makes values of the order of 1.

        The critic shares the LSTM: with errors of another size its gradient would dominate the clipped norm.
        """
        steps, last_episode = len(lifetimes.rewards), float(lifetimes.episodes[-1].float().mean()) + 1
        n_episodes = min(last_episode, 1 / max(1 - self.episode_gamma, 1e-9))  # within the discount's horizon
        return 1 / n_episodes if env.objective == "sparse" else last_episode / (n_episodes * steps * MEAN_OBJECTIVE)

    def _train(self, lifetimes: Lifetimes, env: LifetimeVecEnv) -> None:
        """Update by PPO with truncated back-propagation through time."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        advantages, targets, defined = self._advantages(lifetimes, env)
        history: dict[str, list[float]] = {"policy_loss": [], "value_loss": [], "entropy": [], "approx_kl": []}
        clip = self.clip_range(self._current_progress_remaining) if callable(self.clip_range) else self.clip_range
        for _epoch in range(self.n_epochs):
            kl = []
            for part, outputs in self._chunks(lifetimes, self._last_update(env)):
                mask = defined[part].float()
                count = mask.sum().clamp(min=1)
                log_probs = normal_log_prob(lifetimes.agent_rewards[part], outputs.mean, outputs.std)
                log_ratio = log_probs - lifetimes.log_probs[part]
                ratio = log_ratio.exp()
                surrogate = torch.min(ratio * advantages[part], ratio.clamp(1 - clip, 1 + clip) * advantages[part])
                policy_loss = -(surrogate * mask).sum() / count
                value_loss = ((outputs.value - targets[part]).square() * mask).sum() / count
                entropy = ((outputs.std.log() + 1.4189) * mask).sum() / count
                self._descend(policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy)
                with torch.no_grad():
                    kl.append(float((((ratio - 1) - log_ratio) * mask).sum() / count))
                for name, value in (("policy_loss", policy_loss), ("value_loss", value_loss), ("entropy", entropy)):
                    history[name].append(float(value.detach()))
            self._n_updates += 1
            history["approx_kl"].append(float(np.mean(kl)))
            if self.target_kl is not None and history["approx_kl"][-1] > self.target_kl:
                break
        for name, values in history.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        self.logger.record("train/std", float(lifetimes.agent_rewards.std()))

    def _imitate(self, lifetimes: Lifetimes) -> None:
        """Regress rewards on those of the dense reward; for agents that received it, after their first success only."""
        self.policy.set_training_mode(True)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = self.imitation_learning_rate * (1 - self._iteration / self.imitation_iterations)
        found = (lifetimes.inputs["scalars"][..., SIGNAL] > 0).cumsum(0) > 0
        counts = found | ~lifetimes.dense
        _, values, defined = self._advantages(lifetimes, self.lifetimes)
        continues = (torch.diff(lifetimes.episodes, dim=0, prepend=lifetimes.episodes[:1] - 1) == 0).float()
        shaped, on, scale = (part.cpu().numpy() for part in (lifetimes.shaped, continues, lifetimes.scale))
        targets = torch.as_tensor(bounded_dense_rewards(self.imitation_target, shaped, on, scale), device=self.device)
        regression = imitation_targets(targets, continues, found, counts, self.imitation_expectile)
        losses = []
        for _epoch in range(self.n_epochs):
            so_far = torch.zeros_like(targets[:1])  # of an episode that the border of a chunk divides
            for part, outputs in self._chunks(lifetimes, len(lifetimes.agent_rewards)):
                sums = running_sums(outputs.mean, regression.continues[part], so_far)
                so_far = sums[-1:].detach()
                errors = regression.weights[part] * expectile_loss(sums, regression.sums[part], regression.expectiles[part])
                loss = errors.sum() / counts[part].sum().clamp(min=1)
                value_errors = (outputs.value - values[part]).square() * defined[part]
                self._descend(loss + self.vf_coef * value_errors.sum() / defined[part].sum().clamp(min=1))
                losses.append(float(loss.detach()))
            self._n_updates += 1
        self.logger.record("train/imitation_loss", float(np.mean(losses)))

    def _chunks(self, lifetimes: Lifetimes, steps: int) -> Any:
        """Yield (slice, outputs) of successive chunks of the first ``steps``; the state continues without its graph.

        The first chunk is a random part of one, so that the borders are elsewhere each time.
        """
        size, offset = self.chunk, int(torch.randint(1, self.chunk + 1, (), generator=self._generator, device=self.device))
        state = self.policy.network.begin(lifetimes.agent_rewards.shape[1], self.device)
        start = 0
        for end in (*range(offset, steps, size), steps):
            part = slice(start, end)
            outputs = self.policy.network({key: value[part] for key, value in lifetimes.inputs.items()}, state)
            yield part, outputs
            state = tuple(part.detach() for part in outputs.state)
            start = end

    def _descend(self, loss: Tensor) -> None:
        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        if self.shards is not None:  # they belong to the environment before
            self.shards.close()
            self.shards = None
        super().set_env(env, force_reset)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_generator", "shards"]
