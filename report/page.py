"""The page of one run: what its sections have to show, and the sentence that each begins with."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from layer_folding import advice, run_config
from layer_folding.bench_results import TITLES, BenchResult
from layer_folding.fit_choices import parse_choice, shape_text
from layer_folding.fold_results import FoldRecord
from layer_folding.plans import LossBound
from layer_folding.prediction_records import MISS
from layer_folding.stages import STEPS
from layer_folding.text import milliseconds

from . import charts, drawing, fit_charts, layer_graph, plan_charts, reproducing
from .figures import Figures
from .run_folder import Run


def templates() -> jinja2.Environment:
    """The environment of all templates here: whatever they show is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clipped": clipped, "milliseconds": milliseconds, "shape": shape_text}
    return environment


def clipped(text: str, most: int) -> str:
    """``text`` with its middle left out where it is longer than ``most`` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def render(run: Run) -> str:
    """The HTML of ``run``'s page. Raises InputError for an ONNX file in it that cannot be read."""
    environment = templates()
    rows = times(run)

    def make(*targets: str) -> str:
        return f"make {' '.join(targets)} RUN={shlex.quote(str(run.folder))}"

    return environment.get_template("page.html").render(
        run=run,
        figure=Figures({"fold": run.fold, "bench": run.bench}),
        make=make,
        verdict=verdict(run.bench),
        why=why(run),
        network=_network(run, run.fold, make, environment) if run.fold else None,
        fits=[parse_choice(fit.choice) for fit in run.fold.fitted] if run.fold else [],
        fit_errors=fit_charts.errors(run.fold.fitted) if run.fold and run.fold.fitted else None,
        skipped=_by_reason(run.fold),
        legend=_legend(run.fold),
        accuracy=_accuracy(run),
        gates=_gates(run),
        latency=_latency(run.bench),
        times=rows and charts.modules(rows),
        miss=MISS,
        device=_device(run.bench),
        steps=reproducing.steps(run),
        title=_title(run),
        places=_places(run.bench),
        bench_rounds=(run.bench.settings.rounds or "?") if run.bench else None,
        accuracy_of=run.fold.accuracy if run.fold else {},
        agreement=run.fold.agreement if run.fold else None,
        prediction=run.bench.prediction if run.bench else None,
        runtime=TITLES[run.bench.runtime] if run.bench else None,
        warnings=advice.warnings(run.bench) if run.bench else [],
        noise=_noise(run.bench),
        frontier=_frontier(run),
        losses=_losses(run),
        has_engines=run.bench is not None and any(model.engine for model in run.bench.models),
        absent=list(_absent(run, make, has_times=bool(rows))),
    )


def verdict(bench: BenchResult | None) -> str | None:
    """Whether the folded network is faster, in a few words; None where two networks have not been measured."""
    if not bench or not bench.comparison:
        return None
    comparison = bench.comparison
    baseline, candidate = comparison.baseline, comparison.candidate
    if comparison.verdict == "no significant difference":
        return f"{candidate.capitalize()} and {baseline} are equally fast, as far as this measurement can tell"
    return f"{candidate.capitalize()} is {comparison.verdict} than {baseline}"


def why(run: Run) -> str:
    """What stands behind the verdict, and, where the folded network is slower, what to do."""
    if not run.fold or not run.bench or not run.bench.comparison:
        return ""
    before, after = run.fold.cost.original, run.fold.cost.folded
    depth, macs = before.depth - after.depth, after.macs / before.macs
    less = f"It has {depth} fewer weighted layer{'s' * (depth != 1)} on its longest path and {macs:.2f} times the MACs"
    if run.bench.comparison.verdict == "slower":
        return (
            f"{less}. On this device fewer layers are no gain: keep the original network here, or plan by measured "
            "latency. A plan folds only what pays."
        )
    return f"{less}."


def _places(bench: BenchResult | None) -> list[int]:
    """The places in bench.json of the two networks that its headline compares."""
    if not bench or not bench.comparison:
        return []
    comparison = bench.comparison
    places = {model.name: place for place, model in enumerate(bench.models) if model.batch == comparison.batch}
    return [places[comparison.baseline], places[comparison.candidate]]


