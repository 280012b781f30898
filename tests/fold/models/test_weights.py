"""Weights from elsewhere: read safely, fitted exactly or refused by key."""

import itertools
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import nn

from layer_folding.fold.gating import gates, linearize
from layer_folding.fold.models import build
from layer_folding.fold.models.layouts import split_gates, variant, with_our_names
from layer_folding.fold.models.mobilenet import CIFAR_STAGES
from layer_folding.fold.models.weights import apply_weights, load_weights
from layer_folding.train.batches import normalise
from layer_folding.train.data import RGB_MEAN, RGB_STD
from tests.fold.models.test_models import VARIANTS, refused

SHARED = Path(__file__).parents[3].parent / "shared"


def shared(path: str) -> Path:
    if not (SHARED / path).is_file():
        pytest.skip(f"needs ../shared/{path}, which is not here")
    return SHARED / path


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet20", 10)


@pytest.mark.parametrize(("name", "arguments"), [v for v in VARIANTS if v[0].startswith("resnet20")])
def test_the_kind_of_resnet_is_read_off_the_weights(name, arguments):
    weights = build(name, **arguments).state_dict()
    assert variant(name, weights) == {"shortcut": "A", "head": "linear", **arguments}
    assert variant("mobilenetv2", weights) == {}


@pytest.mark.parametrize(
    ("name", "width"), [("mobilenetv2-0.75", 0.75), ("mobilenetv2", 1.0), ("mobilenetv2-1.4", 1.4)]
)
def test_mobilenets_with_the_names_of_torchvision_and_the_public_cifar_weights(name, width):
    """Public CIFAR weights come from torchvision's code with two strides of 1 in place of 2."""
    stages = [list(row) for row in CIFAR_STAGES]
    public = torchvision.models.MobileNetV2(10, width, stages).eval()
    public.features[0][0].stride = (1, 1)
    for module in public.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = build(name).eval()
    apply_weights(ours, with_our_names(name, public.state_dict()), "weights.pt")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), public(images), rtol=1e-5, atol=1e-6)
    assert with_our_names(name, ours.state_dict()).keys() == ours.state_dict().keys()


@pytest.mark.parametrize("depth", [16, 19])
def test_vggs_have_the_names_of_torchvision_and_the_public_cifar_weights(depth):
    public = getattr(torchvision.models, f"vgg{depth}_bn")(init_weights=False).features.state_dict()
    ours = {key: value.shape for key, value in build(f"vgg{depth}-bn").state_dict().items()}
    assert {f"features.{key}": value.shape for key, value in public.items()}.items() <= ours.items()
    linear = [key for key in ours if key.startswith("classifier") and key.endswith("weight")]
    assert linear == ["classifier.0.weight", "classifier.3.weight", "classifier.6.weight"]
    assert ours["classifier.0.weight"] == (512, 512)


def test_resnets_have_the_names_of_the_public_cifar_weights():
    keys = build("resnet20", shortcut="B", head="fc").state_dict().keys()  # as in chenyaofo/pytorch-cifar-models
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight"} <= keys
    assert {"layer3.0.downsample.1.bias", "layer3.2.bn2.weight", "fc.weight"} <= keys


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("suffix", "wrapper"),
    [(".safetensors", None), *itertools.product((".pt", ".pth", ".th", ".ckpt"), (None, "state_dict", "model"))],
)
def test_weights_load_from_every_format_prefix_and_wrapper(tmp_path, small, suffix, prefix, wrapper):
    state = {prefix + key: value for key, value in small.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        old = suffix == ".th"
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path, _use_new_zipfile_serialization=not old)
    weights = load_weights(path)
    assert weights.keys() == small.state_dict().keys()
    target = build("resnet20", 10)
    apply_weights(target, weights, path)
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in target.state_dict().items())


