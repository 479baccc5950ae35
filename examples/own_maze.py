"""A maze of your own: write its layout, train IRPO in it, and record an episode."""

import argparse

import gymnasium as gym
from PIL import Image

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext import IRPO
from sb3_ext.common.vec_env import make_vec_env

LAYOUT = [
    "###############",
    "#S  #     #   #",
    "### # ### # # #",
    "#   # #   # # #",
    "# ### # ### # #",
    "#     #     #G#",
    "###############",
]


def main(timesteps: int = 300_000, gif: str = "own_maze.gif") -> bool:
    env = make_vec_env("sparse/Maze1-v0", n_envs=16, seed=0, env_kwargs={"layout": LAYOUT})
    model = IRPO("MlpPolicy", env, learning_rate=lambda left: 1e-3 * left, batch_size=256, intrinsic_reward="count", seed=0)
    model.learn(timesteps, progress_bar=True)

    maze = gym.make("sparse/Maze1-v0", layout=LAYOUT, render_mode="rgb_array")
    observation, info = maze.reset(seed=0)
    frames, done = [maze.render()], False
    while not done:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, terminated, truncated, info = maze.step(action)
        frames.append(maze.render())
        done = terminated or truncated
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(gif, save_all=True, append_images=images[1:], duration=100, loop=0)
    print(f"Success: {info['is_success']} after {len(frames) - 1} steps; the episode is in {gif}")
    return bool(info["is_success"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=300_000)
    parser.add_argument("--gif", default="own_maze.gif")
    main(**vars(parser.parse_args()))
