"""``python -m sb3_ext.enjoy --algo irpo --env sparse/Maze1-v0 -f logs``: run a model that ``train`` saved."""

from sb3_ext.zoo import enjoy

if __name__ == "__main__":
    enjoy()
