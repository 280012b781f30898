"""Planned removal: the gates of given activations are opened on a schedule, not learned; all others stay closed.

An activation that is added (`fold.added`) has a gate too, which goes the other way: it is open first, and closes.
What is removed is known from the start, so padding is hoisted before training: the network gets used to its new borders
while the activations fade, and hardening and hoisting change nothing any more.
"""

import copy
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor, fx, nn

from fold.added import add, is_addition, path_of
from fold.checkpoint import remove
from fold.errors import InputError
from fold.padding import Hoisted, hoist_padding
from train.gates import gates


def names(text: str) -> list[str]:
    """What ``--remove`` says: names with commas between, or a file with them, a line or a comma each.

    Raises InputError where there is no name, in a file that says that nothing is to be removed.
    """
    file = os.path.isfile(text)  # unlike Path.is_file, false for a list of names that is too long for a path
    content = Path(text).read_text(encoding="utf-8") if file else text
    found = [name.strip() for line in content.splitlines() for name in line.split(",") if name.strip()]
    if file and not found:
        raise InputError(
            f"--remove {text}: the plan is to fold nothing; keep the original network, or plan again for a budget "
            "(BUDGET_MS, SPEEDUP) that it does not meet, or with the table of another device"
        )
    if not found:
        raise InputError(f"--remove {text!r}: no name in it; give the names of gates, or leave it out to learn them")
    return found


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


def plan(model: nn.Module, removed: Collection[str], example: Tensor) -> tuple[nn.Module, list[Hoisted]]:
    """A copy of the gated ``model`` in which only ``removed`` will open, and the gates of its additions will close: no
    gate is learned, and the padding of the regions that merge in the end is hoisted already; what was hoisted comes
    second. The modules keep their names.
    """
    planned, hoisted = hoist_padding(remove(copy.deepcopy(model), list(removed)), example)
    for name in removed:
        if not is_addition(name):
            planned.set_submodule(name, copy.deepcopy(gates(model)[name]))
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
