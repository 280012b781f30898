"""A sweep over budgets: plan, fit, fine-tune and fold one pretrained network for each of several speed-ups.

RUN/speedup-X holds links to the original network of RUN, the plan, and what the stages make of it. All plans are by one
latency table and one importance, those of RUN. What is done is not repeated, and what was interrupted goes on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from layer_folding.errors import InputError, NothingToFold
from layer_folding.fold import checkpoints
from layer_folding.fold.plan import presenting
from layer_folding.fold.planning import plan
from layer_folding.fold.replaying import example_of
from layer_folding.importance_tables import read_importance
from layer_folding.latency_tables import read_table
from layer_folding.plans import read_plan
from layer_folding.stages import PRETRAIN

from . import budget_results, config, sweep_results
from .budget_results import BudgetPoint
from .fitting import fit_run
from .settings import BudgetSettings, FinetuneSettings, FitSettings, PretrainSettings
from .sweep_results import Original
from .sweeping import Swept, attempted, finish, run_points


@dataclass(frozen=True)
class BudgetStages:
    """What one point of the sweep is made from: planned to be ``speedup`` times as fast, by the files ``latency`` and
    ``importance``, then fine-tuned."""

    speedup: float
    finetune: FinetuneSettings
    latency: Path
    importance: Path
    trust: str | None = None


def sweep_budgets(
    run: Path, settings: BudgetSettings, latency: Path, importance: Path, trust: str | None = None
) -> Swept[BudgetPoint]:
    """Plan, fit and train for each of the speed-ups; write ``run``/frontier.csv and frontier.png.

    Args:
        run: a run folder with a pretrained network.
        settings: the speed-ups, and the settings of fine-tuning.
        latency: the latency table of the network.
        importance: what each fit loses, from `layer-folding importance --from fit`.
        trust: the network's own code, as in `fold.model_names.build`.

    Raises InputError for files or settings that cannot be used. Where no plan is as fast, or a stage fails, that is in
    the result, and the other points are made.
    """
    path = run / PRETRAIN.file
    recipe = checkpoints.read(path)[0]
    read_table(latency), read_importance(importance)  # before any folder is made
    folders = {speedup: run.absolute() / f"speedup-{speedup:g}" for speedup in sorted(set(settings.speedups))}
    tasks = {
        folder.name: (folder, BudgetStages(x, settings.finetune, latency.absolute(), importance.absolute(), trust))
        for x, folder in folders.items()
    }
    outcomes = run_points(run_budget, tasks, settings.engine)
    points = [budget_results.read(folder, x, trust) for x, folder in folders.items() if not outcomes[folder.name]]
    original = Original(sweep_results.depth_of(path, trust), recipe.accuracy[PRETRAIN.network])
    if points:
        data = Path(config.settings(run, PRETRAIN.command, PretrainSettings).data).name
        budget_results.write_csv(run / "frontier.csv", points)
        title = f"{recipe.network.spec.partition(':')[2]} on {data}"
        budget_results.draw(run / "frontier.png", points, original, title)
    return Swept(points, original, {name: message for name, message in outcomes.items() if message})


def run_budget(folder: Path, stages: BudgetStages) -> str:
    """Run ``stages`` in ``folder``; what was wrong with the result of one, else "". Prints on stderr only."""

    def make() -> None:
        choices = _planned(folder, stages)
        if not choices:
            raise NothingToFold(f"{folder.name}: the original network is fast enough")
        fit_run(folder, FitSettings(choices=choices), stages.trust)
        finish(folder, stages.finetune, stages.trust)

    return attempted(folder, make)


def _planned(folder: Path, stages: BudgetStages) -> tuple[str, ...]:
    """The layers to fit by the plan of ``stages``, which is written into ``folder``.

    Raises InputError where another plan is there, and CheckError where no plan is as fast.
    """
    model, recipe = checkpoints.load(folder / PRETRAIN.file, stages.trust)
    importance = read_importance(stages.importance)
    table = read_table(stages.latency)
    chosen = plan(model, example_of(recipe), table, speedup=stages.speedup, importance=importance)
    path = folder / "plan.json"
    if path.exists() and read_plan(path).lines != chosen.lines:
        raise InputError(
            f"{path}: is another plan than {stages.latency} and {stages.importance} give now; remove {folder}, or "
            "restore these files"
        )
    if not path.exists():
        presenting.write(folder, chosen)
    for note in chosen.notes:
        print(f"note: {note}", file=sys.stderr)
    return tuple(map(str, chosen.choices))
