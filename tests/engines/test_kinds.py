"""Every kind of network, original and folded, in every precision, through NVIDIA's own parser and builder."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.engines import PRECISIONS, export
from layer_folding.errors import InputError
from layer_folding.fold import fold, gates, harden, hoist_padding, linearize
from layer_folding.fold.models import build as named
from tests.engines.networks import KINDS, example

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """``model`` without its activations, as far as their removal lets layers merge."""
    gated = linearize(model, x)
    for gate in gates(gated).values():
        gate.alpha.data.fill_(1)
    return fold(hoist_padding(harden(gated).eval(), x)[0], x).model


def check(build, model: nn.Module, x: Tensor, folder) -> None:
    """Build ``model`` in each precision; its engines have as few layers as it has, in the type that was asked for."""
    convolutions = sum(isinstance(module, CONVOLUTIONS) for module in model.modules())
    files = export(model, x, folder)
    assert set(files) == set(PRECISIONS)
    for path in files.values():
        built = build(path)
        parsed = built.notes.parsed
        kinds = {layers.kind: layers for layers in parsed.weighted_layers}
        assert kinds["convolution"].all == convolutions
        assert all(layers.as_asked == layers.wanted for layers in parsed.weighted_layers)
        assert parsed.alone == ()
        assert built.strongly_typed and built.engine_bytes > 0 and built.notes.warnings == ()
        assert all(layers.all <= kinds[layers.kind].all for layers in built.weighted_layers)
        assert any(layers.kind == "convolution" for layers in built.weighted_layers)
        for layers in built.weighted_layers:
            assert layers.as_asked == min(layers.all, layers.wanted) - floats(path, layers.kind, model)


def floats(path, kind: str, model: nn.Module) -> int:
    """Layers that the builder runs in float although their file has them in int8: transposed convolutions."""
    transposed = sum(isinstance(module, nn.ConvTranspose2d) for module in model.modules())
    return transposed if path.stem == "int8" and kind == "convolution" else 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_network_of_each_kind(build, tmp_path, kind):
    torch.manual_seed(0)
    check(build, KINDS[kind](), example(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_each_kind_folded(build, tmp_path, kind):
    torch.manual_seed(0)
    x = example()
    try:
        model = folded(KINDS[kind](), x)
    except InputError as error:
        assert kind == "upsampling" and "the removal of none lets weighted layers merge" in str(error)
        return
    check(build, model, x, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2-digits", "resnet20"])
def test_the_network_of_the_demo_and_resnet_20(build, tmp_path, name):
    torch.manual_seed(0)
    channels = 1 if name == "mobilenetv2-digits" else 3
    model, x = named(name, in_channels=channels).eval(), torch.randn(4, channels, 32, 32)
    for what, network in (("original", model), ("folded", folded(model, x))):
        (tmp_path / what).mkdir()
        check(build, network, x, tmp_path / what)


def test_several_batch_sizes_are_one_engine(build, tmp_path):
    torch.manual_seed(0)
    one = build(export(KINDS["plain"](), example(), tmp_path)["fp16"])
    several = build(tmp_path / "fp16.onnx", (1, 8))
    assert several.engine != one.engine and several.engine_bytes > one.engine_bytes
    assert several.weighted_layers == one.weighted_layers


def test_int8_with_the_rest_in_fp16(build, tmp_path):
    torch.manual_seed(0)
    [path] = export(KINDS["residual"](), example(), tmp_path, precisions=["int8-fp16"]).values()
    built = build(path)
    assert all(layers.as_asked == layers.all for layers in built.weighted_layers)
    assert "fp32" not in built.layers_by_precision and built.notes.parsed.alone == ()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 20])
def test_both_opsets(build, tmp_path, opset):
    torch.manual_seed(0)
    path = export(KINDS["excitation"](), example(), tmp_path, opset)["int8"]
    assert build(path).notes.parsed.weighted_layers[0].as_asked == 5
