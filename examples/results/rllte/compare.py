"""One PPO run with a bonus of ours or with rllte-core's of the same name, on the same task with the same settings.

    python compare.py --toolkit irwrappers --bonus rnd --seed 0 >> runs.csv

Prints one CSV row: toolkit, bonus, env, seed, timesteps, wall seconds, CPU seconds, success of the last 100 episodes, success
over training. Both are computed from a finished rollout and added to its rewards before advantages are taken, divided by their
running deviation. ``--toolkit wrapper`` is ours as users have it, ``VecIntrinsicReward``, which adds it at every step.
Needs ``pip install rllte-core`` for ``--toolkit rllte`` and the extra ``envpool``.
"""

import argparse
import time

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import RunningStd, Transitions, VecIntrinsicReward, make_intrinsic_reward
from sb3_ext.common.vec_env import make_vec_env

CLASSES = {  # ours: theirs
    "rnd": "RND", "icm": "ICM", "re3": "RE3", "e3b": "E3B", "disagreement": "Disagreement", "ngu": "NGU",
    "pseudo_counts": "PseudoCounts", "ride": "RIDE",
}  # fmt: skip


# rllte's networks and learning rates for ours: the same number of multiplications, and observations as they are.
LEARNS = dict(latent_dim=128, learning_rate=1e-3, normalize_observations=False)
SETTINGS = {
    "rnd": LEARNS | dict(predictor_hidden_sizes=(256,), update_proportion=1.0),
    "icm": LEARNS,
    "re3": dict(latent_dim=128, n_neighbors=5, normalize_observations=False),
    "e3b": LEARNS | dict(latent_dim=32),  # ours: its double-precision inverse costs the square of it at every step
    "disagreement": LEARNS | dict(n_models=4, update_proportion=1.0),
    "ngu": LEARNS | dict(latent_dim=32),
    "pseudo_counts": LEARNS | dict(latent_dim=32),
    "ride": LEARNS,
}


class Bonus(BaseCallback):
    """Adds a bonus to a rollout just before its advantages are computed."""

    def __init__(self, reward, coef):
        super().__init__()
        self.reward, self.coef = reward, coef

    def bonus(self, buffer, last):
        """``[T, B]``."""
        raise NotImplementedError

    def _on_rollout_start(self):
        self.terminal = []

    def _on_step(self):
        infos, t = self.locals["infos"], self.locals["n_steps"]
        self.terminal += [
            (t, i, info["terminal_observation"]) for i, info in enumerate(infos) if "terminal_observation" in info
        ]
        return True

    def _on_rollout_end(self):
        buffer, model = self.model.rollout_buffer, self.model
        last = torch.as_tensor(model._last_obs).float()
        buffer.rewards += self.coef * self.bonus(buffer, last).numpy().reshape(buffer.rewards.shape)
        with torch.no_grad():
            values = model.policy.predict_values(last)
        buffer.compute_returns_and_advantage(last_values=values, dones=model._last_episode_starts)

    def ends(self, buffer):
        return torch.as_tensor(np.concatenate([buffer.episode_starts[1:], self.model._last_episode_starts[None]])).bool()


class Rllte(Bonus):
    """It divides by its own running deviation."""

    def bonus(self, buffer, last):
        observations = torch.as_tensor(buffer.observations).float()
        samples = dict(
            observations=observations,
            actions=torch.as_tensor(buffer.actions).squeeze(-1),
            rewards=torch.as_tensor(buffer.rewards),
            terminateds=self.ends(buffer).float(),
            truncateds=torch.zeros(buffer.rewards.shape),
            next_observations=torch.cat([observations[1:], last[None]]),
        )
        if hasattr(self.reward, "watch"):  # the memories of the episodic ones are fed step by step
            for t in range(len(observations)):
                self.reward.watch(**{key: value[t] for key, value in samples.items()})
        return self.reward.compute(samples, sync=True).cpu()


class Ours(Bonus):
    def __init__(self, reward, coef):
        super().__init__(reward, coef)
        self.std = RunningStd(1)

    def bonus(self, buffer, last):
        observations = torch.as_tensor(buffer.observations)
        following = torch.cat([observations[1:], last[None].to(observations.dtype)])
        for t, i, observation in self.terminal:
            following[t, i] = torch.as_tensor(observation)
        ends = self.ends(buffer)
        actions = torch.as_tensor(buffer.actions).squeeze(-1).long()
        batch = Transitions(observations, actions, following, ends, torch.zeros_like(ends))
        rewards = self.reward.compute(batch)
        self.std.update(rewards)
        self.reward.update(batch)
        return self.std.normalize(rewards).float()


class Success(BaseCallback):
    def __init__(self):
        super().__init__()
        self.episodes = []

    def _on_step(self):
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self.episodes.append(info["is_success"])
        return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--toolkit", choices=("irwrappers", "wrapper", "rllte", "none"), required=True)
    parser.add_argument("--bonus", choices=CLASSES, default="rnd")
    parser.add_argument("--env", default="sparse/MiniGrid-DoorKey-8x8-v0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=500_000)
    parser.add_argument("--coef", type=float, default=0.01)
    given = parser.parse_args()
    env = make_vec_env(given.env, 32, seed=given.seed, backend="envpool")
    torch.manual_seed(given.seed)
    callbacks = [Success()]
    wall, cpu = time.perf_counter(), time.process_time()
    if given.toolkit == "wrapper":
        env = VecIntrinsicReward(env, given.bonus, intrinsic_coef=given.coef, intrinsic_reward_kwargs=SETTINGS[given.bonus])
    elif given.toolkit == "irwrappers":
        reward = make_intrinsic_reward(given.bonus, env.observation_space, env.action_space, **SETTINGS[given.bonus])
        callbacks.append(Ours(reward, given.coef))
    elif given.toolkit == "rllte":
        import gymnasium as gym
        import rllte.xplore.reward as rewards

        spaces = gym.make_vec("CartPole-v1", num_envs=32)  # it asks a vector environment for spaces and n_envs
        spaces.single_observation_space, spaces.single_action_space = env.observation_space, env.action_space
        callbacks.append(Rllte(getattr(rewards, CLASSES[given.bonus])(spaces, obs_norm_type="none"), given.coef))
    settings = dict(n_steps=128, batch_size=512, n_epochs=4, learning_rate=5e-4, ent_coef=0.01, seed=given.seed, device="cpu")
    model = PPO("MlpPolicy", env, **settings)
    model.learn(given.timesteps, callback=callbacks)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    episodes = callbacks[0].episodes
    row = (given.toolkit, given.bonus if given.toolkit != "none" else "-", given.env, given.seed, model.num_timesteps)
    print(*row, *[f"{s:.1f}" for s in seconds], f"{np.mean(episodes[-100:]):.3f}", f"{np.mean(episodes):.3f}", sep=",")


if __name__ == "__main__":
    main()
