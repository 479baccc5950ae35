"""``python -m sb3_ext.benchmark irpo-grid --budget 0.1``: train and compare the algorithms of a suite."""

from sb3_ext.zoo.benchmark import main

if __name__ == "__main__":
    main()
