"""``NetworkReward``: the base class of rewards that train a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from tqdm.auto import tqdm

from irwrappers.intrinsic.base import IntrinsicReward, as_vec_env
from irwrappers.intrinsic.encoder import ObservationNormalizer, check_observation_space, flatten_steps
from irwrappers.intrinsic.random_walks import random_steps
from irwrappers.transitions import Transitions
from irwrappers.validation import check_positive

FIELDS = ("observations", "actions", "next_observations", "terminated", "truncated")


class NetworkReward(IntrinsicReward):
    """A reward of networks on normalised observations, trained by Adam on shuffled minibatches of each batch.

    A subclass builds its networks, calls :meth:`_make_optimizer` with the parameters to train, and defines :meth:`loss` and
    :meth:`compute`. Optimiser state is part of ``state_dict``. ``fit`` initialises the statistics of the observation
    normalisation on random steps, as RND does (arXiv 1810.12894, §2.4); without it the first batches do.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        learning_rate: of Adam.
        batch_size: transitions in a minibatch. RND's program takes one gradient step for every 256 steps of experience (128
            steps of 32 environments, 4 epochs of 4 minibatches), as does one pass in minibatches of 256.
        n_epochs: passes over a batch.
        max_grad_norm: largest norm of a gradient, or None.
        normalize_observations: see :class:`ObservationNormalizer`.
        warmup_steps: random steps that ``fit`` takes, over all parallel environments.
    """

    n_rewards = 1
    inputs: tuple[str, ...] = ("observations", "next_observations")  # what `loss` uses, and so what is normalised for it

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        learning_rate: float = 1e-4,
        batch_size: int = 256,
        n_epochs: int = 1,
        max_grad_norm: float | None = 0.5,
        normalize_observations: bool = True,
        warmup_steps: int = 2000,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_observation_space(observation_space, type(self).__name__)
        check_positive(
            learning_rate=learning_rate, batch_size=batch_size, n_epochs=n_epochs, warmup_steps=warmup_steps,
            max_grad_norm=1.0 if max_grad_norm is None else max_grad_norm,
        )  # fmt: skip
        self.learning_rate = learning_rate
        self.batch_size = int(batch_size)
        self.n_epochs = int(n_epochs)
        self.max_grad_norm = max_grad_norm
        self.warmup_steps = int(warmup_steps)
        self.normalizer = ObservationNormalizer(observation_space, normalize_observations)
        self._optimizer: torch.optim.Adam | None = None

    def _make_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters_that_learn = list(parameters)
        self._optimizer = torch.optim.Adam(self._parameters_that_learn, lr=self.learning_rate)

    def loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a minibatch (tensors ``[n, …]``, observations normalised) and what to log."""
        raise NotImplementedError

    def learn(self, batch: Transitions) -> dict[str, float]:
        """Take gradient steps on a batch.

        Raises:
            ValueError: numbers are not finite in steps that count; nothing is learned then.
        """
        assert self._optimizer is not None
        flat = self._valid_steps(batch)
        if not len(flat.terminated):
            return {}
        check_finite(flat, type(self).__name__)
        self.normalizer.update(flat.next_observations)
        for group in self._optimizer.param_groups:
            group["fused"] = self._device.type == "cpu"  # there Adam's own loop takes a large part of the time
        unused = {"observations", "next_observations"} - set(self.inputs)
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.n_epochs):
            for rows in self._rows_to_learn(len(flat.terminated), batch.n_envs).split(self.batch_size):
                part = _take(flat, rows, unused)
                for name in self.inputs:
                    setattr(part, name, self.normalizer(getattr(part, name)))
                loss, log = self.loss(part)
                self._optimizer.zero_grad()
                loss.backward()
                if self.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(self._parameters_that_learn, self.max_grad_norm)
                self._optimizer.step()
                logs.append({"loss": loss.detach(), **log})
        return {key: float(torch.stack([log[key] for log in logs]).mean()) for key in logs[0]}

    def _rows_to_learn(self, n: int, n_envs: int) -> Tensor:
        """Return the rows of one epoch, of ``n`` transitions from ``n_envs`` environments, in shuffled order."""
        return torch.randperm(n, device=self._device)

    def fit(self, env: VecEnv | gym.Env, total_timesteps: int, seed: int | None = None, progress_bar: bool = False) -> int:
        """Update the observation normalisation on at most ``min(total_timesteps, warmup_steps)`` random steps."""
        if not self.normalizer.statistics:
            return 0
        budget = min(total_timesteps, max(self.warmup_steps, as_vec_env(env).num_envs))
        return fit_normalizer(self.normalizer, env, budget, seed, progress_bar, type(self).__name__)

    @property
    def needs_fit(self) -> bool:
        return not self.normalizer.is_warm

    @property
    def _device(self) -> torch.device:
        return self._parameters_that_learn[0].device

    @staticmethod
    def _valid_steps(batch: Transitions) -> Transitions:
        """Return the steps that count, ``[n, …]``."""
        flat = Transitions(*(flatten_steps(getattr(batch, name)) for name in FIELDS))
        rows = batch.mask.flatten().nonzero().squeeze(1)
        return flat if len(rows) == batch.mask.numel() else _take(flat, rows)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NetworkReward:
        """Move Adam's averages with their parameters; ``to``, ``cuda`` and the like call this."""
        super()._apply(fn, recurse)
        for state in self._optimizer.state.values() if self._optimizer is not None else ():
            state.update({key: fn(value) for key, value in state.items() if key != "step"})  # Adam keeps "step" on the CPU
        return self

    def get_extra_state(self) -> dict[str, Any]:
        assert self._optimizer is not None
        return {"optimizer": self._optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        assert self._optimizer is not None
        # Copied: an optimiser keeps the tensors it is given, and two modules would share their averages.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        for parameter, averages in self._optimizer.state.items():
            for name, value in averages.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"The optimiser's {name} has the shape {tuple(value.shape)}, not {tuple(parameter.shape)}."
                    )


