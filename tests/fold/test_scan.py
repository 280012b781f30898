"""What could be folded, and what it would bring."""

from dataclasses import replace

import pytest
from torch import nn

from layer_folding.fold import fold, scan
from tests.fold.merge.test_rewriting import BLOCKS, hardened
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    activations,
    conv,
)  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_scan_says_what_fold_will_do(kind):
    """Removing what the scan names, then hoisting and folding, gives the layers and costs that the scan gave."""
    network = BLOCKS[kind]
    before = repr(network)
    found = scan(network, EXAMPLE.double())
    assert repr(network) == before
    names = [name for candidate in found.candidates for name in candidate.activations]
    assert set(names) <= set(activations(network, EXAMPLE.double()))
    folded = fold(hardened(network, names), EXAMPLE.double()).folded
    assert len(folded) == len(found.candidates)
    for candidate, merge_ in zip(found.candidates, folded, strict=True):
        before, after = merge_.macs
        assert before >= candidate.macs[0]  # hoisting has made the values between larger
        assert candidate == replace(merge_, name=None, error=None, macs=(candidate.macs[0], after))


def test_scan_counts_costs():
    """conv 4->6 3x3 and conv 6->5 3x3 on 15x13 pixels, the second with stride 2, become one 5x5 with stride 2."""
    network = nn.Sequential(conv(WIDTH, 6), nn.ReLU(), conv(6, 5, stride=2, bias=False), nn.BatchNorm2d(5))
    (candidate,) = scan(network, EXAMPLE).candidates  # in training mode, too
    assert candidate.layers == ("0", "2")
    assert candidate.activations == ("1",)
    assert (candidate.kernel, candidate.stride, candidate.groups) == ((5, 5), (2, 2), 1)
    assert candidate.macs == (6 * 4 * 9 * 15 * 13 + 5 * 6 * 9 * 8 * 7, 5 * 4 * 25 * 8 * 7)
    assert candidate.parameters == (6 * 4 * 9 + 6 + 5 * 6 * 9 + 2 * 5, 5 * 4 * 25 + 5)
    assert candidate.name is None
    assert candidate.error is None


def test_scan_says_why_not():
    network = nn.Sequential(conv(WIDTH, 6), nn.MaxPool2d(2), conv(6, 5))
    found = scan(network, EXAMPLE)
    assert found.candidates == []
    assert [(s.layer, s.reason) for s in found.skipped] == [("2", "1 (MaxPool2d) is not linear")]
