"""`python -m fold plan`: what to fold on the device that a latency table was measured on."""

import argparse
import csv
import io
import math
import sys
from pathlib import Path

import torch

from fold import importance, plan_report
from fold.candidates import candidates, merges_of
from fold.cli import positive
from fold.errors import CheckError, InputError
from fold.files import write_json, write_text
from fold.frontier import Frontier, Gain, frontier
from fold.latency import Row, read_chain, read_timings, require
from fold.network import add_named, open_network
from fold.plan import Split, offers, optimal_splits
from fold.plan_report import Plan

_DESCRIPTION = """\
Choose by measured latency what to fold. Without a budget that is the fastest network: a merge that the table does not
show to be faster is left out, so that folding never makes it slower. Under a budget it is what loses least importance.
Writes plan.json, plan.txt (the activations to remove, for `python -m train ... --remove`) and plan.png.
"""
_EPILOG = """\
examples:
  python -m fold plan runs/demo --latency runs/demo/latency.csv
  python -m fold plan runs/demo --latency runs/demo/latency.csv --importance runs/demo/importance.csv --speedup 1.3
  python -m fold plan torchvision.models:resnet18 --input 3 224 224 --latency latency.csv -o plans/resnet18
  python -m fold plan --latency mobilenetv2-1.0-time.csv --optimal optimal.csv

exit codes: 0 done, 1 no plan is that fast, 2 bad input
"""


def add_parser(commands) -> None:
    """Add the command ``plan`` to those of `fold.__main__`."""
    parser = commands.add_parser(
        "plan", help="choose by measured latency what to fold", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("network", nargs="?", help="a run folder, a checkpoint, or a name with --input")
    parser.add_argument("--input", type=int, nargs="+", metavar="N", help="C H W of one image, for a name")
    add_named(parser)
    parser.add_argument(
        "--latency", required=True, type=Path, metavar="CSV", help="the latency table, from `python -m trt_bench table`"
    )
    parser.add_argument("--device", metavar="NAME", help="refuse a table of another device (any will do)")
    parser.add_argument("--batch", type=int, metavar="N", help="refuse a table of another batch size (any will do)")
    parser.add_argument("--precision", metavar="P", help="refuse a table of another precision, of fp32 and fp16 (any)")
    parser.add_argument(
        "--importance", type=Path, metavar="CSV", help="from `fold importance`; else each activation counts 1"
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--budget-ms", type=positive, metavar="X", help="at most this latency")
    limit.add_argument("--speedup", type=positive, metavar="S", help="at least this many times as fast as the original")
    limit.add_argument(
        "--optimal", type=Path, metavar="CSV", help="write the fastest split of each row of the table, and no plan"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="where to write (default: the run folder)")
    parser.set_defaults(function=plan)


def plan(options: argparse.Namespace) -> None:
    require(options.latency, device=options.device, batch=options.batch, precision=options.precision)
    if options.optimal:
        rows = read_chain(options.latency)
        write_text(options.optimal, _as_csv(rows, optimal_splits(rows)))
        print(f"wrote {options.optimal}: the fastest splits of {len(rows)} segments")
        return
    if options.network is None:
        raise InputError("plan: no network; give a run folder, a checkpoint or a name, or --optimal for a table alone")
    folder = options.output or (Path(options.network) if Path(options.network).is_dir() else None)
    if folder is None:
        raise InputError(f"{options.network}: is no run folder to write to; give one with -o DIR")
    timings = read_timings(options.latency)
    loses, unit, has = importance.reader(options.importance)
    model, shape = open_network(options.network, options.input, options.model)
    example = torch.zeros(1, *shape)
    found = candidates(model, example)
    whole = timings.of(found.whole, found.input_shape)
    offered = offers([*found.found, *filter(has, found.adding)], timings, loses)
    best = frontier(whole.time, [Gain(offer.candidate.occupies, offer.saves, offer.loses) for offer in offered])
    budget = whole.time / options.speedup if options.speedup else options.budget_ms
    chosen = Plan(whole, [offered[i] for i in best.chosen(_number(best, budget, whole.time))])
    _warn(merges_of(model, example, chosen.changes), chosen)
    text = plan_report.as_text(chosen, timings, found.activations, unit, budget)
    write_json(folder / "plan.json", plan_report.as_json(chosen, timings, options.network, unit, budget))
    write_text(folder / "plan.txt", "".join(f"{name}\n" for name in chosen.changes))
    plan_report.draw(folder / "plan.png", best, chosen, unit, budget)
    print(f"{text}\nwrote {folder / 'plan.json'}, plan.txt and plan.png")
    if chosen.chosen:
        print(_next(Path(options.network), folder / "plan.txt"))
    else:
        reason = "it is fast enough as it is" if offered else "no merge is faster than its layers apart"
        print(f"the plan is to fold nothing: keep the original network, {reason}")


def _number(best: Frontier, budget: float | None, original: float) -> int:
    number = 0 if budget is None else best.under(budget)
    if number is None:
        fastest = math.ceil(best.times[0] * 1e4) / 1e4  # so that it is a budget that can be met
        raise CheckError(
            f"no plan takes {budget:.4f} ms or less: the fastest takes {fastest:.4f} ms, "
            f"{original / best.times[0]:.3f}x; give --budget-ms {fastest:.4f} or more"
        )
    return number


def _next(network: Path, removed: Path) -> str:
    """How to carry out a plan for ``network``: in a run folder that has not been prefolded, stages are done once."""
    stages = "make prefold fold export trt-bench"
    if not network.is_dir():
        return f"to carry it out, give {stages} PLAN={removed} and MODEL, DATA and WEIGHTS"
    if not (network / "prefold.safetensors").exists():
        return f"to carry it out: {stages} RUN={network} PLAN={removed}"
    return (
        f"to carry it out, in another run folder because {network} has been prefolded: {stages} RUN={network}-planned "
        f"PLAN={removed} WEIGHTS={network / 'original.safetensors'} and MODEL, DATA and SIZE as for {network}"
    )


def _warn(merges: set[tuple[str, ...]], chosen: Plan) -> None:
    planned = {offer.candidate.merge.layers for offer in chosen.chosen}
    for layers in sorted(merges ^ planned):
        what = "are planned to merge, and will not" if layers in planned else "will merge too, unplanned"
        print(f"note: {' + '.join(layers)} {what}; the prediction is off by that", file=sys.stderr)


def _as_csv(rows: list[Row], splits: list[Split]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "st", "end", "time", "stdev", "breaks"])
    for index, (row, split) in enumerate(zip(rows, splits, strict=True)):
        breaks = ",".join(map(str, split.breaks))
        writer.writerow([index, row.st, row.end, split.time, split.stdev, breaks])
    return text.getvalue()
