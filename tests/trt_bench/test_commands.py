import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.layer_folding.test_bench_results import written
from tests.trt_bench.conftest import ROOT, evalset, python, save, save_convs

BENCH = ("-m", "trt_bench", "bench", "--runtime", "onnxruntime", "--seconds", "0.1")


def test_images_without_labels_have_no_accuracy(run, onnx_folder, tmp_path):
    images = {name: values for name, values in evalset(size=12).items() if name != "labels"}
    np.savez(tmp_path / "eval.npz", **images)
    given = ("--seconds", "0.01", "--data", tmp_path / "eval.npz", "-o", tmp_path / "bench.json")
    code, _, err = run("bench", onnx_folder / "shallow.onnx", *given)
    assert (code, err) == (0, f"note: {tmp_path / 'eval.npz'} has no labels, so no accuracy was measured\n")
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["models"][0]["accuracy"] is None and result["settings"]["data"] is None


@pytest.mark.alone
def test_bench_and_show_from_end_to_end(onnx_folder, tmp_path):
    np.savez(tmp_path / "eval.npz", **evalset(size=12))
    output = tmp_path / "run" / "bench.json"
    deep, shallow = onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"
    done = python(*BENCH, deep, shallow, "--data", tmp_path / "eval.npz", "-o", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert "because of --runtime onnxruntime" in done.stdout.splitlines()[0]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith(("deep", "shallow"))}
    assert rows["deep"][1:6] == ["9", "16.9", "k", "2.39", "M"]
    assert rows["shallow"][1:5] == ["2", "496", "62.3", "k"]  # counted in the graph: this file does not say
    assert "verdict: shallow is faster than deep: " in done.stdout
    shown = python("-m", "trt_bench", "show", output)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, done.stdout, "")
    result = json.loads(output.read_text())
    assert set(result) >= {"schema", "runtime", "device", "settings", "models", "comparison"}
    assert all(0 <= entry["accuracy"] <= 1 for entry in result["models"])


def test_auto_says_in_one_line_why_not_tensorrt(run, onnx_folder, no_tensorrt):
    code, out, err = run("bench", onnx_folder / "shallow.onnx", "--seconds", "0.01")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(", because TensorRT is not installed")
    assert "verdict" not in out


