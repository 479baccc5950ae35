"""Commands as a user types them. Nothing of ours is imported here, since a new process begins without it."""

import multiprocessing
import os
import runpy
import sys
from types import SimpleNamespace


def run(module, *arguments, cwd, check=True):
    """Run ``python -m sb3_ext.module arguments`` in a process that has imported torch and SB3 already."""
    return run_module_as_typed(f"sb3_ext.{module}", *arguments, cwd=cwd, check=check)


def run_module_as_typed(module, *arguments, cwd, check=True):
    """Run ``python -m module arguments`` in such a process."""
    return in_a_process(run_module, module, arguments, cwd=cwd, check=check)


def run_code(code, cwd):
    """Run ``python -c code`` in such a process."""
    return in_a_process(exec, code, {"__name__": "__main__"}, cwd=cwd)


def in_a_process(function, *arguments, cwd, check=True):
    process = multiprocessing.get_context("forkserver").Process(target=type_in, args=(cwd, function, arguments))
    process.start()
    process.join()
    stdout, stderr = ((cwd / f"{name}.txt").read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 0 or not check, stderr
    return SimpleNamespace(returncode=process.exitcode, stdout=stdout, stderr=stderr)


def type_in(cwd, function, arguments):
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.path[0] = ""  # what -m and -c put there
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()


def run_module(module, arguments):
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
