"""The network that is timed is the one that is meant: every in-block activation gone, ready to fold."""

import pytest
from torch import nn

from benchmarks import folding
from layer_folding.errors import CheckError


@pytest.mark.slow
def test_every_block_is_folded_and_the_rest_stays():
    row = folding.whole("ResNet-8", depth=8, rounds=1, progress=lambda text: None)
    assert (row.rounds, list(row.samples_ms)) == (1, ["fold.fold with its check"])
    model, _ = folding.ready_to_fold(8)
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == 1 + 3  # of the stem, after the adds


def test_a_network_that_folds_only_in_part_is_no_measurement(monkeypatch):
    monkeypatch.setattr(folding, "harden", lambda gated: folding.CifarResNet(8, num_classes=10).eval())
    with pytest.raises(CheckError, match="ResNet-8: 0 were folded"):
        folding.whole("ResNet-8", depth=8, rounds=1, progress=lambda text: None)
