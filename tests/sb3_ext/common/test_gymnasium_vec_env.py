"""``GymnasiumVecEnv`` behaves as SB3's ``DummyVecEnv``."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from helpers.vec_env_records import ROOM, assert_same_record, native_cartpole, pendulum, record, steps_of
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext.common.vec_env import GymnasiumVecEnv

MODES = list(AutoresetMode)


class Motley(gym.Env):
    """Structured observations, and info of every kind: scalars, arrays, text, objects, nested, on some steps only."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, structure="dict", render_mode=None):
        parts = {"position": spaces.Box(-1, 1, (2,)), "room": spaces.Discrete(5), "view": spaces.Box(0, 255, (2, 3), np.uint8)}
        self.observation_space = spaces.Dict(parts) if structure == "dict" else spaces.Tuple(list(parts.values()))
        self.action_space = spaces.Box(-1, 1, (2,))
        self.render_mode = render_mode
        self.visited = []
        self.bias = 0.0

    def _draw(self):
        return self.observation_space.sample(), {"draw": self.np_random.normal()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.visited = []
        observation, info = self._draw()
        return observation, {**info, "fresh": True, "options": dict(options or {})}

    def step(self, action):
        observation, info = self._draw()
        self.visited.append(info["draw"])
        info |= {"lucky": np.bool_(info["draw"] > 0), "visited": self.visited, "matrix": np.full((2, 2), info["draw"])}
        info |= {"_private": 1, "name": f"step {len(self.visited)}", "parts": {"reward": {"action": float(action[0])}}}
        if len(self.visited) % 3 == 0:
            info |= {"third": len(self.visited), "parts": {"third": np.float32(0.5), "empty": {}}}
        return observation, float(action.sum()) + self.bias, info["draw"] > 1, False, info

    def render(self):
        return np.full((4, 6, 3), len(self.visited), dtype=np.uint8)

    def distance(self, scale=1.0):
        return scale * len(self.visited)


class Reuser(VectorEnv):
    """A native vector environment that returns the same buffers for ever; ``final_obs`` is a plain or an object array."""

    def __init__(self, mode=AutoresetMode.SAME_STEP, num_envs=2, final="plain"):
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.num_envs, self.final = num_envs, final
        self.single_observation_space, self.single_action_space = spaces.Box(0, 99, (1,)), spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.difficulty = 1
        self.seeds, self.options = [], []
        self._buffer = np.zeros((num_envs, 1), dtype=np.float32)
        self._last, self._rewards = self._buffer.copy(), np.zeros(num_envs, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.options.append(options)
        self._buffer[:] = 0
        return self._buffer, {}

    def step(self, actions):
        self._buffer += 1
        self._rewards += 1
        done = (self._buffer[:, 0] >= 2) & (np.arange(self.num_envs) == 0)  # copy 0 ends every second step
        info = {"count": np.arange(self.num_envs), "version": "a"}
        if done.any() and self.final:
            self._last[:] = self._buffer
            final_obs = self._last
            if self.final == "objects":
                final_obs = np.full(self.num_envs, None, dtype=object)
                final_obs[:] = list(self._last)
            info |= {"final_obs": final_obs, "final_info": {"count": np.full(self.num_envs, 7)}}
        self._buffer[done] = 0
        return self._buffer, self._rewards, done, np.zeros_like(done), info

    def half(self):
        return self.difficulty / 2


def monitored(make):
    return Monitor(make())


def cartpole():
    return gym.make("CartPole-v1", max_episode_steps=14, render_mode="rgb_array")


def room(**kwargs):
    return gym.make("sparse/Maze2-v0", layout=ROOM, random_start=True, max_episode_steps=9, **kwargs)


def motley(structure="dict"):
    return TimeLimit(Motley(structure, render_mode="rgb_array"), 11)


ENVIRONMENTS = {"cartpole": cartpole, "pendulum": pendulum, "room": room, "dict": motley, "tuple": partial(motley, "tuple")}


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_sync_vector_env_shows_what_dummy_vec_env_shows(name, mode, copy):
    makers = [partial(monitored, ENVIRONMENTS[name])] * 3
    ours = GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=mode, copy=copy))
    assert_same_record(record(ours), record(DummyVecEnv(makers)))


def test_cartpole_and_room_end_in_both_ways():
    for make in (cartpole, room):
        steps = steps_of(record(DummyVecEnv([make] * 3)))
        ends = [info["TimeLimit.truncated"] for step in steps for done, info in zip(step[2], step[3], strict=True) if done]
        assert any(ends) and not all(ends)


@pytest.mark.parametrize("mode", MODES)
def test_async_vector_env_shows_what_dummy_vec_env_shows(mode):
    makers = [partial(monitored, motley)] * 2
    ours = GymnasiumVecEnv(AsyncVectorEnv(makers, autoreset_mode=mode))
    assert_same_record(record(ours, steps=30), record(DummyVecEnv(makers), steps=30))


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_native_grid_shows_what_dummy_vec_env_shows(mode, n):
    kwargs = dict(layout=ROOM, random_start=True, max_episode_steps=9)
    ours = GymnasiumVecEnv(gym.make_vec("sparse/Maze2-v0", num_envs=n, autoreset_mode=mode, **kwargs))
    assert_same_record(record(ours), record(DummyVecEnv([room] * n)))


