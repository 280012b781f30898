"""How engines are built, kept and found again, with TensorRT played by fake_tensorrt."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.trt_bench.conftest import ROOT, save_convs, save_typed
from trt_bench import build, engine
from trt_bench.runtimes import Options


def plans(install):
    return sorted(install.cache.glob("*.plan"))


def opened(path, gpu, **options):
    """Open an engine as a new process would."""
    engine.open_engine.cache_clear()
    return engine.open_engine(path, Options(**options), gpu).built


def test_an_engine_is_built_once(install, tmp_path):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    first, second = opened(path, gpu), opened(path, gpu)
    assert (first["from_cache"], second["from_cache"]) == (False, True)
    assert first["engine"] == second["engine"] == str(plans(install)[0])
    assert first["layers_by_precision"] == second["layers_by_precision"]
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
        {"dla": 0},
    ],
)
def test_other_options_are_another_engine(install, tmp_path, change):
    module, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    opened(path, gpu)
    assert not opened(path, gpu, **change)["from_cache"]
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
        assert not opened(path, gpu)["from_cache"]
    save_convs(path, 2)
    assert not opened(path, gpu)["from_cache"]
    assert len(plans(install)) == 6


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
    assert not opened(path, gpu)["from_cache"]
    assert len(module.built) == 2
    assert plans(install)[0].read_bytes() == content
    assert opened(path, gpu)["from_cache"]


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
    assert (code, err) == (2, "error: output: No space left on device; free some space and run it again\n")
    assert list(install.cache.iterdir()) == []


def test_a_killed_build_leaves_no_engine(tmp_path, onnx_folder):
    """Killed in the moment between writing and renaming: the next run must build again."""
    code = f"""
        import os, signal, sys
        from tests.trt_bench import fake_cuda, fake_tensorrt
        from trt_bench import cuda, engine
        from trt_bench.runtimes import Options
        gpu = fake_cuda.Gpu()
        sys.modules["tensorrt"] = fake_tensorrt.module("10.3.0", gpu)
        if sys.argv[1] == "kill":
            replace = os.replace
            os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if str(b).endswith("plan") else replace(a, b)
        print(engine.open_engine({str(onnx_folder / "shallow.onnx")!r}, Options(), gpu).built["from_cache"])
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
    monkeypatch.setattr(build, "build", spy(build.build, seen := []))
    opened(save_convs(tmp_path / "a.onnx", 1), gpu)
    opened(save_convs(tmp_path / "b.onnx", 2), gpu)
    assert seen == [b"", b"timing cache of 10.3.0"]
    assert len(list(install.cache.glob("timing-*.cache"))) == 1


def spy(function, seen):
    def call(path, onnx, options, timing_cache=b"", progress=None):
        seen.append(timing_cache)
        return function(path, onnx, options, timing_cache, progress)

    return call


def test_a_timing_cache_that_tensorrt_refuses_is_replaced(install, tmp_path):
    install()
    path = save_convs(tmp_path / "x.onnx", 1)
    plan, cache = build.build(path, Path(path).read_bytes(), build.BuildOptions(), b"of another GPU")
    assert plan and cache == b"timing cache of 10.3.0"


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
    assert built["strongly_typed"] is (version[:2] == "11")


def test_a_dla_core_that_is_not_there(install, run, onnx_folder):
    install()
    code, _, err = run("build", onnx_folder / "shallow.onnx", "--dla", 2)
    assert code == 2
    assert err.startswith("error: --dla 2: this device and TensorRT 10.3.0 have 2 DLA cores; leave it out")


def test_build_prints_the_engine(install, run, tmp_path):
    install()
    path = save_typed(tmp_path / "x.onnx", "fp16")
    code, out, err = run("build", path, "--batch", 1, 8)
    (plan,) = plans(install)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: {plan}: built in 0 s; ")
    assert out.endswith("; layers: 2 fp16, 2 fp32\n")
    engine.open_engine.cache_clear()
    assert run("build", path, "--batch", 1, 8)[1].startswith(f"{path}: {plan}: in the cache; ")


def test_build_without_tensorrt_is_one_line(run, onnx_folder, no_tensorrt):
    code, out, err = run("build", onnx_folder / "shallow.onnx")
    assert (code, out) == (2, "")
    assert err.startswith("error: --runtime tensorrt: TensorRT is not installed; it needs an NVIDIA GPU")


def test_a_file_that_changes_between_runs_is_another_engine(install, tmp_path):
    _, gpu = install()
    path = save_convs(tmp_path / "x.onnx", 1)
    first = opened(path, gpu)["engine"]
    save_convs(path, 2)
    assert opened(path, gpu)["engine"] != first
