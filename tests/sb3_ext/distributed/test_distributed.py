"""Lifetimes and runs on a local Ray cluster of two workers: the same results, also when one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.tasks import PointGoal
from sb3_ext.meta import LifetimeVecEnv, MetaReward

ray = pytest.importorskip("ray")
from sb3_ext.distributed import RayShards, run_on_cluster  # noqa: E402

INNER = {"n_steps": 40, "n_batches": 3, "n_epochs": 2, "n_minibatches": 4, "net_arch": (8,)}
NETWORK = {"encoders": (8, 8), "lstm_size": 8, "mean_arch": (8,), "value_arch": (8,)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield
    ray.shutdown()


def meta_reward() -> MetaReward:
    env = LifetimeVecEnv(PointGoal(), 4, settings=INNER, env_kwargs={"max_episode_steps": 10, "goal_radius": 0.3}, seed=0)
    kwargs: dict[str, Any] = {"policy_kwargs": {"network_kwargs": NETWORK}}
    return MetaReward("MlpLstmPolicy", env, chunk=50, n_epochs=2, seed=0, device="cpu", n_shards=2, **kwargs)


def assert_same(one: MetaReward, other: MetaReward) -> None:
    assert one.num_timesteps == other.num_timesteps
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_lifetimes_on_a_cluster_are_those_run_here(cluster: None) -> None:
    here, there = meta_reward().learn(960), meta_reward()
    there.shards = RayShards(there.lifetimes, 2)
    there.learn(960)
    there.shards.close()
    assert_same(here, there)


def test_shards_for_another_number_of_groups_are_refused(cluster: None) -> None:
    model = meta_reward()
    model.shards = RayShards(model.lifetimes, 1)
    with pytest.raises(ValueError, match="n_shards=2 groups of lifetimes, but its shards were made for 1"):
        model.learn(480)
    model.shards.close()


def test_the_lifetimes_of_a_lost_worker_are_run_again(cluster: None) -> None:
    here, there = meta_reward().learn(960), meta_reward()
    there.shards = shards = RayShards(there.lifetimes, 2)
    there.learn(480)
    ray.kill(shards.workers[1])
    there.learn(480, reset_num_timesteps=False)
    shards.close()
    assert_same(here, there)


def test_a_job_whose_worker_dies_is_called_again(cluster: None, tmp_path: Path) -> None:
    def count_and_die(folder: Path, name: str) -> int:
        """The first call of all kills its process."""
        marks = len(list(folder.glob("*")))
        (folder / f"{name}-{os.getpid()}").touch()
        if marks == 0:
            os._exit(1)
        return 3 * len(name)

    finished: list[int] = []
    assert run_on_cluster(count_and_die, [(tmp_path, "a")], finished=finished.append) == [3]
    assert finished == [0] and len(list(tmp_path.glob("*"))) == 2


def test_an_error_of_a_job_is_raised(cluster: None) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_on_cluster(fail, [()])


SUITE = """
description: a small one
evaluations: 2
episodes: 4
actions: [sampled]
environments: {sparse/FourRooms1-v0: {timesteps: 4000}}
contenders: {ppo: {algo: ppo, seeds: 2, hyperparams: {n_envs: 8, n_steps: 50, batch_size: 100}}}
"""


@pytest.mark.slow
def test_a_benchmark_on_a_cluster_gives_the_table_of_one_without(tmp_path: Path) -> None:
    (tmp_path / "small.yml").write_text(SUITE)
    tables = []
    for arguments in (["--ray", "local"], []):
        out = tmp_path / f"out{len(arguments)}"
        command = [sys.executable, "-m", "sb3_ext.benchmark", "small.yml", "--out", str(out), *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows = [line.split(",") for line in (out / "results.csv").read_text().splitlines()]
        wall = rows[0].index("wall_s")
        tables.append(sorted([cell for i, cell in enumerate(row) if i != wall] for row in rows))
    assert tables[0] == tables[1]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_ext.distributed.cluster import import_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"irwrappers\[ray\]"):
        import_ray()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--algo", "ppo", "--env", "CartPole-v1"], "meta_reward, not ppo"), (["--algo", "meta_reward"], "n_shards")],
    ids=["algorithm", "shards"],
)
def test_the_command_line_says_what_ray_needs(tmp_path: Path, arguments: list[str], message: str) -> None:
    env = [] if "--env" in arguments else ["--env", "lifetime/PointGoal-v0", "-params", "n_envs:2"]
    command = [sys.executable, "-m", "sb3_ext.train", *arguments, *env, "-n", "100", "--ray", "local"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode and message in failed.stderr
