"""One PPO run paid by a bonus of ours or by rllte-core's of the same name, on the same task with the same settings.

    python compare.py --toolkit irwrappers --bonus rnd --seed 0 >> runs.csv

Prints one CSV row: toolkit, bonus, env, seed, timesteps, seconds, success of the last 100 episodes, success over training.
rllte's bonuses are added to the rollout's rewards before advantages are computed, as ours are; its own SB3 example adds
them to the finished advantages. Needs `pip install rllte-core` for `--toolkit rllte`.
"""

import argparse
import time

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext.common.vec_env import make_vec_env

CLASSES = {  # ours: theirs
    "rnd": "RND", "icm": "ICM", "re3": "RE3", "e3b": "E3B", "disagreement": "Disagreement", "ngu": "NGU",
    "pseudo_counts": "PseudoCounts", "ride": "RIDE",
}  # fmt: skip


class Rllte(BaseCallback):
    """Pays a rollout with an rllte reward just before its advantages are computed."""

    def __init__(self, reward, coef):
        super().__init__()
        self.reward = reward
        self.coef = coef

    def _on_rollout_end(self):
        buffer, model = self.model.rollout_buffer, self.model
        last = torch.as_tensor(model._last_obs).float()
        observations = torch.as_tensor(buffer.observations).float()
        samples = dict(
            observations=observations,
            actions=torch.as_tensor(buffer.actions).squeeze(-1),
            rewards=torch.as_tensor(buffer.rewards),
            terminateds=torch.as_tensor(np.concatenate([buffer.episode_starts[1:], model._last_episode_starts[None]])),
            truncateds=torch.zeros(buffer.rewards.shape),
            next_observations=torch.cat([observations[1:], last[None]]),
        )
        if hasattr(self.reward, "watch"):  # the memories of the episodic ones are fed step by step
            for t in range(len(observations)):
                self.reward.watch(**{key: value[t] for key, value in samples.items()})
        buffer.rewards += self.coef * self.reward.compute(samples, sync=True).cpu().numpy().reshape(buffer.rewards.shape)
        with torch.no_grad():
            values = model.policy.predict_values(last)
        buffer.compute_returns_and_advantage(last_values=values, dones=model._last_episode_starts)

    def _on_step(self):
        return True


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
    parser.add_argument("--toolkit", choices=("irwrappers", "rllte", "none"), required=True)
    parser.add_argument("--bonus", choices=CLASSES, default="rnd")
    parser.add_argument("--env", default="sparse/MiniGrid-DoorKey-8x8-v0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=300_000)
    parser.add_argument("--coef", type=float, default=0.01)
    given = parser.parse_args()
    env = make_vec_env(given.env, 16, seed=given.seed)
    torch.manual_seed(given.seed)
    callbacks = [Success()]
    start = time.perf_counter()
    if given.toolkit == "irwrappers":
        from irwrappers import VecIntrinsicReward

        env = VecIntrinsicReward(env, given.bonus, coef=given.coef)
    elif given.toolkit == "rllte":
        import gymnasium as gym
        import rllte.xplore.reward as rewards

        spaces = gym.make_vec("CartPole-v1", num_envs=16)  # it asks a vector environment for spaces and number of copies
        spaces.single_observation_space, spaces.single_action_space = env.observation_space, env.action_space
        callbacks.append(Rllte(getattr(rewards, CLASSES[given.bonus])(spaces, obs_norm_type="none"), given.coef))
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, n_epochs=4, ent_coef=0.01, seed=given.seed, device="cpu")
    model.learn(given.timesteps, callback=callbacks)
    seconds = time.perf_counter() - start
    episodes = callbacks[0].episodes
    row = (given.toolkit, given.bonus if given.toolkit != "none" else "-", given.env, given.seed, model.num_timesteps)
    print(*row, f"{seconds:.1f}", f"{np.mean(episodes[-100:]):.3f}", f"{np.mean(episodes):.3f}", sep=",")


if __name__ == "__main__":
    main()
