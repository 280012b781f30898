"""The support list: what it says of networks that fold, that do not, and that fail."""

import re

import pytest
import torch
from torch import nn

from benchmarks import engines, support
from benchmarks import networks as listed
from layer_folding.errors import CheckError, InputError

COLUMNS = 12


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.fixture(autouse=True)
def no_engines(monkeypatch):
    """Building takes most of the time."""
    monkeypatch.setattr(engines, "available", lambda: False)


@pytest.fixture
def networks(monkeypatch):
    """Replace the networks of the list by those given, by name."""

    def use(**models: nn.Module) -> None:
        monkeypatch.setattr(support, "build", lambda spec, arguments: models[spec.partition(":")[2]])
        monkeypatch.setattr(listed, "NETWORKS", {name: listed.Network("torchvision.models", 16) for name in models})

    return use


def chain(width: int = 8) -> nn.Sequential:
    """Three layers and two activations, the second of which stands before a pooling."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 8 * width, 5),
    )  # fmt: skip


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no | such | luck")


@pytest.mark.slow
def test_a_real_network(capsys):
    support.main(["shufflenet_v2_x1_0"])
    header, _, row = map(cells, capsys.readouterr().out.splitlines())
    assert len(header) == len(row) == COLUMNS
    assert row[:3] == ["shufflenet_v2_x1_0", "torchvision", "64"]
    folded = [int(count) for count in row[4].split(", ")]
    assert len(folded) == support.HALVES + 1
    assert min(folded) > 0
    before, after = map(int, row[5].split(" => "))
    assert after < before
    assert float(row[7]) <= support.TOLERANCE64
    assert float(row[8]) <= support.TOLERANCE32


@pytest.mark.slow
def test_a_network_from_timm(capsys):
    pytest.importorskip("timm", reason="timm is not installed; pip install timm")
    support.main(["mobilenetv2_100"])
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.slow
def test_what_a_row_says(networks, capsys):
    networks(chain=chain())
    support.main([])
    row = cells(capsys.readouterr().out.splitlines()[2])
    assert row[3] == "1 / 2"
    assert row[4].endswith(", 1")
    assert row[5] == "3 => 2"
    assert row[11].startswith("1: ")


@pytest.mark.slow
def test_engines_are_counted_and_refusals_named(networks, monkeypatch, capsys, tmp_path):
    networks(chain=chain())
    built = iter([engines.Engines(6), engines.Engines(5, ("int8 at opset 17: no kernel",))])
    monkeypatch.setattr(engines, "available", lambda: True)
    monkeypatch.setattr(engines, "of_every_kind", lambda model, example: next(built))
    support.main(["-o", str(tmp_path / "support.md")])
    text = (tmp_path / "support.md").read_text(encoding="utf-8")
    [row] = [cells(line) for line in text.splitlines() if line.startswith("| chain")]
    assert row[9:11] == ["6 of 6", "5 of 6<br>int8 at opset 17: no kernel"]
    assert "8.6: 11 of 12 engines were built" in text


@pytest.mark.slow
def test_a_failure_is_shown_and_the_others_still_run(networks, capsys, tmp_path):
    networks(broken=Broken(), chain=chain())
    page = tmp_path / "support.md"
    with pytest.raises(CheckError, match="1 of 2 networks failed, the table says how: broken"):
        support.main(["-o", str(page)])
    text = page.read_text(encoding="utf-8")
    rows = [cells(line) for line in text.splitlines() if line.startswith(("| broken", "| chain"))]
    assert [len(row) for row in rows] == [COLUMNS, COLUMNS]
    assert rows[0][-1].startswith("**FAILED: InputError: the network does not accept an input of shape [2, 3, 16, 16]")
    assert "FAILED" not in rows[1][-1]
    assert "1 of 2 networks pass" in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bound", ["TOLERANCE64", "TOLERANCE32"])
@pytest.mark.slow
def test_an_error_above_its_bound_fails(networks, monkeypatch, bound):
    networks(chain=chain())
    monkeypatch.setattr(support, bound, -1.0)
    with pytest.raises(CheckError, match="chain"):
        support.main([])


@pytest.mark.slow
def test_merges_that_are_too_large_are_left_out(networks, monkeypatch, capsys):
    networks(chain=chain())
    monkeypatch.setattr(support, "LARGEST", 100)
    support.main([])
    assert cells(capsys.readouterr().out.splitlines()[2])[4] == "0, 0, 0"


def test_a_network_that_is_not_in_the_list():
    with pytest.raises(InputError, match=r"resnet1: not in the list; choose from alexnet, .*resnet18"):
        support.main(["resnet1"])


def test_constants_are_drawn_anew():
    """What starts as 0 or 1 would hide mistakes: zero classifiers, BatchNorm scales, layer scales, biases."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    kept = model[0].weight.clone()
    support.redraw_constants(model)
    assert torch.equal(model[0].weight, kept)
    assert all(parameter.min() < parameter.max() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("the activation layer1.0.relu (ReLU) comes before it", "the activation ReLU comes before it"),
        ("add_12 joins values of different anchors: a.0 (ReLU) and cat_3",
         "add joins values of different anchors: ReLU and cat"),
        ("the 16 channels of 0.1 (Conv2d) are a bottleneck", "the N channels of Conv2d are a bottleneck"),
        ("merging would cost 1.6x the MACs", "merging would cost Nx the MACs"),
    ],
)  # fmt: skip
def test_reasons_are_counted_without_names(reason, expected):
    assert support.category(reason) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, network in listed.NETWORKS.items() if network.arguments])
def test_networks_with_arguments_are_built(name):
    support.build(f"{listed.NETWORKS[name].source}:{name}", listed.NETWORKS[name].arguments)
