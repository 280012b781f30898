"""Networks by name: short and full, ours and others', and what a file may not ask for."""

import pytest

from layer_folding.errors import InputError
from layer_folding.fold.model_names import arguments_for, build, resolve


@pytest.fixture
def own_code(tmp_path, monkeypatch) -> str:
    """A module outside of the libraries; importing it leaves a file."""
    (tmp_path / "mynets.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "Path(__file__).with_name('imported').touch()\n"
        "def small(num_classes, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, num_classes))\n"
        "answer = 42\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "mynets:small"


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("resnet20", "layer_folding:resnet20"),
        ("layer_folding:resnet20", "layer_folding:resnet20"),
        ("torchvision:resnet50", "torchvision.models:resnet50"),
        ("torchvision.models:resnet50", "torchvision.models:resnet50"),
        ("timm:resnet18", "timm:resnet18"),
        ("my.nets:small", "my.nets:small"),
    ],
)
def test_short_names(short, full):
    assert resolve(short) == full


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("resnet20", {"num_classes": 7, "in_channels": 1}),
        ("mlp-tanh", {"num_classes": 7, "in_channels": 1, "size": 28}),
        ("efficientnet-lite3", {"num_classes": 7, "in_channels": 1}),
        ("torchvision:resnet18", {"num_classes": 7}),
        ("timm:efficientnet_lite0", {"num_classes": 7, "in_chans": 1}),
        ("timm:efficientnet_lite0.ra_in1k", {"num_classes": 7, "in_chans": 1}),
    ],
)
def test_networks_are_told_what_they_take_of_the_data(spec, arguments):
    assert arguments_for(spec, [1, 28, 28], 7) == arguments
    assert sum(1 for _ in build(spec, arguments).modules()) > 5


def test_the_number_of_classes_is_the_network_s_own_without_data():
    assert arguments_for("torchvision:resnet18", [3, 224, 224]) == {}
    assert build("torchvision:resnet18", {}).fc.out_features == 1000
    assert build("resnet20", arguments_for("resnet20", [3, 32, 32])).linear.out_features == 10


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"])
def test_weights_of_a_backbone_are_not_downloaded(name, monkeypatch):
    downloads = "torchvision.models._api.load_state_dict_from_url"
    monkeypatch.setattr(downloads, lambda *args, **kwargs: pytest.fail("downloads"))
    assert hasattr(build(f"torchvision:{name}", {"num_classes": 3}), "backbone")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet-20", "did you mean 'resnet20'"),
        ("torchvision:resnet19", "no such network, did you mean 'resnet1"),
        ("timm:efficientnet_light0", "no such network, did you mean 'efficientnet_lite0'"),
        ("timm:hf_hub:someone/something", "no such network"),
        ("timm:local-dir:/tmp", "no such network"),
        ("torchvision:", "no such network"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_names(spec, message):
    with pytest.raises(InputError, match=message):
        build(spec, {})


@pytest.mark.parametrize(
    ("spec", "argument"),
    [
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "/tmp/evil.pt"}),
    ],
)
def test_a_file_cannot_have_weights_fetched(spec, argument):
    with pytest.raises(InputError, match=f"argument {next(iter(argument))} cannot be given here"):
        build(spec, argument)


def test_own_code_runs_only_where_it_is_trusted(own_code, tmp_path):
    for trust in (None, "mynets:other", "mynets", "layer_folding:resnet20"):
        with pytest.raises(InputError, match="if you trust that code, name it: --trust mynets:small"):
            build(own_code, {"num_classes": 7, "size": 4}, trust)
    assert not (tmp_path / "imported").exists()
    arguments = arguments_for(own_code, [3, 4, 4], 7, trust=own_code)
    assert arguments == {"num_classes": 7, "size": 4}
    assert build(own_code, arguments, trust=own_code)[1].out_features == 7


def test_own_code_that_cannot_be_called_as_it_is(own_code):
    with pytest.raises(InputError, match=r"missing 2 required .*; its arguments need defaults"):
        build(own_code, {}, trust=own_code)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mynets:large", "has no function 'large'"),
        ("mynets:answer", "has no function 'answer'"),
        ("nonets:small", "No module named 'nonets'; give it as package.module:function"),
        (":small", "give it as package.module:function"),
    ],
)
def test_own_code_that_is_not_there(own_code, spec, message):
    with pytest.raises(InputError, match=message):
        build(spec, {}, trust=spec)


def test_a_missing_library_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    for spec in ("timm:resnet18", "efficientnet-lite0"):
        with pytest.raises(InputError, match="pip install timm"):
            build(spec, {})
