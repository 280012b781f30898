"""Gates: each activation learns how close to a linear map it may come (Layer Folding, arXiv 2106.09309, section 3).

The linear map is a scale and a shift per channel, those that fit the activation best (`fold.affine_fit`). Layers merge
with them, so they cost nothing at run time, as the identity, which is the paper's choice. All functions take and return
ordinary modules; any training loop and optimiser will do. Give the gates no weight decay, which would pull them back to
0: ``[gate.alpha for gate in gates(model).values()]`` are their parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from layer_folding.errors import InputError

from .affine_fit import affine_map, moments, moments_of_normal
from .algebra.layers import BATCH_NORMS
from .gated_relu import gated_relu
from .graph.changes import removed_activation
from .graph.channel_affine import ChannelAffine, scaled_and_shifted
from .graph.nodes import Opaque, first_input, has_channels_last, is_activation, module_of, shape_of, target_of
from .graph.tracing import Activation, trace
from .regions.finding import foldable_activations
from .regions.joint import joint_activations

THRESHOLD = 0.9  # a gate at least this open is put to 1, and taken for its linear map
_PRESSURE = 0.57  # towards an affine map, see `depth_penalty`
_MEASURED = 64  # images
_EVERY = 16  # training steps: the statistics move slowly, and cost a step less than a hundredth of its time
_NEW = 0.2  # the share of new statistics


class Linearizable(Opaque):
    """``alpha * linear(x) + (1 - alpha) * activation(x)`` with one learned scalar ``alpha``, from 0 at the start.

    With the number of ``channels`` on ``axis`` (1 or -1), ``linear`` is `scale x + shift` by channel. Scale and shift
    follow the inputs in training. ``alpha`` stays within [0, 1], and is set to 1 from THRESHOLD on. Then hardening
    changes nothing any more, and the gate closes again only by a single step of more than 1 - THRESHOLD. Without
    ``channels``, ``linear`` is the identity and ``alpha`` any number from 0 on, as in the paper.
    """

    is_activation = True
    moments: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, activation: nn.Module, channels: int | None = None, axis: int = 1):
        super().__init__()
        self.activation = activation
        self.axis = axis
        self.alpha = nn.Parameter(torch.zeros(()))
        self.affine = channels is not None
        self.group: int | None = None  # gates of one group are of use only together; None is a group of its own
        if channels is not None:
            self.register_buffer("moments", torch.zeros(5, channels))  # those of `affine_fit`, weighted by age
            self.register_buffer("scale", torch.ones(channels))
            self.register_buffer("shift", torch.zeros(channels))
        self._steps = 0

    def train(self, mode: bool = True) -> Linearizable:
        self._steps = 0  # a training that goes on after an epoch measures as an unbroken one
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        # Clipped here, not by the optimiser, so that it holds in any training loop. Through .data, because a backward
        # pass may still be due; and not by clamp(), whose gradient is 0 beyond the bounds: alpha would never come back.
        self._clip()
        alpha = self.alpha.to(x.dtype)
        if not self.affine:
            return self._towards_identity(x, alpha)
        if self.training:
            self._measure(x)
        # copies, since a backward pass may be due when the next step measures
        scale, shift = (values.to(x.dtype, copy=True) for values in (self.scale, self.shift))
        whole = x.dtype in (torch.float32, torch.float64)
        if type(self.activation) is nn.ReLU and whole and (self.axis == 1 or x.ndim == 2):
            return gated_relu(x, alpha, scale, shift)
        y = self.activation(x)
        return y + alpha * (scaled_and_shifted(x, scale, shift, self.axis) - y)

    def _clip(self) -> None:
        alpha = self.alpha.data
        alpha.clamp_(min=0)
        if self.affine:
            alpha.copy_(torch.where(alpha >= THRESHOLD, 1.0, alpha))

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        self._steps += 1
        if self._steps % _EVERY != 1:
            return
        some = x.detach()[:_MEASURED]
        self.mix(moments(some, self.activation(some), self.axis), _NEW)

    def mix(self, new: Tensor, share: float) -> None:
        """Let the `affine_fit.moments` ``new`` have a ``share`` in what the linear map is fitted to."""
        self.moments.lerp_(new.to(self.moments.dtype), share)
        scale, shift = affine_map(self.moments)
        self.scale.copy_(scale)
        self.shift.copy_(shift)

    def _towards_identity(self, x: Tensor, alpha: Tensor) -> Tensor:
        if type(self.activation) is nn.ReLU and x.is_cuda:
            return F.prelu(x, alpha.reshape(1))  # the same function in one kernel
        if type(self.activation) is nn.ReLU and x.dtype in (torch.float32, torch.float64):
            return _LeakyReLU.apply(x, alpha)
        y = self.activation(x)
        return y + alpha * (x - y)

    def hardened(self) -> nn.Module:
        """What stands in place of this gate when it is taken for open."""
        if not self.affine:
            return removed_activation().train(self.training)
        return ChannelAffine(self.scale.clone(), self.shift.clone(), self.axis).train(self.training)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha.item():.3f}, linear={'affine' if self.affine else 'identity'}"


class _LeakyReLU(torch.autograd.Function):
    """The gate of a ReLU towards the identity, on a CPU, where the backward pass of PReLU is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.slope = alpha.item()
        ctx.save_for_backward(x)
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
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
    *,
    gate: str = "foldable",
    activations: Collection[Activation] = (),
    average_pooling: bool = False,
    linear: str = "affine",
) -> fx.GraphModule:
    """A trainable copy of ``model`` with a gate around its activations, one per call site; ``model`` is not modified.

    Args:
        model: any network that ``torch.fx`` can trace.
        example: one input batch; only its shape, dtype and device matter.
        gate: "foldable" gates the activations whose removal lets weighted layers merge, "all" every activation, as
            in the paper.
        activations: elementwise functions and module classes to be taken for activations beside those of
            ``torch.nn``, see `fold.graph.tracing.trace`.
        average_pooling: the network will be folded with its average poolings merged.
        linear: what a gate opens to: "affine", the scale and shift per channel that fit its activation best, or
            "identity", as in the paper.

    Raises:
        InputError: the network cannot be traced, or has no such activation.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> gated = lf.linearize(model, torch.rand(1, 3, 16, 16))
        >>> list(lf.gates(gated))
        ['1']
    """
    traced = trace(model, example, activations=activations, average_pooling=average_pooling)
    if gate not in ("foldable", "all"):
        raise InputError(f"gate {gate!r}: unknown; give 'foldable' or 'all'")
    if linear not in ("affine", "identity"):
        raise InputError(f"linear {linear!r}: unknown; give 'affine' or 'identity'")
    found = [node for node in traced.graph.nodes if is_activation(node)]
    chosen = foldable_activations(traced) if gate == "foldable" else found
    if not chosen:
        raise InputError(
            f"{type(model).__name__} has {len(found)} activations, and the removal of none lets weighted layers "
            "merge; lf.scan(model, example) tells why"
        )
    groups = {node: number for number, group in enumerate(joint_activations(traced, chosen)) for node in group}
    for node in chosen:
        activation = traced.get_submodule(target_of(node))
        wrapped = _affine_gate(node, activation) if linear == "affine" else Linearizable(activation)
        wrapped.group = groups[node]
        traced.set_submodule(target_of(node), wrapped.to(example.device).train(activation.training))
    return traced


