"""The floor plan: train -> fold <- export, and trt_bench on its own. Data moves between the stages as files.

The report reads those files, with nothing of the others but what trt_bench knows of a bench.json. The benchmarks may
import all of them; nothing imports the benchmarks.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "train": {"fold"},
    "export": {"fold"},
    "fold": set(),
    "trt_bench": set(),
    "report": {"trt_bench"},
    "benchmarks": {"train", "fold", "export", "trt_bench"},
}
PACKAGES = tuple(MAY_IMPORT)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_allowed_packages_are_imported(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & set(PACKAGES) <= MAY_IMPORT[package] | {package}


def test_every_package_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


def test_the_report_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; import report.__main__"
    subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, check=True)
