"""`python -m trt_bench`."""

import sys

from layer_folding.command_line import run

from .commands import main

if __name__ == "__main__":
    sys.exit(run(main))
