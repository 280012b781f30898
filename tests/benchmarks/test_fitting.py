"""The benchmark of fits, on a small data set with the weights of a fresh network."""

import json

import pytest
import torch

from benchmarks import fitting
from layer_folding.errors import InputError
from layer_folding.fold.models import build
from layer_folding.train.data import load

FITTED = fitting.Fitted(0.875, 1.26, 0.01, 0.99)
MEASURED = fitting.Measured(0.884, FITTED, FITTED, 3 * 2**29)


def test_a_table_says_what_is_lost_and_what_it_costs():
    header, row = fitting.rows({"nine": MEASURED})
    assert row == ["nine", "88.40 %", "87.50 %", "87.50 %", "1.3", "1.3", "1536 MiB"] and len(header) == len(row)


def test_what_was_measured_is_printed_and_written_after_each_case(tmp_path, monkeypatch, capsys):
    output, seen = tmp_path / "fits.json", []

    def run(name, weights, dataset, progress):
        assert output.exists() == bool(seen)
        seen.append((name, len(dataset.train.labels)))
        return MEASURED

    monkeypatch.setattr(fitting, "run", run)
    cases = ("--cases", "layer2.1", "four")
    fitting.main(["--weights", "w.pt", "--data", "digits", "--images", "24", *cases, "-o", str(output)])
    assert seen == [("layer2.1", 24), ("four", 24)]
    written = json.loads(output.read_text())
    assert [row[0] for row in written["table"]] == ["blocks", "layer2.1", "four"]
    assert written["measured"]["four"]["tuned"]["seconds"] == 1.26
    assert written["command"].endswith("--cases layer2.1 four -o fits.json")
    assert "88.40 %" in capsys.readouterr().out


def test_data_that_is_not_there_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        fitting.main(["--weights", "w.pt", "--data", str(tmp_path / "none")])


@pytest.mark.slow
def test_a_case_is_measured_in_a_process_of_its_own(tmp_path):
    torch.manual_seed(0)
    torch.save(build("resnet20", 10, 1).state_dict(), tmp_path / "w.pt")
    digits = load("digits", 16)
    dataset = fitting.replace(digits, train=fitting.calibration_images(digits, 128, 0), test=digits.test)
    measured = fitting.run("layer2.1", tmp_path / "w.pt", dataset, lambda text: None)
    assert measured.tuned.divergence <= measured.least_squares.divergence
    assert 0 < measured.least_squares.seconds < measured.tuned.seconds
    assert measured.peak_bytes > 2**27
