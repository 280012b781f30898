import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layer_folding import epoch_records
from layer_folding.command_line import run
from layer_folding.epoch_records import Epoch
from layer_folding.errors import InputError
from layer_folding.fold import checkpoints, gates, saving
from layer_folding.fold import commands as fold_command
from layer_folding.fold.models import build
from layer_folding.fold.replaying import replay
from layer_folding.train import commands as command
from layer_folding.train import hardening

ROOT = Path(__file__).parents[2]
FAST = ("--epochs", "1", "--batch", "16")


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def fold(*arguments: object) -> int:
    return run(lambda: fold_command.main([str(argument) for argument in arguments]))


@pytest.fixture(scope="session")
def prefolded(images, weights, tmp_path_factory) -> Path:
    """A run whose gates of two blocks have been opened by hand."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    assert call("prefold", "--run", folder, *FAST, "--epochs", "0") == 0
    recipe, tensors = checkpoints.read(folder / "prefold.safetensors")
    for name in ("blocks.1.expand.act", "blocks.1.depthwise.act", "blocks.2.expand.act", "blocks.2.depthwise.act"):
        tensors[f"{name}.alpha"].fill_(1)
    gated = replay(recipe)
    checkpoints.fill(gated, tensors, "here")
    checkpoints.save(folder / "prefold.safetensors", gated, recipe)
    return folder


@pytest.fixture
def copied(prefolded, tmp_path) -> Path:
    return Path(shutil.copytree(prefolded, tmp_path / "run"))


@pytest.mark.parametrize("growth", [2, 100])
@pytest.mark.slow
def test_the_picture_of_the_gates_tells_what_fold_json_tells(copied, monkeypatch, capsys, growth):
    lone, drawn = "blocks.3.expand.act", []
    recipe, tensors = checkpoints.read(copied / "prefold.safetensors")
    tensors[f"{lone}.alpha"].fill_(1)
    gated = replay(recipe)
    checkpoints.fill(gated, tensors, "here")
    checkpoints.save(copied / "prefold.safetensors", gated, recipe)
    alphas = {name: gate.alpha.item() for name, gate in gates(gated).items()}
    closed = Epoch("prefold", 1, accuracy=0.5, depth=21, gates=dict.fromkeys(alphas, 0.0))
    epoch_records.write(copied / "metrics.csv", [closed, replace(closed, epoch=2, gates=alphas)])
    monkeypatch.setattr(hardening, "draw_gates", lambda *arguments: drawn.append(arguments))
    assert call("finetune", "--run", copied, *FAST, "--max-growth", str(growth)) == 0 == fold("fold", copied)
    told = json.loads((copied / "fold.json").read_text())
    [(path, epochs, threshold, kept)] = drawn
    assert (path, threshold) == (copied / "gates.png", 0.9)
    assert kept == told["kept"] and list(kept) == ([lone] if growth == 2 else [])
    assert [epoch.depth for epoch in epochs] == [21, told["cost"]["folded"]["depth"]]


def test_from_gates_to_a_folded_network(copied, images, capsys):
    assert call("finetune", "--run", copied, *FAST) == 0
    assert fold("fold", copied) == 0
    out = capsys.readouterr().out
    assert "folded    16" in out and "the same class for 16 of 16 images (0 ties at rounding)" in out
    report = json.loads((copied / "fold.json").read_text())
    assert set(report["accuracy"]) == {"original", "prefold", "removed", "hoisted", "hardened", "folded"}
    assert report["accuracy"]["hardened"] == report["accuracy"]["folded"]
    (merge,) = report["folded"]
    assert merge["layers"] == [f"blocks.{i}.{part}.conv" for i in (1, 2) for part in ("expand", "depthwise", "project")]
    assert merge["kernel"] == [5, 5] and merge["macs"][1] < merge["macs"][0]
    assert report["max_error"] <= 1e-9 and report["agreement"] == {"images": 16, "same": 16, "ties": 0}
    assert report["cost"]["original"]["depth"] == 21 and report["cost"]["folded"]["depth"] == 16
    assert all(entry["reason"] for entry in report["skipped"])
    model, recipe = checkpoints.load(copied / "folded.safetensors")
    assert list(recipe.removed) == [f"blocks.{i}.{part}.act" for i in (1, 2) for part in ("expand", "depthwise")]
    capsys.readouterr()
    stages = [copied / f"{name}.safetensors" for name in ("original", "hardened", "folded")]
    assert call("evaluate", *stages, "--data", images) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith(f": accuracy: {100 * report['accuracy']['folded']:.2f} % on 16 images") and len(lines) == 3
    assert next(model.parameters()).dtype == torch.float32


def test_a_finished_stage_is_not_repeated(copied, capsys):
    before = (copied / "prefold.safetensors").stat().st_mtime_ns
    assert call("prefold", "--run", copied, *FAST, "--epochs", "0") == 0
    assert "prefold: done before" in capsys.readouterr().out
    assert (copied / "prefold.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_weights_with_gates_of_the_original_code(images, tmp_path, capsys):
    """They go on like a prefold checkpoint of ours, here without any training."""
    state = build("resnet20", 2, shortcut="B", head="fc").state_dict()
    names = [f"layer{stage}.{block}.alpha{n}.alpha" for stage in (1, 2, 3) for block in range(3) for n in (1, 2)]
    given = {name: torch.tensor([0.3]) for name in names}
    given["layer1.1.alpha1.alpha"] = given["layer2.1.alpha2.alpha"] = torch.tensor([0.95])
    torch.save({**state, **given}, tmp_path / "prefold.ckpt")
    network = ("--model", "resnet20", "--data", images, "--weights", tmp_path / "prefold.ckpt")
    assert call("pretrain", "--run", tmp_path / "run", *network) == 0
    assert "has 18 gates" in capsys.readouterr().err
    for stage in ("prefold", "finetune"):
        assert call(stage, "--run", tmp_path / "run", *FAST, "--epochs", "0") == 0
    recipe, weights = checkpoints.read(tmp_path / "run" / "prefold.safetensors")
    assert weights["layer3.2.relu_1.alpha"].item() == pytest.approx(0.3)
    assert recipe.accuracy.keys() == {"original", "prefold"}
    recipe = checkpoints.load(tmp_path / "run" / "hardened.safetensors")[1]
    assert recipe.removed == ("layer1.1.relu", "layer2.1.relu_1")


@pytest.mark.slow
def test_planned_removal(images, weights, tmp_path):
    """A plan is carried out to the letter, whatever it costs; hoisted before training, so not again after it."""
    folder, names = tmp_path / "run", ["blocks.1.expand.act", "blocks.2.depthwise.act", "blocks.2.expand.act"]
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    (tmp_path / "plan.txt").write_text("\n".join(names))
    assert call("prefold", "--run", folder, *FAST, "--remove", tmp_path / "plan.txt", "--distill", 0.5) == 0
    settings = json.loads((folder / "config.json").read_text())["stages"]["prefold"]["settings"]
    assert settings["remove"] == ["blocks.1.expand.act", "blocks.2.expand.act", "blocks.2.depthwise.act"]
    assert call("finetune", "--run", folder, *FAST, "--distill", 0.5) == 0
    assert fold("fold", folder) == 0
    recipe = checkpoints.load(folder / "folded.safetensors")[1]
    assert list(recipe.removed) == settings["remove"] and recipe.kept == {}
    assert len(recipe.hoisted) == 2 and recipe.planned == recipe.removed
    assert sum(1 for _ in saving.load(folder / "folded.safetensors").modules()) < sum(
        1 for _ in saving.load(folder / "hardened.safetensors").modules()
    )
    with pytest.raises(InputError, match=r"prefold\.safetensors: its gates open on a schedule"):
        saving.load(folder / "prefold.safetensors")
    accuracy = recipe.accuracy
    assert accuracy["prefold"] == accuracy["removed"] == accuracy["hoisted"]


@pytest.mark.slow
def test_a_plan_with_an_addition(images, weights, tmp_path, capsys):
    """The activation comes while the others go, stays, and stands behind the merged layer in the end."""
    folder, removed = tmp_path / "run", ["blocks.2.expand.act", "blocks.2.depthwise.act"]
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    wrong = "+blocks.2.projekt.bn=blocks.2.depthwise.act"
    assert call("prefold", "--run", folder, *FAST, "--gate", "all", "--remove", ",".join([*removed, wrong])) == 2
    assert "there is no value 'blocks.2.projekt.bn' in the network" in capsys.readouterr().err
    changes = [*removed, "+blocks.2.project.bn=blocks.2.depthwise.act"]
    (tmp_path / "plan.txt").write_text("\n".join(changes))
    assert call("prefold", "--run", folder, *FAST, "--gate", "all", "--remove", tmp_path / "plan.txt") == 0
    alphas = checkpoints.read(folder / "prefold.safetensors")[0].gates
    assert [alphas[name] for name in (*removed, "blocks.2.project.bn_added")] == [1, 1, 0]
    assert call("finetune", "--run", folder, *FAST, "--distill", 0.5, "--distill-features", 1) == 0
    assert fold("fold", folder) == 0
    (merge,) = json.loads((folder / "fold.json").read_text())["folded"]
    assert merge["layers"] == [f"blocks.2.{part}.conv" for part in ("expand", "depthwise", "project")]
    model, recipe = checkpoints.load(folder / "folded.safetensors")
    assert list(recipe.removed) == changes
    assert recipe.accuracy["prefold"] == recipe.accuracy["removed"] == recipe.accuracy["hoisted"]
    (behind,) = (node for node in model.graph.nodes if node.target == merge["name"])
    (reader,) = behind.users
    assert (reader.target, type(model.get_submodule(reader.target))) == ("blocks.2.project.bn_added", torch.nn.ReLU6)


def test_short_options_are_those_of_the_original_scripts(images, tmp_path):
    folder = tmp_path / "run"
    short = ("-e", "0", "-b", "16", "-lr", "0.001", "-m", "0.8", "-wd", "0")
    assert call("pretrain", "--run", folder, "-d", "20", "--data", images, *short) == 0
    assert call("prefold", "--run", folder, *short, "-l", "0.5") == 0
    stages = json.loads((folder / "config.json").read_text())["stages"]
    assert stages["pretrain"]["settings"]["model"] == "resnet20"
    expected = {"epochs": 0, "batch": 16, "lr": 0.001, "momentum": 0.8, "weight_decay": 0.0, "penalty": 0.5}
    assert expected.items() <= stages["prefold"]["settings"].items()


def test_config_tells_settings_and_versions(copied):
    config = json.loads((copied / "config.json").read_text())
    assert config["stages"]["prefold"]["settings"]["penalty"] == 0.25
    assert config["stages"]["prefold"]["versions"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(("option", "value"), [("--seed", 7), ("--lambda", 0.5), ("--batch", 32)])
def test_other_settings_need_another_run(copied, capsys, option, value):
    before = (copied / "config.json").read_bytes()
    assert call("prefold", "--run", copied, *FAST, "--epochs", "0", option, value) == 2
    err = capsys.readouterr().err
    assert "prefold was started there with other settings" in err and f"is now {value}" in err and err.count("\n") == 1
    assert (copied / "config.json").read_bytes() == before


def test_how_a_network_was_trained_does_not_stop_what_follows(images, weights, tmp_path, capsys):
    folder = tmp_path / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images)
    assert call("pretrain", "--run", folder, *network, "--weights", weights) == 0
    capsys.readouterr()
    assert call("pretrain", "--run", folder, *network, "--weights", weights, "--epochs", "2") == 0
    out, err = capsys.readouterr()
    assert "pretrain has ended and is not repeated for other settings (epochs was 30, is now 2)" in err
    assert "pretrain: done before" in out
    assert call("pretrain", "--run", folder, *network) == 0
    assert call("pretrain", "--run", folder, *network, "--size", "24") == 2
    assert "size was 32, is now 24" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_does_not_go_on_from_another_network(copied, weights, images, capsys):
    assert call("finetune", "--run", copied, *FAST, "--epochs", "0") == 0
    recipe, tensors = checkpoints.read(copied / "prefold.safetensors")
    tensors["blocks.3.expand.act.alpha"].fill_(0.5)
    gated = replay(recipe)
    checkpoints.fill(gated, tensors, "here")
    checkpoints.save(copied / "prefold.safetensors", gated, recipe)
    capsys.readouterr()
    assert call("finetune", "--run", copied, *FAST, "--epochs", "0") == 2
    assert "prefold.safetensors was " in capsys.readouterr().err


@pytest.mark.slow
def test_no_open_gate(images, weights, tmp_path, capsys):
    folder = tmp_path / "run"
    call("pretrain", "--run", folder, "--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    call("prefold", "--run", folder, "--epochs", "0")
    capsys.readouterr()
    assert call("finetune", "--run", folder, "--epochs", "0") == 1
    err = capsys.readouterr().err
    assert "no activation can go" in err and "LAMBDA" in err and err.count("\n") == 1
    assert not (folder / "hardened.safetensors").exists()


def test_epochs_0_without_weights_says_that_the_network_is_random(tmp_path, images, capsys):
    arguments = ("--model", "mobilenetv2-digits", "--data", images, "--epochs", "0")
    assert call("pretrain", "--run", tmp_path / "run", *arguments) == 0
    assert "the network is random" in capsys.readouterr().err


class TestBadInput:
    """One line on stderr that names the file or option, exit 2, and nothing written."""

    @pytest.fixture
    def refused(self, tmp_path, images, weights, capsys):
        def check(*message: str, stage: str = "pretrain", **changes: object) -> None:
            options = {"run": tmp_path / "run", "model": "mobilenetv2-digits", "data": images, "weights": weights}
            if stage != "pretrain":
                options = {"run": tmp_path / "run"}
            given = [f"--{name}={value}" for name, value in (options | changes).items()]
            before = sorted(tmp_path.rglob("*"))
            assert call(stage, *given) == 2
            err = capsys.readouterr().err
            assert err.startswith("error: ") and err.count("\n") == 1
            for part in message:
                assert part in err
            assert sorted(tmp_path.rglob("*")) == before

        return check

    def test_model(self, refused):
        refused("unknown model 'mobilnetv2-digits': did you mean 'mobilenetv2-digits'?", model="mobilnetv2-digits")

    def test_missing_data(self, refused, tmp_path):
        refused("none", "no such folder", data=tmp_path / "none")

    def test_empty_class(self, refused, tmp_path, images):
        for name in ("train/a", "train/b", "test/a", "test/b"):
            (tmp_path / "holes" / name).mkdir(parents=True)
        refused("a", "holes", data=tmp_path / "holes")

    def test_image_that_does_not_decode(self, refused, tmp_path):
        for name in ("train/a", "test/a"):
            (tmp_path / "broken" / name).mkdir(parents=True)
            (tmp_path / "broken" / name / "x.jpg").write_bytes(b"\xff\xd8 no image")
        refused("x.jpg", data=tmp_path / "broken")

    def test_missing_weights(self, refused, tmp_path):
        refused("w.pt: does not exist", weights=tmp_path / "w.pt")

    def test_weights_of_another_model(self, refused, tmp_path):
        other = saved(tmp_path, build("resnet20", 2))
        refused("weights.pt: do not match", "missing", "layer1.3.bn1.bias", model="resnet32", weights=other)

    def test_weights_for_other_classes(self, refused, tmp_path):
        five = saved(tmp_path, build("mobilenetv2-digits", 5, 3))
        refused("2 of another shape: linear.weight ([5, 96] for [2, 96])", "for as many classes", weights=five)

    def test_a_folder_that_is_no_run(self, refused, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("important")
        refused("exists and is no run folder")

    def test_damaged_config(self, refused, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text('{"schema": 1, "stag')
        refused("config.json: damaged")

    @pytest.mark.parametrize("stage", ["prefold", "finetune"])
    def test_a_stage_before_its_time(self, refused, stage):
        refused("no such checkpoint", stage=stage)

    def test_half_written_checkpoint(self, refused, copied):
        path = copied / "original.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        refused("original.safetensors: not a checkpoint, or damaged", stage="prefold", run=copied)

    @pytest.mark.parametrize("value", ["-1", "1.5", "many"])
    def test_epochs(self, refused, value):
        refused("--epochs", value, "a whole number from 0 to", epochs=value)

    @pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
    def test_learning_rate(self, refused, value):
        refused("--lr", value, "a number above 0", lr=value)

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("distill", "1.5", "not a number from 0 to 1"),
            ("ema", "1", "not a number from 0 to below 1"),
            ("schedule", "linear", "invalid choice: 'linear'"),
            ("precision", "int8", "invalid choice: 'int8'"),
            ("accumulate", "0", "not a whole number from 1 to"),
            ("remove", "blocks.9.act", "there is no such file or gate; give names out of blocks.0.expand.act, "),
            ("gate-weights", "none.csv", "none.csv: No such file or directory; give a CSV or JSON file"),
        ],
    )
    def test_ways_to_train(self, refused, copied, option, value, message):
        refused(f"--{option}", message, stage="prefold", run=copied, **{option: value})


def saved(folder: Path, model: torch.nn.Module) -> Path:
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize("stage", [None, "pretrain", "prefold", "fit", "finetune", "evaluate", "probe", "sweep"])
def test_help_shows_a_runnable_example(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*([stage] if stage else []), "--help"])
    out = capsys.readouterr().out
    assert not ended.value.code and "usage: python -m train" in out
    assert f"layer-folding {stage} " in out.partition("example")[2] if stage else "  prefold " in out


@pytest.mark.parametrize(("write", "name"), [(1, "config.json"), (2, ".finetune.state"), (4, "hardened.safetensors")])
@pytest.mark.slow
def test_full_disk(copied, capsys, monkeypatch, write, name):
    before = sorted(copied.iterdir())
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert call("finetune", "--run", copied, *FAST) == 2
    err = capsys.readouterr().err
    assert err.endswith(f"error: {copied / name}: No space left on device; free some space and run it again\n")
    assert set(copied.iterdir()) - set(before) <= {copied / ".finetune.state", copied / "metrics.csv"}
    assert call("finetune", "--run", copied, *FAST) == 0
