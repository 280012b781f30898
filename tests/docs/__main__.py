"""Run the blocks of README.md and docs/*.md, page by page in order, in a copy of this folder.

    python -m tests.docs [PAGE...]

Blocks share what they leave behind: files in the copy, and for Python blocks of one page their names. One line for each
block says how long it took, or why it was not run (`tests.docs.pages`: notes). The first that fails ends its page. Exit
code 1 if any failed. The network is needed only where a block says so.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.docs.pages import PAGES, ROOT, Block, blocks

_NOT_COPIED = shutil.ignore_patterns(".*", "runs", "__pycache__", "build", "dist", "*.egg-info")


def main() -> int:
    pages = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / ROOT.name
        _copy(copy)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PATH"] = f"{copy}/.venv/bin:{os.environ['PATH']}"
        return max([_run_page(page) for page in pages])


def _copy(copy: Path) -> None:
    """This folder in ``copy``, with the Python that runs this as its .venv, so that make has nothing to set up."""
    shutil.copytree(ROOT, copy, ignore=_NOT_COPIED)
    (copy / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        (copy / ".venv" / entry.name).symlink_to(entry)
    (copy / ".venv" / ".ready").unlink(missing_ok=True)
    (copy / ".venv" / ".ready").touch()


def _run_page(page: Path) -> int:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language not in ("sh", "python") and "file" not in block.notes:
            continue  # output, or a drawing
        if "not run" in block.notes:
            print(f"{block.where}: not run: {block.notes['not run']}", flush=True)
            continue
        start = time.perf_counter()
        failure = _run(block, names)
        if failure is not None:
            print(f"{block.where}: failed\n{failure}", flush=True)
            return 1
        print(f"{block.where}: {time.perf_counter() - start:.1f} s", flush=True)
    return 0


def _run(block: Block, names: dict[str, object]) -> str | None:
    """Run ``block``; what it said if it failed."""
    if "file" in block.notes:
        Path(block.notes["file"]).write_text(block.text, encoding="utf-8")
        return None
    first = f"{block.notes['first']}\n" if "first" in block.notes else ""
    if block.language == "python":
        try:
            exec(compile(first, block.where, "exec"), names)
            exec(compile(block.text, block.where, "exec"), names)
        except Exception:
            return traceback.format_exc()
        return None
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", first + block.text], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]


if __name__ == "__main__":
    sys.exit(main())
