"""A trained reward as a file: safetensors with a JSON header, which executes nothing when it is read."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers.serialization import check_same_spaces, read_state, write_state
from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.lifetimes.lifetime_vec_env import MAX_DENSITY
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork, State

MODELS = Path(__file__).parents[1] / "models"  # that come with the package
KIND = "reward model"


@dataclass
class RewardModel:
    """A network that pays a learning agent, and what must be known to use it.

    Attributes:
        network: on the CPU, in evaluation mode. network_kwargs: its sizes.
        observation_space, action_space: of the agents it pays, as ``describe_space`` says them.
        signal: what it gives for each transition, a ``"reward"`` or an ``"advantage"``.
        inner: settings of the agents it was trained with, ``MetaRewardPPO``'s defaults.
        env: arguments of their environments. record: how it was trained; JSON.
    """

    network: MetaRewardNetwork
    network_kwargs: dict[str, Any]
    observation_space: Any
    action_space: Any
    signal: Literal["reward", "advantage"]
    inner: InnerSettings
    env: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one file; ``.safetensors`` is added to a path without a suffix."""
        header = {
            "kind": KIND,
            "sizes": [self.network.n_obs, self.network.n_actions, self.network.n_scalars],
            "network": self.network_kwargs,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "signal": self.signal,
            "inner": asdict(self.inner),
            "env": self.env,
            "record": self.record,
        }
        # What can't be told in JSON, a function among the environments' arguments perhaps, must not lose what was trained.
        plain = json.dumps(header, default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value))
        write_state(_with_suffix(path), json.loads(plain), dict(self.network.state_dict()))

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> RewardModel:
        """From a file, or a model that comes with the package by its name (:func:`reward_model_names`).

        Raises:
            ValueError: neither a name nor a file, or a file of something else.
        """
        path, packaged = _with_suffix(name), MODELS / f"{name}.safetensors"
        if not path.is_file():
            path = packaged
        elif packaged.is_file() and not packaged.samefile(path):
            warnings.warn(f"{str(name)!r} is the file {str(path)!r} here, not the model in the package.", stacklevel=2)
        if not path.is_file():
            known = reward_model_names()
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{str(name)!r} is neither a file nor one of the models {known}.{hint}")
        header, state = read_state(path)
        if header.get("kind") != KIND:
            raise ValueError(f"{str(path)!r} holds no reward model; MetaReward.save_reward_model(path) writes one.")
        network = MetaRewardNetwork(*header["sizes"], **header["network"])
        network.load_state_dict(state)
        return cls(
            network.eval().requires_grad_(False),
            header["network"],
            header["observation_space"],
            header["action_space"],
            header["signal"],
            InnerSettings(**header["inner"]),
            header["env"],
            header["record"],
        )

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Raise ``ValueError`` unless agents with these spaces can be paid."""
        check_same_spaces(
            (self.observation_space, self.action_space), (observation_space, action_space), "the reward model pays agents"
        )


def reward_model_names() -> list[str]:
    """Of the models that come with the package."""
    return sorted(path.stem for path in MODELS.glob("*.safetensors"))


def _with_suffix(path: str | os.PathLike[str]) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")


class Paymaster:
    """Pays B learning agents step by step, or a whole batch of their steps, and remembers their lifetimes.

    Its state, ``memory``, is a tuple of arrays, so that it can be saved with the agent.
    """

    def __init__(self, network: MetaRewardNetwork, n_agents: int, device: torch.device | str) -> None:
        self.network, self.device = network, torch.device(device)
        begin = network.begin(n_agents, self.device)
        self.memory: tuple[np.ndarray, ...] = (*(part.cpu().numpy() for part in begin), np.zeros(n_agents, np.float32))

    @torch.no_grad()
    def pay(self, observations: Tensor, actions: Tensor, densities: Tensor, signals: Tensor, begins: Tensor) -> np.ndarray:
        """The mean payments ``[T, B]`` of T steps of B agents, which follow those of the last call.

        Args:
            observations: ``[T, B, n_obs]``, flat. actions: ``[T, B, n_actions]``, discrete ones one-hot. densities,
                signals, begins: ``[T, B]``: π(a|s), the success signal, whether an episode began.
        """
        parts = [torch.as_tensor(part, device=self.device) for part in self.memory]
        state: State = tuple(parts[:-1])
        payment, payments = parts[-1], []
        if self.network.bidirectional:
            return self._pay_at_once(observations, actions, densities, signals, begins, tuple(parts[:-1]))
        fixed = _scalars(densities, signals, torch.zeros_like(signals), begins)
        for observation, action, scalars in zip(observations, actions, fixed, strict=True):
            scalars[:, 2] = payment
            inputs = {"observation": observation[None], "action": action[None], "scalars": scalars[None]}
            outputs = self.network(inputs, state)
            state, payment = outputs.state, outputs.mean[0]
            payments.append(payment)
        self.memory = tuple(part.cpu().numpy() for part in (*state, payment))
        return torch.stack(payments).cpu().numpy()

    def _pay_at_once(self, observations: Tensor, actions: Tensor, *scalars_and_state: Any) -> np.ndarray:
        densities, signals, begins, state = scalars_and_state
        scalars = _scalars(densities, signals, torch.zeros_like(signals), begins)
        outputs = self.network({"observation": observations, "action": actions, "scalars": scalars}, state)
        self.memory = (*(part.cpu().numpy() for part in outputs.state), self.memory[-1])
        return outputs.mean.cpu().numpy()


def _scalars(densities: Tensor, signals: Tensor, payments: Tensor, begins: Tensor) -> Tensor:
    """``[T, B, 4]``, as ``LifetimeVecEnv`` observes them."""
    return torch.stack([densities.clamp(max=MAX_DENSITY), 3.0 * signals, payments, 2.0 * begins], -1)
