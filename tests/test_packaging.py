"""What is installed: each stage declares what it imports, and the wheel leaves a user's own modules alone."""

import ast
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import tomllib

from layer_folding import __version__
from layer_folding.catalogue import GROUPS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRA = {group.package: group.extra for group in GROUPS if group.package != "demo"} | {
    "fold": None,
    "layer_folding": None,
}
# Imports inside a function that handles their absence, or that only a command of another extra reaches.
OPTIONAL = {
    ("fold", "matplotlib"),  # plan.png
    ("fold", "google"),  # networks from ONNX files, as the next two
    ("fold", "onnx"),
    ("fold", "onnx2torch"),
    ("fold", "timm"),  # networks by the name timm:NAME
    ("layer_folding", "onnx"),  # `layer-folding fit FILE.onnx`
    ("train", "ray"),  # sweep --engine ray
    ("trt_bench", "matplotlib"),  # show --pictures
    ("trt_bench", "onnx"),  # sizes of values, where a file does not have them
    ("trt_bench", "onnxruntime"),  # whichever build of it fits the device
    ("trt_bench", "pycuda"),  # in place of cuda-python
}
# Where the name of the import is not that of the distribution.
DISTRIBUTION = {
    "PIL": "pillow", "cuda": "cuda-python", "google": "protobuf", "onnx_graphsurgeon": "onnx-graphsurgeon",
    "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn",
}  # fmt: skip
# Used without an import statement: torch.onnx.export translates with onnxscript, and trt_bench/binding.py looks for
# TensorRT under the names that it has.
IMPLIED = {"onnxscript", "tensorrt"}


def declared(extra: str | None) -> set[str]:
    requirements = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def imported(package: str) -> set[str]:
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"layer_folding"}


@pytest.mark.parametrize("package", EXTRA)
def test_a_package_imports_what_its_extra_declares(package):
    needed = {DISTRIBUTION.get(name, name) for name in imported(package) if (package, name) not in OPTIONAL}
    assert needed <= declared(EXTRA[package])


@pytest.mark.parametrize("extra", ["train", "export", "report", "trt"])
def test_an_extra_declares_nothing_more(extra):
    package = next(group.package for group in GROUPS if group.extra == extra and group.package != "fold")
    used = {DISTRIBUTION.get(name, name) for name in imported(package)}
    assert declared(extra) - declared(None) <= used | IMPLIED


def test_every_dependency_stands_in_the_list_of_licences_with_its_extras():
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([^|]+) \| [^|]+ \|$", text, re.M)
    listed = {name: set(extras.split(", ")) for name, extras in rows}
    del listed["package"]
    wanted: dict[str, set[str]] = {name: {"(always)"} for name in declared(None)}
    for extra in PROJECT["optional-dependencies"]:
        for name in declared(extra) - declared(None) - {"layer-folding"}:
            wanted.setdefault(name, set()).add(extra)
    assert listed == wanted


@pytest.mark.slow
def test_fold_needs_the_core_alone():
    names = ("torchvision", "sklearn", "matplotlib", "onnx", "onnxruntime", "tqdm", "PIL", "jinja2", "scipy", "timm")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({names}))"
    fold = (
        "import torch; from torch import nn; from layer_folding.fold import fold\n"
        "model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).eval()\n"
        "assert len(fold(model, torch.rand(1, 3, 8, 8)).folded) == 1"
    )
    subprocess.run([sys.executable, "-c", f"{blocked}\n{fold}"], check=True, cwd="/")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the files that git has, beside folders that a user may leave in a checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    for stray in ("exports", "training_images"):
        (tree / stray).mkdir()
        (tree / stray / "mine.py").write_text("mine = True\n")
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_one_top_level_name_and_all_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [top_level] = [name for name in names if name.endswith("/top_level.txt")]
        assert archive.read(top_level).decode() == "layer_folding\n"
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"layer_folding", f"layer_folding-{__version__}.dist-info"}
    for path in [*(ROOT / "report").glob("*.*[lsg]"), ROOT / "layer_folding" / "py.typed"]:
        if path.suffix in (".html", ".svg", ".css", ".typed"):
            inside = path.relative_to(ROOT) if path.is_relative_to(ROOT / "layer_folding") else path.name
            assert str(inside if path.name == "py.typed" else f"layer_folding/report/{inside}") in names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel; its dependencies are those that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    return folder / "bin"


@pytest.fixture
def users_folder(tmp_path) -> Path:
    """A folder whose modules have the names of our packages in a checkout."""
    mine = "raise RuntimeError('the module of the user was imported')\n"
    for name in ("train.py", "export.py", "trt_bench.py", "fold/__init__.py", "report/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(mine)
    return tmp_path


@pytest.mark.slow
def test_the_users_own_modules_are_left_alone(installed, users_folder):
    def run(*command: object) -> str:
        done = subprocess.run([*map(str, command)], cwd=users_folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    every_help = (
        "import contextlib, sys; import layer_folding as lf\n"
        "from layer_folding import catalogue, front_door\n"
        "assert sys.path[0] == '' and 'environment' in lf.__file__\n"
        "for group in catalogue.GROUPS:\n"
        "    for name in group.summaries:\n"
        "        with contextlib.suppress(SystemExit): front_door.call([name, '--help'])\n"
        "print(lf.fold, lf.linearize)\n"
    )
    text = run(installed / "python", "-c", every_help)
    assert [name for group in GROUPS for name in group.summaries if f"usage: layer-folding {name} " not in text] == []
    (users_folder / "mynets.py").write_text(
        "from torch import nn\ndef pair(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))\n"
    )
    assert "0 + 2" in run(installed / "layer-folding", "scan", "mynets:pair", "--input", 3, 8, 8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_runs_without_a_checkout(installed, users_folder):
    done = subprocess.run([installed / "layer-folding", "demo"], cwd=users_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nverdict: folded is faster than original" in done.stdout
    assert (users_folder / "runs" / "demo" / "report.html").exists()


@pytest.mark.slow
def test_without_torch_the_import_works_and_fold_says_what_to_install(installed, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; import layer_folding as lf\n"
        "try:\n    lf.fold\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "layer_folding.fold needs torch, which is not installed; pip install layer-folding\n"
