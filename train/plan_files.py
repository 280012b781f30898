"""What ``--remove`` and ``--plan`` say: changes of a network, or the layers to fit in their place."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from layer_folding.errors import InputError
from layer_folding.fit_choices import MERGED, Choice, is_choice, parse_choice, refuse_additions
from layer_folding.plans import read_plan

T = TypeVar("T")


def changes(text: str) -> tuple[str, ...]:
    """What ``--remove`` says: names with commas between, or a plan: plan.json, or plan.txt with a line or a comma each.

    A line that is about a fit (`fit_choices`) is one change. Raises InputError where there is no name, in a file that
    says that nothing is to be removed.
    """
    if os.path.isfile(text):  # unlike Path.is_file, false for a list of names that is too long for a path
        return _some("--remove", text, read_plan(text).lines if _is_json(text) else _lines(_read(text)))
    found = _lines(text)
    if not found:
        raise InputError(
            f"--remove {text!r}: no name in it; give the names of gates, or leave --remove out to learn them"
        )
    return found


def fits(path: str) -> tuple[Choice, ...]:
    """What ``--plan`` says: plan.json or plan.txt, as layers to fit; what a plan merges exactly is fitted too.

    Raises InputError for a file that is no plan, for a plan to fold nothing, and for one that adds an activation.
    """
    if not _is_json(path):
        return as_fits(_some("--plan", path, _lines(_read(path))))
    plan = read_plan(path)
    refuse_additions(plan.additions)
    return _some("--plan", path, plan.choices)


def as_fits(changes: Sequence[str]) -> tuple[Choice, ...]:
    """``changes`` as layers to fit: for an activation without a shape, a layer of the size of the exact merge.

    Raises InputError for an addition, and for text that says no choice.
    """
    refuse_additions(changes)
    return tuple(parse_choice(change) if is_choice(change) else Choice((change,), MERGED) for change in changes)


def _some(option: str, path: str, found: tuple[T, ...]) -> tuple[T, ...]:
    if not found:
        raise InputError(
            f"{option} {path}: the plan is to fold nothing; keep the original network, or plan again for a budget "
            "(BUDGET_MS, SPEEDUP) that it does not meet, or with the table of another device"
        )
    return found


def _is_json(path: str) -> bool:
    return path.endswith(".json")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text; give a plan.txt or plan.json") from error


def _lines(text: str) -> tuple[str, ...]:
    parts: Iterable[list[str]] = ([line] if is_choice(line) else line.split(",") for line in text.splitlines())
    return tuple(name.strip() for names in parts for name in names if name.strip())