@torch.no_grad()
def _affine_gate(node: fx.Node, activation: nn.Module) -> Linearizable:
    """A gate for an activation, fitted to what a BatchNorm before it gives: the identity where there is none."""
    axis = -1 if has_channels_last(node) else 1
    gate = Linearizable(activation, shape_of(node)[axis], axis)
    before = first_input(node)
    norm = None if before is None else module_of(before)
    if isinstance(norm, BATCH_NORMS) and norm.affine:
        gate.to(norm.weight.device).mix(moments_of_normal(norm.bias, norm.weight.abs(), activation), 1.0)
    return gate


def gates(model: nn.Module) -> dict[str, Linearizable]:
    """The gates of ``model`` by name, in the order of its modules.

    Args:
        model: a network from `linearize`, or any other, which has no gates.

    A network without gates gives an empty dictionary. Nothing is raised.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> gated = lf.linearize(model, torch.rand(1, 3, 16, 16))
        >>> {name: gate.alpha.item() for name, gate in lf.gates(gated).items()}
        {'1': 0.0}
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, Linearizable)}


def depth_penalty(model: nn.Module, *, weights: Mapping[str, float] | None = None) -> Tensor:
    """The auxiliary loss that opens gates, a scalar.

    It is `0.57 sum w (1 - (alpha + alpha m) / 2)`, where m is the mean alpha of the gates that are of use only
    together. A gate that is half open gets more pressure, as in the paper, and so does a gate whose partners are open.
    A gate that fell to 0 gets some pressure, and can rise again. The factor lets one lambda serve both kinds of gates:
    a network loses less with an affine map than with the identity in place of an activation. It was measured on
    ResNet-20, where both kinds open as many gates. For gates towards the identity the penalty is that of the paper
    (section 3), `sum w |1 - alpha^2|`.

    Args:
        model: a network from `linearize`.
        weights: the ``w`` of each gate by its name, for example the time that its removal saves; None is 1 for all, as
            in the paper.

    Raises:
        InputError: there is no gate, which would make the loss a constant, or the names in ``weights`` are not those of
            the gates.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> gated = lf.linearize(model, torch.rand(1, 3, 16, 16))
        >>> loss = gated(torch.rand(1, 3, 16, 16)).square().mean() + 0.25 * lf.depth_penalty(gated)
        >>> loss.backward()
    """
    known = gates(model)
    if not known:
        raise InputError(f"{type(model).__name__} has no gates; linearize(model, example) adds them")
    terms = _penalties(list(known.values()))
    if weights is None:
        return terms.sum()
    if weights.keys() != known.keys():
        different = ", ".join(sorted(weights.keys() ^ known.keys()))
        raise InputError(f"gate weights: {different} differ from the gates of the network; give a weight for each gate")
    return (terms * terms.new_tensor([weights[name] for name in known])).sum()


def _penalties(known: list[Linearizable]) -> Tensor:
    alphas = torch.stack([gate.alpha for gate in known])
    groups = [index if gate.group is None else -1 - gate.group for index, gate in enumerate(known)]
    means = alphas.new_tensor([[(a == b) / groups.count(a) for b in groups] for a in groups]) @ alphas
    affine = torch.tensor([gate.affine for gate in known], device=alphas.device)
    return torch.where(affine, _PRESSURE * (1 - (alphas + alphas * means) / 2), (1 - alphas.square()).abs())


def close_undecided(model: nn.Module, limit: float) -> None:
    """Bring gates down to ``limit``, but for those that are open with all that they are of use with.

    Gates towards the identity stay as they are.
    """
    known = list(gates(model).values())
    opened = which_open(known)
    shut = {gate.group for gate, stays in zip(known, opened, strict=True) if not stays} - {None}
    for gate, stays in zip(known, opened, strict=True):
        if gate.affine and (gate.group in shut or not stays):
            gate.alpha.data.clamp_(max=limit)


def which_open(known: Sequence[Linearizable]) -> list[bool]:
    """`is_open` of each gate, with one wait for a GPU for all of them."""
    return (torch.stack([gate.alpha.detach() for gate in known]) >= THRESHOLD).tolist() if known else []


def is_open(gate: Linearizable, threshold: float = THRESHOLD) -> bool:
    """Whether ``harden`` takes this gate for its linear map."""
    return bool(gate.alpha >= threshold)  # in the tensor's own precision, where 0.9 is 0.9


def harden(model: nn.Module, *, threshold: float = THRESHOLD) -> nn.Module:
    """A copy of ``model`` without gates: the linear map where ``alpha >= threshold``, else the activation.

    Args:
        model: a network from `linearize`, trained or not; it is not modified.
        threshold: a gate counts as open from this ``alpha`` on.

    Without gates the copy is equal to ``model``. Nothing is raised.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> gated = lf.linearize(model, torch.rand(1, 3, 16, 16))
        >>> lf.gates(gated)["1"].alpha.data.fill_(1.0)  # as training would
        tensor(1.)
        >>> [merge.layers for merge in lf.fold(lf.harden(gated).eval(), torch.rand(1, 3, 16, 16)).folded]
        [('0', '2')]
    """
    hard = copy.deepcopy(model)
    for name, gate in gates(hard).items():
        hard.set_submodule(name, gate.hardened() if is_open(gate, threshold) else gate.activation)
    return hard
