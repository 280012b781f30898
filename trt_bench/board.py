"""Run a command of trt_bench on a board over ssh: copy, run, fetch. ``python -m trt_bench.board user@host bench ...``

The job runs detached on the board, in a folder that is named by everything that goes into it. So a lost connection
loses nothing: the same command given again finds the job, waits for its end and fetches what it wrote. The board needs
sshd, tar and a Python with numpy and a runtime.
"""

import argparse
import hashlib
import io
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import layer_folding
from layer_folding import command_line, files, subcommands
from layer_folding.errors import InputError
from layer_folding.latency_tables import sidecar_of
from layer_folding.segment_index import index_path

from . import prediction
from .commands import COMMANDS, require_outputs

JOBS = ".cache/layer-folding/jobs"  # in the home folder of the board
SETUP_PYTHON = ".cache/layer-folding/python/bin/python"  # what `make jetson-setup` made there
TRIES = 4
LOST = 255  # ssh's exit code for its own failures

EXAMPLE = """\
example:
  python -m trt_bench.board nvidia@orin bench original.onnx folded.onnx --data eval.npz -o bench.json

exit codes: those of the command on the board; 2 if the board cannot be reached
"""

# Starts the job unless it is running or done. A process number alone could be another's after a reboot.
START = """
cd {job} || exit 3
read -r pid boot 2>/dev/null < pid
if [ ! -e exit ] && ! {{ [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] && kill -0 "$pid" 2>/dev/null; }}; then
  python={python}
  [ -n "$python" ] || {{ [ -x ~/{setup} ] && python=~/{setup} || python=python3; }}
  PYTHON="$python" nohup setsid sh -c 'PYTHONUNBUFFERED=1 "$PYTHON" -m trt_bench {command} >stdout 2>stderr </dev/null
    echo $? >exit.tmp; mv exit.tmp exit' >/dev/null 2>&1 </dev/null &
  echo "$! $(cat /proc/sys/kernel/random/boot_id)" >pid
fi
"""
# Waits for the end; a job that died without an exit code (reboot, out of memory) is told by exit code 4.
WAIT = """
cd {job} || exit 3
read -r pid boot < pid
while [ ! -e exit ]; do kill -0 "$pid" 2>/dev/null || {{ sleep 1; [ -e exit ] || exit 4; }}; sleep 0.5; done
"""


@dataclass
class Job:
    """A command with its files: local paths become names in the job's folder."""

    command: list[str] = field(default_factory=list)
    inputs: dict[str, Path] = field(default_factory=dict)  # name in the job -> local file
    outputs: dict[str, Path] = field(default_factory=dict)  # name in the job -> local file or folder

    def name(self) -> str:
        """What goes in decides the name: the command, the files, and the code that runs."""
        digest = hashlib.sha256("\0".join(self.command).encode())
        for name, path in sorted({**self.inputs, **_package()}.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]


def main() -> None:
    """Parse the command line and run the job. Raises InputError."""
    parser = command_line.Parser(
        prog="python -m trt_bench.board",
        description="Run a command of trt_bench on a board over ssh.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "board", metavar="USER@HOST", help="board that ssh connects to; ssh options go into ~/.ssh/config"
    )
    parser.add_argument(
        "--python", default="", help="Python of the board (default: that of make jetson-setup, else python3)"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="command of trt_bench, with its options"
    )
    given = parser.parse_args()
    if given.board.startswith("-"):
        raise InputError(f"{given.board}: is no USER@HOST")
    sys.exit(run(given.board, job_for(given.command), given.python))


def job_for(command: list[str]) -> Job:
    """The job for a command line of ``python -m trt_bench``. Raises InputError for a command or file that is wrong."""
    subcommand, given = subcommands.parse(COMMANDS, command, "python -m trt_bench")
    if subcommand.name not in ("bench", "table"):
        raise InputError(f"{subcommand.name}: runs here, or on the board itself; give bench or table")
    require_outputs(given)  # the board cannot see what is here under these names
    job = Job()
    places: dict[str, str] = {}
    for path in [*getattr(given, "onnx", []), *filter(None, [getattr(given, "data", None)])]:
        places[path] = _add(job, Path(path))
    if getattr(given, "plan", None):  # with the segments that a prediction is traced to
        places[given.plan] = _add(job, Path(given.plan))
        segments = sorted(set(prediction.load(given.plan).files.values()))
        for segment in [*segments, *(index_path(each.parent) for each in segments[:1])]:
            _add(job, segment, "in/segments/")
    if subcommand.name == "table":
        places[given.segments] = "in/segments"
        for segment in sorted(Path(given.segments).glob("*")):
            _add(job, segment, "in/segments/")
        sidecar = sidecar_of(given.output)
        job.outputs["out/latency.json"] = sidecar
        if sidecar.exists():  # an unfinished table goes on
            job.inputs["out/latency.json"] = sidecar
    for option in ("output", "export_times", "export_profile"):
        path = getattr(given, option, None)
        if path:
            suffix = {"table": "latency.csv", "bench": "bench.json"}[subcommand.name]
            places[path] = f"out/{suffix if option == 'output' else option}"
            job.outputs[places[path]] = Path(path)
    job.command = [_placed(token, places) for token in command]
    return job


