"""The figures that other works published."""

from pathlib import Path

import pytest

from benchmarks import published_rows
from layer_folding.errors import InputError

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "published.json"


def test_each_figure_has_its_source_data_device_precision_and_batch():
    published = published_rows.read(PUBLISHED)
    works = {source.work.partition(" (")[0] for source in published.sources}
    assert works == {"LayerMerge", "two-stage DP", "DepthShrinker", "EASIER"}
    for source in published.sources:
        assert source.source.startswith("https://github.com/") and source.rows
        assert all((source.data, source.device, source.precision, source.batch))
    table = published_rows.table(published)
    assert len({len(row) for row in table}) == 1
    assert table[-1][-1] == "-"  # a table without latencies


def test_a_damaged_file(tmp_path):
    (tmp_path / "published.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="sources is missing"):
        published_rows.read(tmp_path / "published.json")