@pytest.fixture
def files(tmp_path, onnx_folder):
    """Good and bad inputs by name."""
    whole = (onnx_folder / "deep.onnx").read_bytes()
    (tmp_path / "text.onnx").write_text("this is not an ONNX file\n")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "good.onnx").write_bytes(whole)
    (tmp_path / "other" / "good.onnx").write_bytes(whole)
    (tmp_path / "half.json").write_text(json.dumps(written())[:500])
    (tmp_path / "schema.json").write_text(json.dumps({**written(), "schema": 2}))
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "small.npz", **evalset(size=4))
    save_convs(tmp_path / "fixed.onnx", 1, batch=2)
    save_convs(tmp_path / "large.onnx", 1, size=20)
    save_convs(tmp_path / "nonsense.onnx", 1, metadata={"depth": "deep"})
    relu, add = helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["x", "x"], ["y"])
    save(tmp_path / "open.onnx", [relu], {}, ("N", 3, "H", "W"), ("N", 3, "H", "W"))
    whole_numbers = {"input_type": TensorProto.INT64, "output_type": TensorProto.INT64}
    save(tmp_path / "integer.onnx", [add], {}, output_shape=("N", 3, 12, 12), **whole_numbers)
    argmax = helper.make_node("ArgMax", ["x"], ["y"], axis=1)
    save(tmp_path / "argmax.onnx", [argmax], {}, output_shape=("N", 1, 12, 12), output_type=TensorProto.INT64)
    save(tmp_path / "nan.onnx", [helper.make_node("Sqrt", ["x"], ["y"])], {}, output_shape=("N", 3, 12, 12))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("bench missing.onnx", 2, "missing.onnx: no such file"),
        ("bench folder.onnx", 2, "folder.onnx: no such file"),
        ("bench text.onnx", 2, "text.onnx: not an ONNX file"),
        ("bench empty.onnx", 2, "empty.onnx: not an ONNX network"),
        ("bench truncated.onnx", 2, "truncated.onnx: not an ONNX file, or cut off"),
        ("bench nonsense.onnx", 2, "nonsense.onnx: its metadata layer_folding.depth is 'deep'"),
        ("bench fixed.onnx", 2, "fixed.onnx: is fixed to batch 2, not 1; use --batch 2"),
        ("bench open.onnx", 2, "open.onnx: input shape ['N', 3, 'H', 'W'] is open"),
        ("bench integer.onnx", 2, "integer.onnx: its input is tensor(int64)"),
        ("bench argmax.onnx", 2, "argmax.onnx: its first output is tensor(int64)"),
        ("bench good.onnx large.onnx", 2, "large.onnx: takes input [1, 3, 20, 20], but good.onnx takes"),
        ("bench good.onnx other/good.onnx", 2, "good: two networks have this file name"),
        ("bench good.onnx --data missing.npz", 2, "missing.npz: no such file"),
        ("bench good.onnx --data text.npz", 2, "text.npz: not a readable .npz archive"),
        ("bench good.onnx --data small.npz", 2, "--data: images are [3, 4, 4]"),
        ("bench -o good.onnx fixed.onnx", 2, "-o good.onnx: is no name for a bench.json"),
        ("bench good.onnx -o folder.json", 2, "-o folder.json: is no name for a bench.json"),
        ("bench good.onnx -o text.npz/bench.json", 2, "is no folder; give another name"),
        ("bench good.onnx --batch 0", 2, "--batch: '0' is not a whole number from 1 to "),
        ("bench good.onnx --batch 1.5", 2, "--batch: '1.5' is not a whole number from 1 to "),
        ("bench good.onnx --batch 99999999999", 2, "--batch"),
        ("bench good.onnx --seconds nan", 2, "--seconds: 'nan' is not a number above 0"),
        ("bench good.onnx --threads 100000", 2, "--threads 100000: this process may use"),
        ("bench good.onnx --runtime tensorrt", 2, "--runtime tensorrt: TensorRT is not installed; "),
        ("bench good.onnx --runtime cuda", 2, "--runtime: invalid choice: 'cuda'"),
        ("bench", 2, "ONNX; see python -m trt_bench bench --help"),
        ("bench good.onnx --provider cuda", 2, "--provider cuda: this ONNX Runtime is built without it"),
        ("bench good.onnx --export-times text.npz/x", 2, "is no folder; give another name"),
        ("bench good.onnx --level 6", 2, "--level: invalid choice: 6"),
        ("bench good.onnx --dla -1", 2, "--dla: '-1' is not a whole number from 0 to "),
        ("build good.onnx", 2, "--runtime auto: TensorRT is not installed; "),
        ("table other -o latency.csv", 2, "other/segments.json: no such file"),
        (
            "table other -o latency.json",
            2,
            "-o latency.json: is no name for a latency table; give a file that ends in .csv",
        ),
        ("", 2, "python -m trt_bench: no command; see python -m trt_bench --help"),
        ("bench nan.onnx", 1, "nan.onnx: computes NaN"),
        ("show missing.json", 2, "missing.json: no such file"),
        ("show half.json", 2, "half.json: damaged: "),
        ("show schema.json", 2, "schema.json: is of schema 2, and this version reads schema 1"),
        ("show text.npz", 2, "text.npz: is of no kind that layer-folding writes"),
        ("show folder.json", 2, "folder.json: no run folder; give a file, or a folder that "),
        ("show good.onnx --pictures drawn", 2, "--pictures: good.onnx has the kind ONNX network; give a bench.json"),
        ("show good.onnx --csv --json", 2, "--json: not allowed with argument --csv; see"),
    ],
)
def test_bad_input_is_one_line(run, files, monkeypatch, no_tensorrt, arguments, code, message):
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    ended, out, err = run(*arguments.split())
    assert (ended, out) == (code, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert "; " in err  # the remedy
    assert sorted(files.rglob("*")) == before


def test_bad_input_has_no_traceback_in_a_process_of_its_own(files):
    done = python(*BENCH, files / "truncated.onnx")
    assert done.returncode == 2
    assert done.stderr == f"error: {files}/truncated.onnx: not an ONNX file, or cut off; export it again\n"


@pytest.mark.parametrize("arguments", [[], ["bench"], ["build"], ["table"], ["show"]])
def test_help_shows_a_runnable_example(arguments):
    done = python("-m", "trt_bench", *arguments, "--help")
    assert done.returncode == 0
    assert f"usage: python -m trt_bench {' '.join(arguments)}" in done.stdout
    assert not arguments or f"example:\n  layer-folding {arguments[0]} " in done.stdout


def test_a_failed_write_is_one_line_and_the_table_is_still_there(onnx_folder, tmp_path):
    output = tmp_path / "bench.json"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = python(*BENCH, onnx_folder / "shallow.onnx", "-o", output, preexec_fn=limit)
    assert done.returncode == 2
    assert "shallow" in done.stdout
    assert done.stderr == f"error: {output}: File too large; give a file that can be used and run it again\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_behind_stdout(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(written()))
    with open("/dev/full", "w") as full:
        done = python("-m", "trt_bench", "show", tmp_path / "bench.json", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "error: output: No space left on device; free some space and run it again\n"


def test_a_reader_that_has_gone_is_no_traceback(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(written()))
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "trt_bench", "show", tmp_path / "bench.json", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_interrupt_is_one_line_and_writes_nothing(onnx_folder, tmp_path):
    output = tmp_path / "bench.json"
    command = [sys.executable, *BENCH[:-1], "60", onnx_folder / "deep.onnx", "-o", output]
    terminal, stderr = os.openpty()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        os.close(stderr)
        seen = b""
        while b"deep: timing, " not in seen:
            seen += os.read(terminal, 1000)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        while b"\n" not in seen:
            seen += os.read(terminal, 1000)
    os.close(terminal)
    assert (process.returncode, out) == (130, "")
    assert seen.endswith(b"\r\x1b[Kerror: interrupted; give the same command again: what was finished is kept\r\n")
    assert list(tmp_path.iterdir()) == []


def test_progress_only_on_a_terminal(run, onnx_folder, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, err = run("bench", onnx_folder / "shallow.onnx", "--runtime", "onnxruntime", "--seconds", "0.05")
    assert "shallow: timing, 0 s left" in err
    assert err.endswith("\r\x1b[K")
