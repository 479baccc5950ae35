"""CLN: PPO on a reward that it learns and on which its policy depends, by the layer in ``layers.py``."""

from sb3_ext.cln.cln import CLN
from sb3_ext.cln.layers import ConditionalLayerNorm
from sb3_ext.cln.policies import CLNPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.cln.segments import SegmentBuffer

__all__ = ["CLN", "CLNPolicy", "CnnPolicy", "ConditionalLayerNorm", "MlpPolicy", "MultiInputPolicy", "SegmentBuffer"]
