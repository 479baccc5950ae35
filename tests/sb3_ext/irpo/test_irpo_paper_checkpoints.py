"""IRPO saved, stopped, interrupted and continued: as the unbroken run, also with VecNormalize."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from helpers.irpo_toys import ALLO_QUICK, MAZE, At, assert_same, interrupt, maze_model, state_of, toy_model, toys
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from irwrappers import INTRINSIC_REWARDS
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO

CONTINUE = """
import sys
import torch
import envs
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.irpo import IRPO

torch.set_num_threads(1)
path, maze, n_envs, timesteps, out = sys.argv[1:]
model = IRPO.load(path, env=make_vec_env(maze, n_envs=int(n_envs)))
model.learn(int(timesteps) - model.num_timesteps, reset_num_timesteps=False)
torch.save({"policy": model.policy.state_dict(), "adam": model.policy.optimizer.state_dict()["state"]}, out)
"""


@pytest.mark.parametrize("reward", ["laplacian", "allo"])
def test_checkpoint_within_an_iteration_continues_as_the_unbroken_run(tmp_path, reward):
    total, kwargs = 5500, dict(n_envs=4 if reward == "allo" else 6, intrinsic_reward=reward)
    kwargs["intrinsic_reward_kwargs"] = ALLO_QUICK if reward == "allo" else {}
    unbroken = maze_model(**kwargs, weighting="ema").learn(total)
    assert unbroken._iteration >= 2

    checkpoints = CheckpointCallback(save_freq=50, save_path=tmp_path)
    saved_from = maze_model(**kwargs, weighting="ema").learn(total, callback=checkpoints)
    assert_same(state_of(saved_from), state_of(unbroken))  # saving disturbs nothing
    files = sorted(tmp_path.glob("*.zip"), key=lambda path: int(path.stem.split("_")[2]))
    within = files[-2]
    loaded = IRPO.load(within)
    assert 0 < loaded._iteration < unbroken._iteration
    assert loaded.num_timesteps < int(within.stem.split("_")[2])  # the iteration's beginning

    out = tmp_path / "out.pt"
    arguments = [str(within), MAZE, str(kwargs["n_envs"]), str(total), str(out)]
    subprocess.run([sys.executable, "-c", CONTINUE, *arguments], check=True)
    continued = torch.load(out, weights_only=True)
    assert_same(continued["policy"], unbroken.policy.state_dict())
    for index, moments in unbroken.policy.optimizer.state_dict()["state"].items():
        assert_same(continued["adam"][index], moments)


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name not in ("allo", "laplacian")])
def test_every_reward_is_a_channel_and_its_state_continues_exactly(tmp_path, name):
    """Beside the Laplacian's channels; networks, counts and statistics go on from a saved model as in the unbroken run."""
    n_envs = 12 if name == "random" else 7

    def short_maze():
        return make_vec_env(MAZE, n_envs=n_envs, env_kwargs={"max_episode_steps": 25})

    settings = dict(intrinsic_reward=[{"laplacian": {"n_rewards": 2}}, name], batch_size=25)
    unbroken = maze_model(env=short_maze(), **settings).learn(600).learn(600, reset_num_timesteps=False)
    maze_model(env=short_maze(), **settings).learn(600).save(tmp_path / "model")
    continued = IRPO.load(tmp_path / "model", env=short_maze()).learn(600, reset_num_timesteps=False)
    assert unbroken._iteration >= 2 and unbroken.n_exploratory == 2 + unbroken.intrinsic_reward.rewards[1].n_rewards
    assert_same(state_of(continued), state_of(unbroken))
    theirs, ours = unbroken.intrinsic_reward.state_dict(), continued.intrinsic_reward.state_dict()
    assert data_equivalence(plain(theirs), plain(ours), exact=True)


def plain(state):
    """A state dict with arrays for tensors."""
    return tree_map(lambda x: x.numpy() if isinstance(x, torch.Tensor) else x, dict(state))


