"""What a network loses with each layer that could be fitted, by fitting that layer alone: `lf.importance`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import Choice
from layer_folding.importance_tables import Importance
from layer_folding.latency_tables import Table

from ..fitting.alone import Alone, OutputBatches
from ..fitting.divergences import Divergence, measure_of, tensors_of
from ..fitting.validity import split
from ..graph.preparing import private_copy
from ..graph.tracing import trace
from .candidates import Candidate, candidates
from .importances import cross_entropy_of, more
from .offers import offers

DIVERGENCE, CROSS_ENTROPY = "KL divergence", "cross entropy"
_ERROR = "squared error over variance"  # of outputs that are no scores of classes


@dataclass(frozen=True)
class FitLoss:
    """What the network ``loses`` with the fit that ``choice`` says; None where it was ``refused``, with the reason."""

    choice: Choice
    loses: float | None
    refused: str = ""


def importance(
    model: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    table: Table | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Importance:
    """What ``model`` loses by each layer that `lf.plan` could fit, one at a time. Takes seconds a layer.

        >>> import torch, layer_folding as lf
        >>> block = [torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1)]
        >>> model = torch.nn.Sequential(*block, torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
        >>> found = lf.importance(model, torch.randn(64, 4, 8, 8))
        >>> found.of(["1"], 3) < found.of(["1"], 1)
        True

    Each layer is fitted by least squares, without tuning (`lf.fit`). The loss is measured on images that are held out.
    It is the mean of KL(original || fitted) of the outputs, in nats. For outputs that are no scores of classes, such as
    a detector's, it is their squared error over their variance. With ``labels`` it is the increase of the cross
    entropy. A refused fit has no loss, so no plan by this importance contains it.

    Args:
        model: a trained network that ``torch.fx`` can trace, with any nested outputs; it is not modified.
        images: `[N, C, *spatial]`, in the size and normalisation of the training; some hundred.
        labels: `[N]`, the classes of the images.
        table: look only at what this latency table shows to be faster, which saves time.
        progress: called with a phrase that says what is being done.

    Raises:
        InputError: the network cannot be traced, ``table`` is not that of the network, or no layer can be fitted to
            these images, for the reason that the message names.
    """
    return going_on(model, images, labels, table, {}, lambda found: None, progress)


def going_on(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    table: Table | None,
    known: Mapping[Choice, float],
    keep: Callable[[Importance], None],
    progress: Callable[[str], None],
) -> Importance:
    """`importance`, where what some fits lose is ``known``; ``keep`` is given what is known after each further fit."""
    if labels is not None:
        _require_scores(model, images)
    unit = f"{unit_of(model, images, labels)} by {len(images)} images"
    choices = choices_of(candidates(model, images[:1]).found, table)
    fits = {choice: known[choice] for choice in choices if choice in known}
    todo = [choice for choice in choices if choice not in fits]
    done: list[FitLoss] = []
    for number, loss in enumerate(fit_losses(model, images, labels, todo), start=len(choices) - len(todo) + 1):
        done.append(loss)
        progress(f"fit {number} of {len(choices)}: {loss.choice}")
        if loss.loses is not None:
            fits[loss.choice] = loss.loses
            keep(Importance({}, unit, fits=fits))
    progress("")
    if not fits:
        require_some(done)
    return Importance({}, unit, fits=fits)


@torch.no_grad()
def unit_of(model: nn.Module, images: Tensor, labels: Tensor | None) -> str:
    """What the loss of `importance` is: by ``labels``, or what `divergences.OutputMeasure` takes for the outputs."""
    if labels is not None:
        return CROSS_ENTROPY
    outputs = tensors_of(private_copy(model, share_weights=True)(images[:1]))
    return DIVERGENCE if measure_of(outputs).scales is None else _ERROR


@torch.no_grad()
def _require_scores(model: nn.Module, images: Tensor) -> None:
    """Raise InputError where ``model`` gives no tensor that labels could be compared with."""
    output = private_copy(model, share_weights=True)(images[:1])
    if not isinstance(output, Tensor):
        raise InputError(f"labels: the network gives a {type(output).__name__}, not scores of classes; leave them out")


def choices_of(found: Iterable[Candidate], table: Table | None) -> list[Choice]:
    """What could be fitted; with a ``table``, as far as it is faster by the table."""
    if table is None:
        alternatives = [each for candidate in found for each in candidate.alternatives]
    else:
        alternatives = [offer.alternative for offer in offers(found, table)]
    return [each.choice for each in alternatives if each.choice]


def fit_losses(model: nn.Module, images: Tensor, labels: Tensor | None, choices: Iterable[Choice]) -> Iterator[FitLoss]:
    """The loss of each of ``choices``, from the input of the network to its output; other arguments as `importance`."""
    alone = Alone(trace(model, images[:1]).eval(), images)
    loss = _divergence_from(alone.expected) if labels is None else _increase_from(alone.expected, split(labels)[1])
    for fitted in alone.each(choices):
        refused, loses = fitted.refused, None
        if fitted.outputs is not None:
            try:
                loses = loss(fitted.outputs)
            except CheckError as error:
                refused = str(error)
        yield FitLoss(fitted.choice, loses, refused)


def _divergence_from(expected: OutputBatches) -> Callable[[OutputBatches], float]:
    measure = measure_of(tuple(map(torch.cat, zip(*expected, strict=True))))

    def loss(outputs: OutputBatches) -> float:
        total = Divergence(measure)
        for before, after in zip(expected, outputs, strict=True):
            total.add(before, after)
        return more(total.mean, 0.0)

    return loss


def _increase_from(expected: OutputBatches, labels: Tensor) -> Callable[[OutputBatches], float]:
    classes = labels.split(len(expected[0][0]))

    def loss(outputs: OutputBatches) -> float:
        return cross_entropy_of((scores for scores, *_ in outputs), classes)

    before = loss(expected)
    return lambda outputs: more(loss(outputs), before)


def require_some(losses: Sequence[FitLoss]) -> None:
    """Raise InputError where every fit was refused."""
    if losses and all(loss.loses is None for loss in losses):
        raise InputError(f"no layer can be fitted: {losses[0].refused}")
