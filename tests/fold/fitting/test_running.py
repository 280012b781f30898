"""Running a graph in pieces: the same values, each layer once, and no value longer than it is read."""

import torch
from torch import fx, nn

from layer_folding.fold.fitting.running import Running
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Skip, conv


def network() -> fx.GraphModule:
    blocks = [nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH)) for _ in range(2)]
    return trace(nn.Sequential(Skip(blocks[0]), nn.ReLU(), Skip(blocks[1]), nn.ReLU()).eval(), EXAMPLE)


def node(traced: fx.GraphModule, target: str) -> fx.Node:
    return next(each for each in traced.graph.nodes if each.target == target)


def test_pieces_give_what_the_whole_gives():
    traced = network()
    images = torch.randn(6, *EXAMPLE.shape[1:])
    running = Running.of(traced, images.split(4))
    running.to(node(traced, "1"))
    copied = running.fork(traced, {each: each for each in traced.graph.nodes})
    for each in (running, copied):
        end = node(traced, "3")
        values = torch.cat([values[end] for values in each.until(end)])
        torch.testing.assert_close(values, traced(images))


def test_values_go_when_they_are_read():
    traced = network()
    running = Running.of(traced, [EXAMPLE])
    relu, end = node(traced, "0.body.1"), node(traced, "1")
    for values in running.until(end, keep=[relu]):
        assert set(values) == {relu, end}
    assert set(running.batches[0]) == {end}


def test_a_value_that_is_held_stays_until_another_one_is():
    traced = network()
    running = Running.of(traced, [EXAMPLE])
    first, second = node(traced, "0.body.0"), node(traced, "1")
    running.hold(first)
    running.to(second)
    assert first in running.batches[0]
    running.hold(second)
    assert first not in running.batches[0]


def test_only_what_is_needed_runs_and_only_once():
    traced = network()
    running = Running.of(traced, [EXAMPLE])
    calls = []
    traced.get_submodule("0.body.2").register_forward_hook(lambda *args: calls.append(1))
    running.to(node(traced, "0.body.1"))
    assert not calls
    running.to(node(traced, "3"))
    running.to(node(traced, "3"))
    assert calls == [1]
