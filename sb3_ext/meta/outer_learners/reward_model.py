"""A trained reward network as a file: safetensors with a JSON header; reading it executes nothing."""

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
from irwrappers.validation import check_choice
from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.lifetimes.lifetime_vec_env import MAX_DENSITY
from sb3_ext.meta.outer_learners.policies import LAST_REWARD, MetaRewardNetwork, State

MODELS = Path(__file__).parents[1] / "models"  # the models in the package
KIND = "reward model"


@dataclass
class RewardModel:
    """A network that rewards a learning agent, and what is needed to use it.

    Args:
        network: on the CPU, in evaluation mode.
        network_kwargs: arguments with which it was built.
        observation_space: of the agents, in the form of ``describe_space``.
        action_space: of the agents, in the form of ``describe_space``.
        signal: what it gives for each transition, a ``"reward"`` or an ``"advantage"``.
        inner: settings of the agents it was trained with, defaults of ``MetaRewardPPO``.
        env: arguments of their environments.
        record: of its training; JSON types.
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
        """Write the model to one file; ``.safetensors`` is added to a path without a suffix."""
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
        # What JSON can't hold, perhaps a function among the environments' arguments, must not lose what was trained.
        plain = json.dumps(header, default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value))
        write_state(_with_suffix(path), json.loads(plain), dict(self.network.state_dict()))

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> RewardModel:
        """Return the model of a file, or a model in the package by its name.

        Args:
            name: path of a file, or one of :func:`reward_model_names`.

        Raises:
            ValueError: for neither a name nor a file, and for a file of something else.
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
        try:
            return cls._from_header(path, header, state)
        except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"{str(path)!r} is a damaged reward model: {type(error).__name__}: {str(error).strip()[:200]}."
            ) from error

    @classmethod
    def _from_header(cls, path: Path, header: dict[str, Any], state: dict[str, Tensor]) -> RewardModel:
        check_choice(f"signal of {str(path)!r}", header["signal"], ("reward", "advantage"))
        arguments = dict(header["network"])
        # Options of earlier versions. The second limited the noise of training; a trained model gives mean rewards.
        bidirectional, _ = arguments.pop("bidirectional", False), arguments.pop("min_std", None)
        if bidirectional:
            raise ValueError(
                f"{str(path)!r} holds a bidirectional reward network, which is no longer supported; train it again."
            )
        with torch.device("meta"):  # without memory, which a file could ask for without end
            expected = MetaRewardNetwork(*header["sizes"], **arguments).state_dict()
        for name, tensor in expected.items():
            if name not in state or tuple(state[name].shape) != tuple(tensor.shape):
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"{str(path)!r} does not fit its own description: {name} is {found}, not {tuple(tensor.shape)}."
                )
        network = MetaRewardNetwork(*header["sizes"], **arguments)
        network.load_state_dict(state)
        return cls(
            network.eval().requires_grad_(False),
            arguments,
            header["observation_space"],
            header["action_space"],
            header["signal"],
            InnerSettings(**header["inner"]),
            header["env"],
            header["record"],
        )

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Check that the model rewards agents with these spaces.

        Args:
            observation_space: of the agents.
            action_space: of the agents.

        Raises:
            ValueError: if it does not.
        """
        check_same_spaces(
            (self.observation_space, self.action_space), (observation_space, action_space), "the reward model rewards agents"
        )


def reward_model_names() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.stem for path in MODELS.glob("*.safetensors"))


def _with_suffix(path: str | os.PathLike[str]) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")


class RewardComputer:
    """A reward network with its recurrent state: rewards of B learning agents, batch after batch of their lifetimes.

    Args:
        network: the reward network.
        n_agents: B.
        device: of the network.

    Attributes:
        memory: the state, a tuple of arrays, so that it can be saved with the agent.
    """

    def __init__(self, network: MetaRewardNetwork, n_agents: int, device: torch.device | str) -> None:
        self.network, self.device = network, torch.device(device)
        begin = network.begin(n_agents, self.device)
        self.memory: tuple[np.ndarray, ...] = (*(part.cpu().numpy() for part in begin), np.zeros(n_agents, np.float32))

    @torch.no_grad()
    def compute(self, observations: Tensor, actions: Tensor, densities: Tensor, signals: Tensor, begins: Tensor) -> np.ndarray:
        """Return the mean rewards ``[T, B]`` of T steps of B agents, which follow those of the last call.

        Args:
            observations: flat ``[T, B, n_obs]``.
            actions: discrete ones one-hot ``[T, B, n_actions]``.
            densities: π(a|s) ``[T, B]``.
            signals: the success signal ``[T, B]``.
            begins: whether an episode began ``[T, B]``.
        """
        *state_parts, reward = (torch.as_tensor(part, device=self.device) for part in self.memory)
        state: State = tuple(state_parts)
        rewards = []
        # As LifetimeVecEnv observes them.
        unrewarded = torch.stack(
            [densities.clamp(max=MAX_DENSITY), 3.0 * signals, torch.zeros_like(signals), 2.0 * begins], -1
        )
        for observation, action, scalars in zip(observations, actions, unrewarded, strict=True):
            scalars[:, LAST_REWARD] = reward
            inputs = {"observation": observation[None], "action": action[None], "scalars": scalars[None]}
            outputs = self.network(inputs, state)
            state, reward = outputs.state, outputs.mean[0]
            rewards.append(reward)
        self.memory = tuple(part.cpu().numpy() for part in (*state, reward))
        return torch.stack(rewards).cpu().numpy()
