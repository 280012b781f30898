"""How engines are built, kept and found again, with TensorRT played by fake_tensorrt."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from layer_folding import bench_results
from layer_folding.trt_bench import binding, building, device, engine
from layer_folding.trt_bench.runtimes import Options
from tests.trt_bench.conftest import ROOT, save_convs, save_typed


def plans(install):
    return sorted(install.cache.glob("*.plan"))


def opened(path, gpu, **options):
    """Open an engine as a new process would: none is open, as nothing holds one."""
    return engine.open_engine(binding.find("tensorrt"), path, Options(**options), gpu).built


def test_an_engine_is_built_once(install, tmp_path):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    first, second = opened(path, gpu), opened(path, gpu)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.engine == second.engine == str(plans(install)[0])
    assert first.layers_by_precision == second.layers_by_precision
    assert len(module.built) == 1


def test_files_are_the_owners_alone(install, tmp_path):
    _, gpu = install()
    opened(save_convs(tmp_path / "x.onnx", 1), gpu)
    assert install.cache.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in install.cache.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "change",
    [
        {"batches": (2,)},
        {"batches": (1, 2)},
        {"workspace_mib": 64},
        {"level": 5},
    ],
)
def test_other_options_are_another_engine(install, tmp_path, change):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    opened(path, gpu)
    assert not opened(path, gpu, **change).from_cache
    assert len(module.built) == len(plans(install)) == 2


def test_other_networks_versions_gpus_and_drivers_are_another_engine(install, tmp_path, monkeypatch):
    path = save_convs(tmp_path / "x.onnx", 1)
    for version, changes in [
        ("10.3.0", {}),
        ("10.13.3.9", {}),
        ("10.3.0", {"name": "other"}),
        ("10.3.0", {"compute_capability": "9.0"}),
        ("10.3.0", {"cuda_driver": "13.0"}),
    ]:
        _, gpu = install(version)
        for name, value in changes.items():
            monkeypatch.setattr(gpu, name, value)
        assert not opened(path, gpu).from_cache
    for what in ("board", "power_mode"):
        monkeypatch.setattr(device, what, lambda what=what: f"another {what}")
        assert not opened(path, gpu).from_cache
    save_convs(path, 2)
    assert not opened(path, gpu).from_cache
    assert len(plans(install)) == 8


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "readable", "link", "old"])
def test_a_damaged_or_foreign_plan_is_built_again_never_used(install, tmp_path, damage):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    opened(path, gpu)
    (plan,) = plans(install)
    content = plan.read_bytes()
    if damage == "readable":
        plan.chmod(0o644)
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        (tmp_path / "elsewhere").chmod(0o600)
        plan.unlink()
        plan.symlink_to(tmp_path / "elsewhere")
    elif damage == "old":  # whole, but of another TensorRT: what it refuses is built again
        import hashlib

        other = content[32:].replace(b'"10.3.0"', b'"10.2.0"')
        plan.write_bytes(hashlib.sha256(other).digest() + other)
    else:
        new = {"truncated": content[:-9], "flipped": content[:-1] + b"?", "empty": b"", "foreign": content[32:]}
        plan.write_bytes(new[damage])
    assert not opened(path, gpu).from_cache
    assert len(module.built) == 2
    assert plans(install)[0].read_bytes() == content
    assert opened(path, gpu).from_cache


def test_a_folder_that_others_can_write_to_is_refused(install, run, tmp_path, onnx_folder):
    install()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    code, _, err = run("build", onnx_folder / "shallow.onnx", "--cache", tmp_path / "shared")
    assert code == 2
    assert err == f"error: --cache {tmp_path}/shared: others can write to it; chmod 700 it, or name a folder of yours\n"


def test_a_folder_that_cannot_be_used_is_one_line(install, run, tmp_path, onnx_folder):
    install()
    (tmp_path / "file").touch()
    code, _, err = run("build", onnx_folder / "shallow.onnx", "--cache", tmp_path / "file")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --cache {tmp_path}/file: cannot be used (")


def test_a_full_disk_is_one_line_and_leaves_nothing(install, run, monkeypatch, onnx_folder):
    install()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("build", onnx_folder / "shallow.onnx")
    assert code == 2
    assert err.endswith(": No space left on device; free some space and run it again\n")
    assert list(install.cache.iterdir()) == []


def test_a_killed_build_leaves_no_engine(tmp_path, onnx_folder):
    """Killed in the moment between writing and renaming: the next run must build again."""
    code = f"""
        import os, signal, sys
        from tests.trt_bench import fake_cuda, fake_tensorrt
        from trt_bench import binding, engine
        from trt_bench.runtimes import Options
        gpu = fake_cuda.Gpu()
        sys.modules["tensorrt"] = fake_tensorrt.module("10.3.0", gpu)
        if sys.argv[1] == "kill":
            replace = os.replace
            os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if str(b).endswith("plan") else replace(a, b)
        bound = binding.find("tensorrt")
        print(engine.open_engine(bound, {str(onnx_folder / "shallow.onnx")!r}, Options(), gpu).built.from_cache)
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def start(how):
        command = [sys.executable, "-c", textwrap.dedent(code), how]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    killed = start("kill")
    assert killed.returncode == -9, killed.stderr
    (left,) = (tmp_path / "layer-folding/engines").glob(".*.plan")  # a temporary name, which nothing reads
    assert left.stat().st_mode & 0o777 == 0o600
    assert start("").stdout == "False\n"
    assert start("").stdout == "True\n"


