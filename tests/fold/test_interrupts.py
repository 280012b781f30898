"""What is left in a folder by a command that did not end well: whole files, and nothing else."""

import os
import signal
import subprocess
import sys
import time

from layer_folding.command_line import run
from layer_folding.files import atomic_path, remove_leftovers


def test_a_second_ctrl_c_does_not_disturb_the_cleaning_up_after_the_first(tmp_path, capsys):
    def interrupted_twice():
        with atomic_path(tmp_path / "result.json") as temporary:
            temporary.write_text("half")
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    before = signal.getsignal(signal.SIGINT)
    assert run(interrupted_twice) == 130
    assert capsys.readouterr().err == "error: interrupted; give the same command again: what was finished is kept\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


_KILLED = """
import os, signal, sys
from layer_folding.files import atomic_path
with atomic_path(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    own = ["result.json", ".prefold.state", ".notes-1.tmp", ".layer-folding-notes.tmp", ".layer-folding-x-1-y.tmp.csv"]
    for name in own:
        (tmp_path / name).write_text("the user's")
    assert subprocess.run([sys.executable, "-c", _KILLED, tmp_path / "next.json"]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == len(own) + 1
    with atomic_path(tmp_path / "running.json") as temporary:
        remove_leftovers(tmp_path)  # as another process does while this one writes
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*own, temporary.name])
