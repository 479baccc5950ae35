"""A tiny suite with two contenders, and the files of its runs."""

import pandas as pd

IRPO = {
    "n_envs": 20, "batch_size": 400, "n_exploratory_updates": 1, "intrinsic_reward": "random",
    "intrinsic_reward_kwargs": {"n_rewards": 2},
}  # fmt: skip


PPO = {"n_envs": 8, "n_steps": 32, "batch_size": 64, "n_epochs": 1}


SUITE = {
    "description": "two tiny contenders",
    "evaluations": 3,
    "episodes": 4,
    "actions": ["argmax", "sampled"],
    "environments": {"sparse/FourRooms0-v0": {"timesteps": 12_000}},
    "contenders": {
        "small irpo": {"algo": "irpo_paper", "seeds": 1, "hyperparams": IRPO},
        "ppo": {"algo": "ppo", "seeds": 2, "hyperparams": PPO},
    },
}


def changed(**changes):
    return {**SUITE, **changes}


def results(out):
    return pd.read_csv(out / "results.csv").drop(columns="wall_s")


def folder(out, label="small irpo", seed=0):
    return out / "sparse-FourRooms0-v0" / label / f"seed-{seed}"