def test_native_next_step_shows_its_reset_step():
    with pytest.warns(UserWarning, match="resets a copy only inside its next step.*make_vec_env.*SyncVectorEnv") as caught:
        env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=3, max_episode_steps=9))
    assert len(caught) == 1 and caught[0].filename == __file__
    env.seed(5)
    env.reset()
    raw = gym.make_vec("CartPole-v1", num_envs=3, max_episode_steps=9)
    raw.reset(seed=5)  # one generator: the first of SB3's seeds
    previous, ends = np.zeros(3, dtype=bool), 0
    for actions in np.random.default_rng(1).integers(2, size=(40, 3)):
        observations, rewards, dones, infos = env.step(actions)
        expected, raw_rewards, terminated, truncated, _ = raw.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, raw_rewards)
        np.testing.assert_array_equal(dones, terminated | truncated)
        for i, info in enumerate(infos):
            expected_info = {"TimeLimit.truncated": bool(truncated[i] and not terminated[i])}
            if previous[i]:
                assert (rewards[i], dones[i]) == (0, False) and np.abs(observations[i]).max() <= 0.05
                expected_info["reset_step"] = True
            if dones[i]:
                expected_info["terminal_observation"] = observations[i]
            np.testing.assert_equal(info, expected_info)
        previous, ends = dones, ends + dones.sum()
    assert ends > 5


def test_reset_forgets_pending_reset_steps():
    env = native_cartpole(steps=1)
    env.reset()
    assert env.step(np.zeros(3, dtype=int))[2].all()
    env.reset()
    assert "reset_step" not in env.step(np.zeros(3, dtype=int))[3][0]


@pytest.mark.parametrize("final", ["plain", "objects"])
def test_reused_buffers_are_copied(final):
    native = Reuser(final=final)
    env = GymnasiumVecEnv(native)
    kept = [env.reset()]
    steps = [env.step(np.zeros(2, dtype=int)) for _ in range(4)]
    kept += [step[0] for step in steps]
    np.testing.assert_array_equal(np.concatenate(kept, axis=1), [[0, 1, 0, 1, 0], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal([step[1][0] for step in steps], [1, 2, 3, 4])
    native._last[:] = -1
    end, other = steps[1][3]
    np.testing.assert_equal(end, {"TimeLimit.truncated": False, "terminal_observation": np.float32([2]), "count": 7})
    assert other == {"TimeLimit.truncated": False, "count": 1, "version": "a"} and type(other["count"]) is int
    assert env.reset_infos == [{"count": 0, "version": "a"}, {}]


def test_seeds_and_options_reach_the_environments_once():
    native = Reuser()
    env = GymnasiumVecEnv(native)
    env.seed(11)
    env.set_options({"easy": True})
    env.reset()
    env.reset()
    assert native.seeds == [11, None] and native.options == [{"easy": True}, None]

    native.metadata["independent_envs"] = True
    env = GymnasiumVecEnv(native)
    env.seed(11)
    env.reset()
    assert native.seeds[-1] == [11, 12]

    env = GymnasiumVecEnv(SyncVectorEnv([motley] * 2))
    assert env.seed(4) == [4, 5]
    env.set_options([{"start": np.arange(2)}, {"start": np.arange(2)}])
    env.reset()
    np.testing.assert_equal([info["options"] for info in env.reset_infos], [{"start": np.arange(2)}] * 2)
    assert env.get_attr("np_random_seed") == [4, 5]
    env.reset()
    assert [info["options"] for info in env.reset_infos] == [{}, {}]


@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
def test_attributes_and_methods_of_separate_environments(vector_class):
    env = GymnasiumVecEnv(vector_class([partial(monitored, motley)] * 3))
    env.seed(0)
    env.reset()
    env.step(np.zeros((3, 2), dtype=np.float32))
    assert env.env_method("distance", 2.0) == [2.0] * 3
    assert env.env_method("distance", indices=[0, 2], scale=3.0) == [3.0] * 2
    env.set_attr("bias", 10.0, indices=1)
    assert env.get_attr("bias") == [0.0, 10.0, 0.0] and env.get_attr("bias", [1]) == [10.0]
    np.testing.assert_array_equal(env.step(np.zeros((3, 2), dtype=np.float32))[1], [0, 10, 0])
    env.set_attr("bias", [1, 2, 3])  # one value, though a list as long as there are environments
    assert env.get_attr("bias") == [[1, 2, 3]] * 3
    assert env.has_attr("bias") and env.has_attr("distance") and not env.has_attr("absent")
    for attempt in (partial(env.get_attr, "absent"), partial(env.env_method, "absent")):
        with pytest.raises(AttributeError, match="absent"):
            attempt()
    assert env.env_is_wrapped(Monitor) == [True] * 3 and env.env_is_wrapped(gym.wrappers.ClipAction, 1) == [False]
    assert env.render_mode == "rgb_array" and env.metadata["render_fps"] == 7
    assert [image.shape for image in env.get_images()] == [(4, 6, 3)] * 3 and env.render().shape == (8, 12, 3)
    assert env.unwrapped is env and env.get_attr("spec") == [None] * 3
    env.close()
    env.close()


def test_attributes_and_methods_of_a_native_environment():
    native = Reuser(num_envs=3)
    env = GymnasiumVecEnv(gym.wrappers.vector.TransformReward(native, lambda rewards: 2 * rewards))
    assert env.get_attr("difficulty") == [1] * 3 and env.get_attr("difficulty", [0]) == [1]
    env.set_attr("difficulty", 4)
    assert native.difficulty == 4 and env.env_method("half", indices=[0, 1]) == [2.0] * 2
    assert env.has_attr("half") and not env.has_attr("absent")
    assert env.env_is_wrapped(Monitor) == [False] * 3 and env.env_is_wrapped(gym.wrappers.vector.TransformReward, 0) == [True]
    with pytest.raises(ValueError, match=r"one 'difficulty' for all 3 environments.*\[1\] alone"):
        env.set_attr("difficulty", 2, indices=1)
    with pytest.raises(AttributeError, match="absent"):
        env.get_attr("absent")
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.get_images() == [None] * 3


def test_native_grid_renders_and_keeps_its_spec():
    env = GymnasiumVecEnv(gym.make_vec("sparse/Maze2-v0", num_envs=4, layout=ROOM, render_mode="rgb_array"))
    env.reset()
    assert env.spec.id == "sparse/Maze2-v0" and len(env.get_images()) == 4 and env.render().ndim == 3


def with_statistics(mode):
    return gym.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv([cartpole] * 2, autoreset_mode=mode))


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (TypeError, "got TimeLimit.*make_vec", cartpole),
        (ValueError, r"\['autoreset_mode'\] = None; expected one of", partial(Reuser, None)),
        (ValueError, "= 'Sometimes'", partial(Reuser, "Sometimes")),
        (ValueError, "DISABLED.*independent_envs.*Use make_vec_env", partial(Reuser, AutoresetMode.DISABLED)),
        (ValueError, "DISABLED.*bare SyncVectorEnv", partial(with_statistics, AutoresetMode.DISABLED)),
        (ValueError, "shared_memory=True", partial(AsyncVectorEnv, [pendulum] * 2, shared_memory=False)),
    ],
)
def test_refused_at_construction(error, message, make):
    env = make()
    with pytest.raises(error, match=message):
        GymnasiumVecEnv(env)
    env.close()


