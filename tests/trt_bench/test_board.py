"""A command run on a "board": an sshd on the loopback, with a home folder of its own."""

import getpass
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from layer_folding import bench_results
from layer_folding.errors import InputError
from layer_folding.trt_bench import board, jetson_setup
from tests.trt_bench.conftest import ROOT, evalset, python, save_convs
from tests.trt_bench.test_tables import write_index

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Board:
    """An sshd that runs every command in ``home``; ``stop`` and ``start`` break and mend the connection."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.home.mkdir()
        self.name = f"{getpass.getuser()}@board"
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").symlink_to(sys.executable)
        keys = [folder / "host", folder / "key"]
        for key in keys:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        script(
            folder / "command",
            f"""
            export HOME={self.home} PATH={Path(sys.executable).parent}:/usr/bin:/bin
            cd
            exec sh -c "$SSH_ORIGINAL_COMMAND"
            """,
        )
        # a python3 of the board that is the one of the tests, virtual environment included
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {keys[0]}\nAuthorizedKeysFile {keys[1]}.pub\n"
            f"StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nForceCommand {folder}/command\n"
        )
        (folder / "ssh_config").write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {keys[1]}\n  IdentitiesOnly yes\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )
        script(folder / "path" / "ssh", f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"')
        self.path = f"{folder}/path:{os.environ['PATH']}"
        self.config = folder / "sshd_config"
        self.start()

    def start(self):
        self.daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", self.config], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("sshd does not start")

    def stop(self):
        """Stop sshd and cut its connections, as when a cable is drawn; what runs detached goes on."""
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.daemon.pid)], capture_output=True, text=True)
        self.daemon.terminate()
        self.daemon.wait()
        for child in children.stdout.split():
            subprocess.run(["kill", child], check=False, stderr=subprocess.DEVNULL)

    def jobs(self):
        return sorted(path.name for path in (self.home / board.JOBS).glob("*"))


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if not SSHD or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        pytest.skip("needs sshd, ssh and ssh-keygen (openssh-server)")
    Path("/run/sshd").mkdir(parents=True, exist_ok=True) if os.geteuid() == 0 else None
    machine = Board(tmp_path_factory.mktemp("board"))
    yield machine
    machine.stop()


def call(machine, *arguments, **options):
    environment = {"PATH": machine.path, **options.pop("env", {})}
    return python("-m", "trt_bench.board", machine.name, *arguments, env=environment, **options)


@pytest.mark.alone
def test_bench_is_copied_run_and_fetched(machine, onnx_folder, tmp_path):
    np.savez(tmp_path / "eval.npz", **evalset(size=12))
    output = tmp_path / "run" / "bench.json"
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    done = call(
        *(machine, "bench", *networks, "--data", tmp_path / "eval.npz", "--runtime", "onnxruntime"),
        *("--seconds", 0.1, "-o", output, "--export-times", tmp_path / "times"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: shallow is faster than deep" in done.stdout
    assert [model["name"] for model in bench_results.load(output)["models"]] == ["deep", "shallow"]
    assert sorted(os.listdir(tmp_path / "times")) == ["deep-batch1.times.json", "shallow-batch1.times.json"]
    assert machine.jobs() == []


def test_an_error_there_is_an_error_here(machine, onnx_folder, tmp_path):
    done = call(machine, "bench", onnx_folder / "shallow.onnx", "--runtime", "onnxruntime", "--threads", "100000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --threads 100000: this process may use")
    assert machine.jobs() == []


@pytest.fixture
def segments(tmp_path):
    folder = tmp_path / "segments"
    folder.mkdir()
    for index in range(6):
        save_convs(folder / f"seg_{index}.onnx", index + 1)
    names = [[f"0,{index + 1}"] for index in range(6)]
    names[-1].append("apart 0,6")
    entries = [{"file": f"seg_{i}.onnx", "input_shape": [3, 12, 12], "names": names[i]} for i in range(6)]
    write_index(folder, entries)
    return folder


def test_a_lost_connection_loses_nothing(machine, segments, tmp_path, monkeypatch):
    """sshd goes away in the middle of a table; the job ends meanwhile, and the same command fetches it."""
    output = tmp_path / "latency.csv"
    command = ["table", segments, "-o", output, "--runtime", "onnxruntime", "--seconds", 0.2, "--bound", 10]
    environment = {**os.environ, "PATH": machine.path}
    arguments = [sys.executable, "-m", "trt_bench.board", machine.name, *map(str, command)]
    first = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    waited_for(lambda: list(machine.home.glob(f"{board.JOBS}/*/out/latency.json")))
    machine.stop()
    try:
        _, err = first.communicate(timeout=90)
        assert first.returncode == 2
        assert "no connection (" in err and "give the same command again to fetch it" in err and err.count("\n") == 1
        (job,) = machine.home.glob(f"{board.JOBS}/*")
        waited_for((job / "exit").exists)
        timed = (job / "out" / "latency.csv").read_text()
    finally:
        machine.start()
    done = call(machine, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{output}: 7 segments, 6 of them different; visited 12 times now\n")
    assert output.read_text() == timed and timed.count("\n") == 7
    assert machine.jobs() == []


def test_a_connection_that_comes_back_is_not_noticed(machine, segments, tmp_path):
    output = tmp_path / "latency.csv"
    command = ["table", segments, "-o", output, "--runtime", "onnxruntime", "--seconds", 0.2, "--bound", 10]
    environment = {**os.environ, "PATH": machine.path}
    arguments = [sys.executable, "-m", "trt_bench.board", machine.name, *map(str, command)]
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    waited_for(lambda: list(machine.home.glob(f"{board.JOBS}/*/out/latency.json")))
    machine.stop()
    machine.start()
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    assert "visited 12 times now" in out and output.read_text().count("\n") == 7


def test_a_killed_measurement_goes_on_where_it_stopped(machine, segments, tmp_path):
    output = tmp_path / "latency.csv"
    command = ["table", segments, "-o", output, "--runtime", "onnxruntime", "--seconds", 0.3, "--bound", 10]
    environment = {**os.environ, "PATH": machine.path}
    arguments = [sys.executable, "-m", "trt_bench.board", machine.name, *map(str, command)]
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    waited_for(lambda: list(machine.home.glob(f"{board.JOBS}/*/out/latency.json")))
    (job,) = machine.home.glob(f"{board.JOBS}/*")
    os.killpg(int((job / "pid").read_text().split()[0]), signal.SIGKILL)  # as running out of memory would
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "the measurement was ended there" in err and err.count("\n") == 1
    done = call(machine, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "visited 12 times now" not in done.stdout and output.read_text().count("\n") == 7


def waited_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def test_make_runs_on_the_board(machine, onnx_folder, segments, tmp_path):
    if not shutil.which("make"):
        pytest.skip("needs make")
    run = tmp_path / "run"
    run.mkdir()
    for name, source in (("original", "deep"), ("folded", "shallow")):
        shutil.copy(onnx_folder / f"{source}.onnx", run / f"{name}.onnx")
    np.savez(run / "eval.npz", **evalset(size=12))
    write_index(segments, [{"file": "seg_0.onnx", "input_shape": [3, 12, 12], "names": ["apart 0,1"]}])
    segments.rename(run / "segments")
    environment = {**os.environ, "PATH": machine.path}
    variables = [f"BOARD={machine.name}", f"RUN={run}", f"PYTHON={sys.executable}", "RUNTIME=onnxruntime"]
    for target, output in (("trt-bench", "bench.json"), ("table", "latency.csv")):
        done = subprocess.run(
            ["make", target, *variables], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert (run / output).exists()
    assert machine.jobs() == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench missing.onnx", "missing.onnx: no such file"),
        ("bench x.onnx x/x.onnx", "x.onnx: two files have this name"),
        ("build x.onnx", "build: runs here, or on the board itself; give bench or table"),
        ("bench", "ONNX; see python -m trt_bench bench --help"),
        ("bench x.onnx -o original.safetensors", "-o original.safetensors: is no name for a bench.json"),
        ("bench x.onnx -o mine.json", "-o mine.json: is there and is no bench.json"),
        ("bench x.onnx --export-times mine.json", "mine.json is no folder"),
        ("table segments -o mine.json", "-o mine.json: is no name for a latency table"),
    ],
)
def test_bad_commands_never_reach_the_board(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x.onnx").touch()
    (tmp_path / "x" / "x.onnx").touch()
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InputError, match=message):
        board.job_for(command.split())


@pytest.mark.parametrize("output", [["-o", "b.json"], ["--output=b.json"], ["-ob.json"], ["--out", "b.json"]])
def test_files_have_their_places_however_they_are_given(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    np.savez("eval.npz", **evalset())
    save_convs("x.onnx", 1)
    job = board.job_for(["bench", "x.onnx", "--data=eval.npz", *output])
    assert job.command[:3] == ["bench", "in/x.onnx", "--data=in/eval.npz"]
    assert " ".join(job.command[3:]).endswith("out/bench.json") and job.outputs == {"out/bench.json": Path("b.json")}


def test_what_is_sent_is_all_that_a_board_needs(onnx_folder, tmp_path):
    job = board.job_for(["bench", str(onnx_folder / "deep.onnx"), "--runtime", "onnxruntime", "--seconds", "0.01"])
    with tarfile.open(fileobj=io.BytesIO(board._archive(job))) as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {"layer_folding", "trt_bench", "in"}
        archive.extractall(tmp_path, filter="data")
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('trt_bench', run_name='__main__', alter_sys=True)\n"
        "finally:\n    modules = [m for n, m in sys.modules.items() if n.startswith(('layer_folding', 'trt_bench'))]\n"
        "    print(*(module.__file__ for module in modules), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code, *job.command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "deep" in done.stdout
    imported = [line for line in done.stdout.splitlines() if line.endswith(".py")]
    assert imported and all(line.startswith(str(tmp_path)) for line in imported)


def test_no_connection_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "x.onnx").touch()
    monkeypatch.setattr(board, "TRIES", 1)
    script(tmp_path / "bin" / "ssh", "echo 'ssh: Could not resolve hostname nowhere' >&2; exit 255")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    job = board.job_for(["bench", f"{tmp_path}/x.onnx"])
    reason = r"\(ssh: Could not resolve hostname nowhere\)"
    with pytest.raises(InputError, match=rf"u@nowhere: no connection {reason}; check that .* without a password$"):
        board.run("u@nowhere", job)
    on = tmp_path / "on"
    lost = f"test ! -e {on} || {{ echo gone >&2; exit 255; }}"
    script(tmp_path / "bin" / "ssh", f"{lost}; case $* in *nohup*) touch {on}; esac")
    with pytest.raises(InputError, match=r"no connection any more \(gone\)\. What runs there goes on: give the same"):
        board.run("u@nowhere", job)


def test_setup_names_what_jetpack_lacks(tmp_path):
    with pytest.raises(InputError, match=r"lacks python3-libnvinfer \(of nvidia-jetpack\); sudo apt install"):
        jetson_setup.check_jetpack({"tensorrt": None, "numpy": "1.21"})
    with pytest.raises(InputError, match=r"lacks python3-venv; sudo apt install"):
        jetson_setup.check_jetpack({"tensorrt": "10.3.0", "numpy": "1.21", "ensurepip": None})
    with pytest.raises(InputError, match=r"version\.json: CUDA is not there"):
        jetson_setup.cuda_version(tmp_path)
    (tmp_path / "version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}')
    assert jetson_setup.cuda_version(tmp_path) == "12.6.11"
    assert jetson_setup.imports(sys.executable, "numpy", "no_such_module") == {
        "numpy": np.__version__,
        "no_such_module": None,
    }


def test_setup_off_a_jetson_is_one_line():
    done = python("-m", "trt_bench.jetson_setup")
    if done.returncode == 0:
        pytest.skip("this is a Jetson")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: this machine is no Jetson") and done.stderr.count("\n") == 1
