from sb3_ext.intrinsic import IntrinsicPPO, IntrinsicReplayBuffer
from sb3_ext.irpo import IRPO

__all__ = ["IRPO", "IntrinsicPPO", "IntrinsicReplayBuffer"]