def in_chunks(function: Callable[..., Tensor], *inputs: Any, rows: int = 1024) -> Tensor:
    """Apply ``function`` to a number of rows at a time and concatenate the results.

    Activations then fit into the cache, and a rollout of images into memory.

    Args:
        function: of tensors ``[rows, …]``.
        *inputs: its arguments, tensors ``[n, …]`` or dicts of such.
        rows: how many at a time.
    """
    n = len(tree_leaves(inputs)[0])
    parts = [tree_map(lambda x, i=i: x[i : i + rows], inputs) for i in range(0, max(n, 1), rows)]
    return torch.cat([function(*part) for part in parts])


def fit_normalizer(
    normalizer: ObservationNormalizer, env: VecEnv | gym.Env, budget: int, seed: int | None, progress_bar: bool, who: str
) -> int:
    """Update the statistics of an observation normalisation on random steps.

    Args:
        normalizer: to be updated.
        env: the environment to take the steps in.
        budget: largest number of environment steps.
        seed: of the environment and of the actions.
        progress_bar: show the progress.
        who: named in error messages.

    Returns:
        the number of environment steps taken.

    Raises:
        ValueError: the budget is less than one step of each environment, or observations are not finite.
    """
    venv = as_vec_env(env)
    n_steps = budget // venv.num_envs
    if n_steps < 1:
        raise ValueError(
            f"{who} normalises observations by the statistics of at least one random step of each of the {venv.num_envs} "
            f"environments, and the budget is {budget} steps; give fit() more steps."
        )
    device = next(normalizer.buffers()).device
    steps = random_steps(venv, n_steps, seed)
    for observations in tqdm(steps, "Random steps", total=n_steps, disable=not progress_bar, leave=False):
        tensors = tree_map(lambda x: torch.as_tensor(x, device=device), observations)
        check_finite(tensors, who)
        normalizer.update(tensors)
    return n_steps * venv.num_envs


def check_finite(batch: Any, who: str) -> None:
    """Raise ``ValueError`` for NaN and infinite numbers.

    Args:
        batch: transitions, whose observations and actions are checked, or a tree of observations.
        who: named in the message.
    """
    named = {name: getattr(batch, name) for name in FIELDS[:3]} if isinstance(batch, Transitions) else {"observations": batch}
    for name, tree in named.items():
        for x in tree_leaves(tree):
            if x.is_floating_point() and not bool(x.float().isfinite().all()):
                raise ValueError(
                    f"{who} cannot learn from {name} that are NaN or infinite: {int((~x.float().isfinite()).sum())} of "
                    f"{x.numel()} numbers are. Repair the environment, or mark such steps invalid (Transitions.valid)."
                )


def _take(flat: Transitions, rows: Tensor, unused: Iterable[str] = ()) -> Transitions:
    """Return some rows, without the fields in ``unused``: observations are large."""
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    for name in set(FIELDS) - set(unused):
        fields[name] = tree_map(lambda x: x[rows], getattr(flat, name))
    return Transitions(**fields)
