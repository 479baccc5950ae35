"""``python -m sb3_ext.train --algo irpo --env sparse/Maze1-v0``: rl_zoo3's train with our algorithms and environments."""

from sb3_ext.zoo import train

if __name__ == "__main__":
    train()
