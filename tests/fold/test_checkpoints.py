import json
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints, fold, hoist_padding, linearize
from layer_folding.fold.graph.changes import remove
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.recipes import Network, Recipe, to_json

EXAMPLE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = build("mobilenetv2-digits", 10, 1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def recipe(stage: str, **more: Any) -> Recipe:
    built = Network("layer_folding:mobilenetv2-digits", {"num_classes": 10, "in_channels": 1})
    return Recipe(stage, built, (1, 16, 16), **more)


PAIR = "blocks.1.expand.act,blocks.1.depthwise.act"
FIT = {"choice": f"{PAIR}=3", "layers": ["blocks.1.expand.conv"], "name": "blocks.1.conv", "error": 0.5}
REMOVED = ("blocks.1.expand.act", "blocks.1.depthwise.act", "blocks.2.expand.act", "blocks.2.depthwise.act")


@pytest.fixture(scope="module")
def stages() -> dict[str, tuple[nn.Module, Recipe]]:
    original = network()
    removed = remove(trace(original, EXAMPLE), list(REMOVED))
    hoisted, report = hoist_padding(removed, EXAMPLE)
    folded = fold(hoisted.eval(), EXAMPLE)
    steps = {"removed": REMOVED, "hoisted": tuple(region.layers for region in report)}
    merges = {merge.name: merge.layers for merge in folded.folded}
    return {
        "original": (original, recipe("original", accuracy={"original": 0.5})),
        "hardened": (hoisted, recipe("hardened", **steps, kept={"blocks.3.expand.act": "it would cost too much"})),
        "folded": (folded.model, recipe("folded", **steps, folded=merges)),
    }


@pytest.mark.parametrize("stage", ["original", "hardened", "folded"])
def test_a_checkpoint_gives_back_the_network_and_the_recipe(stages, stage, tmp_path):
    model, written = stages[stage]
    checkpoints.save(tmp_path / "a.safetensors", model, written)
    loaded, read = checkpoints.load(tmp_path / "a.safetensors")
    assert read == written
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(EXAMPLE), model.eval()(EXAMPLE))


def test_folding_a_loaded_network_is_folding_the_saved_one(stages, tmp_path):
    model, written = stages["hardened"]
    checkpoints.save(tmp_path / "a.safetensors", model, written)
    result = fold(checkpoints.load(tmp_path / "a.safetensors")[0], EXAMPLE)
    assert {merge.name: merge.layers for merge in result.folded} == stages["folded"][1].folded


def test_layout_and_device_do_not_matter_to_the_file(stages, tmp_path):
    model, written = stages["original"]
    checkpoints.save(tmp_path / "a.safetensors", model, written)
    checkpoints.save(tmp_path / "b.safetensors", network().to(memory_format=torch.channels_last), written)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_gates_are_refused_with_the_remedy(tmp_path):
    gated = linearize(network(), EXAMPLE)
    checkpoints.save(tmp_path / "prefold.safetensors", gated, recipe("prefold", gate="foldable"))
    with pytest.raises(InputError, match=r"prefold\.safetensors: its network still has gates; .*finetune"):
        checkpoints.load(tmp_path / "prefold.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint; `layer-folding finetune` writes it"):
        checkpoints.load(tmp_path / "hardened.safetensors")
    with pytest.raises(InputError, match=r"none\.safetensors: no such checkpoint; give the path of one"):
        checkpoints.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_half_written_file(stages, tmp_path, kept):
    path = tmp_path / "half.safetensors"
    checkpoints.save(path, *stages["original"])
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=r"half\.safetensors: not a checkpoint, or damaged; .*delete the file"):
        checkpoints.load(path)


def test_weights_without_a_recipe(tmp_path):
    safetensors.torch.save_file(network().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"plain\.safetensors: holds weights without a recipe"):
        checkpoints.load(tmp_path / "plain.safetensors")


def written(path, **changes):
    """A checkpoint whose recipe is not as it should be; None leaves a key out."""
    content = {**json.loads(to_json(recipe("original"))), **changes}
    metadata = {"recipe": json.dumps({key: value for key, value in content.items() if value is not None})}
    safetensors.torch.save_file(network().state_dict(), path, metadata)
    return path