def _placed(token: str, places: Mapping[str, str]) -> str:
    """A word of a command line with the place of the file that it names: FILE, --option=FILE or -oFILE."""
    heads = ("", f"{token.partition('=')[0]}=", token[:2]) if token.startswith("-") else ("",)
    return next((head + places[token[len(head) :]] for head in heads if token[len(head) :] in places), token)


def run(board: str, job: Job, python: str = "") -> int:
    """Copy, start or find, wait, fetch; print what the command printed and return its exit code.

    Raises InputError where the board cannot be reached, or stays out of reach.
    """
    folder = f"{JOBS}/{job.name()}"
    try:
        _start(board, job, folder, python)
    except _LostError as error:
        raise InputError(
            f"{board}: no connection ({error}); check that `ssh {board}` works without a password"
        ) from error
    try:
        return _fetch(board, job, folder)
    except _LostError as error:
        raise InputError(
            f"{board}: no connection any more ({error}). What runs there goes on: give the same command again to fetch "
            "it"
        ) from error


def _start(board: str, job: Job, folder: str, python: str) -> None:
    command_line.progress(f"{board}: copying")
    _ssh(
        board,
        f"test -d {folder} || {{ rm -rf {folder}.new && mkdir -p {folder}.new/out && "
        f"tar -xf - -C {folder}.new && mv {folder}.new {folder}; }}",
        _archive(job),
    )
    command = " ".join(shlex.quote(token) for token in job.command).replace("'", "'\\''")
    _ssh(board, START.format(job=folder, python=shlex.quote(python), setup=SETUP_PYTHON, command=command))


def _fetch(board: str, job: Job, folder: str) -> int:
    command_line.progress(f"{board}: measuring; a lost connection does not matter")
    try:
        _ssh(board, WAIT.format(job=folder))
    except _DiedError as error:
        last = _ssh(board, f"tail -n 1 {folder}/stderr; rm -f {folder}/pid").decode(errors="replace").strip()
        raise InputError(
            f"{board}: the measurement was ended there ({last or 'reboot, or out of memory'}); give the same command "
            "again to go on"
        ) from error
    command_line.progress(f"{board}: fetching")
    content = _ssh(board, f"tar -cf - -C {folder} out stdout stderr exit")
    code = _unpack(content, job)
    _ssh(board, f"rm -rf {folder}")
    return code


class _LostError(Exception):
    """There is no connection; the message has what ssh said."""


class _DiedError(Exception):
    """The job has no process and no exit code."""


def _ssh(board: str, script: str, content: bytes = b"") -> bytes:
    """Run a shell script on the board and return what it prints; a lost connection is tried again some times."""
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"]
    for attempt in range(TRIES):
        done = subprocess.run(["ssh", *options, "--", board, script], input=content, capture_output=True)
        if done.returncode == 0:
            return done.stdout
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        if done.returncode == 4:
            raise _DiedError
        if done.returncode != LOST:
            raise InputError(f"{board}: {reason[0]}; free some space there, or remove ~/{JOBS}")
        time.sleep(2**attempt if attempt < TRIES - 1 else 0)
    raise _LostError(reason[0])


def _add(job: Job, path: Path, folder: str = "in/") -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"{folder}{path.name}"
    if name in job.inputs:
        raise InputError(f"{path.name}: two files have this name; rename one, results go by file name")
    job.inputs[name] = path
    return name


def _package() -> dict[str, Path]:
    """What the board needs: trt_bench, and the shared ground without the other stages; name in the job -> file."""
    bench, shared = Path(__file__).parent, Path(layer_folding.__file__).parent
    sources = {f"trt_bench/{path.relative_to(bench)}": path for path in sorted(bench.rglob("*.py"))}
    return sources | {f"layer_folding/{path.name}": path for path in sorted(shared.glob("*.py"))}


def _archive(job: Job) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, path in {**_package(), **job.inputs}.items():
            member = tarfile.TarInfo(name)  # of nobody in particular, and readable
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)
    return buffer.getvalue()


def _unpack(content: bytes, job: Job) -> int:
    """Put the outputs in their local places, print the rest, return the exit code. Nothing else is written."""
    texts = {"stdout": "", "stderr": "", "exit": "2"}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if not member.isfile():
                continue
            source = archive.extractfile(member)
            assert source is not None  # as it is a file
            data = source.read()
            if member.name in texts:
                texts[member.name] = data.decode(errors="replace")
            target = job.outputs.get(member.name)
            if target is None:
                parent, _, name = member.name.rpartition("/")
                target = job.outputs[parent] / name if parent in job.outputs and name != ".." else None
            if target is not None:
                with files.atomic_path(target) as temporary:
                    temporary.write_bytes(data)
    command_line.progress("")
    print(_here(texts["stdout"], job), end="", flush=True)
    print(_here(texts["stderr"], job), end="", file=sys.stderr)
    return int(texts["exit"])


def _here(text: str, job: Job) -> str:
    """What the board printed, with the files' names on this machine."""
    for name, path in {**job.inputs, **job.outputs}.items():
        text = text.replace(name, str(path))
    return text


if __name__ == "__main__":
    sys.exit(command_line.run(main))
