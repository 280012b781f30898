"""`layer_folding.save` and `load`: a network after any of the steps, from any library, or of one's own code."""

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.errors import InputError
from layer_folding.fold.models import build

EXAMPLE = torch.zeros(1, 3, 32, 32)


def network() -> nn.Module:
    """A network whose values are not those of a fresh one, and whose merges can be seen at their borders."""
    torch.manual_seed(0)
    model = build("resnet20")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
    return model


def opened(model: nn.Module | None = None) -> nn.Module:
    """The same with the gates of two blocks open."""
    gated = lf.linearize(model or network(), EXAMPLE)
    for name in ("layer1.1.relu", "layer2.1.relu"):
        lf.gates(gated)[name].alpha.data.fill_(1.0)
    return gated


def hardened() -> nn.Module:
    return lf.harden(opened())


def hoisted() -> nn.Module:
    return lf.hoist_padding(hardened(), EXAMPLE)[0]


def fitted(model: nn.Module | None = None) -> nn.Module:
    """The same with one layer for each of three blocks, each of another shape, fitted to a few images."""
    images = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    choices = {"layer1.0.relu": 3, "layer2.0.relu": "merged", "layer3.2.relu": "none"}
    return lf.fit(model or network(), images, choices, tuned=False, force=True).model


STEPS = {
    "original": network,
    "linearize": opened,
    "harden": hardened,
    "hoist": hoisted,
    "fold": lambda: lf.fold(hoisted().eval(), EXAMPLE).model,
    "fit": fitted,
    "fit and fold": lambda: lf.fold(fitted().eval(), EXAMPLE).model,
    "fit behind hoist, and fold": lambda: lf.fold(fitted(hoisted()).eval(), EXAMPLE).model,
    "linearize behind fit": lambda: opened(fitted()),
    "nothing removed": lambda: lf.harden(lf.linearize(network(), EXAMPLE)),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.slow
def test_a_network_comes_back_after_every_step(step, tmp_path):
    model = STEPS[step]()
    lf.save(tmp_path / "net.safetensors", model, network="resnet20", example=EXAMPLE)
    loaded = lf.load(tmp_path / "net.safetensors")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not loaded.training
    depth = 20 - (4 if "fit" in step else 0) - (2 if step in ("fold", "fit behind hoist, and fold") else 0)
    assert lf.depth(loaded, EXAMPLE) == lf.depth(model, EXAMPLE) == depth
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_gates_stay_as_open_as_they_are(tmp_path):
    gated = opened()
    lf.gates(gated)["layer3.1.relu"].alpha.data.fill_(0.5)
    lf.save(tmp_path / "net.safetensors", gated, network="resnet20", example=EXAMPLE)
    before, after = (
        {name: gate.alpha.item() for name, gate in lf.gates(model).items()}
        for model in (gated, lf.load(tmp_path / "net.safetensors"))
    )
    assert after == before and sorted(set(after.values())) == [0.0, 0.5, 1.0]


def test_a_loaded_network_can_be_trained_and_folded(tmp_path):
    lf.save(tmp_path / "net.safetensors", hoisted(), network="resnet20", example=EXAMPLE)
    loaded = lf.load(tmp_path / "net.safetensors")
    assert len(lf.fold(loaded, EXAMPLE).folded) == 2
    loaded.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.slow
def test_fewer_classes_and_a_network_of_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    example = torch.zeros(1, 3, 64, 64)
    gated = lf.linearize(torchvision.models.resnet18(num_classes=7), example)
    lf.gates(gated)["layer1.0.relu"].alpha.data.fill_(1.0)
    hard, _ = lf.hoist_padding(lf.harden(gated), example)
    result = lf.fold(hard.eval(), example)
    lf.save(tmp_path / "net.safetensors", result.model, network="torchvision:resnet18", example=example)
    assert lf.load(tmp_path / "net.safetensors")(example).shape == (1, 7)


@pytest.fixture
def own_code(tmp_path, monkeypatch) -> str:
    (tmp_path / "savednets.py").write_text(
        "from torch import nn\n"
        "def small(width):\n"
        "    first, second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 3)\n"
        "    return nn.Sequential(first, nn.ReLU(), second, nn.AvgPool2d(2), nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "savednets:small"


def test_own_code_runs_only_where_it_is_trusted(own_code, tmp_path):
    from savednets import small

    path, model = tmp_path / "net.safetensors", small(8)
    lf.save(path, model, network=own_code, arguments={"width": 8}, example=EXAMPLE)
    with pytest.raises(InputError, match=r"net\.safetensors: .*name it: --trust savednets:small .in Python trust="):
        lf.load(path)
    assert torch.equal(lf.load(path, trust=own_code)(EXAMPLE), model(EXAMPLE))


def test_average_poolings_that_were_merged(own_code, tmp_path):
    from savednets import small

    gated = lf.linearize(small(8), EXAMPLE, average_pooling=True)
    for gate in lf.gates(gated).values():
        gate.alpha.data.fill_(1.0)
    hard, _ = lf.hoist_padding(lf.harden(gated), EXAMPLE, average_pooling=True)
    folded = lf.fold(hard.eval(), EXAMPLE, average_pooling=True).model
    given = {"network": own_code, "arguments": {"width": 8}, "example": EXAMPLE}
    with pytest.raises(InputError, match="do not make this network out of 'savednets:small'"):
        lf.save(tmp_path / "net.safetensors", folded, **given)
    lf.save(tmp_path / "net.safetensors", folded, **given, average_pooling=True)
    assert torch.equal(lf.load(tmp_path / "net.safetensors", trust=own_code)(EXAMPLE), folded(EXAMPLE))


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (network, {"network": "resnet32"}, "do not make this network out of 'resnet32'; give the network, the arg"),
        (network, {"network": "resnet21"}, "did you mean"),
        (network, {"arguments": {"num_classes": 7}}, "do not make this network out of 'resnet20'"),
        (network, {"arguments": {"num_classes": {1, 2}}}, "cannot be written down .*; give JSON values as arguments"),
        (lambda: network().half(), {}, r"conv1\.weight is torch\.float16, and a checkpoint holds float32"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_rebuilt_is_not_written(model, given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        lf.save(tmp_path / "net.safetensors", model(), **{"network": "resnet20", "example": EXAMPLE, **given})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_that_keeps_a_tensor_with_a_gradient_is_saved(tmp_path, monkeypatch):
    (tmp_path / "normednets.py").write_text(
        "from torch import nn\n\n\ndef small(num_classes=10):\n"
        "    layers = nn.utils.weight_norm(nn.Conv2d(3, num_classes, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import normednets

    model = normednets.small(4)
    model(EXAMPLE).sum().backward()
    lf.save(tmp_path / "net.safetensors", model, network="normednets:small", example=EXAMPLE)
    loaded = lf.load(tmp_path / "net.safetensors", trust="normednets:small")
    assert torch.equal(loaded(EXAMPLE + 1), model.eval()(EXAMPLE + 1))
