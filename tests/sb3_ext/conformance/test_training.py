"""What SB3 promises of ``learn``, ``predict``, callbacks, wrappers, seeds and logs holds for every algorithm."""

import copy
import dataclasses
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from helpers.conformance import ACTIONS, CASES, OBSERVATIONS, Dropout
from helpers.memory import logging_to_memory
from helpers.walk import Walk, walks
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from torch import nn

from sb3_ext import HRL, MetaRewardPPO

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ANY_SPACE = {name: case for name, case in CASES.items() if case.algorithm is not MetaRewardPPO}  # which takes its model's
ON_WALKS = pytest.mark.parametrize("case", ANY_SPACE.values(), ids=ANY_SPACE)


@pytest.fixture(autouse=True)
def short_runs():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="learn.* holds fewer than ten rollouts")
        yield


def weights(model):
    return torch.cat([value.detach().flatten() for value in model.policy.parameters()])


# ---------------------------------------------------------------------- learn and predict


@ALL
def test_learning_changes_the_policy_and_counts_the_steps(case):
    model = case.make()
    before, steps = weights(model).clone(), []
    returned = model.learn(case.steps, callback=lambda locals_, globals_: steps.append(model.num_timesteps) or True)
    assert returned is model and not torch.equal(before, weights(model)) and torch.isfinite(weights(model)).all()
    assert case.steps <= model.num_timesteps and steps == sorted(steps)
    assert model.learn(case.steps, reset_num_timesteps=False).num_timesteps >= 2 * case.steps
    assert model.learn(case.steps).num_timesteps < 2 * case.steps


@ALL
def test_numbers_of_any_kind_are_a_budget(case):
    assert case.make().learn(0).num_timesteps == 0
    for budget in (1, 1e1, np.int64(10), np.float32(10)):
        model = case.make().learn(budget)
        assert budget <= model.num_timesteps and isinstance(model.num_timesteps, int)


@ALL
def test_one_seed_is_one_result(case):
    one, same, other = (case.make(case.make_env(2), seed=seed).learn(case.steps) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(same)) and not torch.equal(weights(one), weights(other))


@ALL
def test_predict_takes_one_observation_or_several(case):
    env = case.make_env(2)
    model = case.make(env)
    observations = env.reset()
    actions, state = model.predict(observations, deterministic=True)
    one, _ = model.predict(observations[0], deterministic=True)
    assert isinstance(one, np.ndarray)
    assert (state is None) != (case.algorithm is HRL) and actions.shape == (2, *env.action_space.shape)
    np.testing.assert_allclose(one, actions[0], rtol=1e-5)
    assert env.action_space.contains(env.action_space.dtype.type(one) if one.ndim == 0 else one)
    sampled = [model.predict(observations)[0] for _ in range(20)]
    assert all(env.action_space.contains(action) for actions in sampled for action in actions)
    assert any(not np.array_equal(sampled[0], each) for each in sampled)
    with pytest.raises(ValueError):
        model.predict(np.zeros((2, 7, 7), dtype=np.float32))


@ALL
def test_evaluate_policy(case):
    env = case.make_env(2)
    mean, std = evaluate_policy(case.make(env), env, n_eval_episodes=3, warn=False)
    assert np.isfinite(mean) and std >= 0


# ---------------------------------------------------------------------- arguments


@ALL
def test_learning_rates_and_other_arguments_may_be_schedules_or_numpys(case):
    seen = []

    def learning_rate(progress):
        seen.append(progress)
        return 1e-3 * progress

    memory = logging_to_memory(model := case.make(learning_rate=learning_rate, gamma=np.float32(0.9)))
    model.learn(2 * case.steps)
    rates = [row["train/learning_rate"] for row in memory.written if "train/learning_rate" in row]
    assert min(seen) < 1 and (not rates or rates[-1] < 1e-3)
    case.make(learning_rate=LinearSchedule(1e-3, 1e-4, 0.5)).learn(case.steps)


@ON_WALKS
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=[8, 8], activation_fn=nn.ReLU),
        dict(net_arch=dict(pi=[8], vf=[4, 4]), ortho_init=False),
        dict(features_extractor_class=Dropout, features_extractor_kwargs=dict(features_dim=4)),
        dict(features_extractor_class=Dropout, share_features_extractor=False),
    ],
    ids=["layers", "apart", "extractor", "two extractors"],
)
def test_policy_kwargs(case, policy_kwargs):
    if "(paper)" in next(name for name, each in CASES.items() if each is case) and "features_extractor_class" in policy_kwargs:
        pytest.skip("its policies are stacked: a features extractor with batch normalisation has no stacked form")
    env = case.make_env(2)
    model = case.make(env, policy_kwargs=policy_kwargs).learn(case.steps)
    observations = env.reset()
    actions = [model.predict(observations, deterministic=True)[0] for _ in range(2)]  # in evaluation mode
    np.testing.assert_array_equal(*actions)


