"""What is in a file that some stage wrote: `show` tells it as text, as CSV and as JSON. numpy and the standard library
are enough, so that it works on a board."""

from .showing_files import show_file

__all__ = ["show_file"]
