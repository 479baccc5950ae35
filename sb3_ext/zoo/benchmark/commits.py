"""The note below a table whose rows come from several commits."""

from __future__ import annotations

import pandas as pd

MIXED = "†"


def mixed(seeds: pd.DataFrame) -> bool:
    """Return whether runs come from more than one commit.

    Args:
        seeds: rows of :func:`sb3_ext.zoo.benchmark.scores.seed_statistics`.
    """
    return len({commit for commits in seeds.commit for commit in commits}) > 1


def commit_note(seeds: pd.DataFrame) -> str:
    """Return the commits and which rows come from each, as Markdown; an empty string if there is one commit.

    Args:
        seeds: rows of :func:`sb3_ext.zoo.benchmark.scores.seed_statistics`.
    """
    if not mixed(seeds):
        return ""
    lines = ["**Runs of several commits**: a difference between rows may come from a difference in the code.", ""]
    for commit, rows in seeds.explode("commit").groupby("commit", sort=False):
        contenders = [
            f"{label} ({', '.join(_environments(own, seeds[seeds.algo == label]))})"
            for label, own in rows.groupby("algo", sort=False)
        ]
        lines.append(f"- `{commit}`: {'; '.join(contenders)}")
    if any(mixed(rows) for _, rows in seeds.groupby("algo")):
        lines += ["", f"{MIXED} the runs behind this row come from several commits."]
    return "\n".join([*lines, ""])


def _environments(rows: pd.DataFrame, everywhere: pd.DataFrame) -> list[str]:
    """Return the environments of ``rows``, with seeds where some are missing; "all environments" if they are all."""
    names = []
    for env, own in rows.groupby("env", sort=False):
        given, known = sorted(own.seed.unique()), everywhere[everywhere.env == env].seed.unique()
        seeds = f"seed{'s' if len(given) > 1 else ''} {', '.join(map(str, given))}"
        names.append(env if len(given) == len(known) else f"{env} {seeds}")
    return ["all environments"] if names == list(everywhere.env.unique()) and len(names) > 1 else names