@ON_WALKS
def test_adam_with_weight_decay(case):
    given = dict(optimizer_class=torch.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.1))
    if case.algorithm.__name__.startswith("LIRPG"):  # differentiates the update
        with pytest.raises(ValueError, match=r"optimizer must be Adam, .* got AdamW"):
            case.make(policy_kwargs=given)
        return
    assert torch.isfinite(weights(case.make(policy_kwargs=given).learn(case.steps))).all()


@ON_WALKS
def test_generalised_state_dependent_exploration(case):
    env = walks(action_space=ACTIONS["Box"])
    if message := case.refuses.get("gSDE"):
        with pytest.raises(ValueError, match=message):
            case.make(env, use_sde=True)
        return
    assert torch.isfinite(weights(case.make(env, use_sde=True, sde_sample_freq=4).learn(case.steps))).all()


@ALL
def test_an_unknown_policy_and_an_environment_of_no_kind_are_refused(case):
    with pytest.raises(ValueError, match="NoPolicy"):
        case.make(policy="NoPolicy")
    with pytest.raises((ValueError, AssertionError, AttributeError, gym.error.Error)):
        case.make(env="sparse/NoTask-v0")


# ---------------------------------------------------------------------- spaces


@ON_WALKS
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_observation_spaces(case, observations):
    policy, space = OBSERVATIONS[observations]
    env = walks(2, observation_space=space)
    model = case.make(env, policy).learn(case.steps)
    model.predict(env.reset())


@ON_WALKS
@pytest.mark.parametrize("actions", ACTIONS)
def test_action_spaces(case, actions):
    env = walks(2, action_space=ACTIONS[actions])
    if case.algorithm is HRL:  # several options, which choose from two predictions
        case = dataclasses.replace(case, settings=case.settings | dict(intrinsic_reward="random"))
    if message := case.refuses.get(f"{actions} actions"):
        with pytest.raises((ValueError, NotImplementedError), match=message):
            case.make(env)
        return
    case.make(env).learn(case.steps)


@ON_WALKS
@pytest.mark.parametrize(
    ("kind", "space", "message"),
    [
        ("observation_space", gym.spaces.Discrete(3, start=1), "start at 0"),
        ("observation_space", gym.spaces.MultiDiscrete([2, 2], start=[1, 0]), "start at 0"),
        ("observation_space", gym.spaces.MultiDiscrete([[2, 2], [2, 2]]), "one-dimensional"),
        ("observation_space", gym.spaces.Box(-1, 1, ()), "no dimension"),
        ("action_space", gym.spaces.Discrete(3, start=1), "start at 0"),
        ("action_space", gym.spaces.MultiDiscrete([2, 2], start=[1, 0]), "start at 0"),
        ("action_space", gym.spaces.Box(0, 3, (2,), dtype=np.int32), "integers"),
    ],
    ids=str,
)
def test_spaces_that_sb3_gets_wrong_are_refused(case, kind, space, message):
    with pytest.raises(ValueError, match=message):
        case.make(walks(2, **{kind: space}))


# ---------------------------------------------------------------------- environments


@ON_WALKS
@pytest.mark.parametrize("n_envs", [1, 3])
def test_vec_normalize_and_its_twin_for_evaluation(case, n_envs):
    env, twin = walks(n_envs, normalize=True), VecNormalize(walks(1), training=False)
    callback = EvalCallback(twin, eval_freq=10, n_eval_episodes=1, verbose=0)
    model = case.make(env).learn(case.steps, callback=callback)
    assert np.isfinite(callback.last_mean_reward) and env.training and not twin.training
    assert model.get_vec_normalize_env() is env and env.obs_rms.count > case.steps / 2


@ON_WALKS
def test_frames_are_stacked(case):
    policy, space = OBSERVATIONS["image"]
    env = VecFrameStack(walks(2, observation_space=space), n_stack=3)
    model = case.make(env, policy).learn(case.steps)
    assert model.observation_space.shape[0] == 3 and model.predict(env.reset())[0].shape == (2,)


def one_walk():
    return Monitor(TimeLimit(Walk(), 10))


@ON_WALKS
def test_environments_in_processes_are_those_of_one_process(case):
    """As far as seeds go: the weights are the same."""
    here = case.make(DummyVecEnv([one_walk] * 2)).learn(case.steps)
    env = SubprocVecEnv([one_walk] * 2)
    try:
        torch.testing.assert_close(weights(here), weights(case.make(env).learn(case.steps)))
    finally:
        env.close()


@ON_WALKS
def test_a_single_environment_and_a_monitored_vector(case):
    assert case.make(TimeLimit(Walk(), 10)).learn(case.steps).n_envs == 1
    model = case.make(VecMonitor(DummyVecEnv([lambda: TimeLimit(Walk(), 10)] * 2))).learn(case.steps)
    assert len(model.ep_info_buffer) > 0


