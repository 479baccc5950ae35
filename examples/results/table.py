"""Evaluate what ``python -m sb3_ext.train`` saved and write one CSV row a run and a Markdown table.

    python examples/results/table.py LOG_FOLDER … --out examples/results/grids

Each run (a folder that rl_zoo3 made) is evaluated over 100 episodes, with arg-max actions and with sampled ones.
"""

import argparse
import csv
import datetime
import os
import subprocess
from pathlib import Path

import yaml
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext import IRPO
from sb3_ext.common.vec_env import make_vec_env

FIELDS = ["env", "algo", "seed", "timesteps", "wall_s", "success", "success_sampled", "return", "length", "commit"]


def evaluate_run(config: Path, commit: str) -> dict[str, object]:
    args = yaml.unsafe_load(config.read_text())  # rl_zoo3 writes an OrderedDict; run this on your own runs only
    run = config.parent.parent
    model = {**ALGOS, "irpo": IRPO}[args["algo"]].load(run / f"{config.parent.name}.zip")
    rewards, lengths = evaluate_policy(model, make_vec_env(args["env"], 20, seed=10_000), 100, return_episode_rewards=True)
    sampled, _ = evaluate_policy(model, make_vec_env(args["env"], 20, seed=10_000), 100, deterministic=False)
    monitor = (run / "0.monitor.csv").read_text().strip().splitlines()
    discounted = sum(model.gamma ** (length - 1) * reward for reward, length in zip(rewards, lengths, strict=True)) / 100
    return {
        "env": args["env"],
        "algo": args["algo"],
        "seed": args["seed"],
        "timesteps": model.num_timesteps,
        "wall_s": round(float(monitor[-1].split(",")[-1])),
        "success": round(sum(rewards) / 100, 3),
        "success_sampled": round(float(sampled), 3),
        "return": round(discounted, 3),
        "length": sum(lengths) / 100,
        "commit": commit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", help="commit that was run, if not the present one")
    args = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    configs = sorted(config for folder in args.folders for config in folder.rglob("args.yml"))
    rows = [evaluate_run(config, args.commit or head) for config in configs if list(config.parent.parent.glob("*-*.zip"))]
    rows.sort(key=lambda row: (str(row["env"]), str(row["algo"]), str(row["seed"])))
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| env | algo | seeds | steps (M) | success, arg-max | success, sampled | discounted return | seconds a run |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for env, algo in sorted({(str(row["env"]), str(row["algo"])) for row in rows}):
        group = [row for row in rows if (row["env"], row["algo"]) == (env, algo)]

        def spread(field: str, group: list[dict[str, object]] = group) -> str:
            values = [float(str(row[field])) for row in group]
            low, high = min(values), max(values)
            return f"{low:g}" if low == high else f"{low:g} to {high:g}"

        steps = max(int(str(row["timesteps"])) for row in group) / 1e6
        cells = [env, algo, str(len(group)), f"{steps:.1f}", *map(spread, ("success", "success_sampled", "return", "wall_s"))]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f"{datetime.date.today()}, {os.cpu_count()} cores, commit {args.commit or head}; least to greatest over seeds."
    )
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
