"""The same program with PPO and with IRPO, which differ by one name, in a maze with a shortest path of 42 moves."""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext import IRPO
from sb3_ext.common.vec_env import make_vec_env


def main(timesteps: int = 250_000) -> dict[str, float]:
    success = {}
    for algorithm in (PPO, IRPO):
        env = make_vec_env("sparse/Maze2-v0", n_envs=8, seed=0)
        model = algorithm("MlpPolicy", env, seed=0)
        model.learn(timesteps, progress_bar=True)
        name = algorithm.__name__
        success[name], _ = evaluate_policy(model, env, n_eval_episodes=100, deterministic=False)
        print(f"{name}: success {success[name]:.2f} after {model.num_timesteps} steps")
    return success


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=300_000)
    main(**vars(parser.parse_args()))