def _title(run: Run) -> str:
    spec = run.fold.model.spec.rpartition(":")[2] if run.fold else ""
    return f"{run.name}: {spec}" if spec and spec not in run.name else run.name


def _network(run: Run, fold: FoldRecord, make: Callable[..., str], environment: jinja2.Environment) -> Markup:
    """The drawing, or the sentence that says why there is none."""
    paths = [run.folder / f"{name}.onnx" for name in ("original", "folded")]
    missing = " and ".join(path.name for path in paths if not path.exists())
    if missing:
        text = '<p class="missing">No drawing: the run folder has no {} yet. <code>{}</code> makes it.</p>'
        return Markup(text).format(missing, make("export"))
    before, after = map(layer_graph.layers, paths)
    most = max(len(before), len(after))
    if most > drawing.MOST:
        text = '<p class="missing">No drawing: {} layers are too many; at most {} stay legible.</p>'
        return Markup(text).format(most, drawing.MOST)
    fitted = {layer for fit in fold.fitted for layer in (fit.name, *fit.layers)}
    fitted |= {merge.name for merge in fold.folded if fitted & {*merge.layers}}
    template = environment.get_template("drawing.svg")
    drawn = Markup("")
    for layout in (drawing.WIDE, drawing.NARROW):
        sheet = drawing.sheet(before, after, fold.of_original, kept=fold.kept, fitted=fitted, layout=layout)
        drawn += Markup(template.render(sheet=sheet))
    return Markup('<div class="scroll tall" tabindex="0" role="region" aria-label="network">{}</div>').format(drawn)


def _legend(fold: FoldRecord | None) -> list[tuple[str, str, str]]:
    """What the marks of the drawing mean: class, sample and meaning of each that is in it."""
    if fold is None:
        return []
    merged = [merge for merge in fold.of_original if merge.activations]
    marks = [("band", "", "layers that became one")] if fold.folded else []
    marks += [("gone", "relu", "removed")] if merged else []
    marks += [("kept", "relu", "put back although its gate opened; the reason stands below")] if fold.kept else []
    marks += [("fitted", "", "fitted, which is approximate; the error stands below")] if fold.fitted else []
    return marks


def _by_reason(fold: FoldRecord | None) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for entry in fold.skipped if fold else ():
        reasons.setdefault(entry.reason, []).append(entry.layer)
    return reasons


@dataclass(frozen=True)
class _Absent:
    """What the page could show, the command that makes it, and the file that it would stand in."""

    what: str
    command: str
    file: str = ""


def _absent(run: Run, make: Callable[..., str], *, has_times: bool) -> Iterator[_Absent]:
    if not run.fold:
        yield _Absent("What was folded, and the accuracy at every step", make("fold"), "fold.json")
    if not run.is_fitted and not any(epoch.gates for epoch in run.epochs):
        yield _Absent("How the gates opened", make("prefold"))
    if not run.bench:
        yield _Absent("Latency, device and settings", make("export", "trt-bench"), "bench.json")
    elif not run.bench.prediction and run.plan:
        yield _Absent("Predicted against measured", make("trt-bench"))
    elif run.fold and run.fold.folded and not has_times:
        yield _Absent("The time of each layer", reproducing.profiled(run))
    if not run.config:
        yield _Absent("The settings of the training", make("pretrain"), run_config.NAME)


def _noise(bench: BenchResult | None) -> list[str]:
    """What makes the headline doubtful: samples of its two networks that scatter or drift."""
    if bench is None:
        return []
    return [line for place in _places(bench) for line in advice.instability(bench.models[place], bench.device.kind)]


@dataclass(frozen=True)
class _Frontier:
    """The best plans, whether some were carried out, and what a plan may lose, where that was the limit."""

    carried_out: bool
    bound: LossBound | None
    chart: Markup


