"""What a network loses with each layer that could be fitted, by fitting that layer alone: `lf.importance`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import Choice
from layer_folding.importance_tables import Importance
from layer_folding.latency_tables import Table

from ..fitting.network_fit import fit
from ..fitting.validity import split
from .candidates import Candidate, candidates
from .importances import cross_entropy, more
from .offers import offers

DIVERGENCE, CROSS_ENTROPY = "KL divergence", "cross entropy"


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
    """What ``model`` loses with each layer that `lf.plan` could fit, and nothing else changed. Takes seconds a layer.

        >>> import torch, layer_folding as lf
        >>> block = [torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1)]
        >>> model = torch.nn.Sequential(*block, torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
        >>> found = lf.importance(model, torch.randn(64, 4, 8, 8))
        >>> found.of(["1"], 3) < found.of(["1"], 1)
        True

    Each layer is fitted by least squares, without tuning (`lf.fit`). The loss is that on the images that were held out:
    the mean of KL(original || fitted) of the outputs, in nats, or with ``labels`` how much larger the cross entropy is.
    A fit that is refused has no loss, so no plan by this importance has it.

    Args:
        model: a trained classifier that ``torch.fx`` can trace; it is not modified.
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
    unit = f"{DIVERGENCE if labels is None else CROSS_ENTROPY} by {len(images)} images"
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


def choices_of(found: Iterable[Candidate], table: Table | None) -> list[Choice]:
    """What could be fitted; with a ``table``, as far as it is faster by the table."""
    if table is None:
        alternatives = [each for candidate in found for each in candidate.alternatives]
    else:
        alternatives = [offer.alternative for offer in offers(found, table)]
    return [each.choice for each in alternatives if each.choice]


def fit_losses(model: nn.Module, images: Tensor, labels: Tensor | None, choices: Iterable[Choice]) -> Iterator[FitLoss]:
    """The loss of each of ``choices``, one after the other; other arguments as of `importance`."""
    held_out = None if labels is None else (split(images)[1], split(labels)[1])
    before = cross_entropy(copy.deepcopy(model).eval(), *held_out) if held_out else 0.0
    for choice in choices:
        try:
            fitted = fit(model, images, {choice.activations: choice.shape}, tuned=False)
            loses = cross_entropy(fitted.model.eval(), *held_out) if held_out else fitted.divergence
        except (InputError, CheckError) as error:
            yield FitLoss(choice, None, str(error))
        else:
            yield FitLoss(choice, more(loses, before))


def require_some(losses: Sequence[FitLoss]) -> None:
    """Raise InputError where every fit was refused."""
    if losses and all(loss.loses is None for loss in losses):
        raise InputError(f"no layer can be fitted: {losses[0].refused}")
