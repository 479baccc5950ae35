"""PPO with RND as intrinsic reward on a MiniGrid task whose only reward is at the goal.

python examples/rnd_minigrid.py
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import IntrinsicRewardCallback, VecIntrinsicReward
from sb3_ext.common.vec_env import make_vec_env

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=1_000_000)
parser.add_argument("--env", default="sparse/MiniGrid-DoorKey-6x6-v0")
given = parser.parse_args()

env = VecIntrinsicReward(make_vec_env(given.env, n_envs=16, seed=0), "rnd", intrinsic_coef=0.02, seed=0)
model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, n_epochs=4, ent_coef=0.01, seed=0, verbose=1)
model.learn(given.timesteps, callback=IntrinsicRewardCallback(), log_interval=20)
model.save("ppo_rnd")
env.save("ppo_rnd_reward")  # continue with VecIntrinsicReward.load("ppo_rnd_reward", venv)

test_env = make_vec_env(given.env, n_envs=16, seed=1)
returns, _ = evaluate_policy(model, test_env, n_eval_episodes=100, deterministic=False)
print(f"Success rate of 100 episodes: {returns:.0%}")
