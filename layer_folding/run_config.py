"""config.json of a run folder: with which settings each stage ran, from which files, with which versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import records
from .files import write_json

SCHEMA = 2
NAME = "config.json"
_REMEDY = "give another run folder (RUN=DIR), or delete this one and run its stages again"


@dataclass(frozen=True)
class StageRun:
    """How a stage ran.

    Args:
        settings: JSON values by name, as `train.settings` has them.
        files: the first digits of the SHA-256 of each file that the stage started from.
        versions: Python and the packages; None for a package that is not installed.
        revision: the commit of the source tree, or None.
    """

    settings: Mapping[str, object]
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)
    revision: str | None = None


@dataclass(frozen=True)
class Config:
    """The stages of a run by their command, in the order in which they ran."""

    stages: Mapping[str, StageRun]


def is_fit(stage: StageRun) -> bool:
    """Whether the stage fitted layers, where it could have trained gates."""
    return "choices" in stage.settings


def read(run: Path) -> Config | None:
    """What config.json in ``run`` says; None where there is none. Raises InputError for a file that cannot be read."""
    path = run / NAME
    return records.read(path, Config, SCHEMA, _REMEDY, more=False) if path.exists() else None


def write(run: Path, config: Config) -> None:
    """Write ``config`` to config.json in ``run``, atomically."""
    write_json(run / NAME, records.encode(config, SCHEMA))
