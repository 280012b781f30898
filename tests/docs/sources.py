"""The texts that the code can say, so that pages that quote them stay true."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT

PACKAGES = ("layer_folding", "train", "fold", "export", "trt_bench", "report")
_FAILED = ("CheckError", "NothingToFold")


def texts(folder: str = "") -> Iterator[str]:
    """Every string of the packages, or of one file, as a template: ... for what is filled in."""
    for path in _files(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Constant, ast.JoinedStr)):
                yield _template(node)


def filled_in(file: str) -> set[str]:
    """The templates of ``file`` with something to fill in, but for those of errors: in fold, reasons."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    raised = {inner for node in ast.walk(tree) if isinstance(node, ast.Raise) for inner in ast.walk(node)}
    return {_template(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and node not in raised}


def failed_checks() -> set[str]:
    """The templates of all errors with exit code 1."""
    return {
        _template(node.args[0])
        for path in _files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FAILED
    }


def quotes(quoted: str, template: str) -> bool:
    """Whether ``quoted``, with ... for what is filled in or left out, is from a text of ``template``."""
    return re.search(re.escape(quoted).replace(r"\.\.\.", ".*"), template, re.S) is not None


def _files(folder: str = "") -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if folder in str(path)]


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    return "..."
