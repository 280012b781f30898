import pytest

from benchmarks.gates import step_times


@pytest.mark.slow
def test_each_network_makes_its_steps():
    row = step_times(batch=2, rounds=1, progress=lambda text: None)
    assert list(row.samples_ms) == ["no gates", "gates: foldable", "gates: all"]
    assert all(len(samples) == 2 and min(samples) > 0 for samples in row.samples_ms.values())
