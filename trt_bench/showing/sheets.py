"""A sheet: what there is to say about one file, and the three forms in which `show` prints it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from layer_folding.errors import InputError
from layer_folding.text import aligned

Cell = str | int | float | None | tuple[str, ...] | tuple[int, ...]
_LISTED = 4  # names in one cell of a table for people


@dataclass(frozen=True)
class Sheet:
    """What the file ``path`` holds.

    Args:
        path: the file, as the user named it.
        kind: what the file is, such as "checkpoint".
        summary: the most important facts in one phrase, for the list of a folder.
        facts: what is true of the whole file, each with its name.
        header: the columns of the file's table, with the unit in the name where there is one.
        rows: the rows of that table.
        record: everything that the file says, as a JSON value.
        text: what people read, where ``facts`` and ``rows`` do not say it best.
    """

    path: str
    kind: str
    summary: str
    facts: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    rows: Sequence[tuple[Cell, ...]] = ()
    record: object = None
    text: str = ""


def as_text(sheet: Sheet) -> str:
    """The sheet for people: its facts, a line each, then its table."""
    if sheet.text:
        return sheet.text
    width = max(map(len, sheet.facts), default=0)
    lines = [f"{sheet.path}: {sheet.kind}", *(f"  {name:{width}}  {value}" for name, value in sheet.facts.items())]
    if sheet.rows:
        titles = tuple(name.replace("_", " ") for name in sheet.header)
        lines += ["", *aligned([titles, *(tuple(map(_for_people, row)) for row in sheet.rows)])]
    return "\n".join(lines)


def as_csv(sheets: Sequence[Sheet]) -> str:
    """The tables of all sheets as one, with the file as the first column.

    Raises InputError where the files are of different kinds, whose tables have different columns.
    """
    first, *others = sheets
    for other in others:
        if other.header != first.header:
            raise InputError(
                f"{other.path}: its kind is {other.kind}, and that of {first.path} is {first.kind}; give files of one "
                "kind with --csv, or use --json"
            )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *first.header])
    writer.writerows([sheet.path, *map(_for_programs, row)] for sheet in sheets for row in sheet.rows)
    return text.getvalue().rstrip("\n")


def as_json(sheets: Sequence[Sheet]) -> str:
    """A JSON list with an object for each file: ``file``, ``kind``, and ``content`` with everything that it says."""
    objects = [{"file": sheet.path, "kind": sheet.kind, "content": sheet.record} for sheet in sheets]
    return json.dumps(objects, indent=2, allow_nan=False)


def listed(names: Sequence[str], most: int = _LISTED) -> str:
    """``names`` in one phrase; of more than ``most`` the first ones, and how many there are."""
    separator = "; " if any("," in name for name in names) else ", "
    if len(names) <= most:
        return separator.join(names)
    return f"{separator.join([*names[: most - 1], '...'])} ({len(names)})"


def size(shape: Sequence[int | str | None]) -> str:
    """A shape for people: "3 x 32 x 32"; "?" where a size is not fixed, "-" where there is none."""
    return " x ".join("?" if each is None else str(each) for each in shape) or "-"


def _for_people(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, tuple):
        names = [str(each) for each in cell]
        return listed(names) if names and isinstance(cell[0], str) else size(names)
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _for_programs(cell: Cell) -> object:
    if not isinstance(cell, tuple):
        return cell
    return ("x" if cell and isinstance(cell[0], int) else ";").join(map(str, cell))
