"""The sheets of what was measured and decided: bench.json, latency tables, plans, importances and fold.json."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from layer_folding import bench_results, fold_results, importance_tables, latency_rows, latency_tables, plans, records
from layer_folding.fit_choices import shape_text
from layer_folding.fold_results import FoldRecord
from layer_folding.latency_tables import Table
from layer_folding.plans import Plan
from layer_folding.stages import STEPS
from layer_folding.text import counted, human, milliseconds

from .. import printing
from .sheets import Sheet

BENCH = "bench result"
_AGAIN = "measure again, with `layer-folding table`"


def bench(path: Path) -> Sheet:
    """The sheet of a bench.json: a row for each network at each batch size."""
    result = bench_results.load(path)
    speedups = {(each.candidate, each.batch): each for each in result.comparisons}
    rows = []
    for model in result.models:
        compared = speedups.get((model.name, model.batch))
        ratio = (compared.speedup, *compared.ci95, compared.verdict) if compared else (None,) * 4
        network, latency = model.network, model.latency_ms
        costs = (network.depth, network.parameters, network.macs, model.known_accuracy)
        rows.append((model.name, model.batch, model.precision, *costs, latency.median, *latency.ci95, *ratio))
    last = result.comparison
    return Sheet(
        str(path),
        BENCH,
        f"{last.candidate} is {last} as fast as {last.baseline}" if last else f"{len(result.models)} network, timed",
        header=(
            *("model", "batch", "precision", "layers", "parameters", "macs", "accuracy", "median_ms", "low_ms"),
            *("high_ms", "speedup", "speedup_low", "speedup_high", "verdict"),
        ),
        rows=rows,
        record=bench_results.to_json(result),
        text=printing.table(result),
    )


def latency_table(path: Path) -> Sheet:
    """The sheet of a latency.csv with the JSON file beside it, or of a published table, which has none."""
    if latency_tables.sidecar_of(path).exists():
        return _timed(path, latency_tables.read_table(path))
    rows = latency_rows.read_rows(path)
    return Sheet(
        str(path),
        "latency table",
        f"{counted(len(rows), 'merged layer')}, as published",
        {"rows": str(len(rows)), "measured": "elsewhere: there is no JSON file beside the table"},
        ("st", "end", "time_ms", "stdev_ms"),
        [(row.st, row.end, row.time, row.stdev) for row in rows],
        records.as_json(rows),
    )


def latency_record(path: Path) -> Sheet:
    """The sheet of a latency.json, whose table may still be growing."""
    return _timed(path, latency_tables.read_sidecar(path, _AGAIN))


def _timed(path: Path, table: Table) -> Sheet:
    names = sum(len(segment.names) for segment in table.segments)
    settings = table.settings
    facts = {
        "measured": str(table.conditions),
        "runtime": f"{table.runtime}{', ' if table.reason else ''}{table.reason}",
        "segments": f"{names}, of which {len(table.segments)} are different",
        "complete": "yes" if table.complete else "no: give the same command again, it goes on",
        "each timed": f"{settings.seconds:g} s a visit, at most {settings.repeats} visits, to +-{settings.bound:.1%}",
    }
    rows = [
        (each.names, each.input_shape, each.time, *each.ci95, each.stdev, len(each.visits_ms))
        for each in table.segments
    ]
    content = records.as_json(table)
    del content["source"]
    return Sheet(
        str(path),
        "latency table",
        f"{names} segments, {table.conditions}",
        facts,
        ("segments", "input", "time_ms", "low_ms", "high_ms", "stdev_ms", "visits"),
        rows,
        content,
    )


def plan(path: Path) -> Sheet:
    """The sheet of a plan.json: a row for each merge and each fitted layer."""
    planned = plans.read_plan(path)
    merged = len(planned.merges) - len(planned.fits)
    facts = {
        "network": planned.network,
        "for": str(planned.conditions),
        "original": f"{milliseconds(planned.original_ms)} ms +- {milliseconds(planned.original_error_ms)}",
        "predicted": f"{milliseconds(planned.latency_ms)} ms +- {milliseconds(planned.error_ms)}, "
        f"{planned.speedup:.3f}x",
        "limit": _limit(planned),
        "merged": f"{counted(merged, 'region')}, exactly",
        "fitted": counted(len(planned.fits), "layer"),
        "loses": f"{planned.importance_lost:.4g} in {planned.importance}",
    }
    rows = [
        (
            *(each.layers, each.activations, each.shape or "merged", each.kernel, *each.macs),
            *(each.apart_ms, each.merged_ms, each.saves_ms, each.error_ms, each.importance_lost),
        )
        for each in planned.merges
    ]
    return Sheet(
        str(path),
        "plan",
        f"{merged} merged, {len(planned.fits)} fitted, {planned.speedup:.3f}x predicted",
        {name: fact for name, fact in facts.items() if fact}
        | {f"note {place}": note for place, note in enumerate(planned.notes, 1)},
        (
            *("layers", "activations", "shape", "kernel", "macs_before", "macs_after", "apart_ms", "merged_ms"),
            *("saves_ms", "error_ms", "loses"),
        ),
        rows,
        {**records.as_json(planned), "speedup": planned.speedup, "latency_ms": planned.latency_ms},
    )


def _limit(planned: Plan) -> str:
    """What the plan had to keep within, and how well it did."""
    if planned.budget_ms is not None:
        return f"at most {milliseconds(planned.budget_ms)} ms"
    bound = planned.max_loss
    if bound is None:
        return "none: the fastest plan"
    lost = f"{bound.loss.value:.3g} +- {bound.loss.error:.2g}"
    return f"loses at most {bound.most:g} {bound.unit}; carried out it loses {lost}, on {bound.images} images"


def importance(path: Path) -> Sheet:
    """The sheet of an importance.csv: a row for each candidate, the one that loses least first."""
    table = importance_tables.read_importance(path)
    rows = [(names, "merged", loss) for names, loss in table.losses.items()]
    rows += [(choice.activations, shape_text(choice.shape), loss) for choice, loss in table.fits.items()]
    rows.sort(key=lambda row: row[2])
    return Sheet(
        str(path),
        "table of importances",
        f"{len(rows)} candidates, in {table.unit}",
        {
            "loses, in": table.unit,
            "merged": f"{len(table.losses)} candidates",
            "fitted": f"{len(table.fits)} candidates",
        },
        ("activations", "shape", "loses"),
        rows,
        {
            "unit": table.unit,
            "candidates": [dict(zip(("activations", "shape", "loses"), row, strict=True)) for row in rows],
        },
    )


def folded(path: Path) -> Sheet:
    """The sheet of a fold.json: a row for each merged layer."""
    record = fold_results.load(path)
    rows = [
        (
            *(each.name, each.layers, each.activations, each.kernel, each.stride, each.groups),
            *(*each.macs, *each.parameters, each.error),
        )
        for each in record.folded
    ]
    before, after = record.cost.original, record.cost.folded
    return Sheet(
        str(path),
        "fold result",
        f"{before.depth} => {after.depth} layers, {human(before.macs)} => {human(after.macs)} MACs",
        _facts(record),
        (
            *("layer", "layers", "activations", "kernel", "stride", "groups", "macs_before", "macs_after"),
            *("parameters_before", "parameters_after", "error"),
        ),
        rows,
        records.as_json(record),
    )


def _facts(record: FoldRecord) -> dict[str, str]:
    before, after, same = record.cost.original, record.cost.folded, record.agreement
    facts = {
        "network": record.model.spec,
        "layers": f"{before.depth} => {after.depth} with weights on the longest path",
        "parameters": f"{human(before.parameters)} => {human(after.parameters)}",
        "MACs": f"{human(before.macs)} => {human(after.macs)} for one image",
        "merged": f"{sum(len(each.layers) for each in record.folded)} layers into {len(record.folded)}",
        "fitted": counted(len(record.fitted), "layer") if record.fitted else "",
        "largest error": f"{record.max_error:.3g}, relative, in float64",
        "same class": f"{same.same} of {same.images} images before and after folding" if same else "",
        "accuracy": ", ".join(_accuracies(record.accuracy)),
        "put back": "; ".join(f"{name}: {reason}" for name, reason in record.kept.items()),
    }
    stays = Counter(each.reason for each in record.skipped)
    facts |= {
        "stay" if not place else " " * (place + 1): f"{counted(count, 'layer')}: {reason}"
        for place, (reason, count) in enumerate(stays.items())
    }
    return {name: fact for name, fact in facts.items() if fact}


def _accuracies(accuracy: Mapping[str, float]) -> list[str]:
    return [f"{step} {100 * accuracy[step]:.2f} %" for step in STEPS if step in accuracy]
