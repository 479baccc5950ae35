"""``python -m sb3_ext.train --algo irpo --env sparse/Maze1-v0``: train an algorithm with tuned hyperparameters."""

from sb3_ext.zoo import train

if __name__ == "__main__":
    train()
