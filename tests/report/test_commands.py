"""The commands in the page are understood by the stages, and ask for what was recorded."""

import shlex

import pytest

from report import commands, read
from tests.report.conftest import bench_json, config_json, write
from train import arguments


@pytest.mark.parametrize("stage", ["pretrain", "prefold", "finetune"])
def test_a_stage_gets_the_settings_that_it_had(folder, stage):
    step = next(step for step in commands.steps(read.run(folder)) if step.title == stage)
    words = shlex.split(step.command)
    assert words[:4] == ["python", "-m", "train", stage]
    given = vars(arguments.parser().parse_args(words[3:]))
    settings = {key: value for key, value in config_json()["stages"][stage]["settings"].items() if "." not in key}
    settings |= {"weights": given["weights"]} if stage == "pretrain" else {}  # of the file only the digest is known
    assert {key: given[key] for key in settings} == settings
    assert given["run"] == folder and step.versions["revision"] == "abc123"


def test_what_the_folder_does_not_say_is_noted(folder):
    notes = {step.title: step.notes for step in commands.steps(read.run(folder))}
    assert notes["pretrain"] == ["WEIGHTS is the file with the SHA-256 cfea6cbc406bb4a1…"]
    assert notes["finetune"] == ["prefold.safetensors has the SHA-256 b75f5661281c36ef…"]


def test_the_later_stages(tmp_path):
    bench = bench_json()
    bench["settings"] |= {"data": "eval set.npz", "seconds": 3.0, "provider": "cpu"}
    folder = write(tmp_path / "run", bench=bench)
    (folder / "folded.int8.onnx").touch()
    found = {step.title: step.command for step in commands.steps(read.run(folder))}
    assert list(found) == ["pretrain", "prefold", "finetune", "fold", "export", "benchmark"]
    assert found["fold"] == f"python -m fold fold {folder}"
    assert found["export"].startswith("python -m export --precision fp32,int8 --data ")
    assert found["benchmark"] == (
        "python -m trt_bench bench --runtime onnxruntime --provider cpu --threads 1 --data 'eval set.npz' "
        f"--seconds 3.0 --batch 1 -o {folder / 'bench.json'} original.onnx folded.onnx"
    )


def test_lines_break_before_options(folder):
    for step in commands.steps(read.run(folder)):
        assert " ".join(step.parts) == step.command
        assert all(part.startswith("-") for part in step.parts[1:])
