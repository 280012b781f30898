"""What of the GPU benchmark can be checked without one; and with one, that it runs."""

import json

import pytest
import torch
from torch import nn

from benchmarks import gpu
from layer_folding import command_line

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.slow
def test_all_have_their_batchnorms_merged_and_two_are_shallower():
    (original, merged, fitted), image = gpu.variants("resnet20")
    for model in (original, merged, fitted):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert model(image).isfinite().all()
    convolutions = [
        [module for module in model.modules() if isinstance(module, nn.Conv2d)] for model in (original, merged, fitted)
    ]
    assert [len(found) for found in convolutions] == [19, 10, 10]
    kernels = [{module.kernel_size for module in found} for found in convolutions]
    assert kernels == [{(3, 3)}, {(3, 3), (5, 5), (7, 7)}, {(3, 3)}]


@pytest.mark.slow
def test_where_two_sets_share_a_layer_one_is_fitted():
    (original, merged, fitted), image = gpu.variants("mobilenet_v2")
    assert original(image).shape == fitted(image).shape
    counts = [sum(isinstance(module, nn.Conv2d) for module in model.modules()) for model in (original, merged, fitted)]
    assert counts == [52, 17, 18]


def test_a_row_has_the_speedups_of_its_samples():
    row = gpu.row("resnet20", "fp16", 32, [[2.0, 2.1] * 10, [4.0, 4.2] * 10, [1.0, 1.05] * 10])
    line = gpu.lines([row])[-1]
    assert line[:4] == ["resnet20", "fp16", "32", "2.05"]
    assert line[4].startswith("0.500x [") and line[4].endswith(" slower")
    assert line[5].startswith("2.000x [") and line[5].endswith(" faster")


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "-o", str(tmp_path / "gpu.json")])
    assert command_line.run(gpu.main) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: no GPU: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@needs_gpu
def test_it_runs_on_a_gpu(tmp_path):
    output = tmp_path / "gpu.json"
    gpu.main(["--networks", "resnet20", "--seconds", "0.05", "-o", str(output)])
    rows = json.loads(output.read_text())["samples"]
    assert [(row["precision"], row["batch"]) for row in rows] == [("fp32", 1), ("fp32", 32), ("fp16", 1), ("fp16", 32)]
    assert all(each["speedup"] > 0 for row in rows for each in row["comparisons"].values())


@pytest.mark.gpu
@needs_gpu
def test_each_replay_of_a_graph_is_timed():
    model, x = nn.Linear(4, 4).cuda(), torch.ones(1, 4, device="cuda")
    stamps = gpu.replay(model, x)(5)
    assert stamps.shape == (5, 8) and (stamps[:, 5] >= stamps[:, 4]).all()
