"""Make a Jetson ready: ``python3 -m trt_bench.jetson_setup``. Needs only JetPack's Python; downloads no PyTorch.

It looks for what JetPack brings (Python, numpy, TensorRT, CUDA), and makes a virtual environment on top of that Python
with the one thing that JetPack lacks, cuda-python in the version of the board's CUDA.
"""

import argparse
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

from trt_bench import cli
from trt_bench.errors import InputError

PYTHON_FOLDER = Path.home() / ".cache" / "layer-folding" / "python"

EXAMPLE = """\
example: python3 -m trt_bench.jetson_setup

exit codes: 0 done, 2 something of JetPack is missing
"""


def main() -> None:
    """Check, install, check again; print what is there. Raises InputError."""
    parser = cli.Parser(
        prog="python -m trt_bench.jetson_setup",
        description="Make a Jetson ready to measure, with JetPack's own Python and TensorRT.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    check_python(sys.version_info[:2])
    check_jetpack(imports(sys.executable, "tensorrt", "numpy"))
    wanted = requirement(cuda_version())
    cli.progress(f"installing {wanted} into {PYTHON_FOLDER}")
    venv.create(PYTHON_FOLDER, system_site_packages=True, with_pip=True)
    python = str(PYTHON_FOLDER / "bin" / "python")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], capture_output=True, text=True)
    cli.progress("")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{wanted}: pip cannot install it ({reason}); connect the board to the network")
    found = imports(python, "tensorrt", "numpy", "cuda.bindings.runtime")
    missing = [name for name, version in found.items() if version is None]
    if missing:
        raise InputError(f"{python}: cannot import {', '.join(missing)}; remove {PYTHON_FOLDER} and run this again")
    for name, version in found.items():
        print(f"{name} {version}")
    print(f"{python}: ready; make trt-bench and make table use it")


def check_python(version: tuple[int, int]) -> None:
    """Raise InputError for a Python that is too old."""
    if version < (3, 10):
        raise InputError(f"Python {version[0]}.{version[1]}: is older than 3.10; flash JetPack 6 or 7 (docs/jetson.md)")


def check_jetpack(found: dict[str, str | None]) -> None:
    """Raise InputError with the package to install for what ``found`` (of `imports`) lacks."""
    packages = {"tensorrt": "python3-libnvinfer (of nvidia-jetpack)", "numpy": "python3-numpy"}
    missing = [packages[name] for name, version in found.items() if version is None]
    if missing:
        raise InputError(
            f"{sys.executable}: lacks {' and '.join(missing)}; sudo apt install them, or use /usr/bin/python3"
        )


def cuda_version(root: Path = Path("/usr/local/cuda")) -> str:
    """The version of the board's CUDA toolkit, such as 12.6. Raises InputError where there is none."""
    try:
        return json.loads((root / "version.json").read_text())["cuda"]["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{root}/version.json: CUDA is not there; sudo apt install nvidia-jetpack") from error


def requirement(cuda: str) -> str:
    """The cuda-python that fits a CUDA version: of the same major, as NVIDIA's minor versions are compatible."""
    major = re.match(r"\d+", cuda)
    return f"cuda-python=={major[0] if major else '12'}.*"


def imports(python: str, *names: str) -> dict[str, str | None]:
    """Version of each module that ``python`` imports ("?" where it tells none), None for what it cannot import."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found[name] = str(getattr(importlib.import_module(name), '__version__', '?'))\n"
        "    except Exception:\n"
        "        found[name] = None\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(cli.run(main))
