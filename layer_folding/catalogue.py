"""The subcommands of ``layer-folding``: which package has each of them, and what it does, in a phrase.

The list stands here and not in the packages, so that ``layer-folding --help`` imports none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from .errors import InputError


@dataclass(frozen=True)
class Group:
    """The subcommands of one package, each with a summary; ``extra`` brings what the package needs beyond the core."""

    package: str
    extra: str
    title: str
    summaries: Mapping[str, str]


GROUPS = (
    Group(
        "demo",
        "train,export,report",
        "see the whole pipeline",
        {"demo": "run all stages on handwritten digits, in minutes"},
    ),
    Group(
        "train",
        "train",
        "learn which activations can go, and train what is left",
        {
            "pretrain": "train a network, or take its weights from a file",
            "prefold": "learn which activations can go, or carry out a plan",
            "fit": "put one layer of a chosen shape in the place of several, without labels",
            "finetune": "remove the activations whose gates are open, and train again",
            "sweep": "run all stages at several lambdas or speed-ups: accuracy against depth, or against latency",
            "probe": "measure by short trainings what a network loses without each set of activations",
            "evaluate": "measure the accuracy of checkpoints, or their agreement with the original network",
        },
    ),
    Group(
        "fold",
        "report",  # matplotlib draws plan.png
        "merge layers exactly, and choose what to merge",
        {
            "scan": "list what would merge, and what would not and why",
            "fold": "merge the layers of a fine-tuned network",
            "plan": "choose by measured latency what to fold",
            "importance": "estimate without training what a network loses by each merge or fit",
        },
    ),
    Group(
        "export",
        "export",
        "write ONNX files",
        {
            "export": "write checkpoints as verified ONNX files, in fp32, fp16 and int8",
            "segments": "write the segments whose latency a plan needs, as ONNX files",
            "sensitivity": "say what int8 costs in each layer",
        },
    ),
    Group(
        "trt_bench",
        "trt",
        "measure on the device",
        {
            "bench": "time ONNX networks against each other",
            "build": "build TensorRT engines into the cache",
            "table": "measure the latency table for a plan",
            "show": "tell what is in a checkpoint, an ONNX file, a table, a plan, a result or a run folder",
        },
    ),
    Group("report", "report", "show the result", {"report": "write one page for each run folder"}),
)


def group_of(subcommand: str) -> Group:
    """The group that has ``subcommand``. Raises KeyError for an unknown one."""
    for group in GROUPS:
        if subcommand in group.summaries:
            return group
    raise KeyError(subcommand)


def remedy(package: str, missing: str) -> str:
    """What to install where ``package`` cannot import the module ``missing``.

    >>> remedy("export", "onnx.helper")
    "pip install 'layer-folding[export]'"
    """
    extras = {group.package: group.extra for group in GROUPS}
    extras["measuring_tables"] = "export"  # `lf.table` writes the segments before it times them
    extra = "" if missing.partition(".")[0] in ("torch", "numpy", "safetensors") else extras.get(package, "")
    return f"pip install 'layer-folding[{extra}]'" if extra else "pip install layer-folding"


def need(subcommand: str, module: str) -> None:
    """Raise InputError where ``module`` is not installed, which ``subcommand`` imports only when its work is done."""
    if find_spec(module) is None:
        raise InputError(f"{subcommand} needs {module}; {remedy(group_of(subcommand).package, module)}")
