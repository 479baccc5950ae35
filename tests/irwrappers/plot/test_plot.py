"""Pictures: they show what the reward computes and what was counted, and logs are read as they were written."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

pytest.importorskip("matplotlib")

from helpers.plotted import mesh

import envs  # noqa: F401
from irwrappers import IntrinsicReward, Transitions, make_intrinsic_reward
from irwrappers.plot import log_figure, plot_returns, plot_reward, plot_visits, reward_values

PNG = b"\x89PNG\r\n\x1a\n"


class Position(IntrinsicReward):
    """Reward 10 · (entry 0) + entry 1 of the next observation, plus 100 · what it has advanced by within the episode."""

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("remembered", torch.zeros(1))

    def compute(self, batch):
        next_observations = batch.next_observations.float()
        return (10 * next_observations[..., :1] + next_observations[..., 1:2]) + 100 * self.remembered

    def advance(self, batch):
        self.remembered += 1

    def forget(self):
        self.remembered.zero_()


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def compute(reward, before, after, actions):
    flags = torch.zeros((1, len(before)), dtype=torch.bool)
    tensors = (torch.as_tensor(x)[None] for x in (before, actions, after))
    return reward.compute(Transitions(*tensors, flags, flags))[0].numpy()


def learned(reward, observations, actions):
    """The reward after one update with these observations."""
    n = len(actions)
    stay = {key: torch.as_tensor(x)[None] for key, x in observations.items()} if isinstance(observations, dict) else None
    stay = torch.as_tensor(observations)[None] if stay is None else stay
    flags = torch.zeros((1, n), dtype=torch.bool)
    reward.update(Transitions(stay, torch.as_tensor(actions)[None], stay, flags, flags))
    return reward


# --- rewards


def test_a_grids_map_is_what_the_reward_computes_in_each_cell(maze):
    states, _ = maze.unwrapped.transition_graph()
    reward = make_intrinsic_reward("rnd", maze.observation_space, maze.action_space)
    with pytest.raises(ValueError, match="RND must be fitted"):
        plot_reward(reward, maze)
    learned(reward, states, np.zeros(len(states), dtype=np.int64))
    expected = compute(reward, states, states, np.zeros(len(states), dtype=np.int64))[:, 0]
    values = mesh(plot_reward(reward, maze))
    assert values.shape == (5, 6)
    np.testing.assert_array_equal(values.mask, maze.unwrapped.layout.walls)
    np.testing.assert_allclose(values[states[:, 1].astype(int), states[:, 0].astype(int)], expected, rtol=1e-6)
    np.testing.assert_array_equal(mesh(plot_reward(reward, observations=states)), values[1:-1, 1:-1])  # without its walls


def test_eigenfunctions_are_shown_from_the_base(maze):
    reward = make_intrinsic_reward("laplacian", maze.observation_space, maze.action_space, n_rewards=4)
    with pytest.raises(ValueError, match="ExactLaplacian must be fitted"):
        plot_reward(reward, maze)
    reward.fit(maze)
    figure = plot_reward(reward, maze, channels=(1, 3))
    assert [axes.get_title() for axes in panels(figure)] == ["+phi_1", "+phi_2"]
    states, _ = maze.unwrapped.transition_graph()
    start = maze.unwrapped.layout.start
    column, row = states[:, :2].astype(int).T
    for panel, k in ((0, 1), (1, 2)):
        expected = reward.phi[:, k] - reward.phi[start, k]
        np.testing.assert_allclose(mesh(figure, panel)[row, column], expected, atol=1e-6)
    other = plot_reward(reward, maze, channels=(1,), base=states[3])
    np.testing.assert_allclose(mesh(other)[row, column], reward.phi[:, 1] - reward.phi[3, 1], atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: DummyVecEnv([lambda: env])], ids=["env", "VecEnv"])
def test_leaving_is_the_mean_over_the_actions(maze, wrap):
    reward = Position(maze.observation_space, maze.action_space)
    states, next_states = maze.unwrapped.transition_graph()
    arrived = states[next_states]
    expected = (10 * arrived[..., 0] + arrived[..., 1]).mean(1)
    values = mesh(plot_reward(reward, wrap(maze), transition="leave"))
    np.testing.assert_allclose(values[states[:, 1].astype(int), states[:, 0].astype(int)], expected)


def test_leaving_gives_the_model_the_action_that_leads_there(maze):
    reward = make_intrinsic_reward("icm", maze.observation_space, maze.action_space)
    reward.fit(maze, 64, seed=0)
    states, next_states = maze.unwrapped.transition_graph()
    steps = [(states[next_states[:, action]], np.full(len(states), action)) for action in range(4)]
    expected = np.mean([compute(reward, states, *step)[:, 0] for step in steps], axis=0)
    values = mesh(plot_reward(reward, maze, transition="leave"))
    np.testing.assert_allclose(values[states[:, 1].astype(int), states[:, 0].astype(int)], expected, rtol=1e-4)


def test_a_slice_moves_two_entries_of_the_base():
    space = spaces.Box(-1.0, np.array([1, 2, 3], np.float32), dtype=np.float32)
    base = np.array([0.3, 0.4, 0.5], np.float32)
    reward = make_intrinsic_reward("icm", space, spaces.Box(-1, 1, (2,)))  # looks at both ends of a transition
    learned(reward, np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32), np.zeros((50, 2), np.float32))
    transition = {"transition": "from_base"}
    values = mesh(plot_reward(reward, base=base, indices=(2, 0), resolution=5, **transition))
    for row, column in [(0, 0), (1, 4), (4, 2)]:
        state = base.copy()
        state[2], state[0] = -1 + 4 * (column + 0.5) / 5, -1 + 2 * (row + 0.5) / 5
        computed = compute(reward, base[None], state[None], np.zeros((1, 2), np.float32))
        assert values[row, column] == pytest.approx(computed[0, 0], rel=1e-4)
    narrow = plot_reward(reward, base=base, ranges=[(0, 1), (0, 2)], resolution=4)
    assert narrow.axes[0].get_xlim() == (0, 1) and narrow.axes[0].get_ylim() == (0, 2)
    assert narrow.axes[0].get_xlabel() == "observation[0]" and narrow.axes[0].get_ylabel() == "observation[1]"


def test_a_mujoco_maze_has_walls_and_both_entries_of_the_position_vary(point_maze):
    reward = Position(point_maze.observation_space, point_maze.action_space)  # reads entries 0 and 1, equal to 4 and 5
    figure = plot_reward(reward, point_maze, resolution=50)
    maze = point_maze.unwrapped.source.maze
    image, walls = figure.axes[0].collections[:2]
    x, y = image.get_coordinates()[0, :, 0], image.get_coordinates()[:, 0, 1]
    x, y = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    np.testing.assert_allclose(image.get_array(), 10 * x[None] + y[:, None], atol=1e-5)
    shown = walls.get_array()
    corners = walls.get_coordinates()
    for row, cells in enumerate(maze.maze_map):
        for column, cell in enumerate(cells):
            assert bool(shown.mask[row, column]) == (cell != 1)
            centre = corners[row : row + 2, column : column + 2].mean((0, 1))
            np.testing.assert_allclose(centre, maze.cell_rowcol_to_xy((row, column)))
    velocity = plot_reward(reward, point_maze, indices=(2, 3), ranges=[(-1, 1), (-1, 1)], resolution=3)
    assert len(velocity.axes[0].collections) == 1  # not the map


def test_images_are_shown_where_they_were_seen():
    space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    reward = make_intrinsic_reward("rnd", space, spaces.Discrete(3))
    images = np.random.default_rng(0).integers(256, size=(4, 36, 36, 3), dtype=np.uint8)
    learned(reward, images, np.zeros(4, dtype=np.int64))
    places = [[0, 0], [2, 1], [2, 1], [1, 0]]
    values = mesh(plot_reward(reward, observations=images, positions=places))
    computed = compute(reward, images, images, np.zeros(4, dtype=np.int64))[:, 0]
    np.testing.assert_allclose(values.compressed(), [computed[0], computed[3], (computed[1] + computed[2]) / 2], rtol=1e-5)
    np.testing.assert_array_equal(values.mask, [[False, False, True], [True, True, False]])
    loose = plot_reward(reward, observations=images, positions=np.array(places) + 0.5)
    np.testing.assert_allclose(mesh(loose), computed, rtol=1e-5)
    with pytest.raises(ValueError, match="one-dimensional Box observations"):
        plot_reward(reward, base=images[0])


def test_rewards_of_dicts_are_shown_like_any_other():
    space = spaces.Dict({"place": spaces.Box(-1, 1, (2,), np.float32), "speed": spaces.Box(-1, 1, (1,), np.float32)})
    reward = make_intrinsic_reward("rnd", space, spaces.Box(-1, 1, (1,)))
    rng = np.random.default_rng(0)
    observations = {key: rng.uniform(-1, 1, (2000, *part.shape)).astype(np.float32) for key, part in space.items()}
    learned(reward, observations, np.zeros((2000, 1), np.float32))
    values = reward_values(reward, observations)
    assert values.shape == (2000, 1)
    one = {key: part[1500:1501] for key, part in observations.items()}
    np.testing.assert_allclose(reward_values(reward, one), values[1500:1501], rtol=1e-4)
    figure = plot_reward(reward, observations=observations, positions=observations["place"])
    np.testing.assert_allclose(mesh(figure), values[:, 0])


def test_drawing_leaves_the_reward_alone_and_reads_no_running_episode(maze):
    reward = Position(maze.observation_space, maze.action_space)
    reward.advance(None)
    assert float(mesh(plot_reward(reward, maze)).max()) == 10 * 4 + 3  # no 100
    assert float(reward.remembered) == 1
    states, _ = maze.unwrapped.transition_graph()
    assert reward_values(reward, states)[0, 0] == 11


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_idle_actions_belong_to_the_space(space):
    seen = []

    class Spy(Position):
        def compute(self, batch):
            seen.append(batch.actions)
            return super().compute(batch)

    reward_values(Spy(spaces.Box(-1, 1, (2,)), space), np.zeros((2, 2), np.float32))
    assert all(action.astype(space.dtype) in space for action in seen[0][0].numpy()) and seen[0].shape[:2] == (1, 2)


# --- files


def test_pictures_are_saved_as_png(tmp_path, maze):
    reward = Position(maze.observation_space, maze.action_space)
    plot_reward(reward, maze, path=tmp_path / "deep" / "reward.png", title="Position")
    plot_visits([[0.5, 1.0], [2.0, 3.0]], path=tmp_path / "visits.png")
    plot_returns({"extrinsic": [0, 1], "intrinsic": [1, 0]}, path=str(tmp_path / "returns.png"), title="Returns")
    for name in ("deep/reward", "visits", "returns"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_figures_go_to_tensorboard_and_nowhere_else(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = configure(str(tmp_path), ["stdout", "csv", "json", "log", "tensorboard"])
    log_figure(logger, "pictures/visits", plot_visits([[0, 1], [2, 3]]))
    logger.record("score", 1.0)
    logger.dump(7)
    logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("pictures/visits")
    assert image.step == 7 and image.encoded_image_string.startswith(PNG)
    assert "pictures" not in (tmp_path / "progress.csv").read_text()
    with pytest.raises(TypeError, match="logger of Stable-Baselines3"):
        log_figure(None, "x", plot_visits([[0, 1]]))


def test_neither_pyplot_nor_a_screen_nor_matplotlib_at_import():
    code = (
        "import sys, irwrappers.plot as p\n"
        "assert 'matplotlib' not in sys.modules and 'tensorboard.backend' not in sys.modules\n"
        "p.plot_visits([[0, 1]])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "irwrappers\[plots\]"'):
        plot_visits([[0, 1]])


def test_refuses(maze):
    reward = Position(maze.observation_space, maze.action_space)
    states, _ = maze.unwrapped.transition_graph()
    unbounded = Position(spaces.Box(-np.inf, np.inf, (3,)), maze.action_space)
    for call, message in (
        (lambda: plot_reward("rnd", maze), "Expected an IntrinsicReward"),
        (lambda: plot_reward(reward, "sparse/Maze1-v0"), "Expected a Gymnasium environment"),
        (lambda: plot_reward(reward, maze, channels=[1]), r"channels must lie in 0 … 0"),
        (lambda: plot_reward(reward, maze, transition="arrive"), "transition must be"),
        (lambda: plot_reward(reward, maze, indices=(0, 9)), r"must lie in 0 … 3"),
        (lambda: plot_reward(reward, maze, indices=(0,)), "two entries"),
        (lambda: plot_reward(reward, maze, names=("x",)), "names must be two"),
        (lambda: plot_reward(reward, maze, positions=[[1, 1]]), "give observations too"),
        (lambda: plot_reward(reward, observations=states, positions=[[1, 1]]), "a position for each"),
        (lambda: plot_reward(reward, observations=states, transition="leave"), "needs an environment with transition_graph"),
        (lambda: plot_reward(reward), "Give base"),
        (lambda: plot_reward(reward, base=np.zeros(3)), r"shape \(4,\)"),
        (lambda: plot_reward(unbounded, base=np.zeros(3)), "Give ranges"),
        (lambda: plot_visits(states), "no positions"),
        (lambda: plot_visits([[np.nan, 0.0]]), "finite positions"),
        (lambda: plot_visits([[0.5, 0.0]], ranges=[(0, 0), (0, 1)]), "ranges must be two"),
        (lambda: plot_returns({"extrinsic": [[1.0]], "intrinsic": [1.0]}), "must be values"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
