"""Fetch the real Python bindings of six TensorRT versions, so that tests can import them without a GPU.

``python -m tests.trt_bench.bindings`` (what ``make test`` runs first; 30 MB, some seconds, once) fills a folder for
each version under .cache/trt-bindings. NVIDIA's bindings link against libraries that only a machine with TensorRT has;
empty stand-ins, compiled here, let them import: classes, methods and enums are then the real ones, and ``Builder``
fails as it does without a GPU. A version that cannot be had is named on stderr, and the tests that need it skip.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    **{
        version: f"tensorrt-cu12-bindings=={version}"
        for version in ("10.0.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
    },
}
CACHE = Path(__file__).parents[2] / ".cache" / "trt-bindings" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def folder(version: str) -> Path:
    """Where the bindings of ``version`` are, if they could be fetched."""
    return CACHE / version


def environment(version: str) -> dict[str, str]:
    """Environment variables with which ``import tensorrt`` gives the real bindings of ``version``."""
    return {"LD_LIBRARY_PATH": str(folder(version)), "PYTHONPATH": str(folder(version))}


def fetch(version: str) -> None:
    """Install the bindings of ``version`` and their stand-in libraries. Raises OSError or CalledProcessError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        target = Path(name) / "whole"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _output(*pip, "--only-binary=:all:", "--target", target, PACKAGES[version])
        binary = target / "tensorrt_bindings" / "tensorrt.so"
        missing = re.findall(r"\b(?:create|get|init)[A-Z]\w*|\b_ZN\d+nv\w+", _output("nm", "-D", "-u", binary))
        stubs = target / "stubs.c"
        stubs.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in missing))
        for library in re.findall(r"libnv\w+\.so\.\d+", _output("readelf", "-d", binary)):
            _output("cc", "-shared", "-fPIC", "-o", target / library, stubs)
        (target / "tensorrt").mkdir()
        (target / "tensorrt" / "__init__.py").write_text(
            "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
        )
        target.rename(folder(version))


def _output(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, timeout=300).stdout


def main() -> None:
    """Fetch what is missing; say on stderr what cannot be had. Never fails: the tests skip by name."""
    tools = [tool for tool in ("cc", "nm", "readelf") if not shutil.which(tool)]
    for version in PACKAGES:
        if folder(version).is_dir():
            continue
        if tools:
            print(f"TensorRT {version} bindings: need {', '.join(tools)}; their tests skip", file=sys.stderr)
            continue
        try:
            fetch(version)
        except (OSError, subprocess.SubprocessError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            print(f"TensorRT {version} bindings: {lines[-1]}; their tests skip", file=sys.stderr)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
