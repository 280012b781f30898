from dataclasses import dataclass

import onnx
import pytest
import torch
from torch import nn

from layer_folding.export import lower, simplify
from tests.export.networks import Residual, randomised


@dataclass(frozen=True)
class Exported:
    model: nn.Module
    lowered: onnx.ModelProto
    simple: onnx.ModelProto


@pytest.fixture(scope="session")
def exported() -> Exported:
    """One network, exported once for all tests: the exporter takes seconds. Not to be modified."""
    torch.manual_seed(0)
    model = randomised(Residual())
    lowered = lower(model, torch.randn(1, 3, 12, 12))
    return Exported(model, lowered, simplify(lowered)[0])
