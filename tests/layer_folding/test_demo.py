"""`layer-folding demo`: its command lines are those that a user could give, in an order that works."""

from importlib import import_module
from pathlib import Path

import pytest

from layer_folding import catalogue, front_door, subcommands
from layer_folding.command_line import run
from layer_folding.demo.commands import lines


def test_each_of_its_lines_is_understood_by_the_command_that_it_names():
    for name, *words in lines(Path("a run")):
        commands = import_module(f"layer_folding.{catalogue.group_of(name).package}.commands").COMMANDS
        command, _ = subcommands.parse(commands, [name, *words], "layer-folding")
        assert command.name == name


def test_it_runs_them_in_their_order_and_says_what_it_runs(tmp_path, monkeypatch, capsys):
    called = []
    call = front_door.call
    monkeypatch.setattr(front_door, "call", lambda words: called.append(words) or print(f"ran {words[0]}"))
    call(["demo", "--run", str(tmp_path)])
    assert called == lines(tmp_path)
    assert [words[0] for words in called] == ["pretrain", "prefold", "finetune", "fold", "export", "bench", "report"]
    out = capsys.readouterr().out
    assert f"\n$ layer-folding fold {tmp_path}\nran fold\n" in out
    assert out.endswith(f"what is in each: layer-folding show {tmp_path}\n")


def test_a_stage_that_fails_ends_it_with_the_line_of_the_stage(tmp_path, capsys):
    (tmp_path / "original.safetensors").write_bytes(b"damaged")
    assert run(lambda: front_door.call(["demo", "--run", str(tmp_path)])) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {tmp_path}") and err.count("\n") == 1 and "prefold" not in out


def test_a_package_that_a_later_stage_needs_is_named_before_the_work(tmp_path, monkeypatch, capsys):
    found = catalogue.find_spec
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    assert run(lambda: front_door.call(["demo", "--run", str(tmp_path / "run")])) == 2
    said = "error: demo needs onnxruntime; pip install 'layer-folding[train,export,report]'\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_place_that_takes_no_files_is_refused_before_the_work(tmp_path, capsys, place):
    (tmp_path / "file").touch()
    assert run(lambda: front_door.call(["demo", "--run", str(tmp_path / place)])) == 2
    assert capsys.readouterr().err.startswith(f"error: --run {tmp_path / place}: ")
