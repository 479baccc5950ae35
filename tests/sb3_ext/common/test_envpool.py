"""EnvPool behind our ids is the source's task: the same transitions from the same states, the same distribution of starts."""

import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from stable_baselines3 import PPO

import envs
from sb3_ext.common.vec_env import make_vec_env

pytest.importorskip("envpool")

from helpers.envpool_envs import METAWORLD, RESAMPLED, pooled

OLD_BOXES = tuple(map(int, mujoco.__version__.split(".")[:2])) < (3, 4)
MUJOCO = list(envs.CATALOGUE["delayed MuJoCo"].horizons)
ONE_PER_FAMILY = [
    ("delayed/Hopper-v5", {}),
    ("sparse/FetchReach-v0", {}),
    ("sparse/MiniGrid-Fetch-5x5-N2-v0", {}),
    ("sparse/MiniGrid-Fetch-5x5-N2-v0", {"obs": "rgb", "reward": "time"}),
    ("sparse/MetaWorld-reach-v3", RESAMPLED),
]
# MiniGrid tasks whose state is the grid and the agent, nothing hidden: such a state can be given to the source.
OPEN_GRIDS = [
    "Empty-Random-5x5-v0",
    "DoorKey-5x5-v0",
    "LavaGapS5-v0",
    "DistShift1-v0",
    "SimpleCrossingS9N1-v0",
    "LavaCrossingS9N2-v0",
    "FourRooms-v0",
]


def pool_of(env):
    """EnvPool's own environment, for states that are not in the observation."""
    return env.venv.vector_env.unwrapped.pool


# --- the same spaces, the same transitions, the same episodes


@pytest.mark.parametrize(("env_id", "kwargs"), ONE_PER_FAMILY)
def test_spaces_are_the_single_environments(env_id, kwargs):
    env, single = pooled(env_id, **kwargs), gym.make(env_id, **kwargs)
    assert env.observation_space == single.observation_space and env.action_space == single.action_space
    observations = env.reset()
    assert observations.dtype == single.observation_space.dtype
    assert all(single.observation_space.contains(observation) for observation in observations)
    infos = env.step(np.array([env.action_space.sample() for _ in range(2)]))[3]
    single.reset()
    single_info = single.step(single.action_space.sample())[4]
    assert ("is_success" in infos[0]) == ("is_success" in single_info)


@pytest.mark.parametrize("env_id", MUJOCO)
def test_mujoco_moves_as_in_gymnasium(env_id):
    # Long enough for every body to land, short enough for its contacts not to blow up rounding errors.
    env, single = pooled(env_id), gym.make(env_id).unwrapped
    observations = env.reset()
    hidden = 2 if env_id in ("delayed/Ant-v5", "delayed/Humanoid-v5") else 1  # x (and y) are not observed, and don't matter
    n_seen = single.model.nq - hidden
    # Humanoid is the one that MuJoCo's change of the solver's first guess (3.3.6) reaches through RK4 and its many contacts.
    tolerance = {"rtol": 2e-3, "atol": 2e-3} if "Humanoid" in env_id else {"rtol": 0, "atol": 1e-8}
    for index in range(2):
        single.reset(seed=0)
        mujoco.mj_resetData(single.model, single.data)
        qpos = single.init_qpos.copy()
        qpos[hidden:] = observations[index, :n_seen]
        single.set_state(qpos, observations[index, n_seen : n_seen + single.model.nv])
        env.seed(0)
        env.reset()
        env.action_space.seed(index)
        for _ in range(20):
            action = env.action_space.sample()
            expected, reward, terminated, _, _ = single.step(action)
            seen, _, dones, infos = env.step(np.stack([action, action]))
            assert dones[index] == terminated
            last = infos[index]["terminal_observation"] if terminated else seen[index]
            np.testing.assert_allclose(last, expected, **tolerance)
            np.testing.assert_allclose(infos[index]["undelayed_reward"], reward, **tolerance | {"atol": 1e-6})
            if terminated:
                break


def follow_fetch(env_id, policy, n_steps, atol):
    """Step EnvPool and the source from the same state, by ``policy``; the number of episodes that succeeded."""
    env, single = pooled(env_id, 4), gym.make(env_id)
    task, successes = single.unwrapped, 0
    observations = env.reset()
    for index in range(4):
        env.seed(0)
        observations = env.reset()
        single.reset(seed=0)
        source = task.source
        source.goal = observations[index, -3:].copy()
        if "Push" in env_id:
            block = source._utils.get_joint_qpos(source.model, source.data, "object0:joint")
            block[:2] = observations[index, 3:5]
            source.initial_qpos[-7:-5] = block[:2]
            mujoco.mj_resetData(source.model, source.data)
            source.data.qpos[:], source.data.qvel[:] = source.initial_qpos, source.initial_qvel
            mujoco.mj_forward(source.model, source.data)
        for _ in range(n_steps):
            action = policy(observations[index])
            expected, reward, terminated, truncated, info = single.step(action)
            observations, rewards, dones, infos = env.step(np.stack([action] * 4))
            assert dones[index] == (terminated or truncated)
            assert rewards[index] == reward and infos[index]["is_success"] == info["is_success"]
            last = infos[index]["terminal_observation"] if dones[index] else observations[index]
            np.testing.assert_allclose(last, expected, atol=atol)
            if dones[index]:
                break
        successes += terminated
    return successes


