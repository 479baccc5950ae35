from stable_baselines3.ppo import CnnPolicy, MlpPolicy, MultiInputPolicy

from sb3_ext.lirpg.lirpg import LIRPG
from sb3_ext.lirpg.lirpg_a2c import LIRPGA2C

__all__ = ["LIRPG", "LIRPGA2C", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
