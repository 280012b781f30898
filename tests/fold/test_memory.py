"""Folding must fit where the network itself fits: what it allocates, by the tensors that are alive at once."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layer_folding.fold import fold, scan
from tests.fold.networks import removed_activation


class Peak(TorchDispatchMode):
    """The most bytes of tensors, made inside this context, that were alive at the same time."""

    def __enter__(self):
        self.alive = self.most = 0
        self.known: set[int] = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given | self.known:
                    self.known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    self.most = max(self.most, self.alive)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, identity: int, count: int) -> None:
        self.known.discard(identity)
        self.alive -= count


def pairs(count: int, width: int = 64) -> nn.Sequential:
    """Pairs of 3x3 convolutions and BatchNorms that merge to a 5x5 kernel each, a ReLU between the pairs."""
    layers = []
    for _ in range(count):
        layers += [nn.Conv2d(width, width, 3, padding=2), nn.BatchNorm2d(width), removed_activation()]
        layers += [nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def classifier(inputs: int = 1568, width: int = 256) -> nn.Sequential:
    """Three linear layers that merge to one, the first with most of the weights: the head of VGG."""
    hidden = [nn.Linear(inputs, width), removed_activation(), nn.Linear(width, width), removed_activation()]
    return nn.Sequential(*hidden, nn.Linear(width, 10)).eval()


def size(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


CASES = {
    "pairs": (pairs(8), (1, 64, 6, 6)),
    "classifier": (classifier(), (1, 1568)),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_needs_twice_the_memory_of_the_network_beside_the_result(case):
    model, shape = CASES[case]
    fold(model, torch.zeros(shape))  # what is set up once
    with Peak() as peak:
        result = fold(model, torch.zeros(shape))
    assert result.folded
    assert peak.most - size(result.model) <= 2 * size(model)


@pytest.mark.parametrize("case", CASES)
def test_looking_copies_no_weights(case):
    model, shape = CASES[case]
    with Peak() as peak:
        assert scan(model, torch.zeros(shape)).candidates
    assert peak.most <= 0.1 * size(model)
