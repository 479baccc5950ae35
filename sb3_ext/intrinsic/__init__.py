from sb3_ext.intrinsic.intrinsic_ppo import IntrinsicPPO
from sb3_ext.intrinsic.policies import CnnPolicy, IntrinsicActorCriticPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.intrinsic.replay_buffer import IntrinsicDictReplayBuffer, IntrinsicReplayBuffer

__all__ = [
    "CnnPolicy",
    "IntrinsicActorCriticPolicy",
    "IntrinsicDictReplayBuffer",
    "IntrinsicPPO",
    "IntrinsicReplayBuffer",
    "MlpPolicy",
    "MultiInputPolicy",
]