def test_refused_in_use():
    env = GymnasiumVecEnv(SyncVectorEnv([pendulum] * 3))
    env.reset()
    for actions in (np.zeros((2, 1)), np.zeros(3), [[0.0]]):
        with pytest.raises(ValueError, match=r"Expected actions of shape \(3, 1\)"):
            env.step(actions)
    with pytest.raises(ValueError, match=r"same options.*\{'a': 1\}.*\{'a': 2\} for 2"):
        env.set_options([{"a": 1}, {"a": 1}, {"a": 2}])
    with pytest.raises(ValueError, match="list of 3, got 2"):
        env.set_options([{}, {}])
    env = GymnasiumVecEnv(Reuser(final=None))
    env.reset()
    env.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match=r"no info\['final_obs'\] for environments \[0\]"):
        env.step(np.zeros(2, dtype=int))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_gymnasium_statistics_of_a_wrapped_vector_env_survive(mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = GymnasiumVecEnv(with_statistics(mode))
    env.seed(0)
    env.reset()
    lengths, seen = np.zeros(2, dtype=int), []
    for actions in np.random.default_rng(0).integers(2, size=(60, 2)):
        _, _, dones, infos = env.step(actions)
        lengths += [not info.get("reset_step", False) for info in infos]
        for i in np.flatnonzero(dones):
            seen.append((infos[i]["episode"]["l"], lengths[i]))
            lengths[i] = 0
    assert len(seen) > 5 and all(reported == actual for reported, actual in seen)
    assert not any("episode" in info for info in env.reset_infos)


def weights(env, normalize=False):
    model = PPO("MlpPolicy", VecNormalize(env) if normalize else env, n_steps=64, batch_size=64, seed=1, device="cpu")
    return model.learn(256).policy.state_dict()


@pytest.mark.parametrize("mode", MODES)
def test_ppo_learns_the_same_weights_as_on_dummy_vec_env(mode):
    ours = weights(VecMonitor(GymnasiumVecEnv(SyncVectorEnv([cartpole] * 2, autoreset_mode=mode))), normalize=True)
    theirs = weights(VecMonitor(DummyVecEnv([cartpole] * 2)), normalize=True)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
