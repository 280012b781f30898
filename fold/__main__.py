"""Fold the linear regions of a network, exactly, or tell what would fold if activations went."""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fold import checkpoint, importance_command, plan_command, report, specs
from fold.cli import Parser, run
from fold.cost import cost
from fold.errors import CheckError, NothingToFold
from fold.evalset import EvalSet, read_evalset
from fold.files import write_json
from fold.folding import FoldResult, fold, scan
from fold.network import add_named, open_network

BATCH = 256
TIE = 1e-4  # of the largest logit; classes closer than this may swap by float32 rounding

_EPILOG = """\
examples:
  python -m fold fold runs/demo
  python -m fold scan runs/demo/original.safetensors
  python -m fold scan torchvision:resnet50 --input 3 224 224

exit codes: 0 done, 1 nothing to fold or a failed check, 2 bad input
"""


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m fold", description=__doc__, epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{fold,scan,plan,importance}")
    folding = commands.add_parser(
        "fold",
        help="fold the fine-tuned network of a run",
        description="Read hardened.safetensors and eval.npz of a run; write folded.safetensors and fold.json there.",
        epilog="example: python -m fold fold runs/demo",
    )
    folding.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_named(folding)
    folding.set_defaults(function=_fold)
    scanning = commands.add_parser(
        "scan",
        help="what would fold, and what would not and why",
        description="List the regions that would merge if the activations in the way went. Writes nothing.",
        epilog="example: python -m fold scan torchvision:resnet50 --input 3 224 224",
    )
    scanning.add_argument("network", help="a checkpoint, or a name such as resnet20 or torchvision:resnet50")
    scanning.add_argument("--input", type=int, nargs="+", metavar="N", help="C H W of one image, for a name")
    add_named(scanning)
    scanning.add_argument("--json", action="store_true", help="print JSON in place of tables")
    scanning.set_defaults(function=_scan)
    plan_command.add_parser(commands)
    importance_command.add_parser(commands)
    options = parser.parse_args(arguments)
    options.function(options)


def _fold(options: argparse.Namespace) -> None:
    source = options.run / "hardened.safetensors"
    model, recipe = checkpoint.load(source, options.model)
    evalset = read_evalset(options.run / "eval.npz")
    example = torch.zeros(1, *recipe["input_shape"])
    result = fold(model, example)
    if not result.folded:
        print(report.reasons(result.skipped))
        raise NothingToFold(
            f"{source}: nothing to fold, see the reasons above; prefold longer, or with a larger --lambda"
        )
    original = specs.build(recipe["model"]["spec"], recipe["model"]["arguments"], options.model)
    costs = {name: cost(m, example) for name, m in (("original", original), ("folded", result.model))}
    agreement, accuracy = _compare(model, result.model, evalset)
    recipe["stage"] = "folded"
    recipe["folded"] = {merge.name: list(merge.layers) for merge in result.folded}
    recipe["accuracy"]["folded"] = accuracy
    checkpoint.save(options.run / "folded.safetensors", result.model, recipe)
    write_json(options.run / "fold.json", _document(recipe, result, costs, agreement))
    print(report.merges(result.folded))
    print()
    print(report.before_after(costs, recipe["accuracy"]))
    print()
    print(
        f"folded = fine-tuned to {result.max_error:.0e} (relative, float64), and on {agreement['same']} of "
        f"{agreement['images']} images by class ({agreement['ties']} ties at rounding)"
    )
    print(f"wrote {options.run / 'folded.safetensors'} and {options.run / 'fold.json'}")


def _document(recipe: dict, result: FoldResult, costs: dict, agreement: dict) -> dict:
    return {
        "schema": checkpoint.SCHEMA,
        "model": recipe["model"],
        **report.as_json(result),
        "cost": {name: vars(value) for name, value in costs.items()},
        "accuracy": recipe["accuracy"],
        "agreement": agreement,
    }


def _compare(model: nn.Module, folded: nn.Module, evalset: EvalSet) -> tuple[dict, float]:
    """How the classes of two networks agree on the evaluation set, and the accuracy of the second.

    Raises CheckError where they differ by more than rounding can explain.
    """
    expected, actual = (_logits(m, evalset) for m in (model, folded))
    before, after = expected.argmax(1), actual.argmax(1)
    different = (before != after).nonzero().flatten()
    margin = expected[different, before[different]] - expected[different, after[different]]
    ties = int((margin <= TIE * expected.abs().max()).sum())
    if ties < len(different):
        raise CheckError(f"{len(different) - ties} images change their class by folding; please report this")
    agreement = {"images": len(expected), "same": len(expected) - len(different), "ties": ties}
    return agreement, (after == torch.from_numpy(evalset.labels)).double().mean().item()


def _logits(model: nn.Module, evalset: EvalSet) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.from_numpy(evalset.inputs()).split(BATCH)])


def _scan(options: argparse.Namespace) -> None:
    model, shape = open_network(options.network, options.input, options.model)
    result = scan(model, torch.zeros(1, *shape))
    if options.json:
        print(json.dumps(report.as_json(result), indent=2))
        return
    if result.candidates:
        print(report.merges(result.candidates))
    if result.skipped:
        print()
        print(report.reasons(result.skipped))


if __name__ == "__main__":
    sys.exit(run(main))
