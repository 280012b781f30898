"""Subcommands: how a package declares them, and how a command line finds the one that it means.

The ``commands.py`` of a package lists its subcommands as ``COMMANDS`` and calls them with `call`. Their summaries stand
in ``catalogue.py``. A `Command` joins the options to the function that takes them:

    Command(
        name="scan",
        description="List what would merge, and what would not and why. Write nothing.",
        example="layer-folding scan torchvision:resnet50 --input 3 224 224",
        add_options=_scan_options,  # takes the parser
        function=_scan,             # takes what was parsed; calls a plain function with values
    )
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import catalogue
from .catalogue import Group
from .command_line import EXIT_CODES, Parser
from .errors import InputError

_WIDTH = 100  # of a description, in characters


@dataclass(frozen=True)
class Command:
    """A subcommand: ``add_options`` declares its options, and ``function`` takes what was parsed from them.

    ``example`` has one or more command lines, each of which begins with ``layer-folding`` and can be run as it stands.
    """

    name: str
    description: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    function: Callable[[argparse.Namespace], None]


def call(commands: Sequence[Command], arguments: Sequence[str] | None, program: str) -> None:
    """Run the one of ``commands`` that ``arguments`` begin with (None: those of the process).

    ``program`` is what stands before them on the command line: "layer-folding", or "python -m train" in a checkout.
    Raises InputError for a command line that is wrong, and what the command raises.
    """
    command, options = parse(commands, arguments, program)
    command.function(options)


def parse(
    commands: Sequence[Command], arguments: Sequence[str] | None, program: str
) -> tuple[Command, argparse.Namespace]:
    """The command that `call` would run, and its options. ``commands`` are all of one package. Raises InputError."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = chosen(words, program, [catalogue.group_of(commands[0].name)])
    command = next(command for command in commands if command.name == name)
    return command, parser(command, program).parse_args(words[1:])


def parser(command: Command, program: str) -> Parser:
    """The parser of one command's options."""
    parser = Parser(
        prog=f"{program} {command.name}",
        description=textwrap.fill(command.description, _WIDTH),
        epilog=f"example:\n{textwrap.indent(command.example.strip(), '  ')}\n\n{EXIT_CODES}",
    )
    command.add_options(parser)
    return parser


def chosen(words: list[str], program: str, groups: Sequence[Group], example: str = "") -> str:
    """The subcommand that ``words`` begin with. For --help, print all of ``groups`` and exit.

    Raises InputError where there is no such subcommand.
    """
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(_overview(program, groups, example))
        sys.exit()
    known = [name for group in groups for name in group.summaries]
    if first not in known:
        close = difflib.get_close_matches(first, known, n=1)
        what = f"{first!r} is not a command" if first else "no command"
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"{program}: {what}{hint}; see {program} --help")
    return first


def _overview(program: str, groups: Sequence[Group], example: str) -> str:
    width = max(len(name) for group in groups for name in group.summaries)
    parts = [f"usage: {program} COMMAND ...", "Make trained CNNs shallower and faster."]
    for group in groups:
        lines = [f"  {name:{width}}  {summary}" for name, summary in group.summaries.items()]
        parts.append("\n".join([f"{group.title}:", *lines]))
    parts += [example] if example else []
    return "\n\n".join([*parts, f"Each command has --help, with an example.\n{EXIT_CODES}"])
