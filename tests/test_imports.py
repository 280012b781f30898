"""The floor plan: train -> fold <- export, and trt_bench and report on the shared ground alone.

Data moves between the stages as files. The benchmarks may import all of them; nothing imports the benchmarks.
"""

import ast
import pkgutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "layer_folding": set(),
    "train": {"layer_folding", "fold"},
    "export": {"layer_folding", "fold"},
    "fold": {"layer_folding"},
    "trt_bench": {"layer_folding"},
    "report": {"layer_folding"},
    "benchmarks": {"layer_folding", "train", "fold", "export", "trt_bench"},
}
# Modules of the public API that join stages. Each is imported when a name of it is first used.
JOINS = {f"layer_folding/{name}.py": {"fold", "export", "trt_bench"} for name in ("measuring_tables", "fitting_files")}
PACKAGES = tuple(MAY_IMPORT)
STAGES = ("train", "fold", "export", "trt_bench", "report")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The packages that ``path`` imports; its own is left out, since it does so relatively."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    packages = set()
    for name in found:
        first, _, rest = name.partition(".")
        assert first not in STAGES, f"{path}: {name} is found in a checkout only; import it from layer_folding"
        part = rest.partition(".")[0]
        packages.add(part if first == "layer_folding" and part in STAGES else first)
    return packages & set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_allowed_packages_are_imported(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[package] | ({package} if package == "benchmarks" else set())
    assert imported(path) <= allowed | JOINS.get(str(path.relative_to(ROOT)), set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_fold_and_the_shared_ground_name_no_upper_package_in_a_string(path):
    package = path.relative_to(ROOT).parts[0]
    if package not in ("fold", "layer_folding") or path.name in ("__init__.py", "front_door.py"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in strings if text.startswith(("train.", "layer_folding.train", "layer_folding.export"))]


def test_every_package_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


def test_the_wheel_has_every_package_and_no_other():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES if path.relative_to(ROOT).parts[0] != "benchmarks"}
    names = {
        ".".join(("layer_folding", *(part for part in folder.parts if part != "layer_folding"))) for folder in folders
    }
    assert set(settings["packages"]) == names == set(settings["package-dir"])


@pytest.mark.parametrize("package", ["layer_folding", *(f"layer_folding.{stage}" for stage in STAGES)])
def test_no_export_hides_a_module(package):
    module = import_module(package)
    modules = {info.name for info in pkgutil.iter_modules(module.__path__)}
    assert not modules & set(getattr(module, "__all__", ()))


def test_no_two_modules_have_the_same_name():
    names = Counter(path.stem for path in SOURCES if path.relative_to(ROOT).parts[0] != "benchmarks")
    each = {"__init__", "__main__", "commands"}  # one in each package, by design
    assert [name for name, count in names.items() if count > 1 and name not in each] == []


# What other programs write: TensorRT's inspector, JetPack, ONNX Runtime's profiler.
FOREIGN_JSON = {"trt_bench/engine_layers.py", "trt_bench/jetson_setup.py", "trt_bench/runtimes/onnxruntime.py"}


def test_all_json_of_our_own_has_one_reader():
    reading = {str(path.relative_to(ROOT)) for path in SOURCES if "json.load" in path.read_text(encoding="utf-8")}
    assert reading == {"layer_folding/records.py"} | FOREIGN_JSON


def test_the_import_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; import layer_folding, report.__main__, trt_bench.__main__"
    subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, check=True)
