"""Figures of visits and returns: visits are counted exactly, and logs are read as they were written."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

pytest.importorskip("matplotlib")

from helpers.plotted import mesh

import envs  # noqa: F401
from irwrappers.plot import plot_returns, plot_visits
from irwrappers.plot.logs import read_logs
from irwrappers.plot.returns import moving_mean

# --- visits


def test_visits_of_a_grid_are_counted_exactly(maze):
    rng = np.random.default_rng(0)
    states, _ = maze.unwrapped.transition_graph()
    visited = rng.integers(3, len(states), size=(40, 5))  # [T, B]
    figure = plot_visits(states[visited], env=maze)
    counts = mesh(figure)
    expected = np.bincount(visited.ravel(), minlength=len(states))
    column, row = states[:, :2].astype(int).T
    np.testing.assert_array_equal(counts.filled(0)[row, column], expected)
    assert counts.sum() == 200 and counts.mask[1, 1] and counts.mask[0, 0]
    assert figure.axes[0].get_title() == f"200 visits, {len(states) - 3} of {len(states)} cells"
    np.testing.assert_array_equal(mesh(plot_visits(states[visited], (0, 1))), counts[1:-1, 1:-1].data)  # without a map
    np.testing.assert_array_equal(mesh(plot_visits(states[visited][..., :2], env=maze)), counts)
    with pytest.raises(ValueError, match=r"Position \[2.0, 2.0\] is in a wall"):
        plot_visits([[1, 1], [2, 2]], env=maze)


def test_visits_of_a_plane_are_a_histogram():
    positions = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    figure = plot_visits(positions, ranges=[(0, 1), (-1, 1)], bins=4, log=False)
    counts = mesh(figure).filled(0)
    x, y = positions[positions[:, 0] >= 0].T
    for row in range(4):
        for column in range(4):
            inside = (np.floor(x * 4) == column) & (np.floor((y + 1) * 2) == row)
            assert counts[row, column] == inside.sum()
    assert f"{(positions[:, 0] < 0).sum()} visits outside" in figure.axes[0].get_title()
    assert mesh(plot_visits(positions)).sum() == 1000
    assert mesh(plot_visits([[0.5, 0.25]])).sum() == 1


def test_visits_in_a_mujoco_maze_lie_between_its_walls(point_maze):
    observations = np.array([point_maze.reset(seed=seed)[0] for seed in range(30)])
    figure = plot_visits(observations, env=point_maze, bins=45)
    assert mesh(figure).sum() == 30
    assert figure.axes[0].get_xlabel() == "x  (observation[4])"
    marks = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    start, goal = observations[:, 4:6].mean(0), observations[:, 6:8].mean(0)
    assert np.abs(start - marks["S"]).max() < 0.2 and np.abs(goal - marks["G"]).max() < 0.2


def test_several_agents_are_compared_by_the_shares_of_their_visits(maze):
    states, _ = maze.unwrapped.transition_graph()
    figure = plot_visits({"still": states[[0] * 30], "walker": states[[0, 1, 1, 1]]}, env=maze, columns=2, title="Two")
    still, walker = (panel.collections[0] for panel in figure.axes[:2])
    (row, column), (next_row, next_column) = states[:2, 1::-1].astype(int)
    assert still.get_array()[row, column] == 100 and still.get_array().count() == 1
    assert walker.get_array()[row, column] == 25 and walker.get_array()[next_row, next_column] == 75
    assert still.norm is walker.norm and [panel.get_title() for panel in figure.axes[:2]] == ["still", "walker"]
    with pytest.raises(ValueError, match="empty mapping"):
        plot_visits({}, env=maze)


# --- returns


def test_returns_from_arrays():
    steps = np.arange(1, 101) * 10
    source = {"steps": steps, "intrinsic": 1 / steps, "score": (steps[::2], steps[::2] / 1000)}
    figure = plot_returns(source, extrinsic="score", names=("score", "novelty"), window=1)
    upper, lower, against = (axes for axes in figure.axes if axes.get_ylabel() in ("score", "novelty"))
    np.testing.assert_allclose(upper.lines[1].get_xydata(), np.column_stack(source["score"]))
    np.testing.assert_array_equal(lower.lines[0].get_xydata(), np.column_stack([steps, 1 / steps]))
    common = steps[steps <= steps[::2].max()]
    np.testing.assert_allclose(against.collections[0].get_offsets(), np.column_stack([1 / common, common / 1000]))
    with pytest.raises(ValueError, match=r"no extrinsic return named 'extrinsic'.*there are \['intrinsic', 'score'\]"):
        plot_returns(source)


def test_moving_mean_by_hand():
    np.testing.assert_allclose(moving_mean(np.array([1.0, 3.0, 5.0, 9.0]), 2), [1, 2, 4, 7])
    np.testing.assert_allclose(moving_mean(np.array([1.0, 3.0, 5.0]), 10), [1, 2, 3])
    np.testing.assert_array_equal(moving_mean(np.arange(5.0)), np.arange(5.0))
    with pytest.raises(ValueError, match="window"):
        moving_mean(np.arange(5.0), 0)


@pytest.mark.parametrize("formats", [["csv"], ["tensorboard"], ["csv", "tensorboard"]])
def test_reads_what_sb3_has_logged(tmp_path, formats):
    for start in (0, 5):  # two calls of learn; TensorBoard gets a file of each
        logger = configure(str(tmp_path / f"run{start if 'csv' in formats else 0}"), formats)
        for step in range(start, start + 5):
            logger.record("rollout/ep_rew_mean", step / 4)
            if step != start:
                logger.record("intrinsic/episode_return", 2.0 - step)
            logger.record("time/total_timesteps", step * 100)
            logger.dump(step * 100)
        logger.close()
    n = 5 if "csv" in formats else 10
    series = read_logs(tmp_path / "run0")
    np.testing.assert_array_equal(series["rollout/ep_rew_mean"], [np.arange(n) * 100, np.arange(n) / 4])
    np.testing.assert_array_equal(series["intrinsic/episode_return"][1][:4], [1, 0, -1, -2])
    figure = plot_returns(tmp_path / "run0")
    assert {axes.get_ylabel() for axes in figure.axes} >= {"rollout/ep_rew_mean", "intrinsic/episode_return"}
    if "csv" in formats:
        with pytest.raises(ValueError, match="logs of several runs"):
            plot_returns(tmp_path)


def test_reads_monitors_files(tmp_path):
    """Two environments; the episodes in the order in which they ended, steps of both counted together."""
    steps = {
        name: Monitor(gym.make("CartPole-v1", max_episode_steps=length), str(tmp_path / name))
        for name, length in (("0", 3), ("1", 5))
    }
    for name in ("0", "1", "0"):
        env = steps[name]
        env.reset(seed=0)
        while not any(env.step(env.unwrapped.steps_beyond_terminated or 0)[2:4]):
            pass
    for env in steps.values():
        env.close()
    series = read_logs(tmp_path)
    np.testing.assert_array_equal(series["monitor/r"], [[3, 8, 11], [3, 5, 3]])
    figure = plot_returns(tmp_path, intrinsic="monitor/l", window=1)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3, 5, 3])
    with pytest.raises(ValueError, match=r"no intrinsic return .* IntrinsicRewardCallback"):
        plot_returns(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no values"):
        plot_returns(tmp_path / "nowhere")
