"""Learn which activations of a network can go.

    from train import depth_penalty, gates, harden, linearize

    gated = linearize(model, example)
    loss = criterion(gated(x), y) + 0.25 * depth_penalty(gated)
    hard = harden(gated)

Command line: ``python -m train --help``.
"""

from train.gates import Linearizable, depth_penalty, gates, harden, linearize

__all__ = ["Linearizable", "depth_penalty", "gates", "harden", "linearize"]
