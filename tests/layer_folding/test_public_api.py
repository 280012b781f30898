"""``import layer_folding as lf``: every public name is documented, typed and lazy; the examples run."""

import ast
import dataclasses
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.importance_tables import write_importance
from layer_folding.plans import write_plan

PUBLIC = [name for name in lf.__all__ if name != "__version__"]
FUNCTIONS = [name for name in PUBLIC if not inspect.isclass(getattr(lf, name))]


def test_names_resolve_lazily():
    code = "import sys, layer_folding; print(*(name for name in sys.modules if name.startswith(('torch', 'numpy'))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    assert set(PUBLIC) <= set(dir(lf))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = lf.nothing


def test_type_checkers_see_the_names_that_resolve():
    tree = ast.parse(Path(lf.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(PUBLIC)
    for name, module in seen.items():
        assert lf._PUBLIC[name] in (module, ""), name


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name):
    value = getattr(lf, name)
    assert len(inspect.getdoc(value).splitlines()[0]) > 10
    if name in FUNCTIONS:
        assert f"lf.{name}(" in value.__doc__, f"{name} shows no example"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only_and_typed(name):
    signature = inspect.signature(getattr(lf, name))
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, f"{name}({parameter.name})"
        assert parameter.default is parameter.empty or parameter.kind is parameter.KEYWORD_ONLY, parameter.name
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_arguments_and_errors_are_explained(name):
    text, signature = inspect.getdoc(getattr(lf, name)), inspect.signature(getattr(lf, name))
    assert [each for each in signature.parameters if not re.search(rf"^    {each}: ", text, re.M)] == []
    assert re.search(r"^Raises:\n    \w+Error: |Nothing is raised\.$", text, re.M)
    assert not re.search(r"^Raises:\n(    .*\n|\n)*    >>> ", text, re.M), "begin the example with Example:"


@pytest.mark.parametrize("name", [name for name in PUBLIC if dataclasses.is_dataclass(getattr(lf, name))])
def test_its_fields_are_explained(name):
    fields = [field.name for field in dataclasses.fields(getattr(lf, name))]
    assert [field for field in fields if f"``{field}``" not in inspect.getdoc(getattr(lf, name))] == []


def test_the_reference_has_every_public_name_once():
    text = (Path(__file__).parents[2] / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: layer_folding\.(\w+)$", text, re.M)) == sorted(PUBLIC)


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path):
    source = Path(__file__).parents[2] / "docs" / "api"
    build = ["-W", "-q", "-b", "html", "-d", tmp_path / "doctrees", source, tmp_path / "site"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *map(str, build)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    signatures = re.findall(r'<dt class="sig sig-object py" id="(layer_folding\.\w+)">(.*?)</dt>', page, re.S)
    assert [name for name, signature in signatures if "viewcode-link" not in signature] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that the examples run in. What they read is in ``run``: a table, a plan and an importance."""
    folder = tmp_path_factory.mktemp("examples")
    model, example = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)), torch.rand(1, 3, 16, 16)
    table = lf.table(model, example, folder=folder / "run", seconds=0.01, repeats=2)
    write_plan(folder / "run" / "plan.json", lf.plan(model, example, table))
    write_importance(folder / "run" / "importance.csv", lf.Importance({("1",): 0.02}, "cross entropy"))
    return folder


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.slow
def test_its_example_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(lf, name)), {}, name, None, None)
    assert example.examples
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.failed == 0
