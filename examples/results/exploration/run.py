"""One PPO run with a bonus, evaluated without it.

    python run.py --bonus count --env sparse/Maze2-v0 --timesteps 3000000 --seed 0 >> runs.csv

Prints one CSV row: bonus, form, env, seed, timesteps, seconds, arg-max success, sampled success (100 episodes each) and the
timesteps at which the last 200 training episodes first had a success rate of 0.9 (empty: never).
"""

import argparse
import json
import time

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import VecIntrinsicReward
from sb3_ext import IntrinsicPPO
from sb3_ext.common.vec_env import make_vec_env


class Solved(BaseCallback):
    """Notes when the last 200 episodes had a success rate of 0.9."""

    def __init__(self):
        super().__init__()
        self.recent, self.at = [], None

    def _on_step(self):
        ended = [info["is_success"] for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True) if done]
        if ended:
            self.recent = [*self.recent, *ended][-200:]
            if self.at is None and len(self.recent) == 200 and np.mean(self.recent) >= 0.9:
                self.at = self.num_timesteps
        return True


def success(model, env_id, backend, deterministic):
    env = make_vec_env(env_id, 20, seed=10_000, backend=backend)
    rewards, _ = evaluate_policy(model, env, n_eval_episodes=100, deterministic=deterministic, return_episode_rewards=True)
    return np.mean(np.array(rewards) > 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bonus", default="none", help="a name of irwrappers.make_intrinsic_reward, or none")
    parser.add_argument("--form", choices=("wrapper", "two_heads"), default="wrapper")
    parser.add_argument("--env", default="sparse/Maze2-v0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=3_000_000)
    parser.add_argument("--coef", type=float, default=0.1)
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--ent-coef", type=float, default=0.01)
    parser.add_argument("--reward-kwargs", type=json.loads, default=None, help='as JSON: {"latent_dim": 16}')
    parser.add_argument("--backend", default=None)
    given = parser.parse_args()
    env = make_vec_env(given.env, given.n_envs, seed=given.seed, backend=given.backend)
    settings = dict(
        n_steps=given.steps, batch_size=2048, n_epochs=given.epochs, learning_rate=given.learning_rate,
        ent_coef=given.ent_coef, seed=given.seed, device="cpu",
    )  # fmt: skip
    start, solved = time.perf_counter(), Solved()
    if given.bonus == "none":
        model = PPO("MlpPolicy", env, **settings)
    elif given.form == "wrapper":
        env = VecIntrinsicReward(env, given.bonus, intrinsic_coef=given.coef, intrinsic_reward_kwargs=given.reward_kwargs)
        model = PPO("MlpPolicy", env, **settings)
    else:
        bonus = dict(intrinsic_reward=given.bonus, intrinsic_reward_kwargs=given.reward_kwargs, intrinsic_coef=given.coef)
        model = IntrinsicPPO("MlpPolicy", env, extrinsic_coef=1.0, **bonus, **settings)
    model.learn(given.timesteps, callback=solved)
    seconds = time.perf_counter() - start
    rates = [f"{success(model, given.env, given.backend, deterministic):.2f}" for deterministic in (True, False)]
    form = given.form if given.bonus != "none" else "-"
    print(
        given.bonus,
        form,
        given.env,
        given.seed,
        model.num_timesteps,
        f"{seconds:.0f}",
        *rates,
        solved.at or "",
        sep=",",
        flush=True,
    )


if __name__ == "__main__":
    main()