def test_shortcut_keys_of_other_implementations_become_downsample(tmp_path):
    model = build("resnet20", 10, shortcut="B", head="fc")
    state = {"module." + k.replace(".downsample.", ".shortcut."): v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.th")
    weights = with_our_names("resnet20", load_weights(tmp_path / "weights.th"))
    assert variant("resnet20", weights) == {"shortcut": "B", "head": "fc"}
    apply_weights(model, weights, "weights.th")


def test_weights_without_batch_counters_load(small):
    state = {k: v for k, v in small.state_dict().items() if not k.endswith("num_batches_tracked")}
    apply_weights(build("resnet20", 10), state, "weights.th")


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "model.", "module._orig_mod.", "model._orig_mod.", "net.", "ema.net."]
)
def test_the_prefixes_and_counters_of_wrappers_are_dropped(tmp_path, small, prefix):
    counters = {"total_ops": torch.zeros(1), f"{prefix}layer1.0.total_params": torch.zeros(1)}
    state = {f"{prefix}{key}": value for key, value in small.state_dict().items()}
    torch.save({"state_dict": {"n_averaged": torch.tensor(3), **counters, **state}}, tmp_path / "w.pt")
    assert load_weights(tmp_path / "w.pt").keys() == small.state_dict().keys()


def test_a_network_may_itself_have_the_name_of_a_wrapper(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    own, other = Own(), Own()
    torch.save(own.state_dict(), tmp_path / "w.pt")
    apply_weights(other, load_weights(tmp_path / "w.pt"), "w.pt")
    assert torch.equal(own.model.weight, other.model.weight)


def test_averaged_weights_are_taken_and_said(tmp_path, small, capsys):
    averaged = {key: value + 1 for key, value in small.state_dict().items()}
    torch.save({"state_dict": small.state_dict(), "state_dict_ema": averaged}, tmp_path / "w.pt")
    assert torch.equal(load_weights(tmp_path / "w.pt")["bn1.weight"], averaged["bn1.weight"])
    assert capsys.readouterr().err == f"note: weights {tmp_path / 'w.pt'}: takes state_dict_ema, not state_dict\n"


def test_the_one_state_dict_of_a_file_is_taken_whatever_it_is_called(tmp_path, small, capsys):
    state = small.state_dict()
    for name in ("model_state_dict", "net", "params_ema"):
        torch.save(
            {name: state, "optimizer_state_dict": {"state": {}, "param_groups": []}, "epoch": 3}, tmp_path / "w.pt"
        )
        assert load_weights(tmp_path / "w.pt").keys() == state.keys()
    assert capsys.readouterr().err == ""
    torch.save({"model": state, "teacher": state}, tmp_path / "w.pt")
    load_weights(tmp_path / "w.pt")
    assert capsys.readouterr().err == f"note: weights {tmp_path / 'w.pt'}: takes model, not teacher\n"
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pt")
    assert "holds the weights student, teacher; save those" in refused(load_weights, tmp_path / "w.pt")


def test_a_file_that_holds_itself_ends(tmp_path):
    state: dict[str, object] = {}
    state["state_dict"] = state
    torch.save(state, tmp_path / "w.pt")
    assert "save model.state_dict()" in refused(load_weights, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(3).to_sparse(), "is sparse"),
        (torch.zeros(3, device="meta"), "has no values"),
        (torch.tensor([1.0, torch.nan]), "has NaN or infinite values"),
        (torch.zeros(3, dtype=torch.complex64), "is complex"),
    ],
)
def test_weights_that_are_no_ordinary_numbers_are_refused_by_name(tmp_path, value, message):
    torch.save({"conv.weight": value}, tmp_path / "w.pt")
    assert f"w.pt: conv.weight {message}" in refused(load_weights, tmp_path / "w.pt")


def test_integers_are_no_weights_of_a_float_network(small):
    state = {**small.state_dict(), "conv1.weight": torch.ones(16, 3, 3, 3, dtype=torch.int8)}
    message = refused(apply_weights, build("resnet20", 10), state, "w.pt")
    assert "1 of another type: conv1.weight (torch.int8)" in message


