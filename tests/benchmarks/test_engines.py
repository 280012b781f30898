"""Engines of a network in every precision at both opsets, by the real builder."""

import pytest
import torch
from torch import nn

from benchmarks import engines
from layer_folding.errors import InputError


@pytest.fixture(autouse=True)
def installed():
    if not engines.available():
        pytest.skip("TensorRT-RTX is not installed; pip install 'layer-folding[rtx]', on x86-64 Linux")


@pytest.mark.slow
def test_every_precision_at_both_opsets():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    assert engines.of_every_kind(model, torch.randn(2, 3, 8, 8)) == engines.Engines(6)


def test_a_refusal_is_named(monkeypatch):
    def refuse(path):
        raise InputError(f"{path}: no kernel; export it again")

    monkeypatch.setattr(engines, "build", refuse)
    monkeypatch.setattr(engines, "OPSETS", (17,))
    found = engines.of_every_kind(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), torch.randn(2, 3, 8, 8))
    assert found.refused[0] == "fp32 at opset 17: no kernel; export it again"
    assert str(found).startswith("0 of 3<br>fp32 at opset 17: ")


def test_a_network_without_weights_has_no_int8_file(tmp_path):
    assert set(engines.export(nn.ReLU().eval(), torch.randn(2, 3, 8, 8), tmp_path)) == {"fp32", "fp16"}
