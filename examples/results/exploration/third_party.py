"""Environments registered by others, wrapped in one line and trained with PPO, with and without the bonus.

    python third_party.py --env FrozenLake8x8-v1 --bonus count --timesteps 300000 --seed 0 >> third_party.csv

Prints one CSV row: env, bonus (or none), seed, timesteps, seconds, success rate and mean return over 50 episodes of an
environment without the bonus, actions sampled. An episode succeeds if its return exceeds that of one in which nothing happens.
"""

import argparse
import time

import gymnasium_robotics  # noqa: F401 (registers PointMaze_UMaze-v3)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from irwrappers import VecIntrinsicReward

NOTHING = {"MountainCar-v0": -200, "Acrobot-v1": -500}  # return of an episode that reaches nothing; else 0
ENV_KWARGS = {"FrozenLake8x8-v1": {"is_slippery": False}}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="MountainCar-v0")
parser.add_argument("--bonus", default="none")
parser.add_argument("--timesteps", type=int, default=500_000)
parser.add_argument("--coef", type=float, default=1.0)
parser.add_argument("--extrinsic-coef", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()


def make_envs(seed):
    return make_vec_env(given.env, n_envs=16, seed=seed, env_kwargs=ENV_KWARGS.get(given.env))


env = make_envs(given.seed)
if given.bonus != "none":
    env = VecIntrinsicReward(env, given.bonus, intrinsic_coef=given.coef, extrinsic_coef=given.extrinsic_coef, seed=given.seed)
policy = "MultiInputPolicy" if hasattr(env.observation_space, "spaces") else "MlpPolicy"
model = PPO(policy, env, n_steps=128, batch_size=256, n_epochs=4, gamma=0.99, ent_coef=0.01, seed=given.seed, device="cpu")
start = time.perf_counter()
model.learn(given.timesteps)
seconds = time.perf_counter() - start
returns, _ = evaluate_policy(model, make_envs(1000), n_eval_episodes=50, deterministic=False, return_episode_rewards=True)
success = sum(r > NOTHING.get(given.env, 0) for r in returns) / len(returns)
mean = sum(returns) / len(returns)
row = (given.env, given.bonus, given.seed, model.num_timesteps, f"{seconds:.0f}", f"{success:.2f}", f"{mean:.2f}")
print(*row, sep=",", flush=True)
