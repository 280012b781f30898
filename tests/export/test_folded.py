"""What `fold` emits beside convolutions goes to ONNX too: bias maps, transposed convolutions, padding, shuffles."""

import onnxruntime
import pytest
import torch
from torch import nn

from layer_folding.export import lower, simplify
from layer_folding.fold import fold, hoist_padding
from layer_folding.fold.graph.changes import removed_activation


def pointwise_first() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 1), removed_activation(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())


def upsampling() -> nn.Module:
    layers = nn.Conv2d(3, 6, 1), removed_activation(), nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.ChannelShuffle(2))


def uneven() -> nn.Module:
    layers = nn.ZeroPad2d((2, 0, 1, 3)), nn.Conv2d(3, 6, 3), removed_activation(), nn.Conv2d(6, 5, 2)
    return hoist_padding(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 9, 8))[0]


def tokens() -> nn.Module:
    layers = nn.Flatten(2), nn.LayerNorm(72), nn.Linear(72, 144), removed_activation(), nn.Linear(144, 8)
    return nn.Sequential(*layers)


@pytest.mark.slow
@pytest.mark.parametrize("build", [pointwise_first, upsampling, uneven, tokens])
def test_it_is_the_same_in_onnx_runtime(build):
    network, x = build().eval(), torch.randn(2, 3, 9, 8)
    result = fold(network, x)
    assert len(result.folded) == 1
    model = simplify(lower(result.model, x))[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"input": x.numpy()})
    expected = network(x).detach()
    assert (torch.from_numpy(actual) - expected).abs().max() <= 1e-5 * expected.abs().max()
