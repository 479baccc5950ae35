from sb3_ext.hrl.buffers import OptionDictRolloutBuffer, OptionRolloutBuffer, semi_mdp_advantages
from sb3_ext.hrl.hrl import HRL
from sb3_ext.hrl.options import Options

__all__ = ["HRL", "OptionDictRolloutBuffer", "OptionRolloutBuffer", "Options", "semi_mdp_advantages"]
