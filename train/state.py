"""The state of an unfinished stage, in its run folder: what it takes to go on exactly after the last finished epoch."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from fold.errors import InputError
from fold.files import atomic_path
from train import distributed


class Stateful(Protocol):
    """A module, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


def path(run: Path, stage: str) -> Path:
    """Where ``stage`` keeps its state in ``run``."""
    return run / f".{stage}.state"


def save(run: Path, stage: str, parts: Mapping[str, Stateful], rows: list[dict]) -> None:
    """Write the state of ``parts`` and the ``rows`` of metrics.csv so far, atomically."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain write as what it is
    torch.save({"rows": rows, **{name: part.state_dict() for name, part in parts.items()}}, buffer)
    with atomic_path(path(run, stage)) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def resume(run: Path, stage: str, parts: Mapping[str, Stateful]) -> list[dict]:
    """Restore ``parts`` as they were after the last finished epoch, if there is one; the rows up to then.

    Raises InputError for a damaged state.
    """
    file = path(run, stage)
    content = distributed.first(lambda: file.read_bytes() if file.exists() else None)
    if content is None:
        return []
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["rows"]
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{file}: damaged; delete it, and {stage} starts from its first epoch") from error


def remove(run: Path, stage: str) -> None:
    """Remove the state of a stage whose checkpoint has been written."""
    path(run, stage).unlink(missing_ok=True)