SPEC = "layer_folding:mobilenetv2-digits"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema": 1},
            "its recipe cannot be used .of schema 1, and this version reads schema 2.; make the checkpoint ",
        ),
        ({"stage": "baked"}, "stage is 'baked', not one of original, prefold, hardened, folded"),
        ({"stage": "prefold"}, "gate is None, and stage is 'prefold'"),
        ({"network": {"spec": SPEC, "arguments": [10]}}, r"network.arguments is \[10\], not an object"),
        ({"network": {"spec": 20}}, "network.spec is 20, not a string"),
        ({"network": None}, "network is missing"),
        ({"colour": "red"}, "colour is not known"),
        ({"input_shape": [1, [16], 16]}, r"input_shape\[1\] is \[16\], not a whole number"),
        ({"input_shape": [1, 16.5, 16]}, r"input_shape\[1\] is 16.5, not a whole number"),
        ({"input_shape": [1, 10**9, 10**9]}, "input_shape is .*, not the .C, H, W. of an image"),
        ({"input_shape": []}, "input_shape is .., not the .C, H, W. of an image"),
        ({"accuracy": {"original": "high"}}, "accuracy.original is 'high', not a number"),
        ({"network": {"spec": "layer_folding:mobilnetv2", "arguments": {}}}, "did you mean 'mobilenetv2'"),
        ({"network": {"spec": "layer_folding:resnet20", "arguments": {"colour": 1}}}, "'resnet20'.*colour"),
        ({"network": {"spec": SPEC, "arguments": {"num_classes": 10**30}}}, "mobilenetv2-digits"),
        ({"network": {"spec": SPEC, "arguments": {"num_classes": [[]]}}}, "mobilenetv2-digits"),
        ({"stage": "hardened", "removed": ["blocks.9.act"], "hoisted": []}, "'blocks.9.act' is not in the network"),
        ({"stage": "hardened", "removed": [*REMOVED], "hoisted": []}, "hoisted regions differently"),
        ({"stage": "original", "fitted": [FIT]}, "stage is 'original', and layers were fitted"),
        ({"stage": "hardened", "fitted": FIT}, "fitted is .*, not a list"),
        ({"stage": "hardened", "fitted": [{**FIT, "error": "much"}]}, r"fitted\[0\].error is 'much', not a number"),
        ({"stage": "hardened", "fitted": [{**FIT, "choice": "a"}]}, r"fitted\[0\]: 'a': is no choice of a fit"),
        ({"stage": "hardened", "fitted": [{**FIT, "choice": "a=3"}]}, "activation 'a' is not in the network"),
        ({"stage": "hardened", "fitted": [{**FIT, "choice": f"{PAIR}=99"}]}, "shape 99 does not fit into the merged"),
        ({"stage": "hardened", "fitted": [FIT]}, "replays the fitted regions differently from the recipe"),
    ],
)
def test_recipes_that_cannot_be_replayed(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        checkpoints.load(written(tmp_path / "a.safetensors", **changes))
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"schema": NaN}', '"recipe"'])
def test_a_recipe_that_is_no_object(tmp_path, text):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors", {"recipe": text})
    with pytest.raises(InputError, match=r"a\.safetensors: its recipe cannot be used"):
        checkpoints.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "spec", ["os:system", "subprocess:run", "layer_folding.fold.models.weights:load_weights", "builtins:eval", ":"]
)
def test_a_file_cannot_name_other_code(tmp_path, spec):
    path = written(tmp_path / "a.safetensors", network={"spec": spec, "arguments": {}})
    with pytest.raises(InputError, match=r"not from layer_folding, torchvision\.models, timm"):
        checkpoints.load(path)


def test_weights_of_another_network(tmp_path):
    path = written(
        tmp_path / "a.safetensors",
        network={"spec": SPEC, "arguments": {"num_classes": 11, "in_channels": 1}},
    )
    with pytest.raises(InputError, match=r"a\.safetensors: weights do not fit its recipe .*linear\.weight"):
        checkpoints.load(path)
