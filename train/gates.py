"""Gates: each activation learns how close to the identity it may come (Layer Folding, arXiv 2106.09309, section 3).

All functions take and return ordinary modules; any training loop and optimiser will do. Give the gates no weight
decay, which would pull them back to 0: ``[gate.alpha for gate in gates(model).values()]`` are their parameters.
"""

import copy
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from fold.checkpoint import removed_activation
from fold.errors import InputError
from fold.graph import Opaque, is_activation
from fold.regions import foldable_activations
from fold.trace import Activation, trace

THRESHOLD = 0.9  # a gate at least this open is taken for the identity


class Linearizable(Opaque):
    """``alpha * x + (1 - alpha) * activation(x)`` with one learned scalar ``alpha >= 0``, from 0 at the start."""

    is_activation = True

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.activation = activation
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        # Clipped here, not by the optimiser, so that it holds in any training loop. Through .data, because a backward
        # pass may still be due; and not by clamp(), whose gradient is 0 below the bound: alpha would never come back.
        self.alpha.data.clamp_(min=0)
        alpha = self.alpha.to(x.dtype)
        if type(self.activation) is nn.ReLU and x.is_cuda:
            return F.prelu(x, alpha.reshape(1))  # the same function in one kernel
        if type(self.activation) is nn.ReLU and x.dtype in (torch.float32, torch.float64):
            return _GatedReLU.apply(x, alpha)
        y = self.activation(x)
        return y + alpha * (x - y)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha.item():.3f}"


class _GatedReLU(torch.autograd.Function):
    """The gate of a ReLU on a CPU, where the backward pass of PReLU is slow: `benchmarks.gates` has the ratios."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.slope = alpha.item()
        ctx.save_for_backward(x)
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        (x,) = ctx.saved_tensors
        back = torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False)
        if not ctx.needs_input_grad[1]:
            return back, None
        negative = x.clamp(max=0)
        stored = range(x.ndim) if x.is_contiguous() else (0, *range(2, x.ndim), 1)  # so that flattening need not copy
        flat = (tensor.permute(*stored).reshape(-1) for tensor in (gradient, negative))
        return back, torch.dot(*flat)


def linearize(
    model: nn.Module,
    example: Tensor,
    gate: str = "foldable",
    activations: Collection[Activation] = (),
    average_pooling: bool = False,
) -> fx.GraphModule:
    """A trainable copy of ``model`` with a gate around its activations, one per call site; ``model`` is not modified.

    Args:
        model: any network that ``torch.fx`` can trace.
        example: one input batch; only its shape, dtype and device matter.
        gate: "foldable" gates the activations whose removal lets weighted layers merge, "all" every activation, as
            in the paper.
        activations: elementwise functions and module classes to be taken for activations beside those of
            ``torch.nn``, see `fold.trace.trace`.
        average_pooling: the network will be folded with its average poolings merged.

    Raises:
        InputError: the network cannot be traced, or has no such activation.
    """
    traced = trace(model, example, activations, average_pooling)
    if gate not in ("foldable", "all"):
        raise InputError(f"gate {gate!r}: unknown; give 'foldable' or 'all'")
    activations = [node for node in traced.graph.nodes if is_activation(node)]
    chosen = foldable_activations(traced) if gate == "foldable" else activations
    if not chosen:
        raise InputError(
            f"{type(model).__name__} has {len(activations)} activations, and the removal of none lets weighted layers "
            "merge; fold.scan(model, example) tells why"
        )
    for node in chosen:
        wrapped = Linearizable(traced.get_submodule(node.target))
        traced.set_submodule(node.target, wrapped.to(example.device).train(wrapped.activation.training))
    return traced


def gates(model: nn.Module) -> dict[str, Linearizable]:
    """The gates of ``model`` by name, in the order of its modules."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linearizable)}


def depth_penalty(model: nn.Module, weights: Mapping[str, float] | None = None) -> Tensor:
    """``sum w |1 - alpha^2|`` over all gates, a scalar, the auxiliary loss of the paper (section 3).

    ``weights`` gives each gate its ``w``, for example the time that its removal saves; None is 1 for all, as in the
    paper. Raises InputError if there is no gate, which would make the loss a constant, and if the names in ``weights``
    are not those of the gates.
    """
    known = gates(model)
    if not known:
        raise InputError(f"{type(model).__name__} has no gates; linearize(model, example) adds them")
    terms = (1 - torch.stack([gate.alpha for gate in known.values()]).square()).abs()
    if weights is None:
        return terms.sum()
    if weights.keys() != known.keys():
        different = ", ".join(sorted(weights.keys() ^ known.keys()))
        raise InputError(f"gate weights: {different} differ from the gates of the network; give a weight for each gate")
    return (terms * terms.new_tensor([weights[name] for name in known])).sum()


def is_open(gate: Linearizable, threshold: float = THRESHOLD) -> bool:
    """Whether ``harden`` takes this gate for the identity."""
    return bool(gate.alpha >= threshold)  # in the tensor's own precision, where 0.9 is 0.9


def harden(model: nn.Module, threshold: float = THRESHOLD) -> nn.Module:
    """A copy of ``model`` without gates: identity where ``alpha >= threshold``, elsewhere the original activation."""
    hard = copy.deepcopy(model)
    for name, gate in gates(hard).items():
        identity = removed_activation().train(gate.training)
        hard.set_submodule(name, identity if is_open(gate, threshold) else gate.activation)
    return hard
