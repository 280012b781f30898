"""The support list: what it says of networks that fold, that do not, and that fail."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks import engines, support
from benchmarks import networks as listed
from benchmarks.resources import Spent
from layer_folding.errors import CheckError, InputError
from layer_folding.fold.graph.comparing import is_finite
from tests.docs.pages import ROOT

COLUMNS = len(support.COLUMNS)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.fixture
def networks(monkeypatch):
    """Replace the networks of the list by those given, by name."""

    def use(**models: nn.Module) -> None:
        made = {name: listed.Network("torchvision", 16, lambda m=model: m) for name, model in models.items()}
        monkeypatch.setattr(listed, "NETWORKS", made)

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
    assert set(row[9].split(", ")) and len(row[9].split(", ")) == 3  # precisions
    assert len(row[10].split(", ")) == 3 and 0 < float(row[11]) < support.GIGABYTES
    assert row[12:14] == ["-", "-"]
    assert row[-1].startswith("1: ")


@pytest.mark.slow
def test_engines_are_counted_and_refusals_named(networks, monkeypatch, capsys, tmp_path):
    networks(chain=chain())
    built = iter([engines.Engines(6), engines.Engines(5, ("int8 at opset 17: no kernel",))])
    monkeypatch.setattr(engines, "available", lambda: True)
    monkeypatch.setattr(engines, "of_every_kind", lambda model, example: next(built))
    support.main(["--engines", "-o", str(tmp_path / "support.md")])
    text = (tmp_path / "support.md").read_text(encoding="utf-8")
    [row] = [cells(line) for line in text.splitlines() if line.startswith("| chain")]
    assert row[12:14] == ["6 of 6", "5 of 6<br>int8 at opset 17: no kernel"]
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
def test_rows_of_given_networks_join_those_of_the_page(networks, tmp_path):
    networks(first=chain(), second=chain(4), third=chain(4))
    page = tmp_path / "support.md"
    support.main(["-o", str(page), "third"])
    support.main(["-o", str(page), "first"])
    text = page.read_text(encoding="utf-8")
    assert [cells(line)[0] for line in text.splitlines() if line.startswith("| ")][2:] == ["first", "third"]
    assert "2 of 2 networks pass" in text and "not measured yet: second." in text
    page.write_text(text.replace(" => ", " | "), encoding="utf-8")
    with pytest.raises(InputError, match=r"support.md: its table has other columns; write it anew, without naming"):
        support.main(["-o", str(page), "second"])


def test_engines_need_their_builder(monkeypatch):
    monkeypatch.setattr(engines, "available", lambda: False)
    with pytest.raises(InputError, match="--engines: TensorRT-RTX is not installed; pip install"):
        support.main(["--engines"])


@pytest.mark.parametrize(
    ("took", "failure"),
    [
        ({"scan": Spent(60, 4 * 10**9)}, None),
        ({"scan": Spent(61, 0), "fold": Spent(0, 5 * 10**9)}, "scan takes 61 s; fold takes 5.0 GB"),
    ],
)
def test_what_takes_too_much_fails(took, failure):
    assert support.Row("any", spent=took).failure == failure


def test_what_a_call_takes():
    code = """
import torch
from benchmarks.resources import spent
(result, took), (_, nothing) = spent(lambda: torch.ones(2**26).sum().item()), spent(int)
print(result == 2**26, took.peak - nothing.peak > 2**27, took.seconds > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # whose memory is its own
    assert done.stdout == "True True True\n", done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        "googlenet", "vit_b_16", "mixer_s32_224", "yolo11n-cls", "yolo26n-pose", "MobileNetV2", "FPN",
        "ssdlite320_mobilenet_v3_large.backbone", "fasterrcnn_resnet50_fpn.backbone", "lraspp_mobilenet_v3_large",
        "levit_128s", "efficientvit_m0", "mobilenetv2_100.features",
    ],
)  # fmt: skip
def test_networks_of_every_kind_are_built_and_run(name, monkeypatch, tmp_path):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    network = listed.NETWORKS[name]
    with torch.no_grad():
        assert is_finite(network.make().eval()(torch.zeros(1, 3, network.pixels, network.pixels)))


def test_the_page_names_all_networks_and_the_other_pages_the_number_of_its_rows():
    text = (ROOT / "docs/support.md").read_text(encoding="utf-8")
    rows = [cells(line)[0] for line in text.splitlines() if line.startswith("| ")][2:]
    missing = re.search(r"not measured yet: (.*)\.\n", text)
    assert sorted([*rows, *(missing[1].split(", ") if missing else [])]) == sorted(listed.NETWORKS)
    for page in ("README.md", "docs/own-model.md"):
        assert f"{len(rows)} networks" in (ROOT / page).read_text(encoding="utf-8")