def test_the_timing_cache_is_shared_between_builds(install, tmp_path, monkeypatch):
    _, gpu = install()
    monkeypatch.setattr(building, "build", spy(building.build, seen := []))
    opened(save_convs(tmp_path / "a.onnx", 1), gpu)
    opened(save_convs(tmp_path / "b.onnx", 2), gpu)
    assert seen == [b"", b"timing cache of 10.3.0"]
    assert len(list(install.cache.glob("timing-*.cache"))) == 1


def spy(function, seen):
    def call(bound, path, onnx, options, timing_cache=b"", progress=None):
        seen.append(timing_cache)
        return function(bound, path, onnx, options, timing_cache, progress)

    return call


def test_a_timing_cache_that_tensorrt_refuses_is_replaced(install, tmp_path):
    install()
    path = save_convs(tmp_path / "x.onnx", 1)
    bound, onnx = binding.find("tensorrt"), Path(path).read_bytes()
    built = building.build(bound, path, onnx, building.BuildOptions(), b"of another GPU")
    assert built.plan and built.timing_cache == b"timing cache of 10.3.0"


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_options_reach_the_builder(install, tmp_path, version):
    module, gpu = install(version)
    shown = []
    opened(save_convs(tmp_path / "x.onnx", 1), gpu, workspace_mib=64, level=5, progress=shown.append)
    config = module.built[0][2]
    assert config._pools == {"WORKSPACE": 64 << 20}
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity is module.ProfilingVerbosity.DETAILED
    percent = [f"building {tmp_path}/x.onnx: Building, 50 %"] if version != "8.6.1" else []
    assert shown == [f"building {tmp_path}/x.onnx", *percent, ""]


@pytest.mark.parametrize(
    ("version", "flags"),
    [("8.6.1", {"FP16", "GPU_FALLBACK"}), ("10.3.0", {"FP16", "GPU_FALLBACK"}), ("11.4.0.106", {"GPU_FALLBACK"})],
)
def test_a_dla_core_falls_back_on_the_gpu(install, tmp_path, version, flags):
    """Up to version 10, strongly typed networks do not run on a DLA: the flags decide."""
    module, gpu = install(version)
    built = opened(save_typed(tmp_path / "x.onnx", "fp16"), gpu, dla=1)
    config = module.built[0][2]
    assert (config.default_device_type, config.DLA_core) == (module.DeviceType.DLA, 1)
    assert module.built[0][1] == flags
    assert built.strongly_typed is (version[:2] == "11")


def test_a_dla_core_that_is_not_there(install, run, onnx_folder):
    install()
    code, _, err = run("build", onnx_folder / "shallow.onnx", "--dla", 2)
    assert code == 2
    assert err.startswith("error: --dla 2: this device and TensorRT 10.3.0 have 2 DLA cores; leave it out")


@pytest.mark.parametrize("precision", ["fp32", None])
def test_a_dla_computes_no_fp32(install, run, tmp_path, precision):
    module, _ = install()
    path = save_convs(tmp_path / "x.onnx", 1, metadata=precision and {"precision": precision})
    code, out, err = run("bench", path, "--dla", 0)
    assert (code, out, module.built) == (2, "", [])
    assert err.startswith(
        f"error: --dla 0: a DLA computes in fp16 or int8, and {path} is fp32, so all of it would run on "
    )


def test_a_dla_that_can_take_nothing_is_an_error(install, run, tmp_path):
    install(broken="dla")
    code, _, err = run("bench", save_typed(tmp_path / "x.onnx", "fp16"), "--dla", 0)
    assert code == 2 and err.startswith("error: --dla 0: the DLA can take no layer of ")