def test_fetch_reach_moves_rewards_and_ends_as_in_gymnasium_robotics():
    def slowly(observation):
        return np.append(np.clip((observation[13:] - observation[10:13]) / 0.3, -1, 1), 0.0).astype(np.float32)

    assert follow_fetch("sparse/FetchReach-v0", slowly, 50, atol=1e-6) == 4


@pytest.mark.skipif(OLD_BOXES, reason="the backend is refused with a MuJoCo older than 3.4")
def test_fetch_push_moves_as_in_gymnasium_robotics():
    def push(observation):
        return np.append(np.clip(6 * observation[6:9], -1, 1), 0.0).astype(np.float32)

    follow_fetch("sparse/FetchPush-v0", push, 10, atol=1e-5)


def give_grid(state, task):
    """Put ``task``, a MiniGridTask after its reset, into a state of EnvPool's."""
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    source = task.minigrid
    source.grid = Grid(state.width, state.height)
    cells = np.asarray(state.grid, np.uint8).reshape(state.width, state.height, 3)
    for x, y in np.ndindex(state.width, state.height):
        source.grid.set(x, y, WorldObj.decode(*cells[x, y].tolist()))
    source.agent_pos, source.agent_dir, source.carrying, source.mission = state.agent_pos, state.agent_dir, None, state.mission
    source.step_count = 0


@pytest.mark.parametrize("kwargs", [{}, {"obs": "rgb", "reward": "time"}])
@pytest.mark.parametrize("name", OPEN_GRIDS)
def test_minigrid_moves_rewards_and_ends_as_in_minigrid(name, kwargs):
    env_id = f"sparse/MiniGrid-{name}"
    env, single = pooled(env_id, 1, max_episode_steps=60, **kwargs), gym.make(env_id, max_episode_steps=60, **kwargs)
    rng = np.random.default_rng(0)
    env.reset()
    episodes = 0
    give = True
    for _ in range(1000):
        if give:
            single.reset()
            give_grid(pool_of(env)._debug_states(np.array([0], np.int32))[0], single.unwrapped)
        action = rng.choice(7, p=[0.14, 0.14, 0.42, 0.12, 0.02, 0.14, 0.02])
        expected, reward, terminated, truncated, info = single.step(action)
        observations, rewards, dones, infos = env.step([action])
        give = terminated or truncated
        episodes += give
        assert dones[0] == give and infos[0]["is_success"] == info["is_success"]
        assert infos[0]["TimeLimit.truncated"] == (truncated and not terminated)
        assert rewards[0] == pytest.approx(reward)
        np.testing.assert_array_equal(infos[0]["terminal_observation"] if give else observations[0], expected)
    assert episodes > 10


def follow_metaworld(env_id, n_envs, n_steps):
    """EnvPool's starts given to the source as ``rand_vec``, then the expert's actions to both: compare all they show."""
    import metaworld.policies

    name = env_id.removeprefix("sparse/MetaWorld-").removesuffix("-v3")
    words = "".join(word.capitalize() for word in name.split("-"))
    expert = getattr(metaworld.policies, f"Sawyer{words}V3Policy")
    # The first observation tells the task: a linear map, found from the source's own.
    columns = [4, 5, 6, 11, 12, 13, 36, 37, 38]
    single = gym.make(env_id, **RESAMPLED).unwrapped
    first, tasks = zip(*[(single.reset(seed=seed)[0], single.rand_vec) for seed in range(40)], strict=True)
    varying = [column for column in columns if np.ptp(np.array(first)[:, column]) > 1e-7]
    inputs = np.c_[np.array(first)[:, varying], np.ones(40)]
    weights = np.linalg.lstsq(inputs, np.array(tasks), rcond=None)[0]

    env = pooled(env_id, n_envs, **RESAMPLED)
    observations = env.reset()
    space = single.source._random_reset_space
    guesses = np.clip(np.c_[observations[:, varying], np.ones(n_envs)] @ weights, space.low, space.high)
    singles = [gym.make(env_id, rand_vec=guess.tolist(), goal_observable=True) for guess in guesses]
    for index, single in enumerate(singles):
        np.testing.assert_allclose(observations[index], single.reset()[0], atol=6e-4)
    experts = [expert() for _ in singles]
    returns = np.zeros(n_envs)
    for _ in range(n_steps):
        actions = [np.clip(one.get_action(row), -1, 1) for one, row in zip(experts, observations, strict=True)]
        observations, rewards, _, infos = env.step(np.array(actions, np.float32))
        for index, single in enumerate(singles):
            expected, reward, _, _, info = single.step(np.array(actions[index], np.float32))
            assert rewards[index] == reward and infos[index]["is_success"] == info["is_success"]
            if not returns[index]:
                np.testing.assert_allclose(observations[index, :7], expected[:7], atol=3e-4)
                assert infos[index]["shaped_reward"] == pytest.approx(info["shaped_reward"], abs=0.05)
        returns += rewards
    return returns


