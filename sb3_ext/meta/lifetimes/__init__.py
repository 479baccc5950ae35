"""Lifetimes: parallel agents that learn tasks from scratch, as one environment.

``LifetimeVecEnv`` runs the agents (``inner_agents``) on tasks of a family (``task_batches``) and records their success
(``lifetime_statistics``). Its step is a step of every agent and its action is their reward, so an algorithm of
``outer_learners`` acts in it as in any other environment. The room imports neither of the two others.
"""

from sb3_ext.meta.lifetimes.inner_agents import InnerSettings
from sb3_ext.meta.lifetimes.lifetime_vec_env import LifetimeVecEnv

__all__ = ["InnerSettings", "LifetimeVecEnv"]
