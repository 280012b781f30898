"""Planned against the others. No test relies on what is faster, as machines may be busy."""

from functools import partial

import pytest
from torch import nn

from benchmarks import planned
from layer_folding import command_line
from layer_folding.bench_results import NetworkRecord
from layer_folding.device_records import DeviceRecord
from layer_folding.plans import read_plan
from layer_folding.prediction_records import PlannedLatency, Prediction
from layer_folding.trt_bench import prediction
from tests.layer_folding.test_bench_results import compared, example, model


def result(**medians):
    """What `planned.run` returns for networks that take these times, in ms."""
    samples = {name: [ms, 1.001 * ms] * 10 for name, ms in medians.items()}
    comparisons = {
        name: compared(name, samples["original"], values) for name, values in samples.items() if name != "original"
    }
    latency = PlannedLatency(original=2.0, planned=1.0, error=0.02)
    said = Prediction("plan.json", 2.0, (1.9, 2.1), None, latency, comparisons["planned"], 0.05)
    bench = example(
        device=DeviceRecord(name="EPYC", runtime_version="1.32.0"),
        models=tuple(model(name, values, network=NetworkRecord(depth=20)) for name, values in samples.items()),
        comparisons=tuple(comparisons.values()),
        prediction=said,
    )
    return planned.Outcome({}, bench)


def chain():
    """Two convolutions, which merge without the activation between them, and a classifier behind a pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 5)
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_small_network_goes_all_the_way(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(prediction, "SECONDS", 0.02)
    monkeypatch.setattr(planned, "measured_table", partial(planned.measured_table, seconds=0.01, bound=10))
    network = planned.Network("tests.benchmarks.test_planned:chain", 16, ("1",))
    monkeypatch.setattr(planned, "NETWORKS", {"tiny": network})
    found = planned.run("tiny", tmp_path, 0.05, precision)
    assert {entry.network.precision for entry in found.bench.models} == {precision}
    models = {entry.name: entry for entry in found.bench.models}
    assert list(models) == ["original", "planned", "merged", "everything", "published"]
    depths = [models[name].network.depth for name in ("original", "everything", "published")]
    assert depths == [3, 2, 2]
    assert found.bench.prediction.obstacle is None and found.bench.prediction.miss is not None
    assert sorted(found.changes["planned"]) == sorted(read_plan(tmp_path / "plan.json").lines)
    assert len(planned.rows({"tiny": found})[1]) == len(planned.rows({"tiny": found})[0])


def test_planned_is_slower_only_where_it_is_beyond_the_interval():
    assert planned.slower(result(original=2.0, planned=1.0, everything=1.0, published=3.0)) == []
    assert planned.slower(result(original=1.0, planned=1.1, everything=1.0, published=3.0)) == [
        "original",
        "everything",
    ]


def test_a_table_says_what_was_predicted_and_what_came_out():
    cells = planned.rows({"net": result(original=2.0, planned=1.0, everything=4.0)})[1]
    assert cells[:6] == ["net", "20 => 20", "2", "1 +- 0.02", "1", "2.000x"]
    assert cells[6].startswith("2.000x [1.9") and cells[6].endswith("faster")
    assert cells[7] == "-" and cells[8].endswith("slower") and cells[9:] == ["-", "+5.0%", "none"]


def test_the_command_goes_on_where_its_file_ends_and_fails_where_planned_is_slower(tmp_path, monkeypatch, capsys):
    output = tmp_path / "planned.json"
    ran = []

    def run(name, folder, seconds, precision):
        ran.append((name, precision))
        assert folder.is_dir()
        return result(original=2.0, planned=1.0 if name == "resnet20" else 3.0)

    def command(*names):
        monkeypatch.setattr("sys.argv", ["planned", *names, "-o", str(output)])
        return command_line.run(planned.main)

    monkeypatch.setattr(planned, "run", run)
    assert command("resnet20") == 0
    assert command("resnet20", "resnet56") == 1
    assert command("--precision", "int8", "resnet20") == 0
    assert ran == [("resnet20", "fp32"), ("resnet56", "fp32"), ("resnet20", "int8")]
    assert command("alexnet") == 2 and "alexnet: no network of this benchmark" in capsys.readouterr().err
    assert command("resnet20", "resnet56") == 1
    out, err = capsys.readouterr()
    assert "EPYC" in out and err.startswith("error: planned is slower: resnet56 than original; ")
    output.write_text("{}")
    assert command("resnet20") == 2
    assert "planned.json: damaged: schema is missing; give a result of this benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("name", planned.NETWORKS)
def test_published_choices_are_activations_of_the_network(name):
    if planned.NETWORKS[name].published:
        from layer_folding.fold.networks import open_network

        modules = dict(open_network(planned.NETWORKS[name].spec, [3, 32, 32])[0].named_modules())
        assert {type(modules[path]).__name__ for path in planned.NETWORKS[name].published} == {"ReLU6"}
