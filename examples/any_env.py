"""An intrinsic reward around an environment of another library: MountainCar, whose goal PPO alone does not find.

python examples/any_env.py
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from irwrappers import VecIntrinsicReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=500_000)
parser.add_argument("--env", default="MountainCar-v0")
parser.add_argument("--bonus", default="pseudo_counts")
given = parser.parse_args()

venv = make_vec_env(given.env, n_envs=16, seed=0)
# The one line: everything else is PPO on any VecEnv.
env = VecIntrinsicReward(venv, given.bonus, intrinsic_coef=1.0, extrinsic_coef=0.1, seed=0)

model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, n_epochs=4, gamma=0.99, ent_coef=0.01, seed=0)
model.learn(given.timesteps)
returns, _ = evaluate_policy(
    model, make_vec_env(given.env, n_envs=16, seed=1), n_eval_episodes=50, return_episode_rewards=True
)
rate = sum(r > -200 for r in returns) / len(returns)
print(f"Success rate of 50 episodes: {rate:.0%}, mean return {sum(returns) / len(returns):.1f}")
