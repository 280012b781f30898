"""The commands in the page are understood by the stages, and ask for what was recorded."""

import shlex
from pathlib import Path

import pytest

from layer_folding import subcommands
from layer_folding.report import reproducing, run_folder
from layer_folding.train import commands
from tests.report.conftest import bench_json, config_json, fold_json, write


@pytest.mark.parametrize("stage", ["pretrain", "prefold", "finetune"])
def test_a_stage_gets_the_settings_that_it_had(folder, stage):
    step = next(step for step in reproducing.steps(run_folder.run(folder)) if step.title == stage)
    words = shlex.split(step.command)
    assert words[:2] == ["layer-folding", stage]
    given = vars(subcommands.parse(commands.COMMANDS, words[1:], "layer-folding")[1])
    settings = config_json()["stages"][stage]["settings"]
    assert {key: list(value) if isinstance(value := given[key], tuple) else value for key in settings} == settings
    assert given.get("weights") == (Path("WEIGHTS") if stage == "pretrain" else None)
    assert given["run"] == folder and step.versions["revision"] == "abc123"


def test_a_stage_that_fitted_layers_is_the_command_fit(tmp_path):
    config = config_json()
    settings = {"choices": ["a,b=3x1", "c=none"], "images": 512, "seed": 0, "force": True}
    config["stages"]["prefold"]["settings"] = settings
    steps = reproducing.steps(run_folder.run(write(tmp_path / "r", config=config)))
    words = shlex.split(next(step.command for step in steps if step.title == "prefold"))
    given = vars(subcommands.parse(commands.COMMANDS, words[1:], "layer-folding")[1])
    assert words[1:3] == ["fit", str(tmp_path / "r")]
    assert {**{key: given[key] for key in settings}, "choices": list(map(str, given["choices"]))} == settings


def test_what_the_folder_does_not_say_is_noted(folder):
    notes = {step.title: step.notes for step in reproducing.steps(run_folder.run(folder))}
    assert notes["pretrain"] == ["WEIGHTS is the file with the SHA-256 cfea6cbc406bb4a1…"]
    assert notes["finetune"] == ["prefold.safetensors has the SHA-256 b75f5661281c36ef…"]


def test_the_later_stages(tmp_path):
    bench = bench_json()
    bench["settings"] |= {"data": "eval set.npz", "seconds": 3.0, "provider": "cpu"}
    folder = write(tmp_path / "run", bench=bench)
    (folder / "folded.int8.onnx").touch()
    found = {step.title: step.command for step in reproducing.steps(run_folder.run(folder))}
    assert list(found) == ["pretrain", "prefold", "finetune", "fold", "export", "benchmark"]
    assert found["fold"] == f"layer-folding fold {folder}"
    assert found["export"].startswith("layer-folding export --precision fp32,int8 --data ")
    assert found["benchmark"] == (
        "layer-folding bench --runtime onnxruntime --provider cpu --threads 1 --data 'eval set.npz' "
        f"--seconds 3.0 --batch 1 -o {folder / 'bench.json'} original.onnx folded.onnx"
    )


def test_lines_break_before_options(folder):
    for step in reproducing.steps(run_folder.run(folder)):
        assert " ".join(step.parts) == step.command
        assert all(part.startswith("-") for part in step.parts[1:])


def test_the_commands_of_a_network_of_ones_own_trust_its_function(tmp_path):
    folded = fold_json() | {"model": {"spec": "mynets:small", "arguments": {}}}
    folder = write(tmp_path / "run", fold=folded)
    found = {step.title: step.command for step in reproducing.steps(run_folder.run(folder))}
    assert {title for title, command in found.items() if "--trust mynets:small" in command} == set(found) - {
        "pretrain",
        "benchmark",
    }
