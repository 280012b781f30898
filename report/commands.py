"""The command line of `report`."""

import argparse
from pathlib import Path

from layer_folding import files, subcommands
from layer_folding.outputs import PAGE, output_file
from layer_folding.subcommands import Command

from . import page, run_folder, runs_frontier


def main(arguments: list[str] | None = None, program: str = "python -m") -> None:
    """Run a command line of ``report``. Raises InputError."""
    subcommands.call(COMMANDS, arguments, program)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, even one that is not finished")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML",
        help="the page of one run (RUN/report.html), or the index of several (frontier.html)",
    )  # fmt: skip


def _report(options: argparse.Namespace) -> None:
    write_pages(list(dict.fromkeys(options.runs)), options.output)


def write_pages(folders: list[Path], output: Path | None) -> None:
    """Write the page of each run folder; of several, the index as well. Print the paths of the pages.

    ``output`` is the page of one run, or the index of several. Raises InputError for a folder that is damaged, and
    where something else has the name of the output.
    """
    runs = [run_folder.run(folder) for folder in folders]  # all of them first: a damaged one leaves no half of an index
    output = output or (folders[0] / "report.html" if len(folders) == 1 else Path("frontier.html"))
    output_file("-o", output, PAGE)
    if len(runs) == 1:
        _write(output, page.render(runs[0]))
        return
    for run in runs:
        _write(run.folder / "report.html", page.render(run))
    _write(output, runs_frontier.render(runs, output.parent))


def _write(path: Path, text: str) -> None:
    files.write_text(path, text)
    print(path, flush=True)


COMMANDS = (
    Command(
        name="report",
        description="Write RUN/report.html, one self-contained page, for each run folder. For several run folders, "
        "write an index as well. Print the paths of the pages.",
        example="layer-folding report runs/demo\nlayer-folding report runs/a runs/b -o frontier.html",
        add_options=_options,
        function=_report,
    ),
)
