"""A run of IRPO that is continued from a checkpoint equals the uninterrupted run."""

import pytest
import torch
from helpers.irpo_models import At, model_on
from helpers.irpo_toys import interrupt, toys
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.irpo import IRPO
from sb3_ext.irpo.explorer import Explorer


def tensors_of(model):
    state = {"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()["state"]}
    state["explorers"] = model.explorers.state_dict()
    flat = {}

    def walk(name, value):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{name}.{key}", part)
        elif isinstance(value, (torch.Tensor, float, int)):
            flat[name] = torch.as_tensor(value).clone()

    walk("", state)
    return flat


def assert_equal(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, e.g. {different[0]}"


# ---------------------------------------------------------------- checkpoints


def checkpoints_of_an_unbroken_run(tmp_path, env, total=900, at=17, **kwargs):
    model = model_on(env, **kwargs)
    saved = tmp_path / "within"
    model.learn(total, callback=At(at, lambda: model.save(saved) or True))
    return model, saved


@pytest.mark.parametrize("at", [3, 17, 40, 75])
def test_a_run_continued_from_a_checkpoint_is_the_unbroken_run(tmp_path, at):
    model, saved = checkpoints_of_an_unbroken_run(tmp_path, toys(), at=at)
    resumed = IRPO.load(saved, env=toys(), device="cpu")
    assert resumed.num_timesteps < model.num_timesteps
    resumed.learn(900 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == model.num_timesteps
    assert_equal(tensors_of(resumed), tensors_of(model))


@pytest.mark.parametrize("at", [17, 40, 75])
def test_a_model_saved_within_a_turn_acts_as_it_did_then(tmp_path, at):
    """What ``EvalCallback`` saves as its best model is the policy that it evaluated."""
    then = {}

    def save():
        then.update({name: value.clone() for name, value in model.policy.state_dict().items()})
        model.save(tmp_path / "best")
        return True

    model = model_on(toys())
    model.learn(900, callback=At(at, save))
    loaded = IRPO.load(tmp_path / "best", device="cpu")
    assert_equal(loaded.policy.state_dict(), then)
    loaded.save(tmp_path / "again")  # and still continues as the unbroken run
    resumed = IRPO.load(tmp_path / "again", env=toys(), device="cpu")
    resumed.learn(900 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_equal(tensors_of(resumed), tensors_of(model))


def test_a_callback_that_samples_leaves_no_trace():
    def trained(callback):
        return tensors_of(model_on().learn(500, callback=callback))

    evaluation = EvalCallback(toys(1), eval_freq=7, n_eval_episodes=1, deterministic=False, verbose=0)
    assert_equal(trained(evaluation), trained(None))


def test_normalised_observations_and_rewards_resume_too(tmp_path):
    def env():
        return VecNormalize(toys())

    class Save(BaseCallback):
        def _on_step(self):
            if self.n_calls == 45:
                self.model.save(tmp_path / "model")
                self.model.get_vec_normalize_env().save(str(tmp_path / "statistics"))
            return True

    model = model_on(env()).learn(900, callback=Save())
    statistics = model.get_vec_normalize_env()
    assert statistics.obs_rms.count > 100 and statistics.ret_rms.count > 100
    again = VecNormalize.load(str(tmp_path / "statistics"), toys())
    resumed = IRPO.load(tmp_path / "model", env=again, device="cpu")
    resumed.learn(900 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_equal(tensors_of(resumed), tensors_of(model))


def test_an_interrupted_run_is_at_the_beginning_of_its_turn():
    model = model_on()
    with pytest.raises(KeyboardInterrupt):
        model.learn(900, callback=At(40, interrupt))
    model.learn(900 - model.num_timesteps, reset_num_timesteps=False)
    assert_equal(tensors_of(model), tensors_of(model_on().learn(900)))


def test_a_model_loaded_without_an_environment_predicts_and_goes_on_with_one(tmp_path):
    model = model_on().learn(300)
    model.save(tmp_path / "model")
    loaded = IRPO.load(tmp_path / "model", device="cpu")
    observations = model.get_env().reset()
    assert (loaded.predict(observations, deterministic=True)[0] == model.predict(observations, deterministic=True)[0]).all()
    loaded.save(tmp_path / "again")
    loaded.set_env(toys())
    assert_equal(tensors_of(loaded), tensors_of(model))
    assert_equal(tensors_of(IRPO.load(tmp_path / "again", env=toys(), device="cpu")), tensors_of(model))
    loaded.learn(100, reset_num_timesteps=False)


# ---------------------------------------------------------------- found by a second reader


@pytest.mark.parametrize("pull_back", [True, False])
def test_a_run_that_follows_gradients_resumes_exactly(tmp_path, monkeypatch, pull_back):
    followed = []
    original = Explorer.lead
    monkeypatch.setattr("sb3_ext.irpo.irpo.verdict", lambda *_: "follow")
    monkeypatch.setattr(Explorer, "lead", lambda self, *args: followed.append(self.record) or original(self, *args))
    model, saved = checkpoints_of_an_unbroken_run(tmp_path, toys(), at=75, pull_back=pull_back)
    assert followed and all((record is not None and len(record.minibatches) == 4) is pull_back for record in followed)
    resumed = IRPO.load(saved, env=toys(), device="cpu")
    resumed.learn(900 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_equal(tensors_of(resumed), tensors_of(model))
    assert resumed._n_rollouts == model._n_rollouts
    assert [e._n_updates for e in resumed.explorers] == [e._n_updates for e in model.explorers]
