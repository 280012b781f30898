import json

import pytest
import safetensors.torch
import torch
from torch import nn

from fold import checkpoint, fold, hoist_padding
from fold.errors import InputError
from fold.trace import trace
from train import linearize
from train.models import build

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


def recipe(stage: str, **more: object) -> dict:
    return {
        "stage": stage,
        "model": {"spec": "train.models:mobilenetv2-digits", "arguments": {"num_classes": 10, "in_channels": 1}},
        "input_shape": [1, 16, 16],
        **more,
    }


REMOVED = ["blocks.1.expand.act", "blocks.1.depthwise.act", "blocks.2.expand.act", "blocks.2.depthwise.act"]


@pytest.fixture(scope="module")
def stages() -> dict[str, tuple[nn.Module, dict]]:
    original = network()
    removed = checkpoint.remove(trace(original, EXAMPLE), REMOVED)
    hoisted, report = hoist_padding(removed, EXAMPLE)
    folded = fold(hoisted.eval(), EXAMPLE)
    steps = {"removed": REMOVED, "hoisted": [list(region.layers) for region in report]}
    merges = {merge.name: list(merge.layers) for merge in folded.folded}
    return {
        "original": (original, recipe("original")),
        "finetuned": (hoisted, recipe("finetuned", **steps)),
        "folded": (folded.model, recipe("folded", **steps, folded=merges)),
    }


@pytest.mark.parametrize("stage", ["original", "finetuned", "folded"])
def test_a_checkpoint_gives_back_the_network_and_the_recipe(stages, stage, tmp_path):
    model, written = stages[stage]
    checkpoint.save(tmp_path / "a.safetensors", model, written)
    loaded, read = checkpoint.load(tmp_path / "a.safetensors")
    assert read == {"schema": 1, **written}
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(EXAMPLE), model.eval()(EXAMPLE))


def test_folding_a_loaded_network_is_folding_the_saved_one(stages, tmp_path):
    model, written = stages["finetuned"]
    checkpoint.save(tmp_path / "a.safetensors", model, written)
    result = fold(checkpoint.load(tmp_path / "a.safetensors")[0], EXAMPLE)
    assert {merge.name: list(merge.layers) for merge in result.folded} == stages["folded"][1]["folded"]


def test_layout_and_device_do_not_matter_to_the_file(stages, tmp_path):
    model, written = stages["original"]
    checkpoint.save(tmp_path / "a.safetensors", model, written)
    checkpoint.save(tmp_path / "b.safetensors", network().to(memory_format=torch.channels_last), written)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_gates_are_refused_with_the_remedy(tmp_path):
    checkpoint.save(tmp_path / "prefold.safetensors", linearize(network(), EXAMPLE), recipe("prefold"))
    with pytest.raises(InputError, match=r"prefold\.safetensors: its network still has gates; .*finetune"):
        checkpoint.load(tmp_path / "prefold.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such checkpoint"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_half_written_file(stages, tmp_path, kept):
    path = tmp_path / "half.safetensors"
    checkpoint.save(path, *stages["original"])
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=r"half\.safetensors: not a checkpoint, or damaged; .*delete it"):
        checkpoint.load(path)


def test_weights_without_a_recipe(tmp_path):
    safetensors.torch.save_file(network().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"plain\.safetensors: holds weights without a recipe"):
        checkpoint.load(tmp_path / "plain.safetensors")


def written(path, **changes):
    """A checkpoint whose recipe is not as it should be."""
    metadata = {"recipe": json.dumps({"schema": 1, **recipe("original"), **changes})}
    safetensors.torch.save_file(network().state_dict(), path, metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "recipe of schema 2.*this version reads schema 1"),
        ({"stage": "baked"}, "stage 'baked'"),
        ({"model": {"spec": "train.models:mobilenetv2-digits"}}, "its recipe has no 'arguments'"),
        ({"model": None}, "recipe"),
        ({"model": {"spec": "train.models:mobilnetv2", "arguments": {"num_classes": 2}}}, "did you mean 'mobilenetv2'"),
        (
            {"model": {"spec": "train.models:resnet20", "arguments": {"num_classes": 2, "colour": 1}}},
            "'resnet20'.*colour",
        ),
        ({"stage": "finetuned", "removed": ["blocks.9.act"], "hoisted": []}, "'blocks.9.act' is not in the network"),
        ({"stage": "finetuned", "removed": REMOVED, "hoisted": []}, "hoisted regions differently"),
    ],
)
def test_recipes_that_cannot_be_replayed(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        checkpoint.load(written(tmp_path / "a.safetensors", **changes))
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "spec", ["os:system", "subprocess:run", "train.models.weights:load_weights", "builtins:eval", ":"]
)
def test_a_file_cannot_name_other_code(tmp_path, spec):
    path = written(tmp_path / "a.safetensors", model={"spec": spec, "arguments": {}})
    with pytest.raises(InputError, match=r"not from train\.models, torchvision\.models, timm"):
        checkpoint.load(path)


def test_weights_of_another_network(tmp_path):
    path = written(
        tmp_path / "a.safetensors",
        model={"spec": "train.models:mobilenetv2-digits", "arguments": {"num_classes": 11, "in_channels": 1}},
    )
    with pytest.raises(InputError, match=r"a\.safetensors: weights do not fit its recipe .*linear\.weight"):
        checkpoint.load(path)
