"""Files of a benchmark that are damaged, or made by someone with a purpose: one line that says what is wrong, nothing else."""

import pytest

HEADER = "suite,env,algo,seed,timesteps,wall_s,success,return,commit,actions\n"
ROW = "s,CartPole-v1,ppo,0,100,1.0,,20.0,abc,argmax\n"

DAMAGED = {
    "empty": ("", "No columns"),
    "header only": (HEADER, "no rows"),
    "another table": ("a,b\n1,2\n", "without the columns env"),
    "text for a number": (HEADER + ROW.replace("100", "many"), "timesteps is not a number"),
    "infinite": (HEADER + ROW.replace("20.0", "inf"), "return is not a number"),
    "no return": (HEADER + ROW.replace("20.0", ""), "return is empty in row 2"),
    "negative": (HEADER + ROW.replace("100", "-5"), "out of range"),
    "huge": (HEADER + ROW.replace("100", "1e300"), "out of range"),
    "a path": (HEADER + ROW.replace("argmax", "/../../../evil"), "actions is '/../../../evil'"),
    "long name": (HEADER + ROW.replace("ppo", "p" * 1000), "more than 200 characters"),
    "ragged": (HEADER + ROW + "1,2,3,4,5,6,7,8,9,10,11,12,13\n", "Expected 10 fields"),
    "binary": ("\x00\x01\x02\xff" * 50, "not a table of results"),
}


@pytest.mark.parametrize(("text", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_table_that_is_none(command, tmp_path, capsys, text, message):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit) as stopped:
        command.plot_again([str(folder)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and "Traceback" not in error
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["results.csv"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"contenders": 3, "environments": {}}', '{"contenders": [], "environments": {"a": 1}}']
)
def test_a_damaged_scoring(command, tmp_path, capsys, text):
    (tmp_path / "results.csv").write_text(HEADER + ROW)
    (tmp_path / "scoring.json").write_text(text)
    with pytest.raises(SystemExit):
        command.plot_again([str(tmp_path)])
    assert "scoring.json is not what a benchmark writes" in capsys.readouterr().err


def test_names_are_text(command, tmp_path):
    name = "$\\undefined{x$ <b>"
    (tmp_path / "results.csv").write_text(HEADER + ROW.replace("ppo", name) + ROW.replace("CartPole-v1", "$^$"))
    command.plot_again([str(tmp_path)])
    assert (tmp_path / "sample_efficiency_argmax.png").is_file()
