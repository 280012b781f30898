"""What a training step minimises: the task, the original network as teacher (distillation), and the depth penalty.

The task is the classes of the images, or without classes the outputs of the original network.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parallel import DistributedDataParallel

from layer_folding.errors import InputError
from layer_folding.fold.fitting.divergences import OutputMeasure, tensors_of
from layer_folding.fold.gating import depth_penalty, gates
from layer_folding.fold.graph.nodes import is_activation

from .hyperparameters import Hyperparameters


def objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    h: Hyperparameters,
    teacher: nn.Module | None = None,
    features: Sequence[str] = (),
    pressure: float = 1.0,
    measure: OutputMeasure | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, to be minimised, and its part that is the task's, detached; both scalars.

    The task's part is the cross-entropy, or with a ``measure`` the distance from the outputs of the ``teacher``, which
    ``labels`` have no part in. ``teacher`` and ``features`` (from `shared_activations`) are also needed where
    ``h.distill`` or ``h.distill_features`` is above 0. ``pressure`` is a factor of ``h.penalty``.
    """
    own = model.module if isinstance(model, DistributedDataParallel) else model
    with recorded(own, features) as ours:
        outputs = model(images)
    target: object = None
    theirs: dict[str, Tensor] = {}
    if teacher is not None:
        with torch.no_grad(), recorded(teacher, features) as theirs:
            target = teacher(images)
    if measure is None:
        loss, task = _of_classes(outputs, labels, target, h)
    else:
        loss = task = measure.mean(_compared(target), _compared(outputs))
    if features:
        loss = loss + h.distill_features * feature_loss(ours, theirs)
    if h.learns_gates:
        loss = loss + h.penalty * pressure * depth_penalty(own, weights=h.gate_weights)
    return loss, task.detach()


def _of_classes(logits: Tensor, labels: Tensor, target: object, h: Hyperparameters) -> tuple[Tensor, Tensor]:
    """The loss of ``logits`` [N, classes] and its part that is the task's; ``target`` are the teacher's, or None."""
    task = F.cross_entropy(logits, labels, label_smoothing=h.label_smoothing)
    if not isinstance(target, Tensor):
        return task, task
    weight = h.distill or 0.0
    return (1 - weight) * task + weight * distillation_loss(logits, target, h.temperature), task


def _compared(outputs: object) -> list[Tensor]:
    """The tensors of ``outputs`` that are compared, in float32 whatever the precision of training is."""
    return [values.float() for values in tensors_of(outputs)]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch; logits [N, classes].

    Hinton et al. 2015, arXiv 1503.02531, section 2; the factor keeps the gradient's size independent of T.
    """
    ours, theirs = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def feature_loss(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    """``|s - t|^2 / |t|^2`` of each activation, mean over the activations; keys and shapes must be the same."""
    errors = [
        (student[name].float() - wanted.float()).square().sum() / wanted.float().square().sum().clamp(min=1e-12)
        for name, wanted in teacher.items()
    ]
    return torch.stack(errors).mean()


def shared_activations(student: fx.GraphModule, teacher: fx.GraphModule) -> list[str]:
    """The activations that two traced networks have in common, ungated in both: where features can be compared.

    Raises InputError if there is none.
    """
    theirs = {node.target for node in teacher.graph.nodes if is_activation(node)}
    gated = gates(student)
    found = [n.target for n in student.graph.nodes if is_activation(n) and n.target in theirs and n.target not in gated]
    if not found:
        raise InputError("--distill-features: all activations have gates, so that no features are left to compare")
    return found


@contextlib.contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, note the last output of the modules called ``names`` of ``model``, by name."""
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
