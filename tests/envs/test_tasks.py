"""Task families: Meta-World's benchmarks number for number, splits that share nothing, tasks that are plain data."""

import dataclasses
import json
import math
import pickle

import gymnasium as gym
import metaworld
import numpy as np
import pytest

from envs.tasks import ARCS, MetaWorldML1, MetaWorldML10, MetaWorldML45, PointGoal

SPLITS = ["train", "test"]


def assert_equal_tasks(tasks, reference):
    assert [f"{task.task_name}-v3" for task in tasks] == [task.env_name for task in reference]
    assert [list(task.rand_vec) for task in tasks] == [pickle.loads(task.data)["rand_vec"].tolist() for task in reference]


@pytest.fixture(scope="module")
def ml10():
    return metaworld.ML10(seed=1)


@pytest.mark.parametrize("name", ["push", "door-close"])
def test_ml1_is_meta_worlds(name):
    reference = metaworld.ML1(f"{name}-v3", seed=4)
    assert_equal_tasks(MetaWorldML1(name, "train", seed=4).tasks, reference.train_tasks)
    assert_equal_tasks(MetaWorldML1(name, "test", seed=4).tasks, reference.test_tasks)


@pytest.mark.slow
def test_ml10_is_meta_worlds(ml10):
    assert_equal_tasks(MetaWorldML10("train", seed=1).tasks, ml10.train_tasks)
    assert_equal_tasks(MetaWorldML10("test", seed=1).tasks, ml10.test_tasks)


@pytest.mark.slow
def test_ml45_is_meta_worlds():
    reference = metaworld.ML45(seed=2)
    assert_equal_tasks(MetaWorldML45("train", seed=2).tasks, reference.train_tasks)
    assert_equal_tasks(MetaWorldML45("test", seed=2).tasks, reference.test_tasks)


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_tasks_of_ml10_play_as_meta_worlds_set_task(split, ml10):
    assert_play(MetaWorldML10(split, seed=1), getattr(ml10, f"{split}_classes"), getattr(ml10, f"{split}_tasks"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_plays_as_meta_worlds_set_task(split):
    reference = metaworld.ML1("door-close-v3", seed=4)
    classes, tasks = getattr(reference, f"{split}_classes"), getattr(reference, f"{split}_tasks")
    assert_play(MetaWorldML1("door-close", split, seed=4), classes, tasks)


def assert_play(family, classes, tasks):
    for index in range(7, len(tasks), 50):
        source = classes[tasks[index].env_name]()
        source.set_task(tasks[index])
        env = family.make(family.tasks[index])
        assert env.spec.max_episode_steps == 500
        np.testing.assert_array_equal(env.reset(seed=0)[0], source.reset()[0])
        for action in np.random.default_rng(index).uniform(-1, 1, (30, 4)).astype(np.float32):
            observation, reward, _, _, info = env.step(action)
            expected, shaped, _, _, source_info = source.step(action)
            np.testing.assert_array_equal(observation, expected)
            assert (info["success"], info["shaped_reward"]) == (source_info["success"], shaped)
            assert not reward or info["success"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_share_no_task(seed):
    train, test = MetaWorldML1("reach", "train", seed), MetaWorldML1("reach", "test", seed)
    assert len(set(train.tasks)) == len(set(test.tasks)) == 50
    assert not set(train.tasks) & set(test.tasks)
    for family, sizes in ((MetaWorldML10, (10, 5)), (MetaWorldML45, (45, 5))):
        names = [family(split, seed).task_names for split in SPLITS]
        assert tuple(map(len, names)) == sizes
        assert not set(names[0]) & set(names[1])


def test_point_goals_of_the_splits_lie_in_different_arcs_that_cover_the_circle():
    rng = np.random.default_rng(0)
    arcs = []
    for split in SPLITS:
        angles = np.array([PointGoal(split).sample(rng).goal_angle for _ in range(2000)])
        assert ((0 <= angles) & (angles < 2 * math.pi)).all()
        found, counts = np.unique((angles * ARCS / (2 * math.pi)).astype(int), return_counts=True)
        assert counts.min() > 0.6 * counts.mean()  # uniform
        arcs.append(set(found.tolist()))
    assert not arcs[0] & arcs[1]
    assert arcs[0] | arcs[1] == set(range(ARCS))
    assert len(arcs[0]) == 3 * len(arcs[1])


def test_each_test_arc_lies_between_two_of_training_on_the_upper_half_too():
    rng = np.random.default_rng(0)
    train, test = (
        {int(PointGoal(split, upper_half=True).sample(rng).goal_angle * ARCS / (2 * math.pi)) for _ in range(500)}
        for split in SPLITS
    )
    assert train | test == set(range(ARCS // 2))
    assert all({arc - 1, arc + 1} <= train for arc in test)


FAMILIES = [PointGoal, lambda split: MetaWorldML1("reach", split), lambda split: MetaWorldML10(split, seed=1)]
NAMES = ["PointGoal", "ML1", "ML10"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("build", FAMILIES, ids=NAMES)
def test_sampling_follows_the_generator_and_tasks_are_plain_data(build, split):
    def sample(seed):
        rng = np.random.default_rng(seed)
        return [build(split).sample(rng) for _ in range(20)]

    tasks = sample(0)
    assert tasks == sample(0) != sample(1)
    assert len(set(tasks)) > 10  # they hash
    for task in tasks:
        assert type(task)(**json.loads(json.dumps(dataclasses.asdict(task)))) == task
        assert pickle.loads(pickle.dumps(task)) == task
        json.dumps(task.env_kwargs)
    family = build(split)
    if family.tasks is not None:
        assert set(tasks) <= set(family.tasks)


@pytest.mark.parametrize("build", FAMILIES, ids=NAMES)
def test_a_familys_environments_have_its_spaces_and_the_registered_horizon(build):
    rng = np.random.default_rng(0)
    for split in SPLITS:
        family = build(split)
        task = family.sample(rng)
        env = family.make(task)
        assert (env.observation_space, env.action_space) == (family.observation_space, family.action_space)
        assert env.spec.max_episode_steps == gym.spec(task.env_id).max_episode_steps
        assert family.make(task, max_episode_steps=7).spec.max_episode_steps == 7
        assert gym.make(type(env.spec).from_json(env.spec.to_json())).spec.kwargs == env.spec.kwargs
        start = env.reset(seed=0)[0]
        np.testing.assert_array_equal(family.make(task).reset(seed=1)[0], start)  # the task is all that counts


def test_sampling_goals_leaves_numpys_global_generator_alone():
    np.random.seed(0)
    first = MetaWorldML1("soccer", seed=11).tasks
    assert np.random.random() == np.random.RandomState(0).random()
    assert first == MetaWorldML1("soccer", seed=11).tasks != MetaWorldML1("soccer", seed=12).tasks


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PointGoal(split="valid"), "'valid'"),
        (lambda: MetaWorldML10("trian"), "'trian'"),
        (lambda: MetaWorldML1("door-clsoe"), "'door-close'"),
        (lambda: MetaWorldML1("reach-v3"), "'reach'"),
        (lambda: MetaWorldML45(seed=-3), "-3"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
