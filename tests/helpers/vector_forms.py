"""Comparison of a native vector environment with single environments."""

from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode


def play_both(vector_env, singles, policy, n_steps, seed=None, options=None, autoreset_options=None):
    """Reset and step both with the same actions, assert that everything they return is equal, and yield each step's results.

    Args:
        vector_env: the native form.
        singles: a ``SyncVectorEnv`` of single environments in the same autoreset mode.
        policy: actions of the last observations.
        n_steps: number of steps.
        seed: of the first reset.
        options: of the first reset.
        autoreset_options: of later resets in DISABLED mode, in which the environments that are done are reset here.
    """
    results = reset_both(vector_env, singles, seed, options)
    for _ in range(n_steps):
        actions = policy(results[0])
        results, expected = vector_env.step(actions), singles.step(actions)
        assert data_equivalence(results, expected, exact=True)
        yield results
        done = results[2] | results[3]
        if singles.metadata["autoreset_mode"] is AutoresetMode.DISABLED and done.any():
            results = reset_both(vector_env, singles, None, {**(autoreset_options or {}), "reset_mask": done})


def reset_both(vector_env, singles, seed=None, options=None):
    """Reset both, assert that the results are equal, and return them."""
    results = [env.reset(seed=seed, options=None if options is None else dict(options)) for env in (vector_env, singles)]
    assert data_equivalence(*results, exact=True)
    return results[0]
