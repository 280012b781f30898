"""What is in a Markdown page: its blocks with the notes above them, its commands within the text, its links.

A note is an HTML comment right above a block, which readers of the page do not see:

    <!-- not run: needs a board -->     the commands are parsed, not run; the reason is required
    <!-- first: cd runs/demo -->        runs before the block, as if it stood in it
    <!-- file: mynets.py -->            the block is the content of that file
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md"), reverse=True), *sorted((ROOT / "docs").glob("*.md")))  # README.md first
NOTES = ("not run", "first", "file")

_BLOCK = re.compile(r"(?P<notes>(?:^<!--(?:(?!-->).)*-->\n)*)^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_NOTE = re.compile(r"<!--\s*(?P<key>[^:]+?):\s*(?P<value>.*?)\s*-->", re.S)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is that of its first line in ``page``; without a ``language`` it is output."""

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of ``page``, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["text"],
            {note["key"]: note["value"] for note in _NOTE.finditer(match["notes"])},
        )
        for match in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """The text of ``page`` without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def code(page: Path) -> list[str]:
    """What stands between single backquotes in the text of ``page``, each on one line."""
    return [" ".join(match.split()) for match in _CODE.findall(prose(page))]


def links(page: Path) -> list[str]:
    """The targets of the links and images of ``page``."""
    return _LINK.findall(_CODE.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """What a link to ``page`` can have behind its #: its headings, written as GitHub does."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(next(name for name in (slug, *(f"{slug}-{i}" for i in range(1, 100))) if name not in found))
    return found
