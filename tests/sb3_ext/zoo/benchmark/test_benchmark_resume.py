"""A benchmark run that was killed continues from its checkpoint."""

import copy

import pandas as pd
import pytest
import torch
from helpers.benchmark_runs import PPO, SUITE, changed, folder, results


def learned(model):
    """Timesteps and everything that learning changes, optimisers aside."""
    names = [name for name in model._get_torch_save_params()[0] if "optimizer" not in name]
    return model.num_timesteps, copy.deepcopy({name: getattr(model, name).state_dict() for name in names})


def killed_at_its_second_checkpoint(benchmark, suite, out, *arguments):
    """Ends as a killed process does, after the rows of its second evaluation were written and before its checkpoint was.

    Returns what had been learned at the first checkpoint.
    """
    from sb3_ext.zoo.benchmark import run

    save, saved = run.save_checkpoint, []

    def killed(model, path, **beside):
        if path.is_file():
            raise KeyboardInterrupt
        saved.append(learned(model))
        save(model, path, **beside)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save_checkpoint", killed)
        benchmark(suite, out, *arguments)
    return saved[0]


def test_a_killed_run_of_irpo_as_it_is_continues_as_the_unbroken_one(benchmark, tmp_path):
    small = {"n_envs": 4, "n_steps": 32, "batch_size": 64, "n_epochs": 1, "intrinsic_reward": ["rnd", "count"]}
    suite = changed(contenders={"small irpo": {"algo": "irpo", "seeds": 1, "hyperparams": small, "settings": "default"}})
    killed_at_its_second_checkpoint(benchmark, suite, tmp_path / "killed")
    benchmark(suite, tmp_path / "killed")
    benchmark(suite, tmp_path / "unbroken")
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "unbroken"))


def test_a_killed_run_continues_as_the_unbroken_one(finished, benchmark, tmp_path):
    out = tmp_path / "out"
    killed_at_its_second_checkpoint(benchmark, SUITE, out, "--algo", "small irpo")
    assert len(pd.read_csv(folder(out) / "evaluations.csv")) == 4 and not (folder(out) / "done.json").exists()
    benchmark(SUITE, out, "--algo", "small irpo")
    unbroken = results(finished).query("algo == 'small irpo'").reset_index(drop=True)
    pd.testing.assert_frame_equal(results(out), unbroken)
    progress = [
        pd.read_csv(folder(at) / "progress.csv").filter(regex="gradient|total_timesteps|_return").sort_index(axis=1)
        for at in (out, finished)
    ]
    pd.testing.assert_frame_equal(*progress)


HRL = {**PPO, "intrinsic_reward": "random", "intrinsic_reward_kwargs": {"n_rewards": 2}, "option_fraction": 0.5}


@pytest.mark.parametrize("algo", ["hrl", "ppo_drnd"])
def test_a_killed_baseline_goes_on_from_its_checkpoint(benchmark, tmp_path, monkeypatch, algo):
    """The states of their environments are not saved: what follows is no copy of the unbroken run, but as long."""
    from sb3_ext.zoo.benchmark import run

    out, begun, restore = tmp_path / "out", [], run.restore_wrappers
    contender = {"algo": algo, "seeds": 1, "hyperparams": HRL if algo == "hrl" else PPO}
    suite = changed(contenders={algo: contender}, environments={"sparse/FourRooms0-v0": {"timesteps": 6000}})
    saved = killed_at_its_second_checkpoint(benchmark, suite, out)
    before = pd.read_csv(folder(out, algo) / "evaluations.csv")
    monkeypatch.setattr(run, "restore_wrappers", lambda model: begun.append(learned(model)) or restore(model))
    benchmark(suite, out)
    after = pd.read_csv(folder(out, algo) / "evaluations.csv")
    torch.testing.assert_close(begun[0], saved, rtol=0, atol=0)
    assert saved[0] == before.timesteps[0]
    pd.testing.assert_frame_equal(after[:2], before[:2])
    assert (
        after.timesteps[:4].tolist() == before.timesteps.tolist()
        and 6000 <= after.timesteps[5] < 6000 + 256
        and len(after) == 6
    )
    if algo == "hrl":  # one option was trained at the checkpoint, the other then
        assert run.ALGOS[algo].load(folder(out, algo) / "model.zip").n_trained_options == 2