def test_what_the_gpu_does_for_a_dla_is_said_also_from_the_cache(install, run, tmp_path):
    install()
    path = save_typed(tmp_path / "x.onnx", "fp16")
    for _ in range(2):
        code, out, _ = run("bench", path, "--dla", 0, "--seconds", 0.02)
        assert code == 0
        assert "warning: x: the DLA can take 1 of 4 layers; the GPU runs the others" in out.splitlines()


def test_warnings_of_tensorrt_that_matter_are_shown_once(install, run, tmp_path):
    install(broken="warnings")
    code, out, _ = run("bench", save_convs(tmp_path / "x.onnx", 1), "--seconds", 0.02, "-o", tmp_path / "bench.json")
    assert code == 0
    assert [line for line in out.splitlines() if "TensorRT:" in line] == [
        "warning: x: TensorRT: Insufficient workspace for tactic 7. Skipping it.",
        "warning: x: TensorRT: Default DLA is enabled but layer a is not supported on DLA, falling back to GPU.",
    ]
    engine_record = bench_results.load(tmp_path / "bench.json").models[0].engine
    assert len(engine_record.notes.warnings) == 2


def test_warnings_of_loading_an_engine_are_shown_too(install, tmp_path, monkeypatch):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    assert opened(path, gpu).notes.warnings == ()
    load, text = module.Runtime.deserialize_cuda_engine, "Using an engine plan file across different models of devices"

    def warn(self, plan):
        self._log.log(module.ILogger.Severity.WARNING, text)
        return load(self, plan)

    monkeypatch.setattr(module.Runtime, "deserialize_cuda_engine", warn)
    built = opened(path, gpu)
    assert built.from_cache and built.notes.warnings == (text,)


def test_build_prints_the_engine(install, run, tmp_path):
    install()
    path = save_typed(tmp_path / "x.onnx", "fp16")
    code, out, err = run("build", path, "--batch", 1, 8)
    (plan,) = plans(install)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: {plan}: built in 0.0 s; ")
    assert out.endswith(
        "; layers: 2 fp16, 2 fp32; 1 of 1 matrix product in fp16\n  as parsed: 1 of 1 matrix product in fp16\n"
    )
    assert run("build", path, "--batch", 1, 8)[1].startswith(f"{path}: {plan}: in the cache; ")


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_ctrl_c_during_a_build_ends_it(install, run, tmp_path, version):
    """TensorRT swallows what is raised in its callbacks, so the exception has to come after the build."""
    module, _ = install(version, broken="interrupted build")
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run("bench", save_convs(tmp_path / "x.onnx", 1))
    assert (code, out) == (130, "")
    assert err.startswith("error: interrupted; give the same command again") and err.count("\n") == 1
    assert len(module.built) == 1 and plans(install) == []
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("what", ["parse", "load", "context", "profile"])
def test_ctrl_c_is_not_lost_in_a_callback(install, run, tmp_path, what):
    install(broken=f"interrupted {what}")
    path = save_convs(tmp_path / "x.onnx", 1)
    code, out, err = run("bench", path, "--seconds", 0.02, "--export-profile", tmp_path / "profiles")
    assert (code, out) == (130, "") and err.startswith("error: interrupted; give the same command again")


def test_ctrl_c_is_seen_while_the_main_thread_is_in_tensorrt():
    """Python's handler runs in the main thread alone, which is busy; another thread must see the signal before."""
    code = """
        import hashlib, os, signal, threading, time
        from trt_bench import interruption
        def monitor(wanted, seen):
            os.kill(os.getpid(), signal.SIGINT)
            while not wanted():
                time.sleep(0.01)
            seen.append(time.monotonic())
        seen = []
        try:
            with interruption.deferred(lambda text: None) as wanted:
                thread = threading.Thread(target=monitor, args=(wanted, seen))
                thread.start()
                hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # seconds of C code without a look at Python
                back = time.monotonic()
                thread.join()
        except KeyboardInterrupt:
            print("interrupted", seen[0] < back)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted True\n", "")


def test_build_without_tensorrt_is_one_line(run, onnx_folder, no_tensorrt):
    code, out, err = run("build", onnx_folder / "shallow.onnx")
    assert (code, out) == (2, "")
    assert err.startswith("error: --runtime auto: TensorRT is not installed; it needs an NVIDIA GPU")


def test_a_file_that_changes_between_runs_is_another_engine(install, tmp_path):
    _, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    first = opened(path, gpu).engine
    save_convs(path, 2)
    assert opened(path, gpu).engine != first