def _frontier(run: Run) -> _Frontier | None:
    if not run.plan or not run.plan.frontier:
        return None
    carried_out = any(point.agreement is not None for point in run.plan.frontier)
    return _Frontier(carried_out, run.plan.max_loss, plan_charts.frontier(run.plan))


@dataclass(frozen=True)
class _Losses:
    """What each fitted layer loses alone: how many rows are shown of all."""

    all: int
    shown: int
    chart: Markup


def _losses(run: Run) -> _Losses | None:
    rows = plan_charts.by_activations(run.importance) if run.importance else []
    if not run.importance or not rows:
        return None
    return _Losses(len(rows), min(len(rows), plan_charts.MOST_ROWS), plan_charts.losses(run.importance))


@dataclass(frozen=True)
class _Accuracy:
    """The section on accuracy."""

    steps: list[str]
    chart: Markup


def _accuracy(run: Run) -> _Accuracy | None:
    known = run.fold.accuracy if run.fold else {}
    steps = {step: known[step] for step in STEPS if step in known}
    return _Accuracy(list(steps), charts.accuracies(steps)) if steps else None


@dataclass(frozen=True)
class _Gates:
    """The section on gates: how many are open of all, and ``kept`` of these; how many epochs are shown of all."""

    opened: int
    kept: int
    all: int
    epochs: int
    shown: int
    threshold: float
    chart: Markup


def _gates(run: Run) -> _Gates | None:
    epochs = [epoch for epoch in run.epochs if epoch.gates]
    if not epochs:
        return None
    last = epochs[-1].gates
    opened = sum(alpha >= run.threshold for alpha in last.values())
    kept = [name for name in (run.fold.kept if run.fold else ()) if name in last]
    chart = charts.gates(epochs, run.threshold, kept)
    return _Gates(opened, len(kept), len(last), len(epochs), len(charts.shown(epochs)), run.threshold, chart)


@dataclass(frozen=True)
class _Latency:
    """The latencies at one batch size: the places of models and comparisons in bench.json, and the chart."""

    batch: int
    models: list[int]
    comparisons: list[int]
    chart: Markup


def _latency(bench: BenchResult | None) -> list[_Latency]:
    if bench is None:
        return []
    found = []
    for batch in dict.fromkeys(model.batch for model in bench.models):
        models = [place for place, model in enumerate(bench.models) if model.batch == batch]
        here = [place for place, comparison in enumerate(bench.comparisons) if comparison.batch == batch]
        found.append(_Latency(batch, models, here, charts.latencies([bench.models[place] for place in models])))
    return found


def times(run: Run) -> list[tuple[str, float, float]]:
    """Of each merge its name, and ms in the profile before and after; a last row is what did not merge. Empty unless
    both networks were profiled."""
    models = reversed(run.bench.models) if run.bench else ()
    profiles = {model.name: model.profile.modules for model in models if model.profile}
    if not run.fold or not {"original", "folded"} <= profiles.keys():
        return []
    before, after = profiles["original"], profiles["folded"]
    rows = []
    for merge in run.fold.of_original:
        names = {*merge.layers, *merge.activations, merge.name}
        rows.append((merge.name, _time(before, names), _time(after, names)))
    rest_before = sum(before.values()) - sum(ms for _, ms, _ in rows)
    rest_after = sum(after.values()) - sum(ms for _, _, ms in rows)
    return [*rows, ("everything else", max(rest_before, 0.0), max(rest_after, 0.0))]


def _time(modules: dict[str, float], names: set[str]) -> float:
    """Milliseconds of the modules in ``names``; one that a runtime fused of several counts where its first one is."""
    return sum(ms for fused, ms in modules.items() if fused.split(" + ")[0] in names)


def _device(bench: BenchResult | None) -> dict[str, list[tuple[str, str]]]:
    """Device and settings of a measurement as pairs, objects in them taken apart."""
    if bench is None:
        return {}
    return {"Device": list(_flat(asdict(bench.device))), "Measurement": list(_flat(asdict(bench.settings)))}


def _flat(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        elif value not in (None, (), ""):
            yield name, ", ".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
