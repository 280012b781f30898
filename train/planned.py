"""Planned removal: the gates of given activations are opened on a schedule, not learned; all others stay closed.

What is removed is known from the start, so padding is hoisted before training: the network gets used to its new borders
while the activations fade, and hardening and hoisting change nothing any more.
"""

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor, nn

from fold.checkpoint import remove
from fold.errors import InputError
from fold.padding import Hoisted, hoist_padding
from train.gates import gates


def names(text: str) -> list[str]:
    """What ``--remove`` says: names with commas between, or a file with them, a line or a comma each.

    Raises InputError where there is no name, in a file that says that nothing is to be removed.
    """
    file = Path(text).is_file()
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


def resolve(wanted: Sequence[str], model: nn.Module) -> list[str]:
    """The gates of ``model`` that ``wanted`` names, in its order; "all" is all of them. Raises InputError."""
    known = gates(model)
    if list(wanted) == ["all"]:
        return list(known)
    for name in wanted:
        if name not in known:
            raise InputError(
                f"--remove {name}: there is no such file or gate; give names out of {', '.join(known)}, or --gate all "
                "for activations whose removal lets nothing merge"
            )
    return [name for name in known if name in wanted]


def plan(model: nn.Module, removed: Collection[str], example: Tensor) -> tuple[nn.Module, list[Hoisted]]:
    """A copy of the gated ``model`` in which only ``removed`` will open: no gate is learned, and the padding of the
    regions that merge in the end is hoisted already; what was hoisted comes second. The modules keep their names.
    """
    planned, hoisted = hoist_padding(remove(copy.deepcopy(model), list(removed)), example)
    for name in removed:
        planned.set_submodule(name, copy.deepcopy(gates(model)[name]))
    for gate in gates(planned).values():
        gate.alpha.requires_grad_(False)
    return planned, hoisted


def open_gates(model: nn.Module, removed: Collection[str], alpha: float) -> None:
    """Set the gates called ``removed`` to ``alpha``."""
    known = gates(model)
    for name in removed:
        known[name].alpha.data.fill_(alpha)
