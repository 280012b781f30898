"""On a machine with a GPU: fits and what they lose are those of the CPU."""

import pytest
import torch
from torch import nn

import layer_folding as lf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)]
    return nn.Sequential(*convolutions, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


IMAGES = torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tuned", [False, True])
def test_a_fit_is_that_of_the_cpu(tuned):
    on_cpu = lf.fit(network(), IMAGES, {"1": 3}, tuned=tuned)
    on_gpu = lf.fit(network().cuda(), IMAGES.cuda(), {"1": 3}, tuned=tuned)
    assert all(value.is_cuda for value in on_gpu.model.state_dict().values())
    assert on_gpu.layers[0].error == pytest.approx(on_cpu.layers[0].error, rel=1e-3)
    assert on_gpu.divergence == pytest.approx(on_cpu.divergence, rel=0.05)
    torch.testing.assert_close(on_gpu.model(IMAGES.cuda()).cpu(), on_cpu.model(IMAGES), atol=5e-3, rtol=0)


def test_a_network_is_distilled_where_it_is():
    result = lf.fit(network().cuda(), IMAGES.cuda(), {"1": 1}, epochs=2)
    assert result.divergence <= result.before_epochs.divergence
    assert lf.fold(result.model.eval(), IMAGES[:1].cuda()).folded


@pytest.mark.parametrize("labels", [None, torch.arange(96) % 5])
def test_an_importance_is_that_of_the_cpu(labels):
    on_cpu = lf.importance(network(), IMAGES, labels=labels)
    on_gpu = lf.importance(network().cuda(), IMAGES.cuda(), labels=None if labels is None else labels.cuda())
    assert on_cpu.fits and on_gpu.fits.keys() == on_cpu.fits.keys()
    for choice, loses in on_cpu.fits.items():
        assert on_gpu.fits[choice] == pytest.approx(loses, rel=0.02, abs=1e-4)


def test_a_network_is_exported_from_where_it_is(tmp_path):
    pytest.importorskip("onnx_graphsurgeon", reason="needs onnx-graphsurgeon")
    model = network().cuda()
    assert lf.export(model, IMAGES[:1].cuda(), tmp_path / "network.onnx").error < 1e-3
    assert all(value.is_cuda for value in model.state_dict().values())
