"""The graph that is edited: one module per activation and call, nothing in place, the same function."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from layer_folding.errors import InputError
from layer_folding.export import lower
from layer_folding.fold import fold
from layer_folding.fold.graph.nodes import Opaque, add_module, is_activation, module_of
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Calls, chain, conv, noise

FLOAT = noise(dtype=torch.float32)


def traced(model: nn.Module):
    """The trace of ``model``, which must compute the same and leave ``model`` alone."""
    model = model.eval()
    structure, state = repr(model), copy.deepcopy(model.state_dict())
    graph = trace(model, EXAMPLE)
    assert repr(model) == structure
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(graph(FLOAT.clone()), model(FLOAT.clone()))
    return graph


def calls(graph) -> list[str]:
    return [node.target for node in graph.graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.relu, "ReLU()"),
        (torch.relu, "ReLU()"),
        (lambda x: x.relu(), "ReLU()"),
        (lambda x: x.sigmoid(), "Sigmoid()"),
        (F.relu6, "ReLU6()"),
        (torch.tanh, "Tanh()"),
        (F.silu, "SiLU()"),
        (F.mish, "Mish()"),
        (F.hardswish, "Hardswish()"),
        (lambda x: F.gelu(x, approximate="tanh"), "GELU(approximate='tanh')"),
        (lambda x: F.elu(x, 0.5), "ELU(alpha=0.5)"),
        (lambda x: F.leaky_relu(x, negative_slope=0.3), "LeakyReLU(negative_slope=0.3)"),
        (lambda x: F.hardtanh(x, -2, 0.5), "Hardtanh(min_val=-2, max_val=0.5)"),
    ],
)
def test_functional_activations_become_modules(function, kind):
    graph = traced(Calls(lambda m, x: function(m.conv(x)), conv=conv(WIDTH, 6)))
    (activation,) = [node for node in graph.graph.nodes if is_activation(node)]
    assert repr(module_of(activation)) == kind


def test_functional_activations_are_named_after_the_module_that_calls_them():
    block = Calls(lambda m, x: F.relu(m.conv(F.relu(x))), conv=conv(WIDTH, WIDTH))
    graph = traced(nn.Sequential(block, nn.Sequential(copy.deepcopy(block))))
    assert calls(graph) == ["0.relu", "0.conv", "0.relu_1", "1.0.relu", "1.0.conv", "1.0.relu_1"]


def test_a_module_that_is_called_twice_becomes_two():
    network = Calls(lambda m, x: m.act(m.b(m.drop(m.act(m.a(m.drop(x)))))), a=conv(WIDTH, 6), b=conv(6, 5))
    network.act, network.drop = nn.ReLU(inplace=True), nn.Dropout()
    graph = traced(network)
    assert calls(graph) == ["drop", "a", "act", "drop_1", "b", "act_1"]
    assert graph.act is not graph.act_1


def test_weights_that_are_called_twice_stay_one_and_are_marked():
    layer = conv(WIDTH, WIDTH)
    graph = traced(nn.Sequential(layer, nn.PReLU(), layer, conv(WIDTH, WIDTH)))
    assert calls(graph) == ["0", "1", "0", "3"]
    assert [node.meta["shared"] for node in graph.graph.nodes if node.op == "call_module"] == [True, False, True, False]


def test_weights_that_the_code_reads_are_marked():
    network = Calls(lambda m, x: m.a(x) * m.a.weight.mean() + m.b(x), a=conv(WIDTH, 6), b=conv(WIDTH, 6))
    shared = {n.target: n.meta["shared"] for n in traced(network).graph.nodes if n.op == "call_module"}
    assert shared == {"a": True, "b": False}


def aliased(write):
    """Write to a tensor in place, and read it afterwards under its old name."""

    def forward(m: Calls, x: Tensor) -> Tensor:
        y = m.a(x)
        z = write(m, y)
        return m.b(y) + m.b(z * 2)

    return Calls(forward, a=conv(WIDTH, 6), b=conv(6, 5), relu=nn.ReLU(inplace=True), norm=nn.BatchNorm2d(6))


@pytest.mark.parametrize(
    "write",
    [
        lambda m, y: m.relu(y),
        lambda m, y: m.relu(m.norm(y)) + m.relu(y),
        lambda m, y: F.relu(y, inplace=True),
        lambda m, y: F.elu_(y),
        lambda m, y: torch.relu_(y),
        lambda m, y: y.relu_(),
        lambda m, y: y.add_(1).mul_(3),
        lambda m, y: y.clamp_(-0.1, 0.1),
        lambda m, y: y.sub_(m.norm(y)),
        lambda m, y: torch.sigmoid_(y),
    ],
    ids=["module", "module twice", "option", "F", "torch", "method", "methods", "clamp", "sub", "sigmoid"],
)
def test_in_place_operations_become_ordinary_ones(write):
    graph = traced(aliased(write))
    assert not any(getattr(module, "inplace", False) for module in graph.modules())
    names = [getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes]
    assert not any(name.endswith("_") for name in names)


def test_functional_dropout_follows_the_mode():
    network = Calls(lambda m, x: F.dropout(m.a(x), 0.3, training=m.training), a=conv(WIDTH, 6))
    graph = traced(network)
    assert repr(graph.dropout) == "Dropout(p=0.3, inplace=False)"
    assert (graph.train()(FLOAT) == 0).any()


def test_dropout_that_is_always_on_stays_on():
    graph = trace(Calls(lambda m, x: F.dropout(m.a(x), 0.3), a=conv(WIDTH, 6)).eval(), EXAMPLE)
    assert calls(graph) == ["a"]
    assert (graph(FLOAT) == 0).any()


def test_modules_called_by_keyword():
    network = Calls(lambda m, x: m.b(input=m.a(input=x)), a=conv(WIDTH, 6), b=nn.Identity())
    assert [node.args[0].name for node in traced(network).graph.nodes if node.op == "call_module"] == ["x", "a"]


def test_shapes_of_every_value():
    graph = traced(nn.Sequential(conv(WIDTH, 6, stride=2), nn.ReLU(), nn.Flatten()))
    shapes = {node.name: node.meta["shape"] for node in graph.graph.nodes}
    assert shapes == {
        "input_1": (2, 4, 15, 13), "_0": (2, 6, 8, 7), "_1": (2, 6, 8, 7), "_2": (2, 336), "output": (2, 336),
    }  # fmt: skip


def test_modes_and_statistics_are_kept():
    network = nn.Sequential(conv(WIDTH, 6), nn.BatchNorm2d(6), nn.Sequential(nn.Dropout())).train()
    network[1].eval()
    graph = trace(network, EXAMPLE)
    assert {name: m.training for name, m in graph.named_modules()} == {
        name: m.training for name, m in network.named_modules()
    }
    assert graph.get_buffer("1.num_batches_tracked") == 0
    assert graph.state_dict().keys() == network.state_dict().keys()


def test_opaque_modules_stay_whole():
    class Gate(Opaque):
        is_activation = True

        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.sum() > 0 else x

    graph = traced(nn.Sequential(conv(WIDTH, 6), Gate()))
    assert calls(graph) == ["0", "1"]
    assert [node.target for node in graph.graph.nodes if is_activation(node)] == ["1"]


def test_control_flow_that_depends_on_values_is_refused_with_its_line():
    network = Calls(lambda m, x: m.a(x) if x.sum() > 0 else x, a=conv(WIDTH, 6))
    line = inspect.getsourcelines(test_control_flow_that_depends_on_values_is_refused_with_its_line)[1] + 1
    message = rf"^Calls cannot be traced: {__file__}:{line} asks whether a condition holds, which depends on the val"
    with pytest.raises(InputError, match=message):
        trace(network, EXAMPLE)


def test_an_input_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"does not accept an input of shape \[1, 9\]") as caught:
        trace(nn.Sequential(conv(WIDTH, 6)), torch.zeros(1, 9))
    assert "\n" not in str(caught.value)


def test_added_names_avoid_modules_parameters_and_buffers():
    graph = traced(nn.Sequential(conv(WIDTH, 6), nn.BatchNorm2d(6)))
    assert add_module(graph, "new.deep", nn.ReLU()) == "new.deep"
    assert add_module(graph, "new.deep", nn.ReLU()) == "new.deep_1"
    assert add_module(graph, "0.weight", nn.ReLU()) == "0.weight_1"
    assert add_module(graph, "1.running_mean", nn.ReLU()) == "1.running_mean_1"


def test_a_traced_network_can_be_sent_to_another_process():
    graph = traced(nn.Sequential(*chain(), Calls(lambda m, x: F.relu(m.conv(x)), conv=conv(WIDTH, 6))))
    received = pickle.loads(pickle.dumps(graph))
    assert calls(received) == calls(graph) and torch.equal(received(FLOAT), graph(FLOAT))


@pytest.mark.parametrize(("wrap", "inside"), [(nn.DataParallel, "module"), (AveragedModel, "module")])
def test_a_wrapper_names_the_network_that_is_in_it(wrap, inside):
    network = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))  # whose mode is another than that of what is in it
    for function in (trace, fold, lower):
        with pytest.raises(InputError, match=rf"wraps the network; pass what is in it, model\.{inside}$"):
            function(network, torch.zeros(1, 3, 8, 8))
    assert trace(getattr(network, inside), torch.zeros(1, 3, 8, 8))


def test_a_compiled_network_names_the_one_that_was_compiled():
    network = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3)))  # compiles when it is called, and it is not
    with pytest.raises(InputError, match=r"OptimizedModule wraps the network; pass what is in it, model\._orig_mod$"):
        trace(network, torch.zeros(1, 3, 8, 8))
