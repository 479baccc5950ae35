"""Pictures of rewards, visits and returns.

* ``plot_reward`` - the value of a reward over the map of a maze, a slice of the observation space, or any observations.
* ``plot_visits`` - how often each place was visited.
* ``plot_returns`` - intrinsic beside extrinsic return over training, from arrays or the logs of Stable-Baselines3.
* ``reward_values`` - the values that ``plot_reward`` shows.
* ``log_figure`` - a figure into TensorBoard, through Stable-Baselines3's logger.

Every picture is a matplotlib ``Figure``, made without pyplot and without a screen; ``path=`` saves it as well. Needs
``pip install "irwrappers[plots]"``.
"""

from irwrappers.plot.figures import log_figure
from irwrappers.plot.returns import plot_returns
from irwrappers.plot.rewards import plot_reward
from irwrappers.plot.values import reward_values
from irwrappers.plot.visits import plot_visits

__all__ = ["log_figure", "plot_returns", "plot_reward", "plot_visits", "reward_values"]
