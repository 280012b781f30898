"""What each gate should weigh in the depth penalty, by the time that its removal saves on a device.

Numbers only: neither networks nor PyTorch are known here.
"""

from collections.abc import Collection

from layer_folding.errors import CheckError

from .offers import Offer


def gate_weights(offered: list[Offer], gates: Collection[str]) -> dict[str, float]:
    """A weight for each of ``gates``, 1 in the mean, so that lambda means what it does where all gates weigh 1.

    The time that an offer saves is shared equally by the activations that it needs gone. A gate in several offers, of
    which a plan can take one, counts with the largest share; a gate in none weighs 0. Offers that need an activation
    without a gate are out of reach and do not count, nor do those that are not exact merges: gates add nothing. Raises
    CheckError if none is left.
    """
    shares = dict.fromkeys(gates, 0.0)
    for offer in offered:
        needed = offer.candidate.merge.activations
        if offer.is_exact and all(name in shares for name in needed):
            for name in needed:
                shares[name] = max(shares[name], offer.saves / len(needed))
    total = sum(shares.values())
    if not total:
        raise CheckError(
            "by the latency table, every merge that is faster than its layers apart needs an activation without a "
            "gate; gate all of them (--gate all)"
            if offered
            else "by the latency table, no merge is faster than its layers apart: there is nothing to gain on that "
            "device, keep the network as it is"
        )
    return {name: share * len(shares) / total for name, share in shares.items()}
