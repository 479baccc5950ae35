"""Fixtures that call the benchmark command in this process."""

import gymnasium
import pytest
import yaml
from helpers.benchmark_runs import SUITE

collect_ignore_glob = []
try:
    import rliable  # noqa: F401
except ImportError:  # without the extra "plots" there is no benchmark
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def command():
    """The module of the command. Importing rl_zoo3 replaces Gymnasium's TimeLimit, which is restored for other tests."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (gymnasium.wrappers, gymnasium.wrappers.common):
            patch.setattr(module, "TimeLimit", module.TimeLimit)
        from sb3_ext.zoo.benchmark import command
    return command


@pytest.fixture(scope="session")
def benchmark(command):
    def call(suite, out, *arguments):
        out.mkdir(parents=True, exist_ok=True)
        path = out.parent / "tiny.yml"
        path.write_text(yaml.safe_dump(suite))
        command.benchmark([str(path), "--out", str(out), *arguments])

    return call


@pytest.fixture(scope="session")
def finished(benchmark, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    benchmark(SUITE, out)
    return out
