"""Results side by side: comparison across files, and pictures."""

import json
import sys

import pytest

from tests.layer_folding.test_bench_results import written


@pytest.fixture
def files(tmp_path):
    """Two results of the same device: before.json, and after.json with a faster second network."""
    before, after = written(), written()
    after["models"][1]["samples_ms"] = [0.5, 0.55] * 10
    for name, result in (("before", before), ("after", after)):
        result["device"] = {"kind": "gpu", "name": "Orin", "jetson": {"nvpmodel": "15W"}}
        for model in result["models"]:
            model["profile"] = {"note": "n", "runs": 2, "layers": [], "modules": {"conv1": 0.5, "fc": 0.1}}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def test_networks_are_compared_across_files(run, files):
    code, out, err = run("show", files / "before.json", files / "after.json")
    assert (code, err) == (0, "")
    original, folded = out.splitlines()[-2:]
    assert original == (
        f"original, batch 1: {files}/after.json against {files}/before.json: "
        "1.000x [0.956, 1.046], no significant difference"
    )
    assert folded.startswith(f"folded, batch 1: {files}/after.json against {files}/before.json: 2.0")
    assert folded.endswith(", faster")


def test_other_device_states_refuse_to_be_compared(run, files):
    result = json.loads((files / "after.json").read_text())
    result["device"]["jetson"]["nvpmodel"] = "MAXN_SUPER"
    (files / "after.json").write_text(json.dumps(result))
    code, out, err = run("show", files / "before.json", files / "after.json")
    assert code == 2 and err.count("\n") == 1
    assert "was not measured in the same state of the device" in err
    assert "(power mode: 15W and MAXN_SUPER)" in err and "--force" in err
    code, out, err = run("show", files / "before.json", files / "after.json", "--force")
    assert (code, err) == (0, "")
    assert "not comparable, power mode: 15W and MAXN_SUPER" in out
    assert out.splitlines()[-1].startswith("folded, batch 1: ")


def test_pictures_are_drawn(run, files):
    pytest.importorskip("matplotlib")
    code, out, err = run("show", files / "before.json", "--pictures", files / "pictures")
    assert (code, err) == (0, "")
    names = [f"before-{what}.{kind}" for what in ("latency", "modules") for kind in ("png", "svg")]
    assert out.splitlines()[-4:] == [f"{files}/pictures/{name}" for name in names]
    for name in names:
        content = (files / "pictures" / name).read_bytes()
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
        assert len(content) > 5000


def test_without_matplotlib_it_is_one_line(run, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("show", files / "before.json", "--pictures", files / "pictures")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: --pictures: cannot import matplotlib (") and "pip install matplotlib" in err
    assert not (files / "pictures").exists()
