from sb3_ext.irpo.irpo import IRPO
from sb3_ext.irpo.paper_settings import PaperSettings
from sb3_ext.irpo.policies import CnnPolicy, IRPOPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["IRPO", "CnnPolicy", "IRPOPolicy", "MlpPolicy", "MultiInputPolicy", "PaperSettings"]
