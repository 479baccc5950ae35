"""LIRPG with compiled gradients."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make, state_of
from helpers.walk import walks

from sb3_ext import LIRPG

COMPILED = [
    (spaces.Box(-1, 1, (2,)), {}),
    (spaces.Box(-1, 1, (2,)), dict(clip_range_vf=0.2, use_sde=True)),
    (spaces.Discrete(3), dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD))),
]


@pytest.mark.parametrize("by", ["written down", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("action_space", "settings"), COMPILED)
def test_compiled_updates_are_those_that_are_not(action_space, settings, by, monkeypatch, tmp_path):
    if by == "written down":  # the graph is run as it is; the C++ compiler takes a minute
        monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    # Compiled, sums are taken in another order, and Adam divides round-off by small gradients: steps are of 3e-3.
    # 24 does not divide the rollout: the last minibatch of an epoch is smaller. Schedules change numbers that are compiled in.
    changing = dict(learning_rate=lambda left: 1e-3 + 2e-3 * left, clip_range=lambda left: 0.1 + 0.1 * left)
    settings = changing | dict(batch_size=24, ent_coef=0.01, reward_network_kwargs=dict(net_arch=[8])) | settings
    plain, compiled = (make(LIRPG, walks(action_space=action_space), compile=c, **settings).learn(192) for c in (False, True))
    before = make(LIRPG, walks(action_space=action_space), **settings)
    for a, b in zip(state_of(plain), state_of(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 if by == "written down" else 1e-3)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(state_of(plain), state_of(before), strict=False))
    compiled.save(tmp_path / "model")
    loaded = LIRPG.load(tmp_path / "model", env=walks(action_space=action_space))
    assert loaded.compile and loaded._compiled is None


def test_without_a_compiler_compile_says_so_before_work_starts(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler on a CPU, and there is no 'no-such-compiler'"):
        make(LIRPG, compile=True)
    make(LIRPG)
    with pytest.raises(ValueError, match="compile must be True or False, got 1"):
        make(LIRPG, compile=1)
