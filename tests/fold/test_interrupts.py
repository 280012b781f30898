"""What is left in a folder by a command that did not end well: whole files, and nothing else."""

import os
import signal
import time

from fold.cli import run
from fold.files import atomic_path, remove_leftovers


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
    assert capsys.readouterr().err == "error: interrupted; the same command goes on from the last finished step\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "result.json").write_text("whole")
    (tmp_path / ".prefold.state").write_text("state")
    with atomic_path(tmp_path / "next.json") as temporary:
        half = temporary.read_bytes()
    temporary.write_bytes(half)  # as if that process had been killed before the renaming
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".prefold.state", "next.json", "result.json"]
