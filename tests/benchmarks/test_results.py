import json
import shlex
import shutil
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.results import main
from benchmarks.results_page import SECTIONS
from layer_folding import run_config
from layer_folding.errors import InputError
from layer_folding.stages import STEPS
from layer_folding.trt_bench import device
from tests.report.conftest import bench_json, fold_json

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs/results/benchmarks"
VERSIONS = {"python": "3.11.7", "torch": "2.15.0"}


def training(epochs: int, **settings: object) -> dict:
    return {"settings": {**settings, "epochs": epochs, "batch": 128}, "versions": VERSIONS}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder, and docs/ in the current folder."""
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "five"
    folder.mkdir()
    stages = {
        "pretrain": training(0, model="resnet20", data="/somewhere/private"),
        "prefold": training(3, penalty=0.5, remove=["layer1.0.relu", "layer1.1.relu"]),
        "finetune": training(7, lr=0.05),
    }
    stages["pretrain"]["files"] = {"weights": "0123456789abcdef"}
    folded = fold_json(("layer1.0.conv1", "layer1.0.conv2", "layer1.0.relu"))
    cost = {"depth": 20, "parameters": 270_000, "macs": 40_600_000}
    folded |= {
        "model": {"spec": "layer_folding:resnet20", "arguments": {}},
        "accuracy": {step: 0.88 - 0.01 * i for i, step in enumerate(STEPS)},
        "cost": {"original": cost, "folded": {**cost, "depth": 19}},
    }
    (folder / "config.json").write_text(json.dumps({"schema": run_config.SCHEMA, "stages": stages}))
    (folder / "fold.json").write_text(json.dumps(folded))
    return folder


def test_a_run_is_noted_with_the_commands_that_made_it(run, tmp_path):
    main([str(run)])
    page = (tmp_path / "docs" / "results.md").read_text()
    row = "| [five](#five) | 1 | resnet20 | 20 => 19 | 40.6 M => 40.6 M | 1 | 3 + 7 | 88.00 | 87.00 | 86.00 | 85.00 | 84.00 | 83.00"  # noqa: E501
    assert f"{row} | not measured |" in page
    assert "python -m train pretrain --run RUN --model resnet20 --data DATA --weights WEIGHTS --epochs 0" in page
    assert "python -m train prefold --run RUN --lambda 0.5 --remove layer1.0.relu,layer1.1.relu --epochs 3" in page
    assert "python -m train finetune --run RUN --lr 0.05 --epochs 7" in page
    assert "private" not in page + (tmp_path / "docs" / "results" / "runs" / "five.json").read_text()


def test_a_command_is_noted_without_the_folders_of_this_machine(tmp_path):
    given = [
        "--weights",
        "/home/me/resnet20.pt",
        "--data=/data/cifar10",
        "--cases",
        "layer1.0",
        "--images=../images",
        "-o",
        f"{tmp_path}/a.json",
    ]
    document.write(tmp_path / "a.json", "benchmarks.fitting", given, [["blocks"], ["one"]])
    command = document.read(tmp_path / "a.json").command.removeprefix("python -m benchmarks.fitting ")
    assert command == "--weights resnet20.pt --data=cifar10 --cases layer1.0 --images=images -o a.json"


def test_runs_that_differ_by_the_seed_alone_share_a_row_and_their_commands(run, tmp_path):
    runs = []
    for seed, accuracy in ((0, 0.84), (1, 0.86)):
        runs.append(run.with_name(f"five-seed{seed}"))
        shutil.copytree(run, runs[-1])
        config, folded = (json.loads((run / name).read_text()) for name in ("config.json", "fold.json"))
        config["stages"]["finetune"]["settings"]["seed"] = seed
        folded["accuracy"]["folded"] = accuracy
        for name, content in (("config.json", config), ("fold.json", folded)):
            (runs[-1] / name).write_text(json.dumps(content))
    main([str(each) for each in runs])
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| [five](#five) | 2 | resnet20 |" in page and "| 85.00 +- 1.41 | not measured |" in page
    assert page.count("### five") == 1 and "--seed 1" not in page


@pytest.mark.parametrize("path", sorted(DOCUMENTS.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_noted_here_names_no_folder_of_a_machine(path):
    words = shlex.split(document.read(path).command)
    assert not [word for word in words if Path(word).is_absolute()]


def test_a_run_whose_layers_were_fitted(run, tmp_path):
    config, folded = (json.loads((run / name).read_text()) for name in ("config.json", "fold.json"))
    settings = {"choices": ["layer1.0.relu=3", "a,b=none"], "images": 512, "seed": 0, "force": True}
    config["stages"]["prefold"]["settings"] = settings
    for step in ("removed", "hoisted"):
        del folded["accuracy"][step]
    for name, content in (("config.json", config), ("fold.json", folded)):
        (run / name).write_text(json.dumps(content))
    main([str(run)])
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| 0 + 7 | 88.00 | 87.00 | - | - | 84.00 | 83.00 |" in page
    assert "python -m train fit RUN --choose layer1.0.relu=3 a,b=none --images 512 --force" in page


def test_the_page_is_made_again_from_what_is_noted(run, tmp_path):
    main([str(run)])
    page = tmp_path / "docs" / "results.md"
    before = page.read_text()
    page.unlink()
    main([])
    assert page.read_text() == before


def test_latency_where_it_was_measured(run, tmp_path):
    device = {"name": "A Board", "runtime_version": "10.3"}
    bench = bench_json(original=1.25, spread=0, runtime="tensorrt", device=device)
    (run / "bench.json").write_text(json.dumps(bench))
    main([str(run)])
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| 1.250x [1.2" in page
    assert "latency by tensorrt 10.3 on A Board" in page


def test_a_run_that_is_not_folded(run):
    (run / "fold.json").unlink()
    with pytest.raises(InputError, match=r"fold\.json: no such file; give run folders"):
        main([str(run)])


@pytest.fixture
def costs(run, tmp_path):
    """What a benchmark wrote, and docs/ in the current folder."""
    path = tmp_path / "costs.json"
    table = [["case", "speed-up"], ["a|b", "2.00x [1.90, 2.10]"]]
    document.write(path, "benchmarks", ["fold", "-o", str(path)], table, samples={"a|b": [1.0, 2.0]})
    return path


def test_a_benchmark_is_noted_with_its_command_and_machine_but_not_its_samples(costs, tmp_path):
    main([str(costs)])
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| case | speed-up |\n| --- | --- |\n| a\\|b | 2.00x [1.90, 2.10] |" in page
    assert (
        f"`python -m benchmarks fold -o costs.json` on {device.cores()} cores of {device.cpu_name()}, Python " in page
    )
    noted = json.loads((tmp_path / "docs" / "results" / "benchmarks" / "costs.json").read_text())
    assert "samples" not in noted and str(tmp_path) not in json.dumps(noted)


def test_a_section_without_a_file_says_so(costs, tmp_path):
    main([str(costs)])
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "Not measured: there was no GPU to be had. `python -m benchmarks.gpu -o FILE.json` measures it." in page
    assert page.count("Not measured") == len(SECTIONS) - 1


def test_a_file_of_something_else(costs):
    document.write(costs, "benchmarks.another", [], [["case"]])
    with pytest.raises(InputError, match=r"costs\.json: is no result of benchmarks\.planned, "):
        main([str(costs)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "damaged: the whole is"),
        ("{", "damaged: "),
        ("{}", "damaged: schema is missing"),
        ('{"schema": 1, "benchmark": "benchmarks"}', "is of schema 1"),
        ('{"schema": 2, "benchmark": "benchmarks"}', "damaged: command is missing"),
    ],
)
def test_a_damaged_file_of_a_benchmark(text, message, costs):
    costs.write_text(text)
    with pytest.raises(InputError, match=rf"costs\.json: {message}.*; measure again"):
        main([str(costs)])


def test_a_table_with_a_row_that_is_too_short(costs):
    content = json.loads(costs.read_text())
    content["table"][1].pop()
    costs.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"costs\.json: damaged: table is not a header and rows"):
        main([str(costs)])


def test_a_damaged_file(run):
    (run / "fold.json").write_text("{")
    with pytest.raises(InputError, match=r"fold\.json: damaged"):
        main([str(run)])
