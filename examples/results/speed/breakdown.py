"""Where the time of an IRPO iteration goes at the paper's settings: ``python breakdown.py`` writes ``breakdown.md``."""

import cProfile
import pstats
import time
from pathlib import Path

import envs  # noqa: F401
from sb3_ext.zoo.paper_irpo import PaperIRPO

SETTINGS = {
    "sparse/Maze1-v0": {"batch_size": 8192, "gamma": 0.99, "intrinsic_reward_kwargs": {"n_rewards": 6}},
    "sparse/PointMaze1-v0": {"batch_size": 16384, "gamma": 0.999, "intrinsic_reward_kwargs": {"n_rewards": 4}},
}
ITERATIONS = 3
PIECES = {  # (file, function): what it does; "of which" is part of the line above
    ("paper.py", "_collect"): "collecting episodes",
    ("vec_env.py", "step_wait"): "of which the environments",
    ("paper.py", "act"): "of which the actions",
    ("paper.py", "_update_critics"): "the critics' minibatches",
    ("batch.py", "estimate_advantages"): "values and advantages",
    ("paper.py", "_surrogate_gradient"): "gradients of the ends and of the base policy",
    ("updates.py", "backpropagate_through_updates"): "the gradient through the exploratory updates",
    ("paper.py", "_update_base"): "the trust region",
}


def profile(env_id: str, settings: dict) -> list[str]:
    """Rows of a table: seconds and share of an iteration."""
    model = PaperIRPO("MlpPolicy", env_id, seed=0, device="cpu", **settings)
    model.intrinsic_reward.fit(model.env, 2_000_000, seed=0)
    model.learn(1)  # warms up
    before, profiler = model.num_timesteps, cProfile.Profile()
    start = time.perf_counter()
    for _ in range(ITERATIONS):
        profiler.runcall(model.learn, 1, reset_num_timesteps=False)  # one iteration each
    elapsed = time.perf_counter() - start
    seconds: dict[str, float] = {}
    for (path, _, name), (*_, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        piece = PIECES.get((Path(path).name, name))
        if piece:
            seconds[piece] = max(seconds.get(piece, 0.0), cumulative)
    steps = model.num_timesteps - before
    rows = [f"| {env_id} | an iteration of {steps // ITERATIONS:,} steps | {elapsed / ITERATIONS:.2f} | |"]
    for piece in PIECES.values():
        rows.append(f"| | {piece} | {seconds.get(piece, 0.0) / ITERATIONS:.2f} | {seconds.get(piece, 0.0) / elapsed:.0%} |")
    return rows


if __name__ == "__main__":
    lines = ["| environment | piece | seconds, with the profiler's | share |", "|---|---|---:|---:|"]
    for env_id, settings in SETTINGS.items():
        lines += profile(env_id, settings)
    Path(__file__).with_name("breakdown.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
