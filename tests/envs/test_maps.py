"""Maps of your own: the forms they may have, and that the error for a malformed one names the place."""

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401 (registers sparse/…)
from envs.grid import GridMaze, GridMazeVectorEnv
from envs.mujoco.ant_maze import AntMazeVectorEnv
from envs.mujoco.maze_maps import MAZE_MAPS, parse_maze_map
from envs.mujoco.point_maze import PointMaze

ROOM = ["######", "#S   #", "#   G#", "######"]  # 4 rows, 6 columns


# --- maps of the grid mazes


@pytest.mark.parametrize("layout", [ROOM, tuple(ROOM), "\n".join(ROOM), "\n" + "\n".join(ROOM) + "\n"])
def test_a_map_of_your_own(layout):
    env = gym.make("sparse/Maze1-v0", layout=layout)
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [1, 1, 4, 2]
    assert env.observation_space.high.tolist() == [5, 3, 5, 3]
    path = [env.step(action) for action in (2, 2, 2, 1)]
    assert [step[0].tolist()[:2] for step in path] == [[2, 1], [3, 1], [4, 1], [4, 2]]
    assert [step[1] for step in path] == [0, 0, 0, 1] and path[-1][2]
    vector_env = gym.make_vec("sparse/Maze1-v0", num_envs=2, layout=layout)
    assert vector_env.reset(seed=0)[0].tolist() == [[1, 1, 4, 2]] * 2


def test_the_edge_of_a_map_is_a_wall():
    env = GridMaze(layout=["S ", " G"])
    env.reset(seed=0)
    assert [env.step(action)[0].tolist()[:2] for action in (0, 3, 2, 2)] == [[0, 0], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("make", [GridMaze, lambda layout: GridMazeVectorEnv(2, layout)], ids=["single", "vector"])
@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (["####", "#SG#", "###"], "row 0 has 4 characters, row 2 has 3"),
        (["####", "#SG#", "# x#"], "'x' at row 2, column 2"),
        (["####", "# G#", "####"], "exactly one start 'S'; this one has 0"),
        (["####", "#SG#", "#S #"], "exactly one start 'S'; this one has 2: row 1 column 1, row 2 column 1"),
        (["####", "#S #", "####"], "exactly one goal 'G'; this one has 0"),
        (["#####", "#SGG#"], "exactly one goal 'G'; this one has 2: row 1 column 2, row 1 column 3"),
        (["#####", "#S#G#", "#####"], "'G' at row 1, column 3 cannot be reached from the start 'S' at row 1, column 1"),
        ("Maze9", "Unknown layout 'Maze9'; expected one of .*'Maze1'"),
        ([], "non-empty list of strings"),
        ([[1, 0], [0, 1]], "non-empty list of strings"),
    ],
)
def test_bad_maps_are_refused_with_the_place(make, layout, message):
    with pytest.raises(ValueError, match=message):
        make(layout)
    if not isinstance(layout, str) and layout and isinstance(layout[0], str):
        with pytest.raises(ValueError, match=message):
            make("\n".join(layout))


# --- maps of the MuJoCo mazes


@pytest.mark.parametrize(
    ("maze_map", "message"),
    [
        (["1111", "10g1", "1111"], "at least one start"),
        (["1111", "1r01", "1111"], "at least one goal"),
        (["1111", "1c01", "1111"], "only start is the only goal: 'c' at row 1, column 1"),
        (["11111", "1r1g1", "11111"], r"goal 'g' at row 1, column 3 cannot be reached from the start 'r' at row 1, column 1"),
        (["1111", "1r11", "11g1", "1111"], "row 2, column 2 cannot be reached"),  # a corner is no door
        (["11111", "1rg1r", "11111"], "border .* row 1, column 4 is 'r'"),
        (["11111", "1r0g1", "11011"], "border .* row 2, column 2 is 0"),
        (["11111", "1r0g1", "1111"], "row 0 has 5 cells, row 2 has 4"),
        ([[1, 1, 1], [1, "r"], [1, 1, 1]], "row 0 has 3 cells, row 1 has 2"),
        (["11111", "1rxg1", "11111"], "Unknown cell 'x' at row 1, column 2"),
        ([[1, 1, 1, 1], [1, "r", 2, 1], [1, 1, 1, 1]], "Unknown cell 2 at row 1, column 2"),
        ([[1, 1, 1], [1, None, 1], [1, 1, 1]], "Unknown cell None at row 1, column 1"),
        ([], "non-empty list of rows"),
        (7, "non-empty list of rows"),
        ("PointMaze7", "Did you mean 'PointMaze"),
        ("", "Unknown maze_map ''"),
    ],
)
@pytest.mark.parametrize("maze", [PointMaze, AntMazeVectorEnv])
def test_a_malformed_map_is_refused_with_the_place(maze, maze_map, message):
    with pytest.raises(ValueError, match=message):
        maze(maze_map=maze_map)


def test_a_map_may_be_a_name_rows_of_characters_rows_of_cells_or_lines():
    expected = [[1, 1, 1, 1], [1, "r", 1, 1], [1, 0, "g", 1], [1, 1, 1, 1]]
    for maze_map in ("AntMaze0", MAZE_MAPS["AntMaze0"], expected, "1111\n1r11\n10g1\n1111", np.array(expected)):
        assert parse_maze_map(maze_map) == expected


@pytest.mark.parametrize("name", MAZE_MAPS)
def test_the_papers_maps_have_one_start_and_one_goal_that_it_reaches(name):
    rows = "".join(MAZE_MAPS[name])
    assert rows.count("r") == rows.count("g") == 1 and "c" not in rows
    parse_maze_map(name)
