"""Fold the fine-tuned network of a run folder, and write down what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from layer_folding import fold_results
from layer_folding.errors import CheckError, NothingToFold
from layer_folding.evalset import EvalSet, read_evalset
from layer_folding.fold_results import Agreement, Costs, FoldRecord, MergedLayers, NetworkCost, SkippedLayer
from layer_folding.recipes import Recipe
from layer_folding.stages import FINETUNE, FOLD, PRETRAIN

from . import checkpoints
from .fitting.imitation import SAMPLE, imitation_of
from .folding import FoldResult, fold
from .networks import require_images
from .regions.costs import Cost, cost
from .regions.finding import Skipped
from .replaying import example_of, original

BATCH = 256
TIE = 1e-4  # of the largest logit; classes closer than this may swap by float32 rounding


class NothingMerged(NothingToFold):
    """No layers of the network merge; ``skipped`` has the reasons."""

    def __init__(self, message: str, skipped: list[Skipped]):
        super().__init__(message)
        self.skipped = skipped


@dataclass(frozen=True)
class FoldedRun:
    """A folded network: its recipe, what was merged, the costs of the original and the folded network by name.

    ``agreement`` is None where the images have no labels, because the network gives no class for an image.
    """

    recipe: Recipe
    result: FoldResult
    costs: Mapping[str, Cost]
    agreement: Agreement | None


def fold_run(run: Path, trust: str | None = None) -> FoldedRun:
    """Fold hardened.safetensors of ``run``; write folded.safetensors and fold.json there.

    ``trust`` is as in `model_names.build`. Raises InputError for inputs that are missing or damaged, NothingMerged
    where no layers merge, CheckError as `fold` does, where folding changes the class of an image of eval.npz, and where
    an output for these images is NaN or infinite.
    """
    source = run / FINETUNE.file
    model, recipe = checkpoints.load(source, trust)
    evalset = read_evalset(run / "eval.npz")
    require_images(evalset, run / "eval.npz", model, recipe.input_shape)
    example = example_of(recipe)
    result = fold(model, example, average_pooling=recipe.average_pooling)
    if not result.folded:
        raise NothingMerged(
            f"{source}: nothing to fold, see the reasons above; prefold longer, or with a larger --lambda",
            result.skipped,
        )
    networks = {PRETRAIN.network: original(recipe, trust), FOLD.network: result.model}
    costs = {name: cost(network, example) for name, network in networks.items()}
    if evalset.labels is None:
        agreement, accuracy = None, _imitates(result.model, run, evalset, trust)
    else:
        agreement, accuracy = _compare(model, result.model, evalset, evalset.labels)
    recipe = replace(
        recipe,
        stage=FOLD.network,
        folded={str(merge.name): merge.layers for merge in result.folded},
        accuracy={**recipe.accuracy, FOLD.network: accuracy},
    )
    folded = FoldedRun(recipe, result, costs, agreement)
    checkpoints.save(run / FOLD.file, result.model, recipe)
    fold_results.save(run / "fold.json", _record(folded))
    return folded


def _record(folded: FoldedRun) -> FoldRecord:
    return FoldRecord(
        model=folded.recipe.network,
        folded=tuple(
            MergedLayers(**{**vars(merge), "name": str(merge.name), "error": merge.error or 0.0})
            for merge in folded.result.folded
        ),
        skipped=tuple(SkippedLayer(entry.layer, entry.reason, entry.code) for entry in folded.result.skipped),
        max_error=folded.result.max_error,
        cost=Costs(*(NetworkCost(**vars(folded.costs[name])) for name in (PRETRAIN.network, FOLD.network))),
        accuracy=dict(folded.recipe.accuracy),
        agreement=folded.agreement,
        kept=dict(folded.recipe.kept),
        fitted=folded.recipe.fitted,
    )


def _imitates(folded: nn.Module, run: Path, evalset: EvalSet, trust: str | None) -> float:
    """The accuracy of ``folded`` on images without labels, by the outputs of the original network of ``run``.

    Raises CheckError where an output is NaN or infinite.
    """
    teacher, _ = checkpoints.load(run / PRETRAIN.file, trust)
    seen = read_evalset(run / "calib.npz")
    imitation = imitation_of(teacher, torch.from_numpy(seen.batch(0, min(SAMPLE, len(seen.images)))))
    return imitation.accuracy(folded, map(torch.from_numpy, evalset.batches(imitation.batch)))


def _compare(model: nn.Module, folded: nn.Module, evalset: EvalSet, labels: np.ndarray) -> tuple[Agreement, float]:
    """How the classes of two networks agree on the evaluation set, and the accuracy of the second.

    Raises CheckError where they differ by more than rounding can explain, and where a score is NaN or infinite.
    """
    expected, actual = (_logits(m, evalset) for m in (model, folded))
    for name, scores in (("fine-tuned", expected), ("folded", actual)):
        bad = int((~scores.isfinite()).any(1).sum())
        if bad:
            raise CheckError(f"the {name} network gives NaN or infinity for {bad} of {len(scores)} images of eval.npz")
    before, after = expected.argmax(1), actual.argmax(1)
    different = (before != after).nonzero().flatten()
    margin = expected[different, before[different]] - expected[different, after[different]]
    ties = int((margin <= TIE * expected.abs().max()).sum())
    if ties < len(different):
        raise CheckError(f"{len(different) - ties} images change their class by folding; please report this")
    agreement = Agreement(len(expected), len(expected) - len(different), ties)
    return agreement, (after == torch.from_numpy(labels)).double().mean().item()


def _logits(model: nn.Module, evalset: EvalSet) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.from_numpy(evalset.inputs()).split(BATCH)])
