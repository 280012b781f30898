"""docs/results/published.json: what other works published about their own networks, each figure with its source."""

from dataclasses import dataclass
from pathlib import Path

from layer_folding import records

SCHEMA = 1


@dataclass(frozen=True)
class PublishedRow:
    """One network: top-1 accuracy in % and the speed-up over the original, as printed; None where none is printed."""

    network: str
    accuracy: str
    speedup: str | None


@dataclass(frozen=True)
class Source:
    """One ``work``, and where its ``rows`` were read: repository, file and table."""

    work: str
    source: str
    data: str
    device: str
    precision: str
    batch: str
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class Published:
    """All works."""

    sources: tuple[Source, ...]


def read(path: Path) -> Published:
    """The works in ``path``. Raises InputError for a missing or damaged file."""
    return records.read(path, Published, SCHEMA, "correct the file by hand, figure by figure, from its sources")


def table(published: Published) -> list[list[str]]:
    """A header and a row for each network."""
    header = ["work", "network", "data", "device", "precision", "batch", "accuracy", "speed-up"]
    return [
        header,
        *(
            [source.work, row.network, source.data, source.device, source.precision, source.batch, row.accuracy,
             f"{row.speedup}x" if row.speedup else "-"]
            for source in published.sources
            for row in source.rows
        ),
    ]  # fmt: skip
