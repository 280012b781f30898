"""Gates that count differently: weights from a file, or from a latency table."""

import json

import pytest
import torch

from layer_folding.command_line import run
from layer_folding.fold import checkpoints, gates, linearize
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import candidates
from layer_folding.latency_tables import write_table
from layer_folding.train import commands as command
from tests.fold.plan.latency_tables import table_of

FAST = ("--epochs", "1", "--batch", "16")


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"), [("w.csv", "gate,weight\n{0},2\n"), ("w.json", '{{"{0}": 2}}')], ids=["csv", "json"]
)
def test_gate_weights(images, weights, tmp_path, capsys, name, content):
    folder = tmp_path / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    given = ("--run", folder, "--epochs", "0", "--gate-weights", tmp_path / name)
    (tmp_path / name).write_text(content.format("blocks.0.expand.act"))
    assert call("prefold", *given) == 2
    assert "gate weights: blocks.0.depthwise.act, " in capsys.readouterr().err
    (tmp_path / name).write_text("many")
    assert call("prefold", *given) == 2
    assert f"--gate-weights {tmp_path / name}: not as it should be" in capsys.readouterr().err
    gated = linearize(build("mobilenetv2-digits", 2, 3), torch.zeros(1, 3, 32, 32))
    everything = dict.fromkeys(gates(gated), 2.0)
    rows = "".join(f"{gate},{weight}\n" for gate, weight in everything.items())
    (tmp_path / name).write_text(f"gate,weight\n{rows}" if name == "w.csv" else json.dumps(everything))
    assert call("prefold", *given) == 0
    settings = json.loads((folder / "config.json").read_text())["stages"]["prefold"]["settings"]
    assert settings["gate_weights"] == everything


@pytest.mark.slow
def test_gate_weights_from_a_latency_table(images, weights, tmp_path, capsys):
    """Block 1 saves 0.5 ms, block 3 0.25; they and those of the same shape share it by two activations each."""
    folder = tmp_path / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    model, example = checkpoints.load(folder / "original.safetensors")[0], torch.zeros(1, 3, 32, 32)
    found = candidates(model, example)
    pairs = {i: (f"blocks.{i}.expand.act", f"blocks.{i}.depthwise.act") for i in (1, 3)}
    write_table(folder / "latency.csv", table_of(found, {pairs[1]: 1.5, pairs[3]: 1.75}))
    given = ("prefold", "--run", folder, "--latency", folder / "latency.csv", *FAST, "--epochs", "2", "--lambda", "10")
    (tmp_path / "w.json").write_text(json.dumps({"a": 1}))
    for option, value in (("--gate-weights", tmp_path / "w.json"), ("--remove", "a")):
        assert call(*given, option, value) == 2
        assert "not allowed with argument --latency" in capsys.readouterr().err
    assert call(*given) == 0
    used = json.loads((folder / "config.json").read_text())["stages"]["prefold"]["settings"]["gate_weights"]
    assert used.keys() == gates(linearize(model, example)).keys()
    assert sum(used.values()) == pytest.approx(len(used))
    assert used[pairs[1][0]] == used[pairs[1][1]] == pytest.approx(2 * used[pairs[3][0]])
    assert used[pairs[1][0]] > 0 and used["blocks.2.expand.act"] == 0
    alphas = checkpoints.read(folder / "prefold.safetensors")[0].gates
    assert all(alphas[name] == 1 for name in pairs[1])  # gates end open or closed
    assert alphas["blocks.2.expand.act"] == 0
    assert call(*given) == 0
    capsys.readouterr()
    write_table(folder / "latency.csv", table_of(found, {pairs[1]: 1.6, pairs[3]: 1.75}))
    assert call(*given) == 2
    err = capsys.readouterr().err
    assert (
        "gate_weights blocks.1.expand.act was " in err
        and " more); give the earlier settings again" in err
        and err.count("\n") == 1
    )
    write_table(folder / "latency.csv", table_of(found, {}))
    assert call(*given) == 1
    err = capsys.readouterr().err
    assert "nothing to gain" in err and err.count("\n") == 1
