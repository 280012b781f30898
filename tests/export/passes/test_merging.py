"""What folds into one layer, what must not, and that it computes the same: `simplified` compares in ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from layer_folding.export import simplify
from layer_folding.export.simplifying import PASSES, table
from tests.export.test_simplifying import make, norm, norm_node, normal, simplified


def conv(source, result, weight, bias=None, **attributes):
    inputs = [source, weight] if bias is None else [source, weight, bias]
    return helper.make_node("Conv", inputs, [result], name=result, **attributes)


def node(operator, *names, **attributes):
    *inputs, output = names
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def test_conv_conv():
    constants = {"v": normal(6, 4, 3, 3), "w": normal(5, 6, 2, 2), "b": normal(6), "c": normal(5)}
    first = conv("x", "h", "v", "b", pads=[1, 0, 2, 1], strides=[2, 1])
    model = make([first, conv("h", "y", "w", "c", dilations=[1, 2])], ["y"], constants)
    assert simplified(model, 1e-5) == {"Conv": 1}


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_conv_batchnorm_conv_with_groups(groups):
    g, h = groups
    constants = {"v": normal(4, 4 // g, 3, 3), "w": normal(4, 4 // h, 1, 1), **norm(4)}
    nodes = [conv("x", "h", "v", pads=[1] * 4, group=g), norm_node("h", "n"), conv("n", "y", "w", group=h)]
    assert simplified(make(nodes, ["y"], constants), 1e-5) == {"Conv": 1}


def test_matmul_add_matmul():
    constants = {"v": normal(6, 8), "a": normal(8), "w": normal(8, 7), "b": normal(1, 1, 7)}
    nodes = [node("MatMul", "x", "v", "m"), node("Add", "m", "a", "s"), node("MatMul", "s", "w", "n")]
    model = make([*nodes, node("Add", "b", "n", "y")], ["y"], constants)
    assert simplified(model, 1e-5) == {"MatMul": 1, "Add": 1}
    flat = make([*nodes, node("Add", "n", "b1", "y")], ["y"], constants | {"b1": normal(7)}, ("batch", 6))
    assert simplified(flat, 1e-5) == {"Gemm": 1}


def test_gemm_gemm():
    constants = {"v": normal(8, 6), "a": normal(8), "w": normal(8, 7), "b": normal(7)}
    nodes = [node("Gemm", "x", "v", "a", "m", transB=1, alpha=0.5), node("Gemm", "m", "w", "b", "y", beta=2.0)]
    assert simplified(make(nodes, ["y"], constants, ("batch", 6)), 1e-5) == {"Gemm": 1}


@pytest.mark.parametrize("value", [None, 0.0])
def test_pad_goes_into_a_conv_that_pads_itself(value):
    constants = {"p": np.array([0, 0, 1, 2, 0, 0, 0, 3]), "w": normal(5, 4, 3, 3), "b": normal(5)}
    names = ["x", "p"] if value is None else ["x", "p", "z"]
    constants |= {} if value is None else {"z": np.float32(value)}
    nodes = [node("Pad", *names, "h"), conv("h", "y", "w", "b", pads=[1] * 4)]
    assert simplified(make(nodes, ["y"], constants)) == {"Conv": 1}


@pytest.mark.parametrize(
    ("names", "more", "attributes"),
    [
        (["x", "p", "one"], {"one": np.float32(1)}, {}),
        (["x", "p"], {}, {"mode": "reflect"}),
        (["x", "channels"], {"channels": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, {}),
    ],
    ids=["ones", "reflect", "channels"],
)
def test_pad_that_no_conv_does_stays(names, more, attributes):
    weight = normal(5, 5 if "channels" in names else 4, 3, 3)
    constants = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": weight, **more}
    nodes = [node("Pad", *names, "h", **attributes), conv("h", "y", "w")]
    assert simplified(make(nodes, ["y"], constants)) == {"Pad": 1, "Conv": 1}


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (5, 1, 1), (1, 5, 1, 1)])
def test_arithmetic_goes_into_the_conv_before(operator, shape):
    constants = {"w": normal(5, 4, 3, 3), "k": np.asarray(np.abs(normal(*shape)) + 0.5, np.float32)}
    nodes = [conv("x", "h", "w", pads=[1] * 4), node(operator, "h", "k", "y")]
    assert simplified(make(nodes, ["y"], constants)) == {"Conv": 1}


def test_constant_minus_conv():
    constants = {"w": normal(5, 4, 1, 1), "k": normal(5, 1, 1)}
    nodes = [conv("x", "h", "w"), node("Sub", "k", "h", "s"), node("Neg", "s", "y")]
    assert simplified(make(nodes, ["y"], constants)) == {"Conv": 1}


@pytest.mark.parametrize("shape", [(6, 6), (2, 1, 1, 1), (1, 1, 1, 1, 1), (6,)], ids=str)
def test_what_is_not_one_number_per_channel_stays(shape):
    constants = {"w": normal(5, 4, 1, 1), "k": normal(*shape)}
    model = make([conv("x", "h", "w"), node("Add", "h", "k", "y")], ["y"], constants, (2, 4, 6, 6))
    assert simplified(model) == {"Conv": 1, "Add": 1}


@pytest.mark.parametrize(("operator", "pads", "left"), [("Add", 0, 1), ("Add", 1, 2), ("Mul", 0, 1), ("Mul", 1, 1)])
def test_arithmetic_before_a_conv(operator, pads, left):
    # An addition before a layer that pads is wrong at the borders.
    constants = {"w": normal(5, 4, 3, 3), "k": normal(4, 1, 1)}
    nodes = [node(operator, "x", "k", "h"), conv("h", "y", "w", pads=[pads] * 4)]
    assert simplified(make(nodes, ["y"], constants), 1e-5).total() == left


@pytest.mark.parametrize(
    ("first", "bias", "left"),
    [((6, 4, 3, 3), None, 2), ((6, 4, 1, 1), "b", 2), ((6, 4, 1, 1), None, 1)],
    ids=["reads neighbours", "has a bias", "neither"],
)
def test_padding_inside_is_exact_or_refused(first, bias, left):
    constants = {"v": normal(*first), "w": normal(5, 6, 3, 3), "b": normal(6)}
    model = make([conv("x", "h", "v", bias), conv("h", "y", "w", pads=[1] * 4)], ["y"], constants)
    assert simplified(model, 1e-5) == {"Conv": left}


def test_bottlenecks_and_expensive_merges_stay():
    squeeze = {"v": normal(2, 4, 1, 1), "w": normal(4, 2, 1, 1)}
    assert simplified(make([conv("x", "h", "v"), conv("h", "y", "w")], ["y"], squeeze)) == {"Conv": 2}
    separable = {"v": normal(4, 1, 3, 3), "w": normal(8, 4, 1, 1)}  # 36 + 32 MACs a pixel; 288 as one
    model = make([conv("x", "h", "v", group=4), conv("h", "y", "w")], ["y"], separable)
    assert simplified(model) == {"Conv": 2}


def test_value_that_others_read_is_not_merged_away():
    constants = {"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1)}
    nodes = [conv("x", "h", "v"), conv("h", "c", "w"), node("Add", "h", "c", "y")]
    assert simplified(make(nodes, ["y"], constants)) == {"Conv": 2, "Add": 1}


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 0]}])
def test_batchnorm_goes_into_a_transposed_conv(attributes):
    constants = {"w": normal(4, 3, 3, 3), **norm(6)}
    transposed = node("ConvTranspose", "x", "w", "h", group=2, **attributes)
    assert simplified(make([transposed, norm_node("h", "y")], ["y"], constants), 1e-5) == {"ConvTranspose": 1}


def test_conv_that_pads_by_size_takes_pointwise_neighbours():
    constants = {"w": normal(5, 4, 3, 3), "k": normal(4, 1, 1), **norm(5)}
    nodes = [node("Mul", "x", "k", "m"), conv("m", "h", "w", auto_pad="SAME_UPPER"), norm_node("h", "y")]
    assert simplified(make(nodes, ["y"], constants), 1e-5) == {"Conv": 1}
    pad = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [node("Pad", "x", "p", "m"), conv("m", "y", "w", auto_pad="SAME_UPPER", strides=[2, 2])]
    assert simplified(make(nodes, ["y"], constants | pad)) == {"Pad": 1, "Conv": 1}


def test_merged_layers_are_named_after_their_parts():
    constants = {"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1)}
    result = simplify(make([conv("x", "h", "v"), conv("h", "y", "w")], ["y"], constants))[0]
    assert [n.name for n in result.graph.node] == ["h+y"]
    assert [t.name for t in result.graph.initializer] == ["h+y.weight"]


def test_passes_can_be_skipped():
    constants = {"v": normal(4, 4, 1, 1), "w": normal(4, 4, 1, 1)}
    model = make([conv("x", "h", "v"), node("Identity", "h", "i"), conv("i", "y", "w")], ["y"], constants)
    assert simplify(model, ["fold-linear"])[2] == {"Conv": 2}
    assert simplify(model, PASSES)[2] == {"Conv": 2, "Identity": 1}
    assert simplify(model)[2] == {"Conv": 1}


def test_equal_constants_are_stored_once():
    weight = normal(4, 4, 1, 1)
    nodes = [conv("x", "a", "v"), node("Relu", "a", "r"), conv("r", "b", "w"), node("Relu", "b", "y")]
    result = simplify(make(nodes, ["y"], {"v": weight, "w": weight.copy()}))[0]
    assert [n.input[1] for n in result.graph.node if n.op_type == "Conv"] == ["v", "v"]
    assert [t.name for t in result.graph.initializer] == ["v"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Cast", "x", "h", to=onnx.TensorProto.FLOAT)], {}),
        ([node("Pad", "x", "k", "h")], {"k": np.zeros(8, np.int64)}),
        ([node("Transpose", "x", "h", perm=[0, 1, 2, 3])], {}),
        ([node("Concat", "x", "h", axis=1)], {}),
        ([node("Reshape", "x", "k", "h")], {"k": np.array([2, 4, 6, 6])}),
        ([node("Slice", "x", "a", "b", "h")], {"a": np.array([0]), "b": np.array([99])}),
        ([node("Add", "k", "x", "h")], {"k": np.zeros((4, 1, 1), np.float32)}),
        ([node("Div", "x", "k", "h")], {"k": np.float32(1)}),
        ([node("Flatten", "x", "f"), node("Reshape", "f", "k", "h")], {"k": np.array([2, 4, 6, 6])}),
    ],
    ids=lambda value: value[-1].op_type if isinstance(value, list) else "",
)
def test_what_does_nothing_goes(nodes, constants):
    model = make([*nodes, node("Relu", "h", "y")], ["y"], constants, (2, 4, 6, 6))
    assert simplified(model) == {"Relu": 1}


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Slice", "x", "a", "b", "c", "d", "h")], {"a": [-1], "b": [-99], "c": [3], "d": [-1]}),  # a mirror
        ([node("Add", "x", "k", "h")], {"k": np.zeros((2, 1, 1, 1, 1), np.float32)}),  # a new axis
    ],
    ids=["mirror", "broadcast"],
)
def test_what_only_looks_as_if_it_did_nothing_stays(nodes, constants):
    constants = {name: np.asarray(value) for name, value in constants.items()}
    model = make([*nodes, node("Relu", "h", "y")], ["y"], constants, (2, 4, 6, 6))
    assert simplified(model).total() == 2


def test_reshape_to_a_computed_shape_gets_a_constant():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s", "zero", "n"),
        node("Concat", "n", "rest", "t", axis=0),
        node("Reshape", "x", "t", "h"),
        node("Gemm", "h", "w", "y"),
    ]
    constants = {"zero": np.array([0]), "rest": np.array([144]), "w": normal(144, 3)}
    model = make(nodes, ["y"], constants, ("batch", 4, 6, 6))
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert simplified(model, 1e-5) == {"Reshape": 1, "Gemm": 1}


def test_table_names_every_operator():
    _, before, after = simplify(
        make([conv("x", "h", "v"), norm_node("h", "y")], ["y"], {"v": normal(4, 4, 1, 1), **norm(4)})
    )
    lines = table(before, after).splitlines()
    assert [line.split() for line in lines] == [
        ["BatchNormalization", "1", "=>", "0"],
        ["Conv", "1", "=>", "1"],
        ["total", "2", "=>", "1"],
    ]


def test_float16_and_float64_weights_keep_their_type():
    for kind, tensor in ((np.float16, onnx.TensorProto.FLOAT16), (np.float64, onnx.TensorProto.DOUBLE)):
        constants = {"v": normal(4, 4, 1, 1).astype(kind), "w": normal(4, 4, 1, 1).astype(kind)}
        model = make([conv("x", "h", "v"), conv("h", "y", "w")], [("y", tensor)], constants)
        model.graph.input[0].type.tensor_type.elem_type = tensor
        del model.graph.value_info[:]
        result, _, after = simplify(model)
        assert after == {"Conv": 1}
        assert {numpy_helper.to_array(t).dtype for t in result.graph.initializer} == {np.dtype(kind)}
