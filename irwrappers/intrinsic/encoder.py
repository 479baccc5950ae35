"""From observations to features: normalisation, SB3's feature extractors, and a perceptron on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from irwrappers.intrinsic.running import RunningStd

Observations = Any  # a tensor [n, …], or a dict of such

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
SMALLEST_IMAGE = 36  # pixels a side, the least that NatureCNN's three convolutions take
MOST_ENTRIES = 2**22  # numbers in one update of the running statistics


def check_observation_space(space: spaces.Space, who: str) -> None:
    """Raise ``ValueError`` for a space that SB3's features extractors do not support; ``who`` is named in the message."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    for part in parts:
        table = isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim != 1  # SB3 takes one row of them
        scalar = isinstance(part, spaces.Box) and part.shape == ()
        if not isinstance(part, SUPPORTED) or table or scalar:
            raise ValueError(
                f"{who} takes Box, Discrete, MultiDiscrete and MultiBinary observations and flat Dicts of them, got {space}. "
                "Flatten the observation (gymnasium.wrappers.FlattenObservation) or choose another reward."
            )


def flatten_steps(x: Any) -> Any:
    """Reshape ``[T, B, …]`` to ``[T · B, …]``, in dicts too."""
    return tree_map(lambda part: part.flatten(0, 1), x)