def test_a_loaded_model_predicts_the_same():
    model = maze_model().learn(1)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file)
    assert_same(state_of(model), state_of(loaded))
    assert loaded.num_timesteps == model.num_timesteps
    observations = np.random.default_rng(0).uniform(0, 9, (50, 4)).astype(np.float32)
    assert np.array_equal(
        model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    tensor = torch.as_tensor(observations)
    logits = [m.policy.get_distribution(tensor).distribution.logits for m in (model, loaded)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("at", [5, 25, 45], ids=["base batch", "exploring", "last batch"])
def test_a_callback_that_stops_leaves_the_weights_of_the_iterations_beginning(at):
    """2 parallel toys: an iteration is 10 vector steps for the base batch and 20 for each of two exploratory updates."""
    callback = At(at, lambda: False)
    model = toy_model()
    model.learn(1000, callback=callback)
    assert model.num_timesteps == 2 * at  # the steps were taken
    assert len(callback.states) == 1
    assert_same(state_of(model), callback.states[-1])


def test_a_callback_that_stops_in_the_second_iteration_keeps_the_first():
    callback = At(60, lambda: False)
    model = toy_model().learn(1000, callback=callback)
    assert model._iteration == 1 and len(callback.states) == 2
    assert_same(state_of(model), callback.states[1])
    assert_same(state_of(model), state_of(toy_model().learn(1)))


def test_a_keyboard_interrupt_leaves_a_model_that_continues_exactly():
    unbroken = toy_model().learn(300)
    assert unbroken._iteration == 3
    callback = At(75, interrupt)
    model = toy_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=callback)
    assert_same(state_of(model), callback.states[1])
    assert model.num_timesteps == 100 and model.intrinsic_reward.batches_seen == 3
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = IRPO.load(file, env=toys())
    for continued in (loaded, model):
        continued.learn(300 - continued.num_timesteps, reset_num_timesteps=False)
        assert_same(state_of(continued), state_of(unbroken))


def test_what_is_set_after_an_interrupt_is_what_is_saved():
    model = toy_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(300, callback=At(5, interrupt))
    with torch.no_grad():
        model.policy.base.as_dict()["action_net.bias"].fill_(7.0)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert (IRPO.load(file).policy.base.as_dict()["action_net.bias"] == 7.0).all()


# ---------------------------------------------------------------------- VecNormalize


class Statistics(BaseCallback):
    """Mean and count of VecNormalize's statistics at the beginning of each iteration and at each of its steps."""

    def _on_training_start(self):
        self.starts, self.within = [], []

    def _now(self):
        statistics = self.model.get_vec_normalize_env().obs_rms
        return (*statistics.mean, *statistics.var, statistics.count)

    def _on_rollout_start(self):
        self.starts.append(self._now())

    def _on_step(self):
        self.within.append(self._now() == self.starts[-1])
        return True


def test_policy_sees_normalised_observations_and_the_reward_model_original_ones(monkeypatch):
    env = VecNormalize(toys(), clip_obs=1.5)
    model = toy_model(env)
    shown = []
    preprocess = model.policy.preprocess
    monkeypatch.setattr(model.policy, "preprocess", lambda x: (shown.append(x.clone()), preprocess(x))[1])
    callback = Statistics()
    model.learn(300, callback=callback)
    assert len(callback.starts) == 3 and all(callback.within)
    assert callback.starts[0] != callback.starts[1] != callback.starts[2]
    assert max(x.abs().max() for x in shown) <= 1.5

    # Toy shows (x, x + 1, x + 2): original observations differ by 1, and so do terminal ones, which clipping would spoil.
    seen = model.intrinsic_reward.seen
    assert len(seen) == 9
    for batch in seen:
        for observations in (batch.observations, batch.next_observations):
            torch.testing.assert_close(observations.diff(dim=-1), torch.ones_like(observations[..., 1:]), rtol=0, atol=1e-4)
        ongoing = ~batch.truncated[:-1]
        torch.testing.assert_close(batch.next_observations[:-1][ongoing], batch.observations[1:][ongoing])

    # All of Toy's transitions are valid: the statistics are those of everything seen, once each.
    everything = torch.cat([batch.observations.flatten(0, 1) for batch in seen])
    np.testing.assert_allclose(env.obs_rms.mean, everything.mean(0), atol=0.05)
    assert env.obs_rms.count - callback.starts[0][-1] == pytest.approx(len(everything))
    assert env.training


def test_frozen_vec_normalize_stays_frozen():
    env = VecNormalize(toys(), training=False)
    toy_model(env).learn(1)
    assert not env.training and env.obs_rms.count == pytest.approx(1e-4)


@pytest.mark.parametrize("at", [75, 30])
def test_vec_normalize_continues_as_the_unbroken_run(tmp_path, at):
    unbroken = toy_model(VecNormalize(toys())).learn(300)
    checkpoints = CheckpointCallback(save_freq=at, save_path=tmp_path, save_vecnormalize=True)
    toy_model(VecNormalize(toys())).learn(300, callback=checkpoints)
    env = VecNormalize.load(str(tmp_path / f"rl_model_vecnormalize_{2 * at}_steps.pkl"), toys())
    loaded = IRPO.load(tmp_path / f"rl_model_{2 * at}_steps.zip", env=env)
    loaded.learn(300 - loaded.num_timesteps, reset_num_timesteps=False)
    np.testing.assert_allclose(env.obs_rms.mean, unbroken.get_vec_normalize_env().obs_rms.mean, rtol=1e-12)
    assert_same(state_of(loaded), state_of(unbroken))
