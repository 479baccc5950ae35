"""Baselines of meta-learning: RL² and MAML-TRPO, which adapt to a task without a learned reward.

``TrialVecEnv`` plays several episodes of one task in a row; a recurrent policy that learns in it, such as sb3-contrib's
``RecurrentPPO``, is RL². ``MAMLTRPO`` learns the weights from which a gradient step adapts to a task. Both use the tasks
and statistics of ``lifetimes``, so their success is measured as that of agents with a learned reward.
"""

from sb3_ext.meta.baselines.maml_policy import MAMLPolicy
from sb3_ext.meta.baselines.maml_trpo import MAMLTRPO
from sb3_ext.meta.baselines.trial_vec_env import TrialVecEnv

__all__ = ["MAMLTRPO", "MAMLPolicy", "TrialVecEnv"]
