"""Blocks are run as they stand on the page, and those that fail are told with what they said."""

from pathlib import Path

import pytest

from tests.docs.__main__ import _run
from tests.docs.pages import Block


def run(language: str, text: str, names: dict | None = None, **notes: str) -> str | None:
    return _run(Block(Path("page.md").absolute(), 1, language, text, notes), {} if names is None else names)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)


def test_commands_are_run_after_what_comes_first(tmp_path):
    assert run("sh", "cat there\n", first="echo hello > there") is None
    assert (tmp_path / "there").read_text() == "hello\n"


def test_the_first_command_that_fails_ends_a_block(tmp_path):
    assert "no-such-file" in run("sh", "cat no-such-file | cat\ntouch after\n")
    assert not (tmp_path / "after").exists()


def test_python_blocks_of_a_page_share_their_names():
    names: dict[str, object] = {}
    assert run("python", "b = a + 1\n", names, first="a = 1") is None
    assert run("python", "assert b == 2\n", names) is None
    assert "NameError" in run("python", "assert c\n", names)


def test_a_block_can_be_a_file(tmp_path):
    assert run("python", "answer = 42\n", file="mynets.py") is None
    assert (tmp_path / "mynets.py").read_text() == "answer = 42\n"
