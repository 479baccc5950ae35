"""Transitions as the environment gave them: terminal observations, truncation and unnormalised views of an SB3 ``VecEnv``."""

from irwrappers.transitions.episode_ends import EpisodeEnds
from irwrappers.transitions.finite import FiniteCheck
from irwrappers.transitions.recorder import TransitionRecorder
from irwrappers.transitions.transitions import Transitions
from irwrappers.transitions.unnormalized import OriginalView, frozen_statistics

__all__ = ["EpisodeEnds", "FiniteCheck", "OriginalView", "TransitionRecorder", "Transitions", "frozen_statistics"]
