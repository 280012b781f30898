import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def commands(*arguments: object) -> list[str]:
    """What make would run, one command each, without the shell's line breaks."""
    dry = ["make", "--dry-run", "--no-print-directory", *map(str, arguments)]
    run = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
    return [" ".join(line.split()) for line in run.stdout.replace("\\\n", "").splitlines()]


def test_prefold_learns_or_takes_a_table_or_a_plan():
    ends = {
        "LAMBDA=1": "-m train prefold --run 'r' --lambda '1'",
        "LATENCY=t.csv": "-m train prefold --run 'r' --latency 't.csv'",
        "PLAN=r/plan.txt": "-m train prefold --run 'r' --gate all --remove 'r/plan.txt'",
    }
    for given, end in ends.items():
        assert commands("prefold", "RUN=r", given)[-1].endswith(end)


def test_a_run_that_has_its_network_needs_not_be_told_of_it_again(tmp_path):
    (tmp_path / "original.safetensors").touch()

    def is_pretrained(*given: str) -> bool:
        command = next(line for line in commands("pretrain", f"RUN={tmp_path}", *given) if "train pretrain" in line)
        condition = command.partition(" || ")[0]
        return subprocess.run(condition, shell=True).returncode != 0

    assert not is_pretrained() and not is_pretrained("EPOCHS=2")
    assert not is_pretrained("MODEL=my.nets:small")  # which has to be named whatever is made
    assert is_pretrained("MODEL=resnet20") and is_pretrained("WEIGHTS=w.pt", "DATA=cifar10/")
    (tmp_path / "original.safetensors").unlink()
    assert is_pretrained()


def test_a_plan_has_a_limit_of_time_or_of_loss():
    assert "--max-loss '0.5' --batch" in commands("plan", "RUN=r", "MAX_LOSS=0.5")[-1]
    fit = commands("fit", "RUN=r", "MAX_LOSS=0.5")[-2]
    assert "--max-loss '0.5'" in fit and "--measure" not in fit
    assert commands("fit", "RUN=r", "SPEEDUP=1.2")[-2].endswith("--measure")


def test_table_plan_and_benchmark_are_of_the_first_precision(tmp_path):
    (tmp_path / "original.safetensors").touch()
    given = (f"RUN={tmp_path}", "PRECISION=int8,fp32")
    assert any("-m export segments --precision 'int8'" in line for line in commands("table", *given))
    assert "--precision 'int8'" in commands("plan", *given)[-1]
    assert commands("trt-bench", *given)[-1].endswith(f"'{tmp_path}/original.int8.onnx' '{tmp_path}/folded.int8.onnx'")
    assert commands("trt-bench", "RUN=r")[-1].endswith("'r/original.onnx' 'r/folded.onnx'")


def test_a_sweep_is_over_lambdas_or_over_speedups_by_one_table():
    assert "--lambdas '1' '2'" in commands("sweep", "RUN=r", "LAMBDAS=1 2")[-1]
    lines = commands("sweep", "RUN=r", "SPEEDUPS=1.1 1.2", "EPOCHS=3", "ENGINE=ray")
    assert "sweep --run 'r' --speedups '1.1' '1.2' --finetune=" in lines[-1] and lines[-1].endswith("--engine 'ray'")
    assert any("make --no-print-directory table" in line and "importance 'r' --from fit" in line for line in lines)


def test_the_original_network_may_teach_each_training_stage():
    assert commands("prefold", "RUN=r", "EPOCHS=2", "DISTILL=0.9")[-1].endswith("--epochs '2' --distill '0.9'")
    assert "finetune --run 'r' --distill '0.9'" in commands("fold", "RUN=r", "DISTILL=0.9")[-2]


def test_report_is_of_one_run_or_of_several():
    assert commands("report", "RUN=r")[-1].endswith("-m report 'r'")
    assert commands("report", "RUNS=r s")[-1].endswith("-m report 'r' 's' -o frontier.html")


def test_a_table_without_a_run_names_the_run(tmp_path):
    given = ["make", "--no-print-directory", "table", f"RUN={tmp_path / 'no run'}"]
    run = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith(
        f"error: {tmp_path / 'no run'}: has no original.safetensors; give a run folder that make pretrain has made"
    )


def test_a_plan_that_is_not_there_is_said_before_anything_is_trained(tmp_path):
    given = ["make", "--no-print-directory", "aim", f"PLAN={tmp_path / 'plan.txt'}", "LATENCY=Makefile"]
    run = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith(f"error: {tmp_path / 'plan.txt'}: no such file")
    assert commands("prefold", "RUN=r", "PLAN=p")[0].startswith("for file in '' 'p'")
    (tmp_path / "plan.txt").touch()
    assert subprocess.run(given, cwd=ROOT).returncode == 0


@pytest.fixture
def words(tmp_path):
    """A function that runs make with a Python that only notes its arguments, and returns what each call was given."""
    noted, python = tmp_path / "noted", tmp_path / "a python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >>'{noted}'; printf '\\n\\0' >>'{noted}'\n")
    python.chmod(0o755)

    def run(*arguments: str) -> list[list[str]]:
        noted.unlink(missing_ok=True)
        made = ["make", "--no-print-directory", "-o", ".venv/none", "READY=.venv/none", "JETSON=none"]
        subprocess.run([*made, f"PY='{python}'", f"PYTHON={python}", *arguments], cwd=ROOT, check=True)
        calls = noted.read_text().split("\n\0")[:-1]
        return [call.split("\0")[:-1] for call in calls]

    return run


