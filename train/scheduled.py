"""Planned removal: the gates of given activations are opened on a schedule, not learned; all others stay closed.

An activation that is added (`fold.graph.changes`) has a gate too, which goes the other way: it is open first, then
closes.
What is removed is known from the start, so padding is hoisted before training: the network gets used to its new borders
while the activations fade, and hardening and hoisting change nothing any more.
"""

import copy
from collections.abc import Collection, Sequence

from torch import Tensor, fx, nn

from layer_folding.errors import InputError
from layer_folding.fold.gating import Linearizable, gates
from layer_folding.fold.graph.changes import add, is_addition, path_of, remove
from layer_folding.fold.regions.padding import Hoisted, hoist_padding


def resolve(wanted: Sequence[str], model: fx.GraphModule) -> list[str]:
    """The gates of ``model`` that ``wanted`` names, in its order, then the additions that it has; "all" is all gates.

    Raises InputError for other names, and for additions behind no value of ``model`` or of no gated activation.
    """
    known = gates(model)
    if list(wanted) == ["all"]:
        return list(known)
    additions = list(dict.fromkeys(filter(is_addition, wanted)))
    for name in (change.partition("=")[2] if is_addition(change) else change for change in wanted):
        if name not in known:
            raise InputError(
                f"--remove {name}: there is no such file or gate; give names out of {', '.join(known)}, or --gate all "
                "for activations whose removal lets nothing merge"
            )
    add(copy.deepcopy(model), additions)  # raises where there is no such value
    return [*(name for name in known if name in wanted), *additions]


def plan(model: fx.GraphModule, removed: Collection[str], example: Tensor) -> tuple[fx.GraphModule, list[Hoisted]]:
    """A copy of the gated ``model`` in which only ``removed`` will open, and the gates of its additions will close: no
    gate is learned, and the padding of the regions that merge in the end is hoisted already; what was hoisted comes
    second. The modules keep their names.
    """
    known = gates(model)
    linear = "affine" if any(gate.affine for gate in known.values()) else "identity"
    with_additions = add(copy.deepcopy(model), removed)
    for name in filter(is_addition, removed):  # such a gate begins as what was there: nothing
        activation = gates(with_additions)[path_of(name)].activation
        with_additions.set_submodule(path_of(name), Linearizable(activation).to(example.device))
    names = [name for name in removed if not is_addition(name)]
    planned, hoisted = hoist_padding(remove(with_additions, names, linear), example)
    for name in names:
        planned.set_submodule(name, copy.deepcopy(known[name]))
    for gate in gates(planned).values():
        gate.alpha.requires_grad_(False)
    open_gates(planned, removed, 0.0)
    return planned, hoisted


def open_gates(model: nn.Module, removed: Collection[str], alpha: float) -> None:
    """Set the gates called ``removed`` to ``alpha``, and those of its additions to ``1 - alpha``."""
    known = gates(model)
    for name in removed:
        if is_addition(name):
            known[path_of(name)].alpha.data.fill_(1 - alpha)
        else:
            known[name].alpha.data.fill_(alpha)
