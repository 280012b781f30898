"""The stages that make a run: of each the command, the network that the command leaves, and what it measures.

A network has one name. It is the stage in its recipe, the stem of its file, and the key of its accuracy.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage of a run: ``command`` leaves ``network`` in the run folder.

    ``steps`` are the states on the way to ``network`` whose accuracy is measured too, in their order.
    """

    command: str
    network: str
    steps: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of the network's checkpoint in the run folder."""
        return f"{self.network}.safetensors"


PRETRAIN = Stage("pretrain", "original")
PREFOLD = Stage("prefold", "prefold")
FINETUNE = Stage("finetune", "hardened", steps=("removed", "hoisted"))
FOLD = Stage("fold", "folded")

STAGES = (PRETRAIN, PREFOLD, FINETUNE, FOLD)
NETWORKS = tuple(stage.network for stage in STAGES)
STEPS = tuple(step for stage in STAGES for step in (*stage.steps, stage.network))  # that have an accuracy, in order
