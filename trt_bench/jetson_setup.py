"""Make a Jetson ready: ``python3 -m trt_bench.jetson_setup``. Needs only JetPack's Python; downloads no PyTorch.

It looks for what JetPack brings (Python, numpy, TensorRT, CUDA), and makes a virtual environment on top of that Python
with the one thing that JetPack lacks, cuda-python in the version that fits the board's driver.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from layer_folding import command_line
from layer_folding.device_records import JetsonRecord
from layer_folding.errors import InputError

from . import cuda_versions, jetson

ROOT = Path(__file__).parent.parent
PIP = ("-m", "pip", "install", "--quiet")
# What the benchmark needs, tried as it needs it: a GPU through cuda-python, and a builder of TensorRT on it.
TRY = "from trt_bench.runtimes.tensorrt import TENSORRT; print(TENSORRT.obstacle())"
PYTHON_FOLDER = Path.home() / ".cache" / "layer-folding" / "python"

EXAMPLE = """\
example: python3 -m trt_bench.jetson_setup

exit codes: 0 done, 2 something of JetPack is missing
"""


def main() -> None:
    """Check, install, check again; print what is there. Raises InputError."""
    parser = command_line.Parser(
        prog="python -m trt_bench.jetson_setup",
        description="Make a Jetson ready to measure, with JetPack's own Python and TensorRT.",
        epilog=EXAMPLE,
    )
    parser.parse_args()
    check_jetson(jetson.describe())
    check_jetpack(imports(sys.executable, "tensorrt", "numpy", "ensurepip"))
    wanted = cuda_versions.requirement(cuda_versions.of_driver() or cuda_version())
    command_line.progress(f"installing {wanted} into {PYTHON_FOLDER}")
    try:
        install(wanted, PYTHON_FOLDER)
    finally:
        command_line.progress("")
    python = str(PYTHON_FOLDER / "bin" / "python")
    for name, version in imports(python, "tensorrt", "numpy").items():
        print(f"{name} {version}")
    print(wanted)
    print(f"{python}: ready; make trt-bench and make table use it")


def install(wanted: str, folder: Path) -> None:
    """Make a virtual environment with ``wanted`` on top of this Python in ``folder``, if TensorRT then finds the GPU.

    Until it does, the environment is beside ``folder``, where nothing looks for one. Raises InputError.
    """
    made = folder.with_name(f"{folder.name}.new")
    python = str(made / "bin" / "python")
    shutil.rmtree(made, ignore_errors=True)
    try:
        venv.create(made, system_site_packages=True, with_pip=True)
        _run(f"{wanted}: pip cannot install it", "connect the board to the network", python, *PIP, wanted)
        found = _run(f"{python}: cannot run trt_bench", "copy the folder again", python, "-c", TRY).strip()
        if found != "None":
            raise InputError(f"TensorRT cannot be used here: {found}; check the power of the board, and reboot it")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"{made}: cannot make a virtual environment ({error}); sudo apt install python3-venv"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _run(what: str, remedy: str, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{what} ({reason}); {remedy}")
    return done.stdout


def check_jetson(record: JetsonRecord | None) -> None:
    """Raise InputError on another machine."""
    if record is None:
        wanted = f"tensorrt '{cuda_versions.requirement(cuda_versions.of_driver())}'"
        raise InputError(f"this machine is no Jetson (no /etc/nv_tegra_release); elsewhere, pip install {wanted}")


def check_jetpack(found: dict[str, str | None]) -> None:
    """Raise InputError with the package to install for what ``found`` (of `imports`) lacks."""
    packages = {
        "tensorrt": "python3-libnvinfer (of nvidia-jetpack)",
        "numpy": "python3-numpy",
        "ensurepip": "python3-venv",
    }
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
    sys.exit(command_line.run(main))
