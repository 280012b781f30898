"""A sweep: prefold, fine-tune and fold one pretrained network with each of several lambdas, each in its own run folder.

RUN/lambda-X holds links to the original network of RUN, and what the stages make of it. They are the ordinary stages:
what is done is not repeated, and what was interrupted goes on.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from layer_folding.errors import CheckError, NothingToFold
from layer_folding.fold import checkpoints
from layer_folding.fold.run_folding import fold_run
from layer_folding.stages import FINETUNE, FOLD, PRETRAIN

from . import cluster, config, sweep_results
from .finetuning import finetune
from .prefolding import prefold
from .settings import FinetuneSettings, PrefoldSettings, PretrainSettings, SweepSettings
from .sweep_results import Original, Point

PointKind = TypeVar("PointKind")


@dataclass(frozen=True)
class PointStages:
    """The stages of one point of a sweep: what `prefold`, `finetune` and `fold_run` are to be given."""

    prefold: PrefoldSettings
    finetune: FinetuneSettings
    latency: Path | None = None
    trust: str | None = None


@dataclass(frozen=True)
class Swept(Generic[PointKind]):
    """The ``points`` that were reached, their ``original``, and what was wrong with the others by their folder."""

    points: list[PointKind]
    original: Original
    failed: Mapping[str, str]

    def require(self) -> None:
        """Raise CheckError that names the points that failed, if there are any."""
        if self.failed:
            count = len(self.failed) + len(self.points)
            said = "; ".join(f"{name}: {message}" for name, message in self.failed.items())
            raise CheckError(f"{len(self.failed)} of {count} points failed: {said}")


def sweep(run: Path, settings: SweepSettings, latency: Path | None = None, trust: str | None = None) -> Swept[Point]:
    """Train with each of the lambdas; write ``run``/sweep.csv and sweep.png.

    Args:
        run: a run folder with a pretrained network.
        settings: the lambdas, and the settings of the stages.
        latency: a latency table that gives the gates their weights.
        trust: the network's own code, as in `fold.model_names.build`.

    Raises InputError for no network, settings that a stage refuses, or other ones than the folders were started with.
    """
    path = run / PRETRAIN.file
    recipe = checkpoints.read(path)[0]
    folders = {penalty: run.absolute() / f"lambda-{penalty}" for penalty in sorted(set(settings.lambdas))}
    tasks = {
        folder.name: (folder, PointStages(replace(settings.prefold, penalty=x), settings.finetune, latency, trust))
        for x, folder in folders.items()
    }
    outcomes = run_points(run_point, tasks, settings.engine)
    points = [sweep_results.read(folder, x, trust) for x, folder in folders.items() if not outcomes[folder.name]]
    original = Original(sweep_results.depth_of(path, trust), recipe.accuracy[PRETRAIN.network])
    if points:
        network = recipe.network.spec.partition(":")[2]
        data = Path(config.settings(run, PRETRAIN.command, PretrainSettings).data).name
        sweep_results.write_csv(run / "sweep.csv", points)
        sweep_results.draw(run / "sweep.png", points, original, f"{network} on {data}")
    return Swept(points, original, {name: message for name, message in outcomes.items() if message})


def run_point(folder: Path, stages: PointStages) -> str:
    """Run ``stages`` in ``folder``; what was wrong with the result of one, else "". Prints on stderr only."""

    def train() -> None:
        prefold(folder, stages.prefold, stages.latency, stages.trust)
        finish(folder, stages.finetune, stages.trust)

    return attempted(folder, train)


def run_points(function: Callable[..., str], tasks: Mapping[str, tuple[Any, ...]], engine: str) -> dict[str, str]:
    """What was wrong with each of ``tasks``, arguments of ``function``: one after the other, or on Ray."""
    if engine == "ray":
        return cluster.each(function, tasks)
    return {name: function(*arguments) for name, arguments in tasks.items()}


def attempted(folder: Path, work: Callable[[], None]) -> str:
    """Do ``work`` in ``folder``, made a run folder with the original network of the run that it is in; what was wrong
    with a result, else "". Prints on stderr only."""
    _share(folder.parent, folder)
    with contextlib.redirect_stdout(sys.stderr):
        print(f"sweep: {folder.name}", flush=True)
        try:
            work()
        except NothingToFold as error:  # a result like any other: this lambda is too small
            print(f"note: {error}")
        except CheckError as error:
            print(f"error: {error}")
            return str(error)
    return ""


def finish(folder: Path, settings: FinetuneSettings, trust: str | None) -> None:
    """Fine-tune and fold the prefolded network of ``folder``. Raises CheckError as the stages do."""
    finetune(folder, settings, trust)
    if not _folded(folder):
        fold_run(folder, trust)


def _folded(folder: Path) -> bool:
    """Whether the fine-tuned network of ``folder`` has been folded already."""
    hardened, folded = folder / FINETUNE.file, folder / FOLD.file
    return folded.exists() and folded.stat().st_mtime_ns >= hardened.stat().st_mtime_ns


def _share(run: Path, folder: Path) -> None:
    """Make ``folder`` a run folder that begins with the original network of ``run``: by links, it may be large."""
    config.copy_stage(run, PRETRAIN.command, folder)
    for name in (PRETRAIN.file, "eval.npz", "calib.npz", "heldout.npz"):
        if (run / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(Path("..", name))
