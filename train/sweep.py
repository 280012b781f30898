"""A sweep: prefold, fine-tune and fold one pretrained network with each of several lambdas, each in its own run folder.

RUN/lambda-X holds links to the original network of RUN, and what the stages make of it. They are the ordinary stage
commands: what is done is not repeated, and what was interrupted goes on.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from fold import checkpoint
from fold.errors import CheckError, NothingToFold
from train import cluster, config, frontier
from train.arguments import parser

Command = list[str]  # ["fold", "fold", "runs/demo"] is `python -m fold fold runs/demo`


def sweep(
    run: Path,
    penalties: Collection[float],
    prefold: Command,
    finetune: Command,
    engine: str = "sequential",
    named: str | None = None,
) -> None:
    """Train over ``penalties``; print the table, write ``run``/sweep.csv and sweep.png.

    Args:
        run: a run folder with a pretrained network.
        penalties: the lambdas.
        prefold, finetune: further options of these stages, the same for each lambda.
        engine: "sequential", or "ray" for tasks on a Ray cluster.
        named: the network's own code, as in `fold.specs.build`.

    Raises:
        InputError: no network, options that a stage refuses, or other settings than the folders were started with.
        CheckError: points failed; raised after all others are done and shown.
    """
    path = run / "original.safetensors"
    recipe = checkpoint.read(path)[0]
    folders = {penalty: run.absolute() / f"lambda-{penalty}" for penalty in sorted(set(penalties))}
    allowed = [] if named is None else ["--model", named]
    points = {
        folder.name: (folder, _commands(folder, penalty, prefold, finetune, allowed))
        for penalty, folder in folders.items()
    }
    outcomes = (cluster.each if engine == "ray" else _one_by_one)(run_point, points)
    done = [frontier.read(folder, penalty, named) for penalty, folder in folders.items() if not outcomes[folder.name]]
    if done:
        network = recipe["model"]["spec"].partition(":")[2]
        data = Path(config.settings(run, "pretrain")["data"]).name
        original = frontier.Original(frontier.depth_of(path, named), recipe["accuracy"]["original"])
        frontier.write_csv(run / "sweep.csv", done)
        frontier.draw(run / "sweep.png", done, original, f"{network} on {data}")
        print(frontier.as_text(done, original))
        print(f"wrote {run / 'sweep.csv'} and {run / 'sweep.png'}")
    failed = [f"{name}: {message}" for name, message in outcomes.items() if message]
    if failed:
        raise CheckError(f"{len(failed)} of {len(points)} points failed: {'; '.join(failed)}")


def run_point(folder: Path, commands: list[Command]) -> str:
    """Run ``commands`` in ``folder``; what was wrong with the result of one, else "". Prints on stderr only."""
    _share(folder.parent, folder)
    with contextlib.redirect_stdout(sys.stderr):
        print(f"sweep: {folder.name}", flush=True)
        try:
            for package, *arguments in commands:
                importlib.import_module(f"{package}.__main__").main(arguments)
        except NothingToFold as error:  # a result like any other: this lambda is too small
            print(f"note: {error}")
        except CheckError as error:
            print(f"error: {error}")
            return str(error)
    return ""


def _one_by_one(function: Callable, points: dict[str, tuple]) -> dict:
    return {name: function(*arguments) for name, arguments in points.items()}


def _commands(folder: Path, penalty: float, prefold: Command, finetune: Command, allowed: Command) -> list[Command]:
    """The stages of a point; of those that are done, the first two say so. Raises InputError for options that they
    refuse."""
    stages = [
        ["prefold", *prefold, *allowed, "--run", str(folder), "--lambda", str(penalty)],
        ["finetune", *finetune, *allowed, "--run", str(folder)],
    ]
    for arguments in stages:
        parser().parse_args(arguments)
    hardened, folded = (folder / f"{stage}.safetensors" for stage in ("hardened", "folded"))
    done = hardened.exists() and folded.exists() and folded.stat().st_mtime_ns >= hardened.stat().st_mtime_ns
    return [
        *(["train", *arguments] for arguments in stages),
        *([] if done else [["fold", "fold", str(folder), *allowed]]),
    ]


def _share(run: Path, folder: Path) -> None:
    """Make ``folder`` a run folder that begins with the original network of ``run``: by links, it may be large."""
    config.enter(folder, "pretrain", config.settings(run, "pretrain"))
    for name in ("original.safetensors", "eval.npz"):
        if not (folder / name).exists():
            (folder / name).symlink_to(Path("..", name))
