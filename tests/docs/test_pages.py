"""README.md and docs/*.md: links resolve, and every command would be understood. `make docs-check` runs them."""

import ast
import importlib
import re

import pytest

import layer_folding as lf
from tests.docs import commands
from tests.docs.pages import NOTES, PAGES, ROOT, Block, anchors, blocks, code, links

BLOCKS = [block for page in PAGES for block in blocks(page)]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@EACH_PAGE
def test_its_links_resolve(page):
    for link in links(page):
        if "://" in link:
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./%#?=&~+-]*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_can_be_reached_from_the_readme():
    reached, queue = set(), [PAGES[0]]
    while queue:
        page = queue.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            queue += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
    assert set(PAGES) <= reached


@EACH_PAGE
def test_every_fence_is_that_of_a_block(page):
    fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.M)
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_a_block_is_run_or_says_why_not(block):
    assert block.language in ("", "sh", "python", "mermaid")
    assert set(block.notes) <= set(NOTES)
    assert all(block.notes.values())
    if block.language == "sh":
        for command in commands.commands(block.text):
            commands.check(command)
    if block.language == "python":
        _check_imports(block)


def _check_imports(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "layer_folding":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.where}: {node.module} has no {alias.name}"


@EACH_PAGE
def test_names_of_the_python_api_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(rf"^(from|import) ({'|'.join(commands.STAGES)})\b", text, re.M), "found in a checkout only"
    for name in re.findall(r"\blf\.(\w+)", text):
        assert name in lf.__all__, f"{page.name}: layer_folding has no {name}"


@EACH_PAGE
def test_paths_in_the_text_exist(page):
    for text in code(page):
        if re.fullmatch(rf"({'|'.join((*commands.PACKAGES, 'layer_folding', 'tests', 'examples'))})/[\w./]*", text):
            assert (ROOT / text).exists(), f"{page.name}: there is no {text}"


@EACH_PAGE
def test_commands_in_the_text_have_what_they_name(page):
    for text in code(page):
        if re.match(r"make [a-z]|layer-folding [a-z]|(\.venv/bin/)?python3? -m ", text):
            commands.check_mention(text)


WORDS = (
    *("activation", "gate", "remove", "hoist", "anchor", "region", "merge", "fit", "shape", "candidate", "alternative"),
    *("segment", "latency table", "importance", "plan", "budget", "run", "stage"),
)


def test_the_glossary_has_the_words_that_the_project_uses_in_one_meaning():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert set(WORDS) <= set(re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", text, re.M))


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150
