"""CLN on Hopper: a learned reward, and how what it pays an episode compares with the environment's own.

python examples/cln_hopper.py
"""

import argparse

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import CLN

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=300_000)
given = parser.parse_args()

env = VecNormalize(make_vec_env("Hopper-v5", n_envs=4, seed=0))
model = CLN("MlpPolicy", env, n_steps=512, seed=0, device="cpu")
for _ in range(4):
    model.learn(given.timesteps // 4, reset_num_timesteps=False)
    logged = model.logger.name_to_value  # what the last iteration wrote
    paid = {name: round(logged.get(f"cln/{name}_return", float("nan")), 2) for name in ("extrinsic", "intrinsic")}
    print(f"{model.num_timesteps} steps; return of an episode, as normalised: {paid}")

env.training, env.norm_reward = False, False
mean, std = evaluate_policy(model, env, n_eval_episodes=10)
print(f"Return of 10 episodes: {mean:.0f} ± {std:.0f} of {gym.spec('Hopper-v5').reward_threshold}, which counts as success")
