"""The same program with PPO and with IRPO: one line differs."""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext import IRPO
from sb3_ext.common.vec_env import make_vec_env


def main(timesteps: int = 2_000_000) -> dict[str, float]:
    success = {}
    for name in ("PPO", "IRPO"):
        env = make_vec_env("sparse/Maze1-v0", n_envs=126, seed=0)
        if name == "PPO":
            model = PPO("MlpPolicy", env, seed=0, n_steps=128, batch_size=2048)
        else:
            model = IRPO("MlpPolicy", env, seed=0, batch_size=4096, target_kl=0.01)
        model.learn(timesteps, progress_bar=True)
        success[name], _ = evaluate_policy(model, env, n_eval_episodes=100)
        print(f"{name}: success {success[name]:.2f} after {model.num_timesteps} steps")
    return success


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=2_000_000)
    main(**vars(parser.parse_args()))
