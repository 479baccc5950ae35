"""The reward network of meta-learning: an LSTM over a lifetime that gives each transition its reward (or advantage)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from irwrappers.validation import check_range

State = tuple[Tensor, ...]
KEYS = ("observation", "action", "scalars")
SIGNAL, LAST_REWARD = 1, 2  # their positions in the scalars
SHARPNESS = 6.0  # of the initial cells: they separate observations of the order of 1 at distances of about its inverse


class Outputs(NamedTuple):
    """Outputs of the network for T steps of B lifetimes.

    Attributes:
        mean: of the reward ``[T, B]``.
        std: its standard deviation ``[T, B]``.
        value: of the value head ``[T, B]``.
        state: after the last step, see :meth:`MetaRewardNetwork.begin`.
        sde_features: last hidden layer of the mean's head ``[T, B, n]``.
    """

    mean: Tensor
    std: Tensor
    value: Tensor
    state: State
    sde_features: Tensor


class MetaRewardNetwork(nn.Module):
    """Two ReLU encoders, each followed by the scalars again, an LSTM, and heads for mean, deviation and value.

    The mean is arctan(MLP(h)), the deviation 0.2 · exp(linear(h)); Pappalardo, Ramele & Santos, arXiv 2407.21546, whose sizes
    are the defaults.

    Args:
        n_obs: entries of ``observation`` of ``LifetimeVecEnv``.
        n_actions: entries of ``action``.
        n_scalars: entries of ``scalars``.
        encoders: sizes of the encoders.
        lstm_size: size of the LSTM.
        mean_arch: sizes of the hidden layers of the mean's head.
        value_arch: sizes of the hidden layers of the value head.
        initial_std: deviation of the reward at the start of training.
        success_memory: two more inputs, not in the paper: the mean observation of the lifetime's successful steps so far
            (signal above 0) and whether there was one; and the heads receive the second encoder's output beside the LSTM's.
            The network then need not learn to remember where the goal is, only to use it.
        visit_memory: number of soft cells, not in the paper, to which a learned linear layer assigns observations. How often
            the lifetime was in each of them, and in the present one, are inputs, on a logarithmic scale: where it has searched
            in vain. 0: none.
        use_sde: state-dependent noise, as SB3's gSDE: rewards are mean + W · f, with f the last hidden layer of the mean's
            head, and W sampled for every inner batch, so that exploration is among reward *functions*; the deviation follows
            from the learned deviations of W.
    """

    def __init__(
        self,
        n_obs: int,
        n_actions: int,
        n_scalars: int = 4,
        encoders: Sequence[int] = (128, 32),
        lstm_size: int = 128,
        mean_arch: Sequence[int] = (128, 128),
        value_arch: Sequence[int] = (512,),
        initial_std: float = 0.2,
        success_memory: bool = False,
        visit_memory: int = 0,
        use_sde: bool = False,
    ) -> None:
        super().__init__()
        check_range("visit_memory", visit_memory, 0, integer=True)
        self.n_obs, self.n_actions, self.n_scalars = n_obs, n_actions, n_scalars
        self.success_memory, self.visit_memory = success_memory, visit_memory
        self.encoders = nn.ModuleList()
        width = n_obs + n_actions + n_scalars + (n_obs + 1 if success_memory else 0)
        if visit_memory:
            width += visit_memory + 1
            # The softmax of 2k⟨c, s⟩ − k‖c‖² is that of −k‖s − c‖²: at first the cells are those nearest to random places c.
            self.cells = nn.Linear(n_obs, visit_memory)
            with torch.no_grad():
                k = SHARPNESS**2 / n_obs
                self.cells.weight.normal_(std=2 * k)
                self.cells.bias.copy_(-self.cells.weight.square().sum(1) / (4 * k))
        for size in encoders:
            self.encoders.append(nn.Linear(width, size))
            width = size + n_scalars
        self.lstm = nn.LSTM(width, lstm_size)
        n_features = lstm_size + (width if success_memory else 0)
        self.mean_head = nn.Sequential(*create_mlp(n_features, 1, list(mean_arch), nn.ReLU))
        self.use_sde = use_sde
        if use_sde:
            # Hidden units are of the order of 1/4 at the start.
            self.log_std = nn.Parameter(torch.full((mean_arch[-1],), math.log(4 * initial_std / math.sqrt(mean_arch[-1]))))
        else:
            self.std_head = nn.Linear(n_features, 1)
        self.value_head = nn.Sequential(*create_mlp(n_features, 1, list(value_arch), nn.ReLU))
        with torch.no_grad():
            last = self.mean_head[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)  # rewards begin near 0
            last.bias.zero_()
            if not use_sde:
                self.std_head.weight.zero_()
                self.std_head.bias.fill_(math.log(initial_std / 0.2))

    def begin(self, n_lifetimes: int, device: torch.device | str = "cpu") -> State:
        """Return the state before the first step of a lifetime.

        It is the LSTM's, ``[1, B, hidden]`` twice; with ``success_memory`` also sums over successful steps
        ``[1, B, n_obs + 1]``, their number last; with ``visit_memory`` also the visits of each cell ``[1, B, cells]``.

        Args:
            n_lifetimes: B.
            device: of the state.
        """
        sizes = [self.lstm.hidden_size] * 2 + [self.n_obs + 1] * self.success_memory
        sizes += [self.visit_memory] * bool(self.visit_memory)
        return tuple(torch.zeros(1, n_lifetimes, size, device=device) for size in sizes)

    def forward(self, inputs: dict[str, Tensor], state: State) -> Outputs:
        """Return the outputs for T steps of B lifetimes.

        Args:
            inputs: observations by name, each ``[T, B, ...]``.
            state: before the first of these steps.
        """
        scalars = inputs["scalars"]
        hidden, cell, *before = state
        parts, memory = [inputs["observation"], inputs["action"], scalars], []
        if self.success_memory:
            remembered, sums = self._remember(inputs["observation"], scalars, before[0])
            parts.append(remembered)
            memory.append(sums)
        if self.visit_memory:
            counted, counts = self._count(inputs["observation"], before[-1])
            parts.append(counted)
            memory.append(counts)
        x = torch.cat(parts, -1)
        for encoder in self.encoders:
            x = torch.cat([torch.relu(encoder(x)), scalars], -1)
        features, (hidden, cell) = self.lstm(x, (hidden, cell))
        if self.success_memory:
            features = torch.cat([features, x], -1)
        *hidden_layers, last_layer = self.mean_head  # a slice of a Sequential takes as long as a layer of it
        last_hidden = features
        for layer in hidden_layers:
            last_hidden = layer(last_hidden)
        mean, value = torch.arctan(last_layer(last_hidden)[..., 0]), self.value_head(features)[..., 0]
        sde_features = last_hidden.detach()
        if self.use_sde:
            std = ((sde_features * self.log_std.exp()).square().sum(-1) + 1e-6).sqrt()
        else:
            std = 0.2 * torch.exp(self.std_head(features)[..., 0])
        return Outputs(mean, std, value, (hidden, cell, *memory), sde_features)

    def sample_noise(self, n_lifetimes: int, generator: torch.Generator) -> Tensor | None:
        """Return W ``[B, n]`` for the following calls of :meth:`noise`; None without ``use_sde``."""
        if not self.use_sde:
            return None
        shape = (n_lifetimes, len(self.log_std))
        return self.log_std.exp() * torch.randn(shape, generator=generator, device=self.log_std.device)

    def noise(self, outputs: Outputs, sde_weights: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return what a sample adds to the mean ``[T, B]``.

        Args:
            outputs: of the network.
            sde_weights: from :meth:`sample_noise`.
            generator: of noise without ``use_sde``.
        """
        if sde_weights is not None:
            return (sde_weights * outputs.sde_features).sum(-1)
        return outputs.std * torch.randn(outputs.std.shape, generator=generator, device=outputs.std.device)

    @staticmethod
    def _remember(observations: Tensor, scalars: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean observation of the successful steps up to each ``[T, B, n_obs + 1]``, and 1 if there was any."""
        successful = (scalars[..., SIGNAL, None] > 0).to(observations.dtype)
        running = sums + (successful * torch.cat([observations, torch.ones_like(successful)], -1)).cumsum(0)
        count = running[..., -1:].clamp(min=1)
        return torch.cat([running[..., :-1] / count, running[..., -1:] / count], -1), running[-1:]

    def _count(self, observations: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visits up to each step, of each cell and of the present one ``[T, B, cells + 1]``."""
        cells = torch.softmax(self.cells(observations), -1)
        running = counts + cells.cumsum(0)
        scaled = torch.log1p(running) / 4
        return torch.cat([scaled, (cells * scaled).sum(-1, keepdim=True)], -1), running[-1:]


class MetaRewardPolicy(BasePolicy):
    """:class:`MetaRewardNetwork` as a policy of SB3, with ``predict(observation, state, episode_start, deterministic)`` as the
    recurrent policies of sb3-contrib.

    Args:
        observation_space: of a ``LifetimeVecEnv``.
        action_space: of a ``LifetimeVecEnv``.
        lr_schedule: learning rate of the optimiser.
        network_kwargs: arguments of :class:`MetaRewardNetwork`.
        optimizer_class: class of the optimiser.
        optimizer_kwargs: its arguments beside the learning rate.

    Raises:
        ValueError: for observations that are not those of a ``LifetimeVecEnv``.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        network_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)
        self.network_kwargs = dict(network_kwargs or {})
        if not isinstance(observation_space, spaces.Dict) or set(observation_space.keys()) != set(KEYS):
            raise ValueError(
                f"A MetaRewardPolicy rewards the agents of a LifetimeVecEnv; got observations {observation_space}."
            )
        n_obs, n_actions, n_scalars = (spaces.flatdim(observation_space[key]) for key in KEYS)
        self.network = MetaRewardNetwork(n_obs, n_actions, n_scalars, **self.network_kwargs)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            lr_schedule=self._dummy_schedule,
            network_kwargs=self.network_kwargs,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )

    def forward(self, observations: dict[str, Tensor], state: State) -> Outputs:
        """Return the outputs ``[1, B]`` for one step with ``observations`` ``[B, ...]`` and the ``state`` before it."""
        return self.network({key: observations[key][None] for key in KEYS}, state)

    @torch.no_grad()
    def predict(  # type: ignore[override]
        self,
        observation: dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return rewards ``[B, 1]`` (of one lifetime: ``[1]``) and the state for the next call.

        Args:
            observation: of a ``LifetimeVecEnv``.
            state: from the last call; None: that before the first step.
            episode_start: where a lifetime begins, bool ``[B]``.
            deterministic: whether to return the mean instead of a sample.
        """
        single = np.ndim(observation["scalars"]) == 1
        inputs = {key: torch.as_tensor(np.atleast_2d(observation[key]), device=self.device).float() for key in KEYS}
        n = len(inputs["scalars"])
        if state is None:
            lstm_state = self.network.begin(n, self.device)
        else:
            continues = np.ones(n, dtype=bool) if episode_start is None else ~np.asarray(episode_start, dtype=bool).reshape(n)
            keep = torch.as_tensor(continues, device=self.device)[None, :, None]
            lstm_state = tuple(torch.as_tensor(part, device=self.device) * keep for part in state)
        outputs = self(inputs, lstm_state)
        rewards = outputs.mean[0]
        if not deterministic:
            rewards = rewards + outputs.std[0] * torch.randn_like(rewards)
        result = rewards[:, None].cpu().numpy()
        new_state = tuple(part.cpu().numpy() for part in outputs.state)
        return (result[0] if single else result), new_state

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("A MetaRewardPolicy is recurrent: use predict(observation, state, episode_start).")


MlpLstmPolicy = MetaRewardPolicy
