"""Runs that differ by the seed alone are one experiment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.notes import Note

_SEED = re.compile(r" --seed \d+")  # in a command
_NUMBER = re.compile(r"-seed\d+$")  # in the name of a run


@dataclass(frozen=True)
class Experiment:
    """Runs of the same commands from the same original network; ``name`` is that of the first run, but for the seed."""

    name: str
    runs: Mapping[str, Note]

    @property
    def first(self) -> Note:
        return next(iter(self.runs.values()))

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of each run, but for the seed."""
        return _without_seed(self.first)


def _without_seed(note: Note) -> tuple[str, ...]:
    return tuple(_SEED.sub("", command) for command in note.commands)


def experiments(runs: Mapping[str, Note]) -> list[Experiment]:
    """The experiments of ``runs``, in the order in which they appear."""
    groups: dict[tuple[object, ...], dict[str, Note]] = {}
    for name, note in runs.items():
        same = (note.model, _without_seed(note), note.versions.get("layer-folding"), note.accuracy["original"])
        groups.setdefault(same, {})[name] = note
    return [Experiment(_NUMBER.sub("", next(iter(group))), group) for group in groups.values()]
