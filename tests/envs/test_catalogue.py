"""What holds for every registered task, asked of every one; what is particular to a family is in that family's file."""

import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import VectorEnv
from stable_baselines3.common import env_util
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs
from envs.catalogue import METAWORLD_TASKS, MINIGRID_HORIZONS

FAMILIES = envs.CATALOGUE
IDS = [env_id for family in FAMILIES.values() for env_id in family.horizons]
HORIZON = {env_id: horizon for family in FAMILIES.values() for env_id, horizon in family.horizons.items()}
ONE_PER_FAMILY = [next(iter(family.horizons)) for family in FAMILIES.values()]
DELAYED = {env_id for env_id in IDS if env_id.startswith("delayed/")}
OWN_LIMIT = {env_id for family in FAMILIES.values() if family.own_limit for env_id in family.horizons}  # no time limit needed
LIMIT = {env_id: None if env_id in OWN_LIMIT else horizon for env_id, horizon in HORIZON.items()}
ALLOWED_WARNINGS = (
    "is out of date. You should consider upgrading",  # MiniGrid keeps revisions that it has replaced
    "A Box observation space minimum value is -infinity",  # simulators' positions and velocities have no bound
    "A Box observation space maximum value is infinity",
    "recommend using a symmetric and normalized space",  # Gymnasium's Humanoid, whose actions lie in ±0.4 …
    "recommend you to use a symmetric and normalized Box action space",  # … as SB3 says too
)
EXTRAS = ("envpool", "ray", "matplotlib", "rliable", "ale_py", "cv2")

pytestmark = pytest.mark.filterwarnings("ignore:.*sparse/MiniGrid-.*is out of date:DeprecationWarning")


@pytest.fixture(scope="module", params=IDS)
def env_id(request):
    return request.param


@pytest.fixture(scope="module")
def env(env_id):
    """One environment for all tests of an id, because some simulators take long to make."""
    env = gym.make(env_id)
    yield env
    env.close()


def rollout(env, n_steps, seed=3):
    """What ``n_steps`` random steps from ``reset(seed)`` return, episodes following each other."""
    env.action_space.seed(seed)
    record = [env.reset(seed=seed)]
    for _ in range(n_steps):
        record.append(env.step(env.action_space.sample()))
        if record[-1][2] or record[-1][3]:
            record.append(env.reset())
    return record


def test_the_registry_is_the_catalogue():
    ours = {env_id for env_id, spec in gym.registry.items() if spec.namespace in ("sparse", "delayed")}
    assert ours == set(IDS) and len(IDS) == len(ours)
    assert all(gym.spec(env_id).max_episode_steps == LIMIT[env_id] for env_id in IDS)
    assert OWN_LIMIT == {"sparse/DeepSea-v0"}


def test_every_task_that_is_not_ours_has_its_sources_name():
    labels = {env_id: label for family in FAMILIES.values() for env_id, label in family.labels.items()}
    ours = {env_id for family in FAMILIES.values() if "irwrappers" in family.source for env_id in family.horizons}
    assert set(labels) == set(IDS) - ours
    assert labels["sparse/Maze1-v0"] == "Maze-v1 in IRPO (arXiv 2601.21391)"
    assert labels["sparse/AntMaze5-v0"] == "AntMaze-v5 in IRPO (arXiv 2601.21391)"
    assert labels["sparse/Maze2-v0"].startswith("Maze-v2 in the authors' program of IRPO")
    assert labels["sparse/MetaWorld-reach-v3"].startswith("reach-v3 in Meta-World")


def test_the_tables_are_the_libraries():
    import minigrid  # noqa: F401 (registers its tasks)
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{name}-v3" for name in METAWORLD_TASKS} == set(ALL_V3_ENVIRONMENTS) and len(METAWORLD_TASKS) == 50
    theirs = {name for name in gym.registry if name.startswith("MiniGrid-")}
    assert {name for name in theirs - set(MINIGRID_HORIZONS) if "-WFC-" not in name} == {"MiniGrid-Playground-v0"}
    assert set(MINIGRID_HORIZONS) <= theirs
    for name, horizon in MINIGRID_HORIZONS.items():
        assert gym.make(f"sparse/{name}").unwrapped.minigrid.max_steps == horizon


def test_spaces_are_what_a_policy_takes(env):
    assert isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
    if isinstance(env.action_space, spaces.Box):
        assert np.isfinite(env.action_space.low).all() and np.array_equal(env.action_space.low, -env.action_space.high)
    else:
        assert isinstance(env.action_space, spaces.Discrete)


