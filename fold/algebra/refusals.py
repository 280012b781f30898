"""Why something is not done, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Code = Literal[
    "not-linear",  # an operation that the algebra does not know, or that is no affine map
    "activation",  # an activation, which nobody removed
    "shared-weights",  # another call uses the same weights
    "channel-axis",  # the operation sees its channels on another axis than the layers before it
    "transposed",  # a transposed convolution merges with pointwise layers only
    "border",  # the merged layer would be wrong at the borders, and hoisting is no remedy
    "hoist",  # the merged layer would be wrong at the borders until padding is hoisted
    "bottleneck",  # merging would undo a bottleneck
    "growth",  # merging would cost more than the layers apart
    "join",  # a sum or concatenation of values that no one convolution gives
    "no-removal",  # a concatenation before which no activation was removed
    "read-twice",  # a value that several layers read is computed once
    "kept-whole",  # it is in a module whose code cannot be recorded
    "in-vain",  # an operation would move before a layer for nothing
]


@dataclass(frozen=True)
class Refusal:
    """A reason: ``code`` says of which kind, ``sentence`` says it about the layers at hand, by their names."""

    code: Code
    sentence: str
