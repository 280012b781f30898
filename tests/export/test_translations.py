"""PyTorch's translations are read once, whatever is exported, and nothing of that is left behind."""

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from layer_folding.export import translations
from layer_folding.export.lowering import lower

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Grows whenever PyTorch reads its translations; nothing is known of earlier exports."""
    found: list[int] = []
    read = _registration.onnxscript_apis.get_torchlib_ops
    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", lambda: found.append(1) or read())
    translations._read_once.cache_clear()
    return found


def test_many_exports_read_once_for_each_opset(reads):
    networks = [nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(3, 4, 3)]
    torch.manual_seed(0)
    files = [lower(network, EXAMPLE, opset) for network in networks for opset in (20, 18)]
    assert len(reads) == 2
    assert [node.op_type for node in files[2].graph.node] == ["Conv", "Relu"]


def test_the_result_is_that_of_reading_anew(reads):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish()).eval()
    first, second = lower(network, EXAMPLE), lower(network, EXAMPLE)
    translations._read_once.cache_clear()
    assert first == second == lower(network, EXAMPLE) and len(reads) == 2


def test_users_exports_read_their_own(reads):
    lower(nn.Conv2d(3, 4, 3), EXAMPLE)
    one, other = (_registration.ONNXRegistry.from_torchlib() for _ in range(2))
    assert one is not other and len(reads) == 3


def test_another_pytorch_takes_longer_and_gives_the_same(monkeypatch):
    expected = lower(nn.ReLU(), EXAMPLE)
    monkeypatch.setattr(translations, "_CLASS", "Unknown")
    assert lower(nn.ReLU(), EXAMPLE) == expected
    monkeypatch.setattr(translations, "_MODULE", "torch.onnx.unknown")
    assert lower(nn.ReLU(), EXAMPLE) == expected