def test_checkers_of_gymnasium_and_sb3_pass_without_warnings(env_id, env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_gymnasium(env.unwrapped, skip_render_check=True, skip_close_check=True)  # frames: below
        check_sb3(env)
    unexpected = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    assert [message for message in unexpected if not any(allowed in message for allowed in ALLOWED_WARNINGS)] == []


def test_two_rollouts_under_one_seed_are_equal_and_those_of_a_pickled_one(env):
    fresh = pickle.loads(pickle.dumps(env))
    rollout(env, 10, seed=8)  # what happened before a seeded reset leaves no trace
    assert data_equivalence(rollout(env, 25), rollout(fresh, 25), exact=True)
    fresh.close()


def test_an_episode(env_id, env):
    """It is as long as it should be, gives no reward until success, and says of every step whether it succeeded."""
    env.action_space.seed(0)
    assert env.reset(seed=0)[1].get("is_success", False) is False
    rewards, successes, terminated, truncated = [], [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(reward)
        successes.append(info.get("is_success"))
        assert np.isscalar(reward) and np.isfinite(reward)
    assert len(rewards) <= HORIZON[env_id] and (truncated or env_id in OWN_LIMIT) == (len(rewards) == HORIZON[env_id])
    if env_id in DELAYED:
        assert not any(reward for step, reward in enumerate(rewards[:-1], start=1) if step % 20)
        assert set(successes) == {None}  # Gymnasium's MuJoCo knows no success
        return
    assert all(type(success) is bool for success in successes)
    if env_id == "sparse/DeepSea-v0":  # the only one whose reward before success is not 0
        assert terminated and not truncated and not any(successes[:-1])
        assert all(reward in (0, -0.001) for reward in rewards[:-1]) and rewards[-1] in (
            (0.999,) if successes[-1] else (0, -0.001)
        )
        return
    fell = "AntMaze" in env_id and rewards[-1] == -1
    assert rewards[:-1].count(0) + rewards[:-1].count(1) == len(rewards) - 1
    assert sum(rewards) == (-1 if fell else successes[-1]) and (terminated or not fell)
    if not env_id.startswith("sparse/MetaWorld"):  # the only ones that go on after success
        assert not any(successes[:-1])
        assert terminated or not successes[-1]


@pytest.mark.parametrize("env_id", ONE_PER_FAMILY)
def test_a_frame_of_one_of_each_family(env_id):
    a_frame(env_id)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if env_id not in ONE_PER_FAMILY])
def test_a_frame_of_all(env_id):
    a_frame(env_id)


def a_frame(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.std() > 1


def test_the_spec_round_trips(env_id, env):
    expected = rollout(env, 5)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec and again.spec.max_episode_steps == LIMIT[env_id]
    assert data_equivalence(rollout(again, 5), expected, exact=True)
    again.close()


@pytest.mark.parametrize("shape", [(2, 3), (18,)])
def test_a_wrong_action_shape_raises(env, shape):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"(?i)action"):
        env.unwrapped.step(np.zeros(shape, dtype=np.float32))


def in_processes(env_id):
    """Two environments in two processes give what they give in this one."""
    record = []
    for vec_env_cls in (None, SubprocVecEnv):
        # The module goes with the id, because a worker starts without our imports.
        env = env_util.make_vec_env(f"envs:{env_id}", n_envs=2, seed=4, vec_env_cls=vec_env_cls)
        env.action_space.seed(0)
        record.append([env.reset()])
        for _ in range(30):
            observations, rewards, dones, infos = env.step(np.stack([env.action_space.sample() for _ in range(2)]))
            # DummyVecEnv has float32 rewards, SubprocVecEnv float64.
            record[-1] += [observations, np.float32(rewards), dones, np.array([info.get("is_success") for info in infos])]
        env.close()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(*record, strict=True))


@pytest.mark.parametrize("env_id", ONE_PER_FAMILY)
def test_in_processes(env_id):
    in_processes(env_id)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if env_id not in ONE_PER_FAMILY])
def test_all_in_processes(env_id):
    in_processes(env_id)


VECTORIZED = [env_id for env_id in IDS if gym.spec(env_id).vector_entry_point is not None]


@pytest.mark.parametrize("env_id", VECTORIZED)
def test_the_vector_form_has_the_same_spaces_and_seeds(env_id):
    vector_env, env = gym.make_vec(env_id, num_envs=3), gym.make(env_id)
    assert isinstance(vector_env, VectorEnv)
    assert vector_env.single_observation_space == env.observation_space
    assert vector_env.single_action_space == env.action_space
    assert vector_env.unwrapped.max_episode_steps == LIMIT[env_id]
    observations, _ = vector_env.reset(seed=5)
    for i in range(3):
        assert np.array_equal(observations[i], env.reset(seed=5 + i)[0])
    vector_env.close()
    env.close()


def test_core_dependencies_are_enough():
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None there makes an import fail
        "import gymnasium as gym, envs\n"
        f"for env_id in {ONE_PER_FAMILY!r}:\n"
        "    env = gym.make(env_id)\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_importing_envs_loads_no_simulator():
    code = "import sys, envs; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "gymnasium" in loaded
    assert not loaded & {"metaworld", "minigrid", "gymnasium_robotics", "mujoco", "torch", "stable_baselines3", "matplotlib"}
    assert not loaded & {"irwrappers", "sb3_ext"}


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("sparse/Mase-v1", "Maze"),
        ("sparse/MetaWorld-raech-v3", "MetaWorld-reach"),
        ("sparse/MiniGrid-Emty-5x5-v0", "MiniGrid-Empty-5x5"),
    ],
)
def test_unknown_ids_suggest_the_closest(given, suggested):
    with pytest.raises(gym.error.NameNotFound, match=f"Did you mean: `{suggested}"):
        gym.make(given)
