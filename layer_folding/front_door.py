"""The command ``layer-folding``: the first word says which package reads the rest of the command line.

Only that package is imported, so that no stage needs what another one does.
"""

import sys
from functools import partial
from importlib import import_module

from . import __version__
from .catalogue import GROUPS, group_of, remedy
from .command_line import run
from .errors import InputError
from .subcommands import chosen

PROGRAM = "layer-folding"
_EXAMPLE = f"""\
order in a run: pretrain; prefold, or segments, table, importance, plan and fit; finetune; fold; export; bench; report

examples:
  {PROGRAM} demo                                              # all stages on handwritten digits, in minutes
  {PROGRAM} show runs/demo                                    # what is in the files of a run
  {PROGRAM} scan torchvision:resnet50 --input 3 224 224       # what would fold in a network"""


def main() -> int:
    """Run the command line of this process, and return the exit code."""
    return run(partial(call, sys.argv[1:]))


def call(words: list[str]) -> None:
    """Run a command line. Raises InputError where it names no subcommand, or where a package is not installed."""
    if words[:1] == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return
    name = chosen(words, PROGRAM, GROUPS, _EXAMPLE)
    package = group_of(name).package
    try:
        import_module(f".{package}.commands", __package__).main(words, PROGRAM)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", __package__):
            raise
        raise InputError(f"{PROGRAM} {name} needs {missing}; {remedy(package, missing)}") from error
