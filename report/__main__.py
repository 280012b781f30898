"""Command line: ``python -m report RUN...``."""

import argparse
import sys
from pathlib import Path

from report import frontier, page, read
from trt_bench import cli, files
from trt_bench.errors import InputError

DESCRIPTION = "Write RUN/report.html, one self-contained page, for each run folder; of several, an index as well."
EPILOG = """\
examples:
  python -m report runs/demo
  python -m report runs/a runs/b -o frontier.html

Prints the paths of the pages. Exit codes: 0 done, 2 bad input.
"""


def main() -> None:
    """Parse the command line and write the pages. Raises InputError."""
    parser = cli.Parser(
        prog="python -m report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, even one that is not finished")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML",
        help="of one run: the page (RUN/report.html); of several: the index (frontier.html)",
    )  # fmt: skip
    given = parser.parse_args()
    if given.output and (given.output.suffix != ".html" or given.output.is_dir()):
        raise InputError(f"-o {given.output}: is no name for a page; give a file that ends in .html")
    folders = list(dict.fromkeys(given.runs))
    runs = [read.run(folder) for folder in folders]  # all of them first: a damaged one leaves no half of an index
    if len(runs) == 1:
        _write(given.output or folders[0] / "report.html", page.render(runs[0]))
        return
    for run in runs:
        _write(run.folder / "report.html", page.render(run))
    index = given.output or Path("frontier.html")
    _write(index, frontier.render(runs, index.parent))


def _write(path: Path, text: str) -> None:
    files.write_text(path, text)
    print(path, flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
