"""List the registered intrinsic rewards: ``python -m irwrappers``."""

from __future__ import annotations

import inspect

from irwrappers import INTRINSIC_REWARDS


def main() -> None:
    """Print the name of each registered intrinsic reward and the first line of its docstring."""
    width = max(map(len, INTRINSIC_REWARDS))
    for name, reward in sorted(INTRINSIC_REWARDS.items()):
        first_line = next(iter((inspect.getdoc(reward) or "").splitlines()), "")
        print(f"{name:{width}}  {first_line}")


if __name__ == "__main__":
    main()
