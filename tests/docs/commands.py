"""Whether a command that a page shows would be understood, found out without running it.

Ours are parsed by the parser of their own module, those behind a make target too; of others only the name is known.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from unittest import mock

from layer_folding import front_door
from layer_folding.catalogue import GROUPS
from layer_folding.errors import InputError
from tests.docs.pages import ROOT

STAGES = tuple(group.package for group in GROUPS)
PACKAGES = (*STAGES, "benchmarks")
FRONT_DOOR = front_door.PROGRAM
OTHERS = ("cat", "cd", "cp", "dpkg", "echo", "git", "ls", "mkdir", "ssh", "ssh-copy-id", "sudo", "test")
_PYTHON = re.compile(r"(\.venv/bin/)?python3?$")


class _Parsed(BaseException):
    """The options were understood; not an Exception, or the command would take it for an error of its own."""


def commands(text: str) -> list[list[str]]:
    """The simple commands, as words, of a piece of shell."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        found.append([])
        for word in words:
            if set(word) <= set("&|;()<>"):
                found.append([])
            else:
                found[-1].append(word)
    return [command for command in found if command]


def check(words: list[str]) -> None:
    """Raise ValueError, with the reason, unless the command ``words`` would be understood."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if not words or words[0] in OTHERS:
        return
    if words[0] == "make":
        _check_make(words[1:])
    elif Path(words[0]).name == FRONT_DOOR:
        _check_ours([FRONT_DOOR, *words[1:]])
    elif words[:2] == ["pip", "install"]:
        _check_extras(words)
    elif words[0] == "torchrun" and "-m" in words:  # torchrun --nproc-per-node 4 -m -- train prefold
        _check_module([word for word in words[words.index("-m") + 1 :] if word != "--"])
    elif _PYTHON.match(words[0]) and words[1:2] == ["-m"]:
        _check_module(words[2:])
    elif _PYTHON.match(words[0]) and len(words) > 1:
        if not (ROOT / words[1]).is_file():
            raise ValueError(f"there is no file {words[1]}")
    else:
        raise ValueError(f"nobody knows the command {words[0]!r}; see OTHERS in tests/docs/commands.py")


def check_mention(text: str) -> None:
    """Raise ValueError unless ``text``, a part of a command in the middle of a sentence, has only what there is."""
    words = shlex.split(text)
    if words[0] == "make":
        _make_n(words[1:])  # of variables there may be no more than ...
        return
    words = words[words.index("-m") + 1 :] if "-m" in words else [FRONT_DOOR, *words[1:]]
    listed = re.search(r"\{(.*)\}", text)  # python -m train {pretrain,...}
    for subcommand in listed[1].split(",") if listed else [None]:
        given = [words[0], *([subcommand] if subcommand else [w for w in words[1:2] if w[0].isalpha()])]
        known = _help(given)
        for option in (word.partition("=")[0] for word in words if word.startswith("-")):
            if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known):
                raise ValueError(f"{' '.join(given)} has no option {option}")


def _check_make(words: list[str]) -> None:
    for command in commands(_make_n(words)):
        module = command[command.index("-m") + 1 :] if "-m" in command else []
        if module and module[0].partition(".")[0] in PACKAGES:
            _check_module(module)


def _make_n(words: list[str]) -> str:
    """The commands that make would run. Raises ValueError for a target or variable that it does not have."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in (word.partition("=")[0] for word in words if "=" in word):
        if f"$({name})" not in makefile:
            raise ValueError(f"the Makefile has no variable {name}")
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return done.stdout


def _check_extras(words: list[str]) -> None:
    extras = ",".join(re.findall(r"\.\[(.*?)\]", " ".join(words)))
    for extra in filter(None, extras.split(",")):
        if extra not in metadata.metadata("layer-folding").get_all("Provides-Extra"):
            raise ValueError(f"pyproject.toml has no extra {extra}")


def _check_module(words: list[str]) -> None:
    if words[0].partition(".")[0] in PACKAGES:
        _check_ours(words)
    elif importlib.util.find_spec(words[0]) is None:  # pip, venv, pytest
        raise ValueError(f"there is no module {words[0]}")


def _check_ours(words: list[str]) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse_args(parser, *arguments)
        raise _Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), contextlib.suppress(_Parsed):
        _call(words)
        raise ValueError(f"{words[0]} parses no options")
    if words[0] == "trt_bench.board":  # the rest of its command is one of trt_bench, which runs on the board
        _check_module(["trt_bench", *words[2:]])


def _help(words: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        _call([*words, "--help"])
    return text.getvalue()


def _call(words: list[str]) -> None:
    """Call what ``layer-folding`` would call, or `python -m` of a module."""
    name, *arguments = words
    try:
        with mock.patch("sys.argv", words):
            _main(name)(*([arguments] if name == FRONT_DOOR else []))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"python -m {name} does not run: {error}") from error
    except InputError as error:
        raise ValueError(f"{' '.join(words)}: {error}") from error


def _main(name: str) -> Callable[..., None]:
    if name == FRONT_DOOR:
        return front_door.call
    package, _, module = name.partition(".")
    if package not in STAGES:
        return importlib.import_module(name if module else f"{name}.__main__").main
    return importlib.import_module(f"layer_folding.{package}.{module or '__main__'}").main
