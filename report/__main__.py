"""`python -m report`."""

import sys

from layer_folding.command_line import run

from . import commands


def main() -> None:
    """Run the command line of this process. Raises InputError."""
    commands.main(["report", *sys.argv[1:]], "python -m")


if __name__ == "__main__":
    sys.exit(run(main))