def test_mismatch_names_missing_unexpected_and_misshaped_keys_and_changes_nothing(small):
    model = build("resnet20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(small.state_dict())
    del state["bn1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["linear.weight"] = torch.zeros(100, 64)
    message = refused(apply_weights, model, state, "w.pt")
    assert "w.pt" in message
    assert "1 missing: bn1.weight" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of another shape: linear.weight ([100, 64] for [10, 64])" in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_many_wrong_keys_are_counted_not_listed(small):
    message = refused(apply_weights, build("resnet56", 10), small.state_dict(), "w.pt")
    assert "180 missing: " in message and "and 176 more" in message and len(message) < 400


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_never_run(tmp_path, new_format):
    path, proof = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({"state_dict": Hostile(proof)}, path, _use_new_zipfile_serialization=new_format)
    message = refused(load_weights, path)
    assert str(path) in message and "could run code" in message
    assert not proof.exists()


def test_plain_pickle_with_code_is_refused_and_never_run(tmp_path):
    path, proof = tmp_path / "weights.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Hostile(proof)))
    assert str(path) in refused(load_weights, path)
    assert not proof.exists()


def test_whole_modules_are_refused_with_the_remedy(tmp_path, small):
    torch.save(small, tmp_path / "model.pt")
    assert "model.state_dict()" in refused(load_weights, tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".pt", ".th", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_weights_are_refused(tmp_path, small, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(small.state_dict(), path)
    else:
        torch.save(small.state_dict(), path, _use_new_zipfile_serialization=suffix != ".th")
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"not weights " * 20, "empty": b""}[damage])
    message = refused(load_weights, path)
    assert str(path) in message and "corrupt" in message


def test_missing_folder_and_unknown_suffix_are_named(tmp_path):
    assert "does not exist" in refused(load_weights, tmp_path / "none.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "is not a file" in refused(load_weights, tmp_path / "folder.pt")
    (tmp_path / "weights.h5").write_bytes(b"")
    assert ".safetensors" in refused(load_weights, tmp_path / "weights.h5")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(2), {"state_dict": {"a": 1}}, {1: 2}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    assert "save model.state_dict()" in refused(load_weights, tmp_path / "weights.pt")


def test_gates_of_the_original_code_are_split_off(small):
    state = {
        **small.state_dict(),
        "layer2.1.alpha1.alpha": torch.tensor([0.25]),
        "layer3.0.alpha2.alpha": torch.ones(1),
    }
    weights, given = split_gates(state)
    assert given == {"layer2.1.relu": 0.25, "layer3.0.relu_1": 1.0}
    assert weights.keys() == small.state_dict().keys()


def test_a_gate_of_several_values_is_refused():
    assert "layer2.1.alpha1.alpha" in refused(split_gates, {"layer2.1.alpha1.alpha": torch.ones(2)})


# ---- published weights


def test_shipped_prefold_checkpoint():
    weights, given = split_gates(load_weights(shared("models/layer-folding-prefold-resnet20.ckpt")))
    arguments = variant("resnet20", weights)
    assert arguments == {"shortcut": "B", "head": "fc"}
    model = build("resnet20", **arguments)
    apply_weights(model, weights, "the checkpoint")
    assert list(given) == list(gates(linearize(model, torch.zeros(1, 3, 32, 32), gate="all")))[1:]  # not the stem's
    assert sum(alpha >= 0.9 for alpha in given.values()) == 10


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet20", "resnet20-cifar10.th"),
        ("resnet56", "resnet56-cifar10.th"),
        ("resnet20", "resnet20-cifar10-jpeg.pt"),
    ],
)
def test_public_weights_fit(name, file):
    path = shared(f"models/{file}")
    weights = load_weights(path)
    arguments = variant(name, weights)
    assert arguments == {"shortcut": "A", "head": "linear"}
    apply_weights(build(name, **arguments), weights, path)


@pytest.mark.slow
def test_fine_tuned_resnet20_has_its_accuracy_on_test_images():
    archive, path = shared("data/cifar10-jpeg.tar.gz"), shared("models/resnet20-cifar10-jpeg.pt")
    weights = load_weights(path)
    model = build("resnet20", **variant("resnet20", weights)).eval()
    apply_weights(model, weights, path)
    images, names = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and "test" in parts and int(parts[-1].split(".")[0]) % 20 == 0:
                with Image.open(tar.extractfile(member)) as image:
                    images.append(torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1)))
                names.append(parts[-2])
    classes = sorted(set(names))
    labels = torch.tensor([classes.index(name) for name in names])
    assert len(classes) == 10 and len(images) >= 400
    with torch.no_grad():
        predicted = model(normalise(torch.stack(images), RGB_MEAN, RGB_STD)).argmax(1)
    accuracy = (predicted == labels).float().mean().item()
    assert abs(accuracy - 0.884) < 0.05  # three standard deviations of a sample of 400
