"""The state of an unfinished stage, in its run folder: what it takes to go on exactly after the last finished epoch."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from layer_folding.errors import InputError
from layer_folding.files import read_checked, write_checked

from . import distributed
from .metrics import Row


class Stateful(Protocol):
    """A module, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


def path(run: Path, stage: str) -> Path:
    """Where ``stage`` keeps its state in ``run``."""
    return run / f".{stage}.state"


def write(run: Path, stage: str, content: bytes) -> None:
    """Write the state of ``stage`` atomically."""
    write_checked(path(run, stage), content)


def read(run: Path, stage: str) -> bytes | None:
    """What `write` wrote, None where there is no state. Raises InputError for a damaged one."""
    file = path(run, stage)
    if not file.exists():
        return None
    content = read_checked(file)
    if content is None:
        raise InputError(f"{file}: damaged; delete it, and {stage} starts from the beginning")
    return content


def save(run: Path, stage: str, parts: Mapping[str, Stateful], rows: list[Row]) -> None:
    """Write the state of ``parts`` and the ``rows`` of metrics.csv so far, atomically."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain write as what it is
    torch.save({"rows": rows, **{name: part.state_dict() for name, part in parts.items()}}, buffer)
    write(run, stage, buffer.getvalue())


def resume(run: Path, stage: str, parts: Mapping[str, Stateful]) -> list[Row]:
    """Restore ``parts`` as they were after the last finished epoch, if there is one; the rows up to then.

    Raises InputError for a damaged state, and for that of another version.
    """
    content = distributed.first(lambda: read(run, stage))
    if content is None:
        return []
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        rows: list[Row] = state["rows"]
        return rows
    except Exception as error:  # whatever the state of another version raises
        raise InputError(
            f"{path(run, stage)}: another version wrote it; delete it, and {stage} starts from its first epoch"
        ) from error


def remove(run: Path, stage: str) -> None:
    """Remove the state of a stage whose checkpoint has been written."""
    path(run, stage).unlink(missing_ok=True)