def test_metaworld_moves_and_rewards_as_in_metaworld():
    assert follow_metaworld("sparse/MetaWorld-reach-v3", 2, 70).tolist() == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", METAWORLD)
def test_each_metaworld_task_moves_and_rewards_as_in_metaworld(env_id):
    assert follow_metaworld(env_id, 6, 130).mean() > 0.8  # equal rewards are asserted there, step by step


def test_metaworld_hides_the_goal_and_never_terminates():
    env = pooled("sparse/MetaWorld-reach-v3", resample_task=True, max_episode_steps=5)
    assert not env.reset()[:, -3:].any()
    for step in range(10):
        _, _, dones, infos = env.step(np.zeros((2, 4)))
        assert dones.all() == dones.any() == infos[0]["TimeLimit.truncated"] == (step % 5 == 4)


# --- episodes begin and end as with SB3's DummyVecEnv


def test_rewards_are_delayed_and_the_rest_given_at_the_end():
    env = pooled("delayed/Hopper-v5", 4)
    env.reset()
    owed, waited, lengths = np.zeros(4), np.zeros(4, int), set()
    for _ in range(150):
        observations, rewards, dones, infos = env.step(np.array([env.action_space.sample() for _ in range(4)]))
        waited += 1
        owed += [info["undelayed_reward"] for info in infos]
        gives = dones | (waited % 20 == 0)
        np.testing.assert_allclose(rewards, np.where(gives, owed, 0.0), rtol=1e-6)
        owed[gives] = 0
        for index in np.flatnonzero(dones):
            assert infos[index]["episode"]["l"] == waited[index]  # no step is lost to the reset
            assert not infos[index]["TimeLimit.truncated"]
            assert abs(infos[index]["terminal_observation"][1]) > 0.15 or infos[index]["terminal_observation"][0] < 0.75
            assert np.abs(observations[index] - [1.25, *[0] * 10]).max() <= 0.005  # a new start already
            lengths.add(waited[index])
            waited[index] = 0
    assert len(lengths) > 3


def test_the_time_limit_truncates_and_a_fall_in_the_last_step_does_not():
    def steps_until_done(limit):
        env = pooled("delayed/Hopper-v5", 1, max_episode_steps=limit)
        env.reset()
        for step in range(1, 200):
            _, _, dones, infos = env.step(np.ones((1, 3)))
            if dones[0]:
                return step, infos[0]["TimeLimit.truncated"]

    fall, truncated = steps_until_done(None)
    assert not truncated
    assert steps_until_done(fall) == (fall, False)
    assert steps_until_done(fall - 1) == (fall - 1, True)


@pytest.mark.parametrize(("env_id", "kwargs"), ONE_PER_FAMILY)
def test_the_registered_horizon_is_kept(env_id, kwargs):
    env = pooled(env_id, 1, **kwargs)
    assert env.venv.vector_env.unwrapped.max_episode_steps == gym.spec(env_id).max_episode_steps


def test_half_cheetah_runs_for_a_thousand_steps():
    env = pooled("delayed/HalfCheetah-v5", 2)
    env.reset()
    for step in range(1, 1001):
        _, _, dones, infos = env.step(np.zeros((2, 6)))
        assert dones.tolist() == [step == 1000] * 2
    assert infos[0]["TimeLimit.truncated"] and infos[1]["episode"]["l"] == 1000


@pytest.mark.parametrize(("env_id", "kwargs"), ONE_PER_FAMILY)
def test_seeds(env_id, kwargs):
    env = pooled(env_id, 3, seed=5, **kwargs)
    first, second = np.array(env.reset()), np.array(env.reset())
    assert not np.array_equal(first, second) and not np.array_equal(first[0], first[1])
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), second)
    env.seed(6)
    np.testing.assert_array_equal(env.reset()[:2], first[1:])  # copy i has seed + i
    env.seed(2**32 - 4)
    env.reset()


