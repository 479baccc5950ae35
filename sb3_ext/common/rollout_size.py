"""How many steps a rollout has by default, however many environments there are."""

ROLLOUT_SIZE = 2048  # transitions of a rollout, all environments together: PPO's, which was meant for one environment


def default_n_steps(n_envs: int) -> int:
    """Return the steps of each environment in a rollout of ``ROLLOUT_SIZE`` transitions."""
    return max(1, ROLLOUT_SIZE // n_envs)
