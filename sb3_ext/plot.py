"""``python -m sb3_ext.plot logs/benchmark/irpo-grid``: a benchmark's table and plots again, from its CSV files."""

from sb3_ext.zoo.benchmark import plot

if __name__ == "__main__":
    plot()
