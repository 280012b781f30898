"""`python -m layer_folding` is the command ``layer-folding``."""

import sys

from .front_door import main

if __name__ == "__main__":
    sys.exit(main())
