"""Train IRPO in a sparse maze that PPO does not solve, save the model, load it and evaluate it."""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext import IRPO
from sb3_ext.common.vec_env import make_vec_env


def main(timesteps: int = 300_000, path: str = "irpo_maze") -> float:
    env = make_vec_env("sparse/Maze2-v0", n_envs=16, seed=0)
    model = IRPO(
        "MlpPolicy", env, learning_rate=lambda left: 1e-3 * left, batch_size=256, intrinsic_reward="count", seed=0, verbose=1
    )
    model.learn(timesteps, progress_bar=True)
    model.save(path)

    model = IRPO.load(path)
    success, _ = evaluate_policy(model, make_vec_env("sparse/Maze2-v0", n_envs=10), n_eval_episodes=100)
    print(f"Success over 100 episodes: {success:.2f}")
    return float(success)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=300_000)
    parser.add_argument("--path", default="irpo_maze")
    main(**vars(parser.parse_args()))
