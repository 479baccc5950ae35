"""``python -m sb3_ext.plot logs/benchmark/irpo-grid``: make a benchmark's table and figures again, from its CSV files."""

from sb3_ext.zoo.benchmark import plot

if __name__ == "__main__":
    plot()
