"""Hyperparameter files and suites are data: what they may hold, and that nothing in them runs."""

import pytest
import yaml
from helpers.commands import run, run_code

GOOD = """
from torch import nn, optim
from sb3_ext.zoo.literals import read_literal as read
assert read("dict(a=1, b=[-1.5, 'x', None], c=dict(d=(1, 2)), e={'f': {1, 2}})") == {
    "a": 1, "b": [-1.5, "x", None], "c": {"d": (1, 2)}, "e": {"f": {1, 2}}}
assert read("dict(maze_seed=list(range(3)))") == {"maze_seed": [0, 1, 2]}
assert read("dict(activation_fn=nn.ReLU, optimizer_class=th.optim.AdamW)") == {
    "activation_fn": nn.ReLU, "optimizer_class": optim.AdamW}
assert read(" HerReplayBuffer ").__name__ == "HerReplayBuffer"
for text in ("__import__('os').system('x')", "open('x')", "(lambda: 1)()", "nn.Module.__class__", "nn.os", "a",
             "1 if 1 else 2", "list(range(10**9))", "range(2000000)", "dict(**{'a': 1})", "[x for x in (1,)]", "f'{1}'",
             "nn.functional", "(", "", "nn.__class__", "th.optim.os", "print",
             "((" * 500, "-'a'", "dict.fromkeys('ab')", "{**{}}"):
    try:
        print("read", text, read(text))
    except ValueError as error:
        assert "is not data" in str(error), error
    else:
        raise AssertionError(text)
"""


def test_literals(tmp_path):
    run_code(GOOD, cwd=tmp_path)


def hyperparams(tmp_path, **entry):
    base = {"policy": "MlpPolicy", "n_timesteps": 64, "n_steps": 32, "batch_size": 32}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"CartPole-v1": base | entry}))
    return ["--algo", "intrinsic_ppo", "--env", "CartPole-v1", "--eval-freq", "-1", "-conf", "mine.yml"]


EVIL = "__import__('pathlib').Path('evil').touch() or {}"


@pytest.mark.parametrize(
    "entry",
    [{key: EVIL} for key in ("normalize", "policy_kwargs", "monitor_kwargs", "env_kwargs", "replay_buffer_class")]
    + [{"env_wrapper": "evil.Wrapper"}, {"vec_env_wrapper": [{"evil.Wrapper": {}}]}, {"callback": "evil.Callback"}],
    ids=lambda entry: next(iter(entry)),
)
def test_a_file_of_strangers_runs_nothing(tmp_path, entry):
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('evil').touch()\nWrapper = Callback = None\n")
    failed = run("train", *hyperparams(tmp_path, **entry), cwd=tmp_path, check=False)
    assert failed.returncode and next(iter(entry)) in failed.stderr and "--trust" in failed.stderr
    assert not (tmp_path / "evil").exists() and not (tmp_path / "logs").exists()


def test_one_trusts_a_file_by_saying_so(tmp_path):
    given = hyperparams(tmp_path, policy_kwargs="dict(net_arch=[2 ** 3] * 2)")
    assert run("train", *given, cwd=tmp_path, check=False).returncode
    run("train", *given, "--trust", cwd=tmp_path)


def test_a_suite_runs_nothing(tmp_path):
    contender = {"algo": "ppo", "seeds": 1, "settings": "default", "hyperparams": {"env_kwargs": EVIL, "n_steps": 32}}
    suite = {
        "description": "x",
        "evaluations": 2,
        "episodes": 1,
        "environments": {"CartPole-v1": {"timesteps": 64}},
        "contenders": {"ppo": contender},
    }
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(suite))
    failed = run("benchmark", "mine.yml", cwd=tmp_path, check=False)
    assert failed.returncode and "is not data" in failed.stderr and not (tmp_path / "evil").exists()
