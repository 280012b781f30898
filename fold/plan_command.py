"""`python -m fold plan`: what to fold on the device that a latency table was measured on."""

import argparse
import csv
import io
from pathlib import Path

from fold.files import write_text
from fold.latency import Row, read_table
from fold.plan import Split, optimal_splits

_EPILOG = """\
examples:
  python -m fold plan --latency latency.csv --optimal optimal.csv
"""


def add_parser(commands) -> None:
    """Add the command ``plan`` to those of `fold.__main__`."""
    parser = commands.add_parser(
        "plan",
        help="choose by measured latency what to fold",
        description="Choose by measured latency what to fold.",
        epilog=_EPILOG,
    )
    parser.add_argument("--latency", required=True, type=Path, metavar="CSV", help="the latency table")
    parser.add_argument("--device", metavar="NAME", help="refuse a table of another device")
    parser.add_argument(
        "--optimal", required=True, type=Path, metavar="CSV", help="write the fastest split of each row of the table"
    )
    parser.set_defaults(function=plan)


def plan(options: argparse.Namespace) -> None:
    rows = read_table(options.latency, options.device)
    write_text(options.optimal, _as_csv(rows, optimal_splits(rows)))
    print(f"wrote {options.optimal}: the fastest splits of {len(rows)} segments")


def _as_csv(rows: list[Row], splits: list[Split]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "st", "end", "time", "stdev", "breaks"])
    for index, (row, split) in enumerate(zip(rows, splits, strict=True)):
        breaks = ",".join(map(str, split.breaks))
        writer.writerow([index, row.st, row.end, split.time, split.stdev, breaks])
    return text.getvalue()
