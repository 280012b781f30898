"""The command ``layer-folding``: one door for all stages, of which only the one asked for is imported."""

import argparse
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from layer_folding import __version__, subcommands
from layer_folding.catalogue import GROUPS, group_of
from layer_folding.command_line import run
from layer_folding.front_door import call

# Words that a phrase begins with which only makes sense after another.
BEGINS_ELSEWHERE = re.compile(r"(of|that|but|also|and|those|these|as|which|whose|where|at most|at least)\b|\(")
NAMES = [name for group in GROUPS for name in group.summaries]


def python(code: str, *arguments: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, where the ``blocked`` modules cannot be imported."""
    before = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    return subprocess.run([sys.executable, "-c", before + code, *arguments], capture_output=True, text=True)


def command(name: str) -> subcommands.Command:
    commands = import_module(f"layer_folding.{group_of(name).package}.commands").COMMANDS
    return next(command for command in commands if command.name == name)


def options(name: str) -> list[argparse.Action]:
    return subcommands.parser(command(name), "layer-folding")._actions


def test_help_lists_every_command_and_imports_none():
    code = (
        "from layer_folding.front_door import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = python(code, "--help", blocked=("torch", "numpy"))
    assert done.returncode == 0
    assert [name for name in NAMES if not re.search(rf"^  {name} +\w", done.stdout, re.M)] == []
    assert [
        name for name in done.stderr.split() if re.match(r"layer_folding\.(train|fold|export|trt_bench|rep)", name)
    ] == []


def test_version(capsys):
    call(["--version"])
    assert capsys.readouterr().out == f"layer-folding {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "layer-folding: no command; see layer-folding --help"),
        (["prefodl"], "layer-folding: 'prefodl' is not a command (did you mean 'prefold'?); see layer-folding --help"),
        (["report"], "the following arguments are required: RUN; see layer-folding report --help"),
        (["bench", "a.onnx", "--nothing"], "unrecognized arguments: --nothing; see layer-folding bench --help"),
        (["scan", "a\0b"], "'a\\x00b': has a NUL character; leave it out; see layer-folding scan --help"),
        (["prefold", "--nothing"], "; see layer-folding prefold --help"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, message, capsys):
    assert run(lambda: call(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith(f"{message}\n")


@pytest.mark.parametrize(
    ("words", "missing", "said"),
    [
        (["export", "a.safetensors"], "onnx", "layer-folding export needs onnx; pip install 'layer-folding[export]'"),
        (["report", "run"], "jinja2", "layer-folding report needs jinja2; pip install 'layer-folding[report]'"),
        (["scan", "resnet20"], "torch", "layer-folding scan needs torch; pip install layer-folding"),
        (
            ["evaluate", "x"],
            "torchvision",
            "layer-folding evaluate needs torchvision; pip install 'layer-folding[train]'",
        ),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(words, missing, said):
    done = python("from layer_folding.front_door import main\nsys.exit(main())", *words, blocked=(missing,))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["plan", "runs/none", "--latency", "none.csv"], "report"),
        (["prefold", "--run", "runs/none"], "train"),
        (["sweep", "--run", "runs/none"], "train"),
    ],
)
def test_a_package_that_only_the_picture_at_the_end_needs_is_named_before_the_work(words, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(lambda: call(words)) == 2
    said = f"error: {words[0]} needs matplotlib; pip install 'layer-folding[{extra}]'\n"
    assert capsys.readouterr() == ("", said)


def test_every_command_is_in_the_catalogue_once():
    assert len(NAMES) == len(set(NAMES))
    for group in GROUPS:
        module = import_module(f"layer_folding.{group.package}.commands")
        assert [each.name for each in module.COMMANDS] == list(group.summaries)


@pytest.mark.parametrize("name", NAMES)
def test_its_help_shows_examples_that_it_understands(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        call([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: layer-folding {name} ")
    assert "Exit codes: 0 done" in text
    examples = command(name).example.splitlines()
    for line in examples:
        first, second, *words = shlex.split(line)
        assert (first, second) == ("layer-folding", name) and line in text
        subcommands.parser(command(name), "layer-folding").parse_args(words)
    assert examples


@pytest.mark.parametrize("name", NAMES)
def test_every_phrase_of_its_help_stands_alone(name):
    for action in options(name):
        assert action.help, f"{name} {action.dest} has no help"
        assert not re.match(
            r"(of|that|but|also|and|those|these|as|which|whose|where|at most|at least)\b|\(", action.help
        ), f"{name}: {action.help}"
    assert command(name).description.endswith(".")
    assert re.match(r"[a-z][^.]*$", group_of(name).summaries[name])
