"""Make trained CNNs shallower and faster.

    import layer_folding as lf

    lf.scan(model, example)                         # what could be merged, with reasons
    gated = lf.linearize(model, example)            # a copy with gates; add 0.25 * lf.depth_penalty(gated) to your loss
    hard, hoisted = lf.hoist_padding(lf.harden(gated), example)
    result = lf.fold(hard.eval(), example)          # .model .folded .skipped .max_error
    lf.save("net.safetensors", result.model, network="resnet20", example=example)
    model = lf.load("net.safetensors")

    table = lf.table(model, example)                # measured here, or read: lf.read_table("latency.csv")
    plan = lf.plan(model, example, table, speedup=1.3)
    lf.export(result.model, example, "net.onnx", precision="fp16")

Names resolve when they are used, so that this import needs neither PyTorch nor the rest of what the stages need.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036  such as on a board with JetPack 5; nothing else here runs there
    _version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sys.stderr.write(
        f"error: Python {_version}: is older than 3.10; give a newer one, on a Jetson that of JetPack 6 or 7\n"
    )
    sys.exit(2)

from . import catalogue

__version__ = "0.2.0"

# Each public name, and the module that defines the name; "" for the packages that can be called.
_PUBLIC = {
    "InputError": "errors",
    "CheckError": "errors",
    "NothingToFold": "errors",
    "table": "measuring_tables",
    "read_table": "latency_tables",
    "Table": "latency_tables",
    "plan": "fold.planning",
    "read_plan": "plans",
    "Plan": "plans",
    "importance": "fold.plan.fit_importances",
    "read_importance": "importance_tables",
    "Importance": "importance_tables",
    "fold": "",
    "scan": "fold.folding",
    "FoldResult": "fold.folding",
    "Merge": "fold.folding",
    "Scan": "fold.folding",
    "hoist_padding": "fold.regions.padding",
    "fit": "fold.fitting.network_fit",
    "FitResult": "fold.fitting.network_fit",
    "FittedLayer": "fold.fitting.network_fit",
    "cost": "fold.regions.costs",
    "depth": "fold.regions.costs",
    "Linearizable": "fold.gating",
    "linearize": "fold.gating",
    "harden": "fold.gating",
    "gates": "fold.gating",
    "depth_penalty": "fold.gating",
    "bench": "trt_bench.benchmarking",
    "BenchResult": "bench_results",
    "save": "fold.saving",
    "load": "fold.saving",
    "export": "",
    "Exported": "export.exporting",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used. Raises ImportError, in one line, where its packages are missing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'layer_folding' has no attribute {name!r}")
    module = _PUBLIC[name]
    try:
        value = getattr(import_module(f".{module}", __name__), name) if module else import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", __name__):
            raise
        remedy = catalogue.remedy((module or name).partition(".")[0], missing)
        raise ImportError(f"layer_folding.{name} needs {missing}, which is not installed; {remedy}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # what `__getattr__` finds, for type checkers and editors
    from .bench_results import BenchResult as BenchResult
    from .errors import CheckError as CheckError
    from .errors import InputError as InputError
    from .errors import NothingToFold as NothingToFold
    from .export.exporting import Exported as Exported
    from .export.exporting import export as export
    from .fold.fitting.network_fit import FitResult as FitResult
    from .fold.fitting.network_fit import FittedLayer as FittedLayer
    from .fold.fitting.network_fit import fit as fit
    from .fold.folding import FoldResult as FoldResult
    from .fold.folding import Merge as Merge
    from .fold.folding import Scan as Scan
    from .fold.folding import fold as fold
    from .fold.folding import scan as scan
    from .fold.gating import Linearizable as Linearizable
    from .fold.gating import depth_penalty as depth_penalty
    from .fold.gating import gates as gates
    from .fold.gating import harden as harden
    from .fold.gating import linearize as linearize
    from .fold.plan.fit_importances import importance as importance
    from .fold.planning import plan as plan
    from .fold.regions.costs import cost as cost
    from .fold.regions.costs import depth as depth
    from .fold.regions.padding import hoist_padding as hoist_padding
    from .fold.saving import load as load
    from .fold.saving import save as save
    from .importance_tables import Importance as Importance
    from .importance_tables import read_importance as read_importance
    from .latency_tables import Table as Table
    from .latency_tables import read_table as read_table
    from .measuring_tables import table as table
    from .plans import Plan as Plan
    from .plans import read_plan as read_plan
    from .trt_bench.benchmarking import bench as bench