@ON_WALKS
def test_early_resets_are_refused_before_the_first_step_or_not_needed(case):
    env = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(), 7), allow_early_resets=False)] * 2)
    if case.algorithm.__name__ in ("IRPO", "IntrinsicPPO", "HRL"):
        model = case.make(env)
        with pytest.raises(ValueError, match="allow_early_resets"):
            model.learn(case.steps)
        assert model.num_timesteps == 0
    else:
        case.make(env).learn(case.steps)


# ---------------------------------------------------------------------- callbacks and logs


class Recorder(BaseCallback):
    """Remembers the order of its events, and acts as users' callbacks do."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.events, self.stop_at = [], stop_at

    def _on_training_start(self):
        self.events.append("training start")

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_rollout_end(self):
        self.events.append("rollout end")

    def _on_training_end(self):
        self.events.append("training end")

    def _on_step(self):
        assert {"infos", "dones", "rewards", "new_obs"} <= self.locals.keys()
        assert self.n_calls > 0 and self.num_timesteps == self.model.num_timesteps
        if self.n_calls % 7 == 0:  # within a rollout
            self.model.predict(self.locals["new_obs"])
            copy.deepcopy(self.model.policy.state_dict())
        return self.stop_at is None or self.n_calls < self.stop_at


@ALL
def test_callbacks_of_all_kinds_within_a_rollout(case, tmp_path):
    recorder = Recorder()
    callbacks = [
        recorder,
        CheckpointCallback(10, str(tmp_path), name_prefix="c"),
        EvalCallback(case.make_env(1), eval_freq=11, n_eval_episodes=1, deterministic=False, verbose=0),
        EveryNTimesteps(16, Recorder()),
    ]
    model = case.make().learn(case.steps, callback=callbacks)
    events = recorder.events
    assert events[0] == "training start" and events[1] == "rollout start" and events[-1] == "training end"
    assert events.count("rollout start") == events.count("rollout end") > 0
    saved = sorted(tmp_path.glob("c_*_steps.zip"))
    assert saved and case.algorithm.load(saved[-1], device="cpu").num_timesteps <= model.num_timesteps


@ALL
def test_a_callback_changes_nothing_and_may_stop_training(case):
    quiet = case.make().learn(case.steps)
    watched = case.make().learn(case.steps, callback=lambda locals_, globals_: True)
    assert torch.equal(weights(quiet), weights(watched))
    stopped = case.make()
    stopped.learn(10 * case.steps, callback=Recorder(stop_at=5))
    assert stopped.num_timesteps < 3 * case.steps  # those before the first rollout are counted
    ended = case.make().learn(100 * case.steps, callback=StopTrainingOnMaxEpisodes(2))
    assert ended.num_timesteps < 20 * case.steps


@ALL
def test_logs_go_to_sb3s_logger(case, tmp_path):
    model = case.make(verbose=0)
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    model.learn(3 * case.steps, log_interval=1)
    header = (tmp_path / "progress.csv").read_text().partition("\n")[0].split(",")
    assert {"time/total_timesteps", "time/fps", "rollout/ep_rew_mean", "rollout/ep_len_mean"} <= set(header)
    assert any(key.startswith("train/") for key in header) and list(tmp_path.glob("events.out*"))


@ALL
def test_tensorboard_folders_are_named_after_the_algorithm(case, tmp_path):
    case.make(tensorboard_log=str(tmp_path)).learn(1)
    case.make(tensorboard_log=str(tmp_path)).learn(1, tb_log_name="mine")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([f"{case.algorithm.__name__}_1", "mine_1"])


@ALL
def test_an_interrupted_run_goes_on(case):
    model = case.make()

    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.n_calls == 9:
                raise KeyboardInterrupt
            return True

    with pytest.raises(KeyboardInterrupt):
        model.learn(case.steps, callback=Interrupt())
    model.predict(model.get_env().reset())
    model.learn(case.steps, reset_num_timesteps=False)
    assert torch.isfinite(weights(model)).all()


class NoInfos(DummyVecEnv):
    """Gives infos of ended episodes only, which is all that SB3 looks at."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards, dones, infos if dones.any() else []


@ON_WALKS
def test_infos_without_entries(case):
    if case.algorithm is HRL:
        pytest.skip("VecIntrinsicReward, which trains its options, writes into infos")
    case.make(NoInfos([lambda: TimeLimit(Walk(), 10)] * 2)).learn(case.steps)


@ALL
def test_it_advises_the_cpu_as_ppo_does(case):
    model = case.make()
    model.device = torch.device("cuda")
    if case.algorithm is HRL or "paper" in case.settings:
        return  # which train several policies at a time
    with pytest.warns(UserWarning, match="on the GPU, but it is primarily intended to run on the CPU"):
        model._maybe_recommend_cpu()
