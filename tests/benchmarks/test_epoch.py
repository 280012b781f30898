import pytest

from benchmarks.epoch import part_of_epoch


@pytest.mark.slow
def test_both_loops_make_their_steps():
    row = part_of_epoch(batch=2, steps=1, rounds=1, progress=lambda text: None)
    assert list(row.samples_ms) == ["PIL images, main process", "train"]
    assert all(len(samples) == 2 and min(samples) > 0 for samples in row.samples_ms.values())
