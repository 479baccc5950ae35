from sb3_ext.irpo import IRPO

__all__ = ["IRPO"]
