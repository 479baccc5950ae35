"""Options (policies that run for several steps) and single actions to choose from, and the training of an option by PPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.utils._pytree import tree_map

from irwrappers import VecIntrinsicReward
from irwrappers.intrinsic.random_walks import random_actions

Primitive = Literal["auto", "each", "random", "none"]

# The hyperparameters of PPO that the training of an option takes from the model, unless ``option_kwargs`` has them.
PPO_ARGUMENTS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "clip_range_vf",
    "normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm", "target_kl",
)  # fmt: skip


class Options(nn.ModuleList):
    """The choices: 0 … K − 1 run an option for ``option_steps`` steps, the others take one single action.

    Args:
        policies: the K options, over the environment's own actions. They act without sampling.
        action_space: action space of the environment.
        option_steps: environment steps that an option runs.
        primitive_actions: ``"each"``: a choice for each action of a Discrete space; ``"random"``: one choice, a uniformly
            random action; ``"none"``; ``"auto"``: each for Discrete spaces, random for others.

    Attributes:
        space: Discrete space of the choices.
        durations: int ``[n_choices]``, steps that each choice lasts.

    Raises:
        ValueError: ``"each"`` for an action space that is not Discrete.
    """

    def __init__(
        self,
        policies: Sequence[ActorCriticPolicy],
        action_space: spaces.Space,
        option_steps: int,
        primitive_actions: Primitive,
    ) -> None:
        super().__init__(policies)
        is_discrete = isinstance(action_space, spaces.Discrete)
        if primitive_actions == "auto":
            primitive_actions = "each" if is_discrete else "random"
        if primitive_actions == "each" and not is_discrete:
            raise ValueError(
                f"primitive_actions='each' needs a Discrete action space, got {action_space}; use 'random' or 'none'."
            )
        self.action_space = action_space
        self.is_random = primitive_actions == "random"
        n_single = {"each": int(getattr(action_space, "n", 0)), "random": 1, "none": 0}[primitive_actions]
        self.space = spaces.Discrete(len(self) + n_single)
        self.durations = np.array([option_steps] * len(self) + [1] * n_single)

    @torch.no_grad()
    def act(self, choices: np.ndarray, observations: Any) -> np.ndarray:
        """Return the environment's actions ``[B, …]`` for choices ``[B]`` at observations ``[B, …]`` (tensors)."""
        space = self.action_space
        actions = np.empty((len(choices), *space.shape), dtype=space.dtype)  # type: ignore[misc]
        single = choices >= len(self)
        if single.any():
            if self.is_random:
                actions[single] = random_actions(space, int(single.sum()), space.np_random)
            else:
                actions[single] = choices[single] - len(self)
        # A loop over options: one batched call would evaluate all K options in every environment.
        for k in np.unique(choices[~single]).tolist():
            rows = np.flatnonzero(choices == k)
            acts = self[k]._predict(tree_map(lambda x, rows=rows: x[rows], observations), deterministic=True).cpu().numpy()
            acts = acts.reshape(-1, *space.shape)  # type: ignore[misc]
            actions[rows] = np.clip(acts, space.low, space.high) if isinstance(space, spaces.Box) else acts
        return actions


class OptionTraining:
    """Training of one option by SB3's PPO on one channel of the intrinsic reward alone, in the environment's own episodes.

    Args:
        model: the algorithm, whose step count, logger and episode statistics are used.
        index: number of the option and of its channel.
        end: value of the algorithm's ``num_timesteps`` at which training ends.
    """

    def __init__(self, model: Any, index: int, end: int) -> None:
        assert model.env is not None
        arguments = {name: getattr(model, name) for name in PPO_ARGUMENTS}
        n_steps = model.option_kwargs.get("n_steps", model.n_steps)
        # The model's own batch_size counts choices, and a rollout has several times more steps.
        arguments["batch_size"] = max(2, n_steps * model.n_envs // 4)
        arguments |= model.option_kwargs
        self.model, self.name, self.end = model, model.intrinsic_reward.channel_names[index], end
        self.env = VecIntrinsicReward(
            model.env,
            model.intrinsic_reward,
            extrinsic_coef=0.0,
            intrinsic_weights=np.eye(model.n_options)[index].tolist(),
            gamma=arguments["gamma"],
            episodic=True,
            warmup_steps=0,
            seed=int(np.random.randint(2**31 - 1)),  # the global generator, which SB3 has seeded with the model's seed
            device=model.device,
        )
        policy_class: Any = model.policy_class
        self.ppo = PPO(policy_class, self.env, policy_kwargs=model.policy_kwargs, device=model.device, **arguments)
        self.ppo.policy = model.options[index]
        self.ppo.set_logger(model.logger)
        self.ppo._setup_learn(max(1, end - model.num_timesteps))
        self.ppo.ep_info_buffer, self.ppo.ep_success_buffer = model.ep_info_buffer, model.ep_success_buffer

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """Collect a rollout as SB3 does; return False if the callback stopped training."""
        relay = _Relay(self.model, callback)
        relay.init_callback(self.ppo)
        ppo = self.ppo
        proceed = ppo.collect_rollouts(ppo.get_env(), relay, ppo.rollout_buffer, ppo.n_steps)  # type: ignore[arg-type]
        for name, value in self.env.pop_logs().items():
            if name in ("reward", "episode_return"):
                self.model.logger.record(f"option/{self.name}_{name}", value)
        return proceed

    def train(self) -> bool:
        """Update the option by PPO; return True if its training has ended."""
        ppo = self.ppo
        ppo._n_updates = self.model._n_updates
        done = min(ppo.num_timesteps, ppo._total_timesteps)
        ppo._update_current_progress_remaining(done, ppo._total_timesteps)
        ppo.train()
        ppo.policy.set_training_mode(False)
        self.model._n_updates = ppo._n_updates
        return self.model.num_timesteps >= self.end


class _Relay(BaseCallback):
    """Callback that counts the steps of an option's training in the algorithm and calls the user's callback."""

    def __init__(self, owner: Any, callback: BaseCallback) -> None:
        super().__init__()
        self.owner, self.callback = owner, callback

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        self.callback.update_locals(locals_)

    def _on_rollout_start(self) -> None:
        self.callback.on_rollout_start()

    def _on_step(self) -> bool:
        self.owner.num_timesteps += self.owner.n_envs
        return self.callback.on_step()

    def _on_rollout_end(self) -> None:
        self.callback.on_rollout_end()
