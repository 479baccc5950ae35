"""Suites: those of the package are valid, mistakes are named, and hyperparameters come from the right place."""

import gymnasium
import pytest
import yaml
from helpers.benchmark_runs import SUITE, changed


def test_suites_are_valid_and_known(command):
    from sb3_ext.zoo.benchmark import speed, suites

    assert {"irpo-grid", "irpo-mujoco", "irpo-ablation", "lirpg-delayed", "speed"} <= set(suites.suite_names())
    for name in suites.suite_names():
        suite = suites.load_suite(name)  # checks environments, labels and numbers
        if "speed" in suite:
            assert speed.plan(suite, 1.0, (), ())
    ablation = suites.plan(suites.load_suite("irpo-ablation"))
    sizes = {"sparse/Maze1-v0": 8192, "sparse/FourRooms0-v0": 4096}  # those of irpo_paper.yml
    assert len(ablation) == (22 + 8) * 3 and all(run.hyperparams["batch_size"] == sizes[run.env] for run in ablation)
    vector = {name for name, spec in gymnasium.registry.items() if spec.vector_entry_point and name.startswith("sparse/")}
    ladder = {name for name in vector if "Ladder" in name}  # other maps of environments that are measured
    assert vector - ladder <= set(suites.load_suite("speed")["speed"]["environments"])


def test_suites_evaluate_sampled_and_argmax_actions(command):
    """But for lifetimes, whose agents always sample."""
    from sb3_ext.zoo.benchmark import suites

    for name in suites.suite_names():
        suite = suites.load_suite(name)
        for env, settings in suite.get("environments", {}).items():
            actions = settings.get("actions", suite.get("actions", suites.ACTIONS))
            assert env.startswith("lifetime/") or set(actions) == set(suites.ACTIONS), f"{name}: {env}"


@pytest.mark.parametrize(
    ("suite", "arguments", "message"),
    [
        (SUITE, ["--env", "sparse/FourRoom-v0"], "Closest: sparse/FourRooms0-v0"),
        (SUITE, ["--algo", "smal irpo"], "Closest: small irpo"),
        (SUITE, ["--budget", "0"], "--budget must be a number in (0"),
        (SUITE, ["--seeds", "0"], "--seeds must be an integer in [1"),
        (SUITE, ["--ray", "localhost:1"], "There is no Ray cluster at localhost:1"),
        (changed(evaluations=10**9), [], "evaluations must be an integer in [1, 10000]"),
        (changed(episodes=10**9), [], "episodes must be an integer in [1, 100000]"),
        (
            changed(environments={"sparse/Maze1-v0": {"timesteps": 10**30}}),
            [],
            "timesteps must be an integer in [1, 1000000000000]",
        ),
        (
            changed(
                environments={"sparse/Maze1-v0": {"timesteps": 1, "contenders": {"ppo": {"hyperparams": {"n_envs": 10**9}}}}}
            ),
            [],
            "n_envs must be an integer in [1, 65536]",
        ),
        (SUITE, ["--jobs", "0"], "--jobs must be at least 1"),
        (changed(undiscounted="no"), [], "undiscounted must be true or false, got 'no'"),
        (changed(episode=3), [], "Unknown key 'episode'. Closest: episodes"),
        (changed(environments={"sparse/FourRooms9-v0": {"timesteps": 1}}), [], "sparse/FourRooms"),
        (changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "contenders": {"pppo": {}}}}), [], "Closest: ppo"),
        (
            changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "evaluate_in": {"b": {"sise": 5}}}}),
            [],
            "sparse/Maze1-v0: evaluate_in: b: ",
        ),
        (changed(environments={"no_module_of_mine:A-v0": {"timesteps": 1}}), [], "No module named 'no_module_of_mine'"),
        (changed(environments={"sparse/Maze1-v0": {"timesteps": 1, "score_range": [1, 0]}}), [], "the lower one first"),
        (changed(contenders={"a": {"algo": "irpo", "seeds": 1, "settings": "tune"}}), [], "must be one of 'tuned', 'default'"),
        (changed(contenders={"a": {"algo": "irpoo", "seeds": 1}}), [], "Unknown algorithm 'irpoo'. Closest: irpo"),
        (changed(contenders={"a": {"algo": "irpo", "seeds": 1, "hyperparams": {"tau": 1}}}), [], "'tau' for sparse/FourRooms"),
    ],
)
def test_mistakes_are_named_before_work_starts(benchmark, tmp_path, capsys, suite, arguments, message):
    with pytest.raises(SystemExit) as ended:
        benchmark(suite, tmp_path / "out", *arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def runs_of(suite, tmp_path):
    from sb3_ext.zoo.benchmark.suites import load_suite, plan

    (tmp_path / "suite.yml").write_text(yaml.safe_dump(suite, sort_keys=False))
    return plan(load_suite(str(tmp_path / "suite.yml")))


def test_default_settings_are_the_constructors_and_what_the_suite_gives(command, tmp_path):
    contenders = {
        "tuned": {"algo": "ppo", "seeds": 1},
        "default": {"algo": "ppo", "seeds": 1, "hyperparams": "default"},
        "small": {"algo": "ppo", "seeds": 1, "settings": "default", "hyperparams": {"n_steps": 256}},
    }
    suite = changed(
        contenders=contenders, environments={"sparse/FourRooms0-v0": {"timesteps": 1, "hyperparams": {"n_envs": 8}}}
    )
    tuned, default, small = runs_of(suite, tmp_path)
    assert tuned.hyperparams["n_steps"] == 128 and tuned.hyperparams["n_envs"] == 8
    assert default.hyperparams == {"n_envs": 8, "policy": "auto"}
    assert small.hyperparams == {"n_envs": 8, "policy": "auto", "n_steps": 256}


def test_the_model_of_a_default_contender_has_the_defaults_of_its_class(benchmark, tmp_path):
    from stable_baselines3 import PPO as StablePPO

    suite = changed(
        settings="default",
        contenders={"ppo": {"algo": "ppo", "seeds": 1, "hyperparams": {"n_envs": 2}}},
        environments={"CartPole-v1": {"timesteps": 1, "episodes": 1, "threshold": 475}},
    )
    benchmark(suite, tmp_path / "out")
    model = StablePPO.load(tmp_path / "out" / "CartPole-v1" / "ppo" / "seed-0" / "model.zip")
    default = StablePPO("MlpPolicy", "CartPole-v1")
    for name in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "learning_rate", "policy_kwargs"):
        assert getattr(model, name) == getattr(default, name), name
    assert model.n_envs == 2 and model.seed == 0


def test_an_environment_without_tuned_settings_is_an_error_that_names_the_defaults(command, tmp_path):
    suite = changed(environments={"CliffWalking-v1": {"timesteps": 1}}, contenders={"a": {"algo": "rl2", "seeds": 1}})
    with pytest.raises(ValueError, match=r"Hyperparameters not found for rl2-CliffWalking-v1 .* `settings: default`"):
        runs_of(suite, tmp_path)


def test_unknown_suite(command, capsys):
    with pytest.raises(SystemExit):
        command.benchmark(["irpo-grids"])
    assert "Closest: irpo-grid" in capsys.readouterr().err