@pytest.mark.parametrize("name", ["a run", "it's", 'say "hi"', "a;b", "`x`", "a&b|c", "ru n's (2)"])
def test_a_value_is_one_word_whatever_is_in_it(words, tmp_path, name):
    run = tmp_path / name
    run.mkdir()
    for file in ("original.safetensors", "importance.csv", "plan.json"):
        (run / file).touch()
    assert words("plan", f"RUN={run}", "BUDGET_MS=1 2")[-1] == [
        *("-m", "fold", "plan", f"{run}", "--latency", f"{run}/latency.csv", "--budget-ms", "1 2"),
        *("--batch", "1", "--precision", "fp32", "--importance", f"{run}/importance.csv"),
    ]
    bench = words("trt-bench", f"RUN={run}", "BATCH=1 8", f"BOARD={name}")[-1]
    assert bench[:6] == ["-m", "trt_bench.board", name, "bench", "--runtime", "auto"]
    assert bench[6:9] == ["--batch", "1", "8"] and bench[bench.index("--plan") + 1] == f"{run}/plan.json"
    assert bench[-4:] == ["-o", *(f"{run}/{file}" for file in ("bench.json", "original.onnx", "folded.onnx"))]
    sweep = words("sweep", f"RUN={run}", "EPOCHS=1 2", "LAMBDAS=0.1 1")[-1]
    assert sweep[:9] == ["-m", "train", "sweep", "--run", f"{run}", "--lambdas", "0.1", "1", "--prefold=--epochs '1 2'"]
    taught = words("sweep", f"RUN={run}", "EPOCHS=1", "DISTILL=0.5")[-1]
    assert taught[-4:-2] == ["--prefold=--epochs '1' --distill '0.5'", "--finetune=--epochs '1' --distill '0.5'"]
    assert words("report", f"RUN={run}") == [["-m", "report", f"{run}"]]


def test_a_python_and_a_checkout_may_have_a_space_in_their_name(tmp_path):
    python, checkout, noted = tmp_path / "my python's", tmp_path / "it is", tmp_path / "noted"
    for folder in (*("layer_folding", "train", "fold", "export", "trt_bench", "report"), ".venv"):
        (checkout / folder).mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    (checkout / "layer_folding" / "files.py").touch()
    for script, name in ((python, "given"), (checkout / "py", "made")):
        script.write_text(f"#!/bin/sh\necho {name} \"$@\" >>'{noted}'\n")
        script.chmod(0o755)
    made = ["make", f"PYTHON={python}", "PY=./py", "jetson-setup", ".venv/.ready", "types"]
    subprocess.run(made, cwd=checkout, check=True, capture_output=True)
    lines = noted.read_text().splitlines()
    assert lines[0] == "given -m trt_bench.jetson_setup" and lines[2] == "given -m venv .venv"
    assert lines[-1] == f"made -m mypy --config-file {checkout}/pyproject.toml -p layer_folding"
    assert (checkout / ".cache" / "types" / "layer_folding" / "files.py").samefile(checkout / "layer_folding/files.py")
    assert (checkout / ".cache" / "types" / "layer_folding" / "export").samefile(checkout / "export")


def test_every_target_takes_a_run_with_a_space_and_a_quote(tmp_path):
    run = tmp_path / "it's a run"
    stages = ("prefold", "fit", "plan", "fold", "sweep", "export", "trt-bench", "table", "report")
    for target in ("help", "demo", *stages):
        lines = "\n".join(commands("-o", ".venv/.ready", target, f"RUN={run}", "BOARD=a'b c"))
        assert subprocess.run(["sh", "-n"], input=lines, text=True).returncode == 0


@pytest.mark.parametrize("name", ["BOARD", "RUN", "DATA"])
def test_what_make_would_replace_is_refused(name):
    given = ["make", "--dry-run", "trt-bench", f"{name}=$(x)"]
    run = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and f"{name}: make would replace what begins with a dollar sign" in run.stderr


def test_a_board_is_no_option_of_ssh():
    assert "ssh -- '-oProxyCommand=x' " in " ".join(commands("jetson-setup", "BOARD=-oProxyCommand=x"))


def test_a_plan_that_make_itself_wrote_is_benchmarked(tmp_path):
    (tmp_path / "plan.json").touch()
    assert f"--plan '{tmp_path}/plan.json'" in commands("trt-bench", f"RUN={tmp_path}")[-1]


@pytest.mark.parametrize(
    ("target", "also"), [("test", ""), ("test-fast", " and not slow"), ("coverage", " and not slow")]
)
def test_tests_that_need_to_be_alone_run_after_the_others(target, also):
    parallel, alone = [line for line in commands(target) if "-m pytest" in line]
    assert "-n auto" in parallel and f"-m 'not alone{also}'" in parallel
    assert " -n " not in alone and f"alone{also}" in alone and "not alone" not in alone


def test_a_board_gets_the_shared_ground_and_the_benchmark():
    sent = next(line for line in commands("jetson-setup", "BOARD=user@board") if line.startswith("tar "))
    assert " layer_folding trt_bench | ssh" in sent


def test_the_page_on_runs_explains_every_variable():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    given = set(re.search(r"^GIVEN := (.*)$", text, re.M)[1].split())
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8").partition("## Variables of make")[2]
    rows = [re.findall(r"`([A-Z_]+)`", row) for row in re.findall(r"^\| (`[A-Z].*?) \|", page, re.M)]
    assert {name for row in rows for name in row} == given
