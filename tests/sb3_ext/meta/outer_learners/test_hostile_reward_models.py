"""Reward models and wrappers from strangers: a file loads, or a ValueError names it; nothing runs, no memory is taken."""

import copy
import json
import random
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3.common.env_util import make_vec_env

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import VecIntrinsicReward
from sb3_ext.meta import RewardModel

ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    1e300,
    float("nan"),
    "",
    "x" * 1000,
    [],
    {},
    [[]],
    {"a": 1},
    10**30,
    [1, 2, 3],
    "__import__('os')",
]


def venv():
    return make_vec_env("sparse/PointGoal-v0", 2)


@pytest.fixture(scope="module", params=["reward model", "wrapper"])
def saved(request, tmp_path_factory):
    """A file of each kind, as its header, its tensors and the function that loads one."""
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    if request.param == "reward model":
        RewardModel.load("point_goal").save(path)
        load = RewardModel.load
    else:
        wrapper = VecIntrinsicReward(venv(), "rnd", learn_every=4)
        wrapper.reset()
        for _ in range(8):
            wrapper.step(np.zeros((2, *wrapper.action_space.shape), np.float32))
        wrapper.save(path)
        load = lambda name: VecIntrinsicReward.load(name, venv())  # noqa: E731
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["irwrappers"])
        return header, {name: file.get_tensor(name) for name in file.keys()}, load


def write(path, header, tensors):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"irwrappers": json.dumps(header)})
    return path


def places(value, path=()):
    """Every position in nested JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(header, rng):
    header = copy.deepcopy(header)
    *way, last = rng.choice([place for place in places(header) if place])
    inner = header
    for key in way:
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[last]
    else:
        inner[last] = rng.choice(ODD)
    return header


def test_a_changed_header_loads_or_is_named(saved, tmp_path):
    header, tensors, load = saved
    rng, refused = random.Random(0), 0
    for number in range(150):
        path = write(tmp_path / f"{number}.safetensors", changed(header, rng), tensors)
        try:
            load(path)
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 2000
    assert refused > 50


def test_numbers_that_are_none_and_tensors_of_other_shapes(saved, tmp_path):
    header, tensors, load = saved
    names = [name for name, value in tensors.items() if value.is_floating_point() and value.numel() > 1]
    for name in [name for name in names if name != "state.returns"][:5]:  # which may be of another number of environments
        broken = {**tensors, name: torch.full_like(tensors[name], float("nan"))}
        with pytest.raises(ValueError, match="NaN"):
            load(write(tmp_path / "nan.safetensors", header, broken))
        for other in (tensors[name].flatten()[:-1], torch.zeros(3, 3, 3)):
            with pytest.raises(ValueError, match=r"safetensors|shape|fit"):
                load(write(tmp_path / "shape.safetensors", header, {**tensors, name: other}))
    with pytest.raises(ValueError):
        load(write(tmp_path / "none.safetensors", header, {}))


@pytest.mark.parametrize("text", [b"", b"x" * 100, b"\xff" * 8 + b"{}", b"PK\x03\x04" + b"0" * 50])
def test_what_is_no_safetensors_file(saved, tmp_path, text):
    path = tmp_path / "x.safetensors"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        saved[2](path)


def test_a_description_of_a_huge_network_takes_no_memory(tmp_path):
    path = tmp_path / "a.safetensors"
    RewardModel.load("point_goal").save(path)
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["irwrappers"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    header["network"]["lstm_size"] = 40_000  # 25 GB of weights
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not fit its own description"):
        RewardModel.load(write(tmp_path / "huge.safetensors", header, tensors))
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()
    header["network"]["lstm_size"], header["signal"] = 64, "odd"
    with pytest.raises(ValueError, match="signal"):
        RewardModel.load(write(tmp_path / "signal.safetensors", header, tensors))
