"""The page of one run: what its sections have to show, and the sentence that each begins with."""

import shlex
from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

from report import charts, commands, drawing, graph
from report.figures import Figures
from report.read import STEPS, Run
from trt_bench import advice
from trt_bench.prediction import MISS
from trt_bench.report import TITLES, milliseconds

THRESHOLD = 0.9  # of a gate that counts as open, where the settings of the fine-tuning do not say


def templates() -> jinja2.Environment:
    """The environment of all templates here: whatever they show is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clipped": clipped, "milliseconds": milliseconds}
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
        network=run.fold and _network(run, make, environment),
        skipped=_by_reason(run.fold),
        accuracy=_accuracy(run),
        gates=_gates(run),
        latency=_latency(run.bench),
        times=rows and charts.modules(rows),
        miss=MISS,
        device=_device(run.bench),
        steps=commands.steps(run),
        title=_title(run),
        places=_places(run.bench),
        bench_rounds=run.bench["settings"].get("rounds", "?") if run.bench else None,
        accuracy_of=run.fold["accuracy"] if run.fold else {},
        agreement=run.fold.get("agreement") if run.fold else None,
        prediction=run.bench.get("prediction") if run.bench else None,
        has_plan=(run.folder / "plan.json").exists(),
        profile_command=commands.profiled(run),
        runtime=TITLES[run.bench["runtime"]] if run.bench else None,
        warnings=advice.warnings(run.bench) if run.bench else [],
    )


def verdict(bench: dict | None) -> str | None:
    """Whether the folded network is faster, in a few words; None where two networks have not been measured."""
    if not bench or not bench["comparison"]:
        return None
    comparison = bench["comparison"]
    baseline, candidate = comparison["baseline"], comparison["candidate"]
    if comparison["verdict"] == "no significant difference":
        return f"{candidate.capitalize()} and {baseline} are equally fast, as far as this measurement can tell"
    return f"{candidate.capitalize()} is {comparison['verdict']} than {baseline}"


def why(run: Run) -> str:
    """What stands behind the verdict, and, where the folded network is slower, what to do."""
    if not run.fold or not run.bench or not run.bench["comparison"]:
        return ""
    before, after = run.fold["cost"]["original"], run.fold["cost"]["folded"]
    depth, macs = before["depth"] - after["depth"], after["macs"] / before["macs"]
    less = f"It has {depth} fewer weighted layer{'s' * (depth != 1)} on its longest path and {macs:.2f} times the MACs"
    if run.bench["comparison"]["verdict"] == "slower":
        return (
            f"{less}. On this device that is no gain: keep the original here, or plan by measured latency, which folds "
            "only what pays."
        )
    return f"{less}."


def _places(bench: dict | None) -> list[int]:
    """The places in bench.json of the two networks that its headline compares."""
    if not bench or not bench["comparison"]:
        return []
    comparison = bench["comparison"]
    batch = comparison.get("batch", bench["models"][0]["batch"])
    places = {model["name"]: place for place, model in enumerate(bench["models"]) if model["batch"] == batch}
    return [places[comparison["baseline"]], places[comparison["candidate"]]]


def _title(run: Run) -> str:
    spec = str((run.fold or {}).get("model", {}).get("spec", "")).rpartition(":")[2]
    return f"{run.name}: {spec}" if spec and spec not in run.name else run.name


def _network(run: Run, make: Callable[..., str], environment: jinja2.Environment) -> Markup:
    """The drawing, or the sentence that says why there is none."""
    paths = [run.folder / f"{name}.onnx" for name in ("original", "folded")]
    missing = " and ".join(path.name for path in paths if not path.exists())
    if missing:
        text = '<p class="missing">No drawing: the run folder has no {} yet. <code>{}</code> makes it.</p>'
        return Markup(text).format(missing, make("export"))
    before, after = map(graph.layers, paths)
    most = max(len(before), len(after))
    if most > drawing.MOST:
        text = '<p class="missing">No drawing: {} layers are more than the {} that are still legible.</p>'
        return Markup(text).format(most, drawing.MOST)
    sheet = drawing.sheet(before, after, run.fold["folded"])
    constants = {"left": drawing.LEFT, "right": drawing.RIGHT, "width": drawing.WIDTH, "height": drawing.BOX}
    svg = Markup(environment.get_template("drawing.svg").render(sheet=sheet, **constants))
    return Markup('<div class="scroll tall" tabindex="0" role="region" aria-label="network">{}</div>').format(svg)


def _by_reason(fold: dict | None) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for entry in fold["skipped"] if fold else []:
        reasons.setdefault(entry["reason"], []).append(entry["layer"])
    return reasons


def _accuracy(run: Run) -> dict | None:
    steps = {step: run.fold["accuracy"][step] for step in STEPS if step in run.fold["accuracy"]} if run.fold else {}
    return {"steps": list(steps), "chart": charts.accuracies(steps)} if steps else None


def _gates(run: Run) -> dict | None:
    epochs = [epoch for epoch in run.epochs if epoch["gates"]]
    if not epochs:
        return None
    settings = (run.config or {"stages": {}})["stages"].get("finetune", {"settings": {}})["settings"]
    threshold = settings.get("threshold", THRESHOLD)
    last = epochs[-1]["gates"]
    opened = sum(alpha >= threshold for alpha in last.values())
    chart = charts.gates(epochs, threshold)
    return {
        "opened": opened,
        "all": len(last),
        "epochs": len(epochs),
        "shown": len(charts.shown(epochs)),
        "threshold": threshold,
        "chart": chart,
    }


def _latency(bench: dict | None) -> list[dict]:
    """For each batch size its chart, and the places of its models and comparisons in bench.json."""
    found = []
    for batch in dict.fromkeys(model["batch"] for model in bench["models"]) if bench else []:
        models = [place for place, model in enumerate(bench["models"]) if model["batch"] == batch]
        comparisons = bench.get("comparisons", [])
        here = [place for place, comparison in enumerate(comparisons) if comparison.get("batch", batch) == batch]
        chart = charts.latencies([bench["models"][place] for place in models])
        found.append({"batch": batch, "models": models, "comparisons": here, "chart": chart})
    return found


def times(run: Run) -> list[tuple[str, float, float]]:
    """Of each merge its name, and ms in the profile before and after; a last row is what did not merge. Empty unless
    both networks were profiled."""
    models = {model["name"]: model for model in reversed(run.bench["models"])} if run.bench else {}
    profiles = [(models.get(name) or {}).get("profile") for name in ("original", "folded")]
    if not run.fold or not all(profiles):
        return []
    before, after = (profile["modules"] for profile in profiles)
    rows = []
    for merge in run.fold["folded"]:
        names = {*merge["layers"], *merge["activations"], merge["name"]}
        rows.append((merge["name"], *(_time(modules, names) for modules in (before, after))))
    rest = [sum(modules.values()) - sum(row[place] for row in rows) for place, modules in ((1, before), (2, after))]
    return [*rows, ("everything else", *(max(value, 0.0) for value in rest))]


def _time(modules: dict[str, float], names: set[str]) -> float:
    """Milliseconds of the modules in ``names``; one that a runtime fused of several counts where its first one is."""
    return sum(ms for fused, ms in modules.items() if fused.split(" + ")[0] in names)


def _device(bench: dict | None) -> dict[str, list[tuple[str, str]]]:
    """Device and settings of a measurement as pairs, objects in them taken apart."""
    return {name: list(_flat(bench[name])) for name in ("device", "settings")} if bench else {}


def _flat(record: dict, prefix: str = ""):
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        elif value not in (None, [], ""):
            yield name, ", ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
