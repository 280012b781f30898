"""importance.csv: what a network loses with each merge and each fit that a plan could make.

A row has ``activations`` that go, separated by spaces, the ``shape`` of the layer that is fitted in their place
(`fit_choices`; empty for an exact merge), and what that loses, 0 or more, in the unit that the last column's name says.
Among the activations of an exact merge stand additions, as ``+VALUE=ACTIVATION``. Candidates are taken to lose
independently: a plan loses the sum. A file without the column of shapes has exact merges only.
"""

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .errors import InputError
from .files import write_text
from .fit_choices import Choice, LayerShape, parse_shape, shape_text

_ACTIVATIONS, _SHAPE = "activations", "shape"


@dataclass(frozen=True)
class Importance:
    """What a network loses, 0 or more, in ``unit``: with each set of changes in ``losses``, and with each of ``fits``.

        lf.Importance({("layer1.0.relu",): 0.02, ("layer1.0.relu", "layer1.1.relu"): 0.05}, "cross entropy")

    ``source`` is what messages call the table. Raises InputError for a loss that is negative or not finite, and for a
    set or a fit that is there twice.
    """

    losses: Mapping[tuple[str, ...], float]
    unit: str
    source: str = "the importance"
    fits: Mapping[Choice, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fault = next(self._faults(), None)
        if fault:
            raise InputError(f"{self.source}: {fault}; give each set of activations once, with what it loses")

    def of(self, changes: Collection[str], shape: LayerShape | None = None) -> float | None:
        """What ``changes`` lose, in whatever order they are given, with a layer of ``shape`` fitted in their place or
        an exact merge; None where that is not known."""
        return self._known.get(_key(changes, shape))

    @cached_property
    def _known(self) -> dict[object, float]:
        return {_key(names, shape): loss for names, shape, loss in self._rows()}

    def _rows(self) -> Iterator[tuple[tuple[str, ...], LayerShape | None, float]]:
        yield from ((names, None, loss) for names, loss in self.losses.items())
        yield from ((choice.activations, choice.shape, loss) for choice, loss in self.fits.items())

    def _faults(self) -> Iterator[str]:
        rows = list(self._rows())
        yield from (f"a loss is {loss}" for _, _, loss in rows if not 0 <= loss < math.inf)
        if len(self._known) < len(rows):
            yield "a set is there twice"


def read_importance(path: str | Path) -> Importance:
    """Read an importance.csv.

        >>> import layer_folding as lf
        >>> lf.read_importance("run/importance.csv").losses
        {('1',): 0.02}

    Args:
        path: the importance.csv.

    Raises:
        InputError: the file is missing, or is not such a table.
    """
    remedy = "write it with `layer-folding importance` or `layer-folding probe`"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file, strict=True)] or [[]]
        if header[:1] != [_ACTIVATIONS] or len(header) != 2 + (header[1:2] == [_SHAPE]):
            raise ValueError(f"its header is {','.join(header)}, not {_ACTIVATIONS}, {_SHAPE} and a unit")
        losses: dict[tuple[str, ...], float] = {}
        fits: dict[Choice, float] = {}
        for names, *shape, loss in rows:
            if len(shape) != len(header) - 2:
                raise ValueError(f"a row has {2 + len(shape)} values")
            changes = tuple(names.split())
            if any(shape):
                fits[Choice(changes, parse_shape(shape[0]))] = float(loss)
            else:
                losses[changes] = float(loss)
        if len(losses) + len(fits) < len(rows):
            raise ValueError("a set is there twice")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {remedy}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: no table of importances ({error}); {remedy}") from error
    return Importance(losses, header[-1], str(path), fits)


def write_importance(path: str | Path, importance: Importance) -> None:
    """Write ``importance`` to ``path`` atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_ACTIVATIONS, _SHAPE, importance.unit])
    writer.writerows([" ".join(names), "", loss] for names, loss in importance.losses.items())
    writer.writerows(
        [" ".join(choice.activations), shape_text(choice.shape), loss] for choice, loss in importance.fits.items()
    )
    write_text(path, text.getvalue())


def _key(changes: Collection[str], shape: LayerShape | None) -> object:
    """The same for the same merge or fit, however its activations are ordered and its shape is given."""
    if isinstance(shape, tuple) and len(set(shape)) == 1:
        shape = shape[0]
    return frozenset(changes), shape
