"""Networks by name."""

import pytest
import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import MODELS, build

VARIANTS = [(name, {}) for name in MODELS if name[-5:] not in ("lite1", "lite2", "lite3")] + [
    ("resnet20", {"shortcut": shortcut, "head": head}) for shortcut in "AB" for head in ("linear", "fc")
]


def refused(function, *arguments, **options) -> str:
    """The message of the InputError that the call raises; it must be one line."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_logits_have_a_row_an_image_and_a_column_a_class_and_the_trace_computes_the_same(name, arguments):
    model = build(name, 7, 1, **arguments).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(trace(model, images)(images), logits, rtol=0, atol=0)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "low", "high"),
    [
        # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million
        ("resnet20", {}, 0.265e6, 0.275e6),
        ("resnet32", {}, 0.455e6, 0.47e6),
        ("resnet44", {}, 0.655e6, 0.665e6),
        ("resnet56", {}, 0.845e6, 0.86e6),
        ("resnet110", {}, 1.65e6, 1.75e6),
        ("mobilenetv2", {}, 2.2e6, 2.3e6),
        ("mobilenetv2-digits", {}, 0.04e6, 0.06e6),
        # the table of chenyaofo/pytorch-cifar-models: 1.37, 4.33, 15.25 and 20.57 million
        ("mobilenetv2-0.75", {}, 1.36e6, 1.38e6),
        ("mobilenetv2-1.4", {}, 4.325e6, 4.335e6),
        ("vgg16-bn", {}, 15.24e6, 15.26e6),
        ("vgg19-bn", {}, 20.56e6, 20.58e6),
        # timm's: 4.65 million with 1000 classes
        ("efficientnet-lite0", {"num_classes": 1000}, 4.6e6, 4.7e6),
        ("mlp-tanh", {"in_channels": 1, "size": 28}, 0.39e6, 0.41e6),
    ],
)
def test_parameter_counts_are_those_of_the_papers(name, arguments, low, high):
    assert low <= sum(p.numel() for p in build(name, **arguments).parameters()) <= high


def test_projection_shortcuts_differ_from_zero_padding_by_exactly_their_weights():
    def count(shortcut):
        return sum(p.numel() for p in build("resnet20", 10, shortcut=shortcut).parameters())

    assert count("B") - count("A") == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_zero_padded_shortcut_subsamples_and_centres_the_old_channels():
    block = build("resnet20", 10, shortcut="A").layer2[0]
    x = torch.randn(1, 16, 6, 6)
    y = block.downsample(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def test_mobilenets_have_the_blocks_and_a_module_for_every_activation():
    for name, blocks, unexpanded in (("mobilenetv2", 17, 1), ("mobilenetv2-digits", 6, 0)):
        model = build(name, 10)
        assert len(model.blocks) == blocks
        activations = [m for m in model.modules() if isinstance(m, nn.ReLU6)]
        assert len(activations) == 2 * blocks - unexpanded + 2
        assert all(list(block.project._modules) == ["conv", "bn"] for block in model.blocks)  # linear bottleneck
        assert list(model.blocks[-1].expand._modules) == ["conv", "bn", "act"]


def test_same_seed_gives_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build("mobilenetv2-digits", 10, 1).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unknown_model_names_the_nearest_and_all():
    message = refused(build, "resnet-20", 10)
    assert "did you mean 'resnet20'?" in message and all(name in message for name in MODELS)
    message = refused(build, "xyz", 10)
    assert "did you mean" not in message and "mobilenetv2-digits" in message


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("resnet20", {"shortcut": "C"}, "shortcut"),
        ("resnet20", {"head": "classifier"}, "head"),
        ("mobilenetv2", {"shortcut": "A"}, "shortcut"),
        ("vgg16-bn", {"size": 32}, "size"),
    ],
)
def test_arguments_that_the_network_does_not_take_are_named(name, arguments, named):
    message = refused(build, name, 10, **arguments)
    assert name in message and named in message