# --- what is refused, and what is said


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("sparse/Maze1-v0", {}, "EnvPool does not have sparse/Maze1-v0"),
        ("sparse/PointMaze0-v0", {}, "EnvPool does not have"),
        ("sparse/MetaWorld-reach-v3", {}, "samples a new task at every reset"),
        (
            "sparse/MetaWorld-dial-turn-v3",
            {"resample_task": True},
            "start states, rewards or contacts differ.*they are equal in basket",
        ),
        ("sparse/MiniGrid-ObstructedMaze-Full-v1", {}, "side room"),
        ("sparse/MiniGrid-ObstructedMaze-1Dlh-v0", {}, "nine rooms"),
        ("sparse/MiniGrid-ObstructedMaze-2Dlh-v0", {}, "boxes blue"),
        ("sparse/MiniGrid-MultiRoom-N4-S5-v1", {}, "does not have it"),
        ("delayed/Hopper-v5", {"ctrl_cost_weight": 0.1}, "can't express ctrl_cost_weight.*max_episode_steps"),
        ("sparse/FetchReach-v0", {"render_mode": "rgb_array"}, "can't express render_mode='rgb_array'"),
    ],
)
def test_what_differs_is_refused(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pooled(env_id, **kwargs)


@pytest.mark.skipif(not OLD_BOXES, reason="refused with a MuJoCo older than 3.4 only")
def test_fetch_push_is_refused_with_an_old_mujoco():
    with pytest.raises(ValueError, match=r"2\.4 mm lower"):
        pooled("sparse/FetchPush-v0")


def test_wrong_requests_say_what_to_do():
    with pytest.raises(ValueError, match="backend must be one of None, 'auto', 'envpool', got 'fast'"):
        make_vec_env("delayed/Hopper-v5", 2, backend="fast")
    with pytest.raises(ValueError, match="EnvPool takes no wrapper_class"):
        make_vec_env("delayed/Hopper-v5", 2, wrapper_class=gym.wrappers.ClipAction, backend="envpool")
    with pytest.raises(ValueError, match="not registered"):
        make_vec_env(lambda: gym.make("CartPole-v1"), 2, backend="envpool")
    with pytest.raises(ValueError, match=r"Expected actions of shape \(2, 3\)"):
        pooled("delayed/Hopper-v5").step(np.zeros((2, 4)))
    grid = pooled("sparse/MiniGrid-Empty-5x5-v0")
    grid.reset()
    with pytest.raises(ValueError, match=r"Invalid action 7 of environment 1; expected .*0 to 6"):
        grid.step(np.array([0, 7]))
    with pytest.raises(ValueError, match="can't seed some environments alone"):
        grid.venv.vector_env.reset(seed=0, options={"reset_mask": np.array([True, False])})


def test_without_envpool(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ImportError, match=r'pip install "irwrappers\[envpool\]"'):
        pooled("delayed/Hopper-v5")
    make_vec_env("sparse/MiniGrid-Empty-5x5-v0", 2, backend="auto")
    assert "single environments for sparse/MiniGrid-Empty-5x5-v0. EnvPool is not installed" in capsys.readouterr().out


def test_auto_takes_what_is_faithful_and_says_which(capsys):
    def said(env_id, **kwargs):
        make_vec_env(env_id, 2, backend="auto", **kwargs)
        return capsys.readouterr().out

    assert said("delayed/Hopper-v5") == "make_vec_env: EnvPool for delayed/Hopper-v5.\n"
    assert "GridMazeVectorEnv for sparse/Maze1-v0. EnvPool does not have sparse/Maze1-v0." in said("sparse/Maze1-v0")
    assert "single environments for sparse/MiniGrid-ObstructedMaze-1Q-v1. EnvPool is not used" in said(
        "sparse/MiniGrid-ObstructedMaze-1Q-v1"
    )
    assert "single environments for delayed/Hopper-v5. EnvPool takes no wrapper_class" in said(
        "delayed/Hopper-v5", wrapper_class=gym.wrappers.ClipAction
    )
    make_vec_env("delayed/Hopper-v5", 2)
    assert capsys.readouterr().out == ""


def test_ppo_learns_through_it():
    env = pooled("sparse/MiniGrid-Empty-5x5-v0", 16, seed=1)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=512, ent_coef=0.01, learning_rate=1e-3, gamma=0.97, seed=1)
    lengths = []
    for _ in range(2):
        model.learn(8192 if lengths else 2048, reset_num_timesteps=not lengths)
        lengths.append(np.mean([episode["l"] for episode in list(model.ep_info_buffer)[-50:]]))
    assert lengths[1] < 0.5 * lengths[0]
