"""The layers of an unfinished fit, in its run folder: what it takes to go on exactly at the last fitted layer."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import safetensors.torch
from torch import Tensor

from layer_folding.fit_choices import Choice
from layer_folding.fold.fitting.placing import FittedWeights

from . import state

_NAMES = tuple(field.name for field in fields(FittedWeights))


class FitState:
    """The layers that the fit of ``stage`` in ``run`` has solved so far; its file is written after each.

    Raises InputError for a damaged file.
    """

    def __init__(self, run: Path, stage: str):
        self._run, self._stage = run, stage
        content = state.read(run, stage)
        self._solved = {} if content is None else _decode(content)

    def solve(self, choice: Choice, fit_it: Callable[[], FittedWeights]) -> FittedWeights:
        """The layer of ``choice``: from the file, or from ``fit_it``, which fits it."""
        name = str(choice)
        if name not in self._solved:
            self._solved[name] = fit_it()
            state.write(self._run, self._stage, _encode(self._solved))
        return self._solved[name]


def _encode(solved: Mapping[str, FittedWeights]) -> bytes:
    return safetensors.torch.save(
        {
            f"{part} {name}": value.contiguous()
            for name, weights in solved.items()
            for part, value in asdict(weights).items()
        }
    )


def _decode(content: bytes) -> dict[str, FittedWeights]:
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    names = dict.fromkeys(key.partition(" ")[2] for key in tensors)
    return {name: FittedWeights(*(tensors[f"{part} {name}"] for part in _NAMES)) for name in names}
