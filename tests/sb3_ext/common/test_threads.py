"""The number of torch's threads while small networks train."""

import pytest
import torch
from torch import nn

from sb3_ext import IntrinsicPPO
from sb3_ext.common import threads
from sb3_ext.common.threads import few_threads

SMALL, LARGE = nn.Linear(8, 8), nn.Linear(1000, 1000)


@pytest.fixture(autouse=True)
def no_choice_of_the_user(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "_AT_IMPORT", 3)
    for name in threads.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


def within(*networks):
    with few_threads(*networks):
        return torch.get_num_threads()


def test_small_networks_have_one_thread_within_the_block_and_as_many_as_before_after_it():
    assert within(SMALL, nn.Tanh()) == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError), few_threads(SMALL):
        raise RuntimeError
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("networks", [(LARGE,), (SMALL, LARGE), (nn.Conv2d(1, 1, 1),), (nn.Linear(2, 2, device="meta"),)])
def test_large_networks_convolutions_and_accelerators_keep_their_threads(networks):
    assert within(*networks) == 3


def test_what_the_user_has_chosen_stays(monkeypatch):
    torch.set_num_threads(2)
    assert within(SMALL) == 2
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert within(SMALL) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    with few_threads(SMALL):
        torch.set_num_threads(2)
    assert torch.get_num_threads() == 2


def test_intrinsic_ppo_learns_on_one_thread():
    seen = []
    model = IntrinsicPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32, lambda *_: seen.append(torch.get_num_threads()))
    assert set(seen) == {1} and torch.get_num_threads() == 3
