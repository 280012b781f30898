"""`python -m export`, of networks; `python -m export segments`, of the layers that a plan needs;
`python -m export sensitivity`, what int8 costs in each layer."""

import sys

from layer_folding.command_line import run

from . import commands


def main() -> None:
    """Run the command line of this process. Raises InputError and CheckError."""
    words = sys.argv[1:]
    if words[:1] in (["segments"], ["sensitivity"]):
        commands.main(words, "python -m export")
    else:
        commands.main(["export", *words], "python -m")


if __name__ == "__main__":
    sys.exit(run(main))