class ObservationNormalizer(nn.Module):
    """Preprocess observations as SB3 does, and normalise them as RND does (arXiv 1810.12894, §2.4).

    Preprocessing makes images channels first in [0, 1] and discrete entries one-hot. Then the running mean is subtracted from
    each entry of a ``Box``, which is divided by its running deviation and clipped. ``forward`` changes nothing; :meth:`update`
    adds observations to the statistics. Before the first update entries are not normalised, and an entry that has never
    changed is divided by 1.

    Args:
        space: of one observation.
        enabled: normalise; else only preprocess.
        clip: largest absolute value of a normalised entry.

    Attributes:
        space: of one preprocessed observation, images channels first.
    """

    def __init__(self, space: spaces.Space, enabled: bool = True, clip: float = 5.0) -> None:
        super().__init__()
        self.enabled = enabled
        self.clip = clip
        self.space = channels_first(space)
        self._parts = parts_of(self.space)
        raw = parts_of(space)
        self._channels_last = {key for key, part in self._parts.items() if part is not raw[key]}
        self.statistics = nn.ModuleDict()
        for key, part in self._parts.items():
            if enabled and isinstance(part, spaces.Box):
                self.statistics[f"of_{key}"] = RunningStd(int(np.prod(part.shape)))

    @property
    def is_warm(self) -> bool:
        """Whether there is nothing to normalise, or the statistics have had an update."""
        return all(bool(std.count[0] > 0) for std in self.statistics.values())  # type: ignore[index]

    def forward(self, observations: Observations) -> Observations:
        """Return float32 observations for a features extractor on ``self.space``."""
        if not isinstance(self.space, spaces.Dict):
            return self._normalize("", self._prepare("", observations))
        return {key: self._normalize(key, self._prepare(key, observations[key])) for key in self._parts}

    @torch.no_grad()
    def update(self, observations: Observations, mask: Tensor | None = None) -> None:
        """Update the statistics with observations ``[n, …]``, only those in ``mask`` (bool ``[n]``)."""
        for name, std in self.statistics.items():
            assert isinstance(std, RunningStd)
            key = name.removeprefix("of_")
            part = observations[key] if isinstance(self.space, spaces.Dict) else observations
            rows = max(1, MOST_ENTRIES // max(1, len(std.mean)))  # a rollout of images does not fit into memory as float64
            for start in range(0, len(part), rows):
                seen = None if mask is None else mask[start : start + rows, None]
                std.update(self._prepare(key, part[start : start + rows]).flatten(1), seen)

    def _prepare(self, key: str, x: Tensor) -> Tensor:
        part = self._parts[key]
        if key in self._channels_last:
            x = x.movedim(-1, -3)
        if isinstance(part, (spaces.Discrete, spaces.MultiDiscrete)):
            x = x - torch.as_tensor(part.start, device=x.device)
        prepared = preprocess_obs(x, part, normalize_images=True)
        assert isinstance(prepared, Tensor)
        return prepared.float()

    def _normalize(self, key: str, x: Tensor) -> Tensor:
        std = self.statistics[f"of_{key}"] if f"of_{key}" in self.statistics else None
        if not isinstance(std, RunningStd) or not bool(std.count[0] > 0):
            return x
        # An entry that has never changed may do so later: then it is divided by 1, not by 1e-8.
        deviation = torch.where(std.std > 1e-6, std.std, 1.0).to(x.dtype)
        return (x.flatten(1) - std.mean.to(x.dtype)).div_(deviation).clamp_(-self.clip, self.clip).view(x.shape)


def parts_of(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the entries of a Dict, or the space itself under the empty key."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def channels_first(space: spaces.Space) -> spaces.Space:
    """Return ``space`` with its images channels first; the same object if there is nothing to change."""
    if isinstance(space, spaces.Dict):
        parts = {key: channels_first(part) for key, part in space.spaces.items()}
        return spaces.Dict(parts) if any(parts[key] is not part for key, part in space.spaces.items()) else space
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


class Encoder(nn.Module):
    """An SB3 features extractor and a perceptron, from preprocessed observations to features ``[n, latent_dim]``.

    Args:
        space: of one observation, as :class:`ObservationNormalizer` preprocesses it (its ``space``).
        latent_dim: number of features.
        hidden_sizes: of the perceptron between extractor and features.
        features_extractor_class: as in SB3's policies; by default ``NatureCNN`` for images of at least 36 × 36 pixels,
            :class:`DictExtractor` for dicts, ``FlattenExtractor`` else.
        features_extractor_kwargs: its constructor arguments.
        activation: activation function between layers.
    """

    def __init__(
        self,
        space: spaces.Space,
        latent_dim: int,
        hidden_sizes: Sequence[int] = (256,),
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        kwargs = dict(features_extractor_kwargs or {})
        if features_extractor_class is None:
            features_extractor_class = default_extractor(space)
        self.extractor = features_extractor_class(space, **kwargs)
        self.head = nn.Sequential(*create_mlp(self.extractor.features_dim, latent_dim, list(hidden_sizes), activation))
        self.latent_dim = latent_dim

    def forward(self, observations: Observations) -> Tensor:
        return self.head(self.extractor(observations))


def default_extractor(space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """Return SB3's default extractor for ``space`` (images channels first); too small images are flattened."""
    if isinstance(space, spaces.Dict):
        return DictExtractor
    return NatureCNN if is_image_space(space) and not _is_small_image(space) else FlattenExtractor


class DictExtractor(CombinedExtractor):
    """SB3's ``CombinedExtractor``, which flattens images that are too small for its ``NatureCNN``.

    Args:
        observation_space: of one preprocessed observation, images channels first.
        **kwargs: of ``CombinedExtractor``.
    """

    def __init__(self, observation_space: spaces.Dict, **kwargs: Any) -> None:
        parts = observation_space.spaces.items()
        # SB3 does not treat a Box of floats as an image.
        flattened = {key: spaces.Box(0, 1, part.shape) if _is_small_image(part) else part for key, part in parts}
        super().__init__(spaces.Dict(flattened), **kwargs)


def _is_small_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and is_image_space(space) and min(space.shape[1:]) < SMALLEST_IMAGE


def action_entries(space: spaces.Space, who: str) -> int:
    """Return how many numbers :func:`encode_actions` makes of one action; ``who`` is named in the error message."""
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return int(space.nvec.sum())
    raise ValueError(
        f"{who} takes Box, Discrete, MultiDiscrete (one row) and MultiBinary actions, got {space}; flatten the actions, or "
        "choose a reward that does not use them (rnd, drnd, re3, count)."
    )


def encode_actions(space: spaces.Space, actions: Tensor) -> Tensor:
    """Return actions ``[n, …]`` as float32 ``[n, entries]``: one-hot where they are discrete, unchanged elsewhere.

    SB3's policies choose 0 … n − 1 whatever the ``start`` of a discrete space, so entries are taken modulo n.
    """
    if isinstance(space, spaces.Discrete):
        n = int(space.n)
        return nn.functional.one_hot((actions.long().flatten() - int(space.start)) % n, n).float()
    if isinstance(space, spaces.MultiDiscrete):
        start, sizes = (torch.as_tensor(x, device=actions.device) for x in (space.start, space.nvec))
        columns = ((actions.long().reshape(len(actions), -1) - start) % sizes).unbind(1)
        return torch.cat([nn.functional.one_hot(x, int(n)) for x, n in zip(columns, space.nvec, strict=True)], 1).float()
    return actions.float().reshape(len(actions), -1)
