"""The benchmark of what a fit costs."""

import json

import pytest

from benchmarks import fit_cost

COST = fit_cost.Cost(9, 1024, 7.12, 10.26, 8.04, 2**30)


def test_a_table_says_time_and_memory():
    header, row = fit_cost.rows({"resnet20": COST})
    assert row == ["resnet20, 32 pixels", "9", "1024", "7.1", "10.3", "8.0", "1024 MiB"] and len(header) == len(row)


def test_what_was_measured_is_written_after_each_network(tmp_path, monkeypatch, capsys):
    output, seen = tmp_path / "cost.json", []

    def run(name, images, progress):
        assert output.exists() == bool(seen)
        seen.append((name, images))
        return COST

    monkeypatch.setattr(fit_cost, "run", run)
    fit_cost.main(["--images", "64", "-o", str(output)])
    assert seen == [("resnet20", 64), ("mobilenet_v2", 64)]
    assert json.loads(output.read_text())["costs"]["mobilenet_v2"]["tuned_seconds"] == 10.26
    assert "1024 MiB" in capsys.readouterr().out


@pytest.mark.slow
def test_every_block_is_fitted_in_a_process_of_its_own():
    cost = fit_cost.run("resnet20", 40, lambda text: None)
    assert (cost.blocks, cost.images) == (9, 40)
    assert cost.seconds > 0 and cost.tuned_seconds > 0 and cost.alone_seconds > 0 and cost.peak_bytes > 2**27
