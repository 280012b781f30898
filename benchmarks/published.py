"""What papers on shallower networks report of their own methods, in docs/results/published.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layer_folding import records

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """Top-1 accuracy in per cent before and after, and the speed-up in TensorRT and in PyTorch."""

    network: str
    before: float
    after: float
    tensorrt: float
    pytorch: float


@dataclass(frozen=True)
class Publication:
    """The ``rows`` of one ``method``: its ``conditions`` are data, device, batch and training; ``source`` is an URL."""

    method: str
    conditions: str
    source: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Published:
    """All that is noted."""

    publications: tuple[Publication, ...]


def read(path: Path) -> Published:
    """The file at ``path``, nothing where there is none. Raises InputError for a damaged one."""
    if not path.exists():
        return Published(())
    return records.read(path, Published, SCHEMA, "take it from the repository again")


def rows(published: Published) -> Sequence[Sequence[str]]:
    """A header, and a line for each row."""
    found = [["method", "network", "accuracy", "TensorRT", "PyTorch"]]
    for one in published.publications:
        found += [
            [
                f"[{one.method}]({one.source})",
                row.network,
                f"{row.before:.2f} => {row.after:.2f} % ({row.after - row.before:+.2f})",
                f"{row.tensorrt:.2f}x",
                f"{row.pytorch:.2f}x",
            ]
            for row in one.rows
        ]
    return found
