import os
import subprocess
import sys

import pytest
import torch

from layer_folding.command_line import TRACEBACK, run


def failing(error: Exception):
    def main() -> None:
        print("half of the result")
        raise error

    return main


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried\nmore"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_out_of_memory_is_a_line_with_the_remedy(error, capsys):
    assert run(failing(error)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: out of memory (") and err.count("\n") == 1
    assert "give a smaller --batch or --size" in err and out == "half of the result\n"


def test_memory_of_pytorch_that_there_is_not(capsys):
    assert run(lambda: torch.empty(2**60, dtype=torch.uint8)) == 2
    assert capsys.readouterr().err.startswith("error: out of memory (")


def test_anything_else_is_a_bug_and_says_how_to_see_where(capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    assert run(failing(KeyError("nobody"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: KeyError in test_command_line.py:") and err.count("\n") == 1
    assert err.endswith(f"this is a bug: please report it, with the traceback that {TRACEBACK}=1 shows\n")
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(KeyError):
        run(failing(KeyError("nobody")))


def test_a_closed_stdout_is_no_error():
    code = "import sys; from layer_folding.command_line import run; sys.exit(run(lambda: print('lost')))"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shell = f'exec {sys.executable} -c "{code}" {closed}'
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "lost" not in done.stderr and "Error" not in done.stderr


def test_a_name_that_the_terminal_cannot_show_is_shown_by_its_number():
    code = "import sys; from layer_folding.command_line import run; sys.exit(run(lambda: print('caf\\xe9 \\udcff')))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\udcff\n")
