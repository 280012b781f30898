"""What a plan says: as text, as JSON values, and as a picture of all best plans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from fold.added import is_addition
from fold.files import atomic_path
from fold.frontier import Frontier
from fold.latency import Timing, Timings
from fold.plan import Offer
from fold.report import common_scope, listed, quantity, table

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """What to fold in a network that takes ``whole``: the ``chosen``, in the order of the layers."""

    whole: Timing
    chosen: list[Offer]

    @property
    def time(self) -> float:
        """Predicted, ms."""
        return self.whole.time - sum(offer.saves for offer in self.chosen)

    @property
    def error(self) -> float:
        """Half the 95 % interval of ``time``, ms, as far as it comes from the measurement of the segments."""
        return math.hypot(self.whole.error, *(offer.error for offer in self.chosen))

    @property
    def loses(self) -> float:
        """Importance."""
        return sum(offer.loses for offer in self.chosen)

    @property
    def changes(self) -> list[str]:
        """The activations that go, and what is added (`fold.added`)."""
        return [change for offer in self.chosen for change in offer.candidate.changes]


def as_json(plan: Plan, timings: Timings, network: str, importance: str, budget: float | None) -> dict:
    """The content of plan.json."""
    return {
        "schema": SCHEMA,
        "network": network,
        "device": timings.device,
        "runtime": timings.runtime,
        "batch": timings.batch,
        "precision": timings.precision,
        "budget_ms": budget,
        "latency_ms": {"original": plan.whole.time, "planned": plan.time, "error": plan.error},
        "speedup": plan.whole.time / plan.time,
        "importance": importance,
        "importance_lost": plan.loses,
        "removed": plan.changes,
        "merges": [
            {
                "layers": list(offer.candidate.merge.layers),
                "activations": list(offer.candidate.changes),
                "kernel": list(offer.candidate.merge.kernel),
                "segments": {"apart": offer.candidate.apart, "merged": offer.candidate.merged},
                "saves_ms": offer.saves,
                "error_ms": offer.error,
                "importance_lost": offer.loses,
            }
            for offer in plan.chosen
        ],
    }


def as_text(plan: Plan, timings: Timings, activations: int, importance: str, budget: float | None) -> str:
    """A row for each merge, then the network before and after."""
    rows = [["in", "merged layers", "kernel", "MACs", "ms apart => merged", "saves ms", "loses"]]
    for offer in plan.chosen:
        merge = offer.candidate.merge
        scope = common_scope([*merge.layers, *merge.activations])
        rows.append(
            [
                scope.rstrip("."),
                listed(merge.layers, scope, " + ") + (" + activation" if offer.candidate.added else ""),
                "x".join(map(str, merge.kernel)) or "linear",
                " => ".join(map(quantity, merge.macs)),
                f"{offer.apart.time:.4f} => {offer.merged.time:.4f}",
                f"{offer.saves:.4f} +- {offer.error:.4f}",
                f"{offer.loses:.3g}",
            ]
        )
    left = activations - sum(-1 if is_addition(change) else 1 for change in plan.changes)
    speedup = plan.whole.time / plan.time
    after = [
        ["network", "activations", "predicted ms", "speed-up"],
        ["original", str(activations), f"{plan.whole.time:.4f} +- {plan.whole.error:.4f}", "-"],
        ["planned", str(left), f"{plan.time:.4f} +- {plan.error:.4f}", f"{speedup:.3f}x"],
    ]  # fmt: skip
    merges = table(rows) if plan.chosen else "nothing to fold"
    where = f"{timings.runtime} on {timings.device}, batch {timings.batch}, {timings.precision}"
    without = "\nwithout a budget this is the fastest network, whatever it loses; give one to keep what matters more"
    return (
        f"{merges}\n\n{table(after)}\n\n{where}; importance lost {plan.loses:.4g} ({importance})"
        f"{without if plan.chosen and budget is None else ''}"
    )


def draw(path: Path, frontier: Frontier, plan: Plan, importance: str, budget: float | None) -> None:
    """Draw all best plans, latency against importance lost, with the chosen one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step(frontier.times, frontier.loses, where="post", marker="." if len(frontier.times) < 100 else None)
    axes.plot(plan.whole.time, 0, "ks", label=f"original, {plan.whole.time:.3g} ms")
    axes.plot(plan.time, plan.loses, "o", color="tab:red", label=f"planned, {plan.time:.3g} ms")
    axes.hlines(plan.loses, plan.time - plan.error, plan.time + plan.error, color="tab:red")
    if budget is not None:
        axes.axvline(budget, color="tab:gray", linestyle="--", label=f"budget, {budget:.3g} ms")
    axes.set_xlabel("predicted latency (ms)")
    axes.set_ylabel(f"importance lost ({importance})")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
