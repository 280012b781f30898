"""The candidates that a latency table shows to pay. Numbers only: neither networks nor PyTorch are known here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layer_folding.errors import InputError
from layer_folding.importance_tables import Importance
from layer_folding.latency_tables import Table, TimedSegment

if TYPE_CHECKING:
    from .candidates import Alternative, Candidate


@dataclass(frozen=True)
class Offer:
    """An alternative that pays: it ``saves`` time in ms, known to +- ``error`` (95 %), and ``loses`` importance."""

    candidate: Candidate
    alternative: Alternative
    apart: TimedSegment
    merged: TimedSegment
    loses: float = 0.0

    @property
    def saves(self) -> float:
        return self.apart.time - self.merged.time

    @property
    def error(self) -> float:
        return math.hypot(self.apart.error, self.merged.error)

    @property
    def is_exact(self) -> bool:
        """Whether nothing but the activations of the exact merge goes."""
        return self.alternative is self.candidate.exact

    @property
    def is_fitted(self) -> bool:
        """Whether a fitted layer comes to stand there."""
        return self.alternative.shape is not None


def offers(found: Iterable[Candidate], table: Table) -> list[Offer]:
    """The alternatives that are faster than their layers apart, by more than the uncertainty of the measurement.

    Raises InputError where ``table`` is not that of this network.
    """
    every = [
        Offer(candidate, alternative, apart, table.timing(alternative.segment, candidate.input_shape))
        for candidate in found
        for apart in [table.timing(candidate.apart, candidate.input_shape)]
        for alternative in candidate.alternatives
    ]
    return [offer for offer in every if offer.saves > offer.error]


def weighed(offered: Iterable[Offer], importance: Importance | None = None) -> list[Offer]:
    """``offered``, each with what it loses, as far as that is known.

    Without ``importance`` each activation counts 1, and only exact merges and fitted layers of full reach are known.
    """
    losses = [(offer, _loses(offer, importance)) for offer in offered]
    return [replace(offer, loses=loses) for offer, loses in losses if loses is not None]


def _loses(offer: Offer, importance: Importance | None) -> float | None:
    changes, shape = offer.alternative.changes, offer.alternative.shape
    if importance is not None:
        return importance.of(changes, shape)
    return float(len(changes)) if offer.is_exact or (offer.is_fitted and offer.alternative.full_reach) else None


def require_rows(found: Iterable[Candidate], importance: Importance) -> None:
    """Raise InputError where ``importance`` knows nothing of what could be done in this network."""
    alternatives = [each for candidate in found for each in candidate.alternatives]
    if alternatives and all(importance.of(each.changes, each.shape) is None for each in alternatives):
        raise InputError(
            f"{importance.source}: has no row for a candidate of this network; write it again, with `layer-folding "
            "importance` or `layer-folding probe`"
        )
