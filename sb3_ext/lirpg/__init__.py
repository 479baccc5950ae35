from sb3_ext.lirpg.lirpg import LIRPG
from sb3_ext.lirpg.lirpg_a2c import LIRPGA2C
from sb3_ext.lirpg.policies import CnnPolicy, ExtrinsicCritic, MlpPolicy, MultiInputPolicy

__all__ = ["LIRPG", "LIRPGA2C", "CnnPolicy", "ExtrinsicCritic", "MlpPolicy", "MultiInputPolicy"]
