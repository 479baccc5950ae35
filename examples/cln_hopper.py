"""CLN on Hopper: a learned reward, its return beside that of the environment's reward, and a plot of it over states.

python examples/cln_hopper.py    # pip install "irwrappers[plots]"
"""

import argparse
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from irwrappers.plot import plot_returns, plot_reward
from sb3_ext import CLN, FrozenReward

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=300_000)
parser.add_argument("--out", type=Path, default=Path("logs", "cln_hopper"), help="folder for the log and the pictures")
given = parser.parse_args()

env = VecNormalize(make_vec_env("Hopper-v5", n_envs=4, seed=0))
model = CLN("MlpPolicy", env, n_steps=512, seed=0, device="cpu")
model.set_logger(configure(str(given.out), ["csv"]))
model.learn(given.timesteps, progress_bar=True)
model.logger.close()

env.training, env.norm_reward = False, False
mean, std = evaluate_policy(model, env, n_eval_episodes=10)
print(f"Return of 10 episodes: {mean:.0f} ± {std:.0f} of {gym.spec('Hopper-v5').reward_threshold}, which counts as success")

plot_returns(
    given.out,
    extrinsic="cln/extrinsic_return",
    intrinsic="cln/intrinsic_return",
    names=("extrinsic return", "intrinsic return"),
    title="Hopper-v5: returns of an episode, as normalised",
    path=given.out / "returns.png",
)
plot_reward(
    FrozenReward(model, greedy=True),
    base=env.obs_rms.mean,  # through the mean observation
    indices=(5, 1),
    ranges=((-2, 4), (-0.4, 0.4)),
    names=("forward velocity (m/s)", "angle of the torso (rad)"),
    title="Hopper-v5: reward of the policy's actions",
    path=given.out / "reward.png",
)
print(f"Pictures are in {given.out}.")
