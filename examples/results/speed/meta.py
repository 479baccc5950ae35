"""How long an outer update of MetaReward takes at the paper's settings, and on what: ``python meta.py`` writes ``meta.md``.

30 lifetimes of 3 × 2000 steps on Meta-World's door-close, in two shards, a core each; then one of the shards alone, profiled.
"""

import cProfile
import pstats
import time
import warnings
from pathlib import Path
from statistics import median

from stable_baselines3.common.callbacks import BaseCallback

from envs.tasks import MetaWorldML1
from sb3_ext.meta import LifetimeVecEnv, MetaReward
from sb3_ext.meta.outer_learners.lifetime_collection import Job
from sb3_ext.meta.outer_learners.lifetime_shards import LocalShards

UPDATES, SHARDS = 3, 2
PIECES = {  # (file, function): what it does
    ("tasks.py", "receive"): "steps of the environments",
    ("tasks.py", "begin"): "environments made and reset",
    ("inner.py", "update"): "updates of the agents",
    ("inner.py", "act"): "actions of the agents",
    ("policies.py", "forward"): "the reward network",
}


class Stopwatch(BaseCallback):
    """When lifetimes begin and end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[float] = []
        self.ended: list[float] = []

    def _on_rollout_start(self) -> None:
        self.begun.append(time.perf_counter())

    def _on_rollout_end(self) -> None:
        self.ended.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def main() -> None:
    warnings.simplefilter("ignore")  # Gymnasium's, of Meta-World's spaces
    env = LifetimeVecEnv(MetaWorldML1("door-close"), 30, n_jobs=SHARDS, seed=0)
    model = MetaReward("MlpLstmPolicy", env, n_shards=SHARDS, seed=0, device="cpu")
    watch = Stopwatch()
    model.learn((1 + UPDATES) * 30 * env.settings.lifetime, callback=watch)  # the first makes the environments
    assert model.shards is not None
    model.shards.close()
    watch.begun.append(time.perf_counter())
    collecting = [end - start for start, end in zip(watch.begun, watch.ended, strict=False)]
    learning = [start - end for start, end in zip(watch.begun[1:], watch.ended, strict=True)]

    shard, profiler = LocalShards(env.shard(SHARDS)), cProfile.Profile()
    job = Job(0, 0, True, env.get_state())
    start = time.perf_counter()
    profiler.runcall(shard.run, model.policy.network, [job])
    alone = time.perf_counter() - start
    seconds = dict.fromkeys(PIECES.values(), 0.0)
    for (path, _, name), (*_, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if (Path(path).name, name) in PIECES:
            seconds[PIECES[Path(path).name, name]] += cumulative

    lines = [
        "| an outer update | seconds |",
        "|---|---:|",
        f"| 30 lifetimes, environments made on the way | {collecting[0]:.1f} |",
        f"| 30 lifetimes, median of {UPDATES} (all: {', '.join(f'{one:.1f}' for one in collecting[1:])}) "
        f"| {median(collecting[1:]):.1f} |",
        f"| advantages and the outer PPO, median | {median(learning[1:]):.1f} |",
        "",
        "| a shard of 15 lifetimes alone, with the profiler's | seconds | share |",
        "|---|---:|---:|",
        *(f"| {piece} | {spent:.1f} | {spent / alone:.0%} |" for piece, spent in seconds.items()),
        f"| all | {alone:.1f} | |",
    ]
    Path(__file__).with_name("meta.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
