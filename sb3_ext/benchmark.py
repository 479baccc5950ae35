"""``python -m sb3_ext.benchmark irpo-grid --budget 0.1``: a suite's environments × algorithms × seeds, table and plots."""

from sb3_ext.zoo.benchmark import main

if __name__ == "__main__":
    main()
