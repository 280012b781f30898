from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from layer_folding.export import simplify

FLOAT = TensorProto.FLOAT


def make(nodes, outputs, constants=None, input_shape=("batch", 4, 6, 6)):
    """A model of opset 20 with the float input ``x``; outputs are float unless given as (name, type)."""
    outputs = [output if isinstance(output, tuple) else (output, FLOAT) for output in outputs]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def normal(*shape):
    return np.random.standard_normal(shape).astype(np.float32)  # tests/conftest.py seeds it before each test


def norm(channels, name="n"):
    values = [*(normal(channels) for _ in range(3)), np.random.uniform(0.5, 2, channels).astype(np.float32)]
    return {f"{name}{index}": value for index, value in enumerate(values)}


def norm_node(source, result, name="n", **attributes):
    inputs = [source, *(f"{name}{index}" for index in range(4))]
    return helper.make_node("BatchNormalization", inputs, [result], **attributes)


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def simplified(model, tolerance=1e-6):
    """``simplify(model)``, after holding it to its promises; returns the operators that are left."""
    content = model.SerializeToString(deterministic=True)
    result, before, after = simplify(model)
    assert model.SerializeToString(deterministic=True) == content
    assert before == Counter(node.op_type for node in model.graph.node)
    assert after == Counter(node.op_type for node in result.graph.node)
    onnx.checker.check_model(result, full_check=True)
    assert (result.ir_version, result.opset_import) == (model.ir_version, model.opset_import)
    for part in ("input", "output"):
        assert [v.name for v in getattr(result.graph, part)] == [v.name for v in getattr(model.graph, part)]
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    for expected, output in zip(run(model, x := normal(*shape)), run(result, x), strict=True):
        assert output.dtype == expected.dtype
        np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    again, _, _ = simplify(result)
    assert again.SerializeToString(deterministic=True) == result.SerializeToString(deterministic=True)
    return after


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_folds_into_conv(groups, bias):
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    conv = helper.make_node("Conv", inputs, ["c"], group=groups, pads=[1, 1, 1, 1])
    constants = {"w": normal(8, 4 // groups, 3, 3), **norm(8)} | ({"b": normal(8)} if bias else {})
    assert simplified(make([conv, norm_node("c", "y", epsilon=1e-2)], ["y"], constants)) == {"Conv": 1}


@pytest.mark.parametrize("bias_shape", [(8,), (1, 8), (1,), (), None])
@pytest.mark.parametrize("transposed", [0, 1])
def test_batchnorm_folds_into_gemm(bias_shape, transposed):
    inputs = ["x", "w"] if bias_shape is None else ["x", "w", "b"]
    gemm = helper.make_node("Gemm", inputs, ["c"], transB=transposed, alpha=0.5, beta=3.0)
    constants = {"w": normal(8, 4) if transposed else normal(4, 8), **norm(8)}
    if bias_shape is not None:
        constants["b"] = np.asarray(normal(*bias_shape), np.float32)
    assert simplified(make([gemm, norm_node("c", "y")], ["y"], constants, ("batch", 4))) == {"Gemm": 1}


@pytest.mark.parametrize("bias_shape", [(8, 1), (8, 8)])
def test_gemm_that_adds_per_row_keeps_its_batchnorm(bias_shape):
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["c"])
    constants = {"w": normal(4, 8), "b": normal(*bias_shape), **norm(8)}
    model = make([gemm, norm_node("c", "y")], ["y"], constants, (8, 4))
    assert simplified(model) == {"Gemm": 1, "BatchNormalization": 1}


CONV = helper.make_node("Conv", ["x", "w"], ["c"])


@pytest.mark.parametrize(
    ("more", "outputs"),
    [([helper.make_node("Relu", ["c"], ["z"])], ["y", "z"]), ([], ["y", "c"])],
    ids=["second consumer", "graph output"],
)
def test_batchnorm_stays_where_the_conv_is_seen_by_others(more, outputs):
    model = make([CONV, norm_node("c", "y"), *more], outputs, {"w": normal(8, 4, 1, 1), **norm(8)})
    assert simplified(model)["BatchNormalization"] == 1


def test_batchnorm_stays_where_a_branch_body_sees_the_conv():
    def body(name, operator):
        return helper.make_graph(
            [helper.make_node(operator, ["c"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )

    condition = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["p"]),
    ]
    branch = helper.make_node("If", ["p"], ["z"], then_branch=body("t", "Relu"), else_branch=body("e", "Neg"))
    constants = {"w": normal(8, 4, 1, 1), "zero": np.float32(0), **norm(8)}
    model = make([CONV, norm_node("c", "y"), *condition, branch], ["y", "z"], constants)
    assert simplified(model)["BatchNormalization"] == 1


def test_shared_weight_is_not_changed_for_others():
    other = helper.make_node("Conv", ["x", "w"], ["d"])
    add = helper.make_node("Add", ["y", "d"], ["s"])
    model = make([CONV, norm_node("c", "y"), other, add], ["s"], {"w": normal(8, 4, 1, 1), **norm(8)})
    assert simplified(model) == {"Conv": 2, "Add": 1}


def test_two_batchnorms_in_a_row_fold_one_after_the_other():
    constants = {"w": normal(8, 4, 1, 1), **norm(8), **norm(8, "m")}
    model = make([CONV, norm_node("c", "d"), norm_node("d", "y", "m")], ["y"], constants)
    assert simplified(model, 1e-5) == {"Conv": 1}


def test_training_batchnorm_stays():
    nodes = [CONV, norm_node("c", "y", training_mode=1)]
    nodes[1].output.extend(["running_mean", "running_var"])
    _, _, after = simplify(make(nodes, ["y"], {"w": normal(8, 4, 1, 1), **norm(8)}))
    assert after == {"Conv": 1, "BatchNormalization": 1}


def identity(source, result):
    return helper.make_node("Identity", [source], [result])


@pytest.mark.parametrize(
    ("nodes", "outputs", "left"),
    [
        ([identity("x", "i"), helper.make_node("Relu", ["i"], ["y"])], ["y"], {"Relu": 1}),
        ([helper.make_node("Relu", ["x"], ["r"]), identity("r", "y")], ["y"], {"Relu": 1}),
        (
            [helper.make_node("Relu", ["x"], ["r"]), identity("r", "y"), helper.make_node("Neg", ["r"], ["z"])],
            ["y", "z"],
            {"Relu": 1, "Neg": 1},
        ),
        ([identity("x", "i"), identity("i", "y")], ["y"], {"Identity": 1}),  # an input cannot take an output's name
        ([helper.make_node("Relu", ["x"], ["y"]), identity("y", "z")], ["y", "z"], {"Relu": 1, "Identity": 1}),
        (
            [helper.make_node("Relu", ["x"], ["r"]), identity("r", "y"), identity("r", "z")],
            ["y", "z"],
            {"Relu": 1, "Identity": 1},
        ),
    ],
    ids=["inside", "output", "output of a shared value", "input to output", "output to output", "two outputs"],
)
def test_identity(nodes, outputs, left):
    assert simplified(make(nodes, outputs)) == left


def test_dropout():
    drop = helper.make_node("Dropout", ["x", "ratio", "off"], ["d"])
    relu = helper.make_node("Relu", ["d"], ["y"])
    constants = {"ratio": np.float32(0.5), "off": np.bool_(False)}
    assert simplified(make([drop, relu], ["y"], constants)) == {"Relu": 1}
    masked = helper.make_node("Dropout", ["x"], ["d", "mask"])
    assert simplified(make([masked, relu], ["y", ("mask", TensorProto.BOOL)]))["Dropout"] == 1
    training = make([drop, relu], ["y"], constants | {"off": np.bool_(True)})
    assert simplify(training)[2]["Dropout"] == 1


def test_constants_and_dead_branches():
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["half", "two"], ["one"]),
        helper.make_node("Sub", ["one", "two"], ["k"]),
        helper.make_node("Exp", ["x"], ["dead"]),
        helper.make_node("Sqrt", ["dead"], ["deader"]),
        helper.make_node("Mul", ["x", "k"], ["m"]),
        helper.make_node("Add", ["m", "half"], ["y"]),
    ]
    assert simplified(make(nodes, ["y"])) == {"Mul": 1, "Add": 1}


def test_fractions_in_shape_arithmetic_survive():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "half"], ["h"]),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.INT64),
    ]
    assert simplified(make(nodes, [("y", TensorProto.INT64)], {"half": np.float32(0.5)})).total() == 4


def test_random_values_are_not_constants():
    nodes = [
        helper.make_node("RandomNormal", [], ["r"], shape=[6]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    assert simplify(make(nodes, ["y"]))[2] == {"RandomNormal": 1, "Add": 1}


def test_metadata_stays():
    model = make([helper.make_node("Relu", ["x"], ["y"])], ["y"])
    helper.set_model_props(model, {"key": "value"})
    result, _, _ = simplify(model)
    assert [(entry.key, entry.value) for entry in result.metadata_props] == [("key", "value")]


@pytest.mark.slow
def test_exported_network(exported):
    operators = Counter(node.op_type for node in exported.simple.graph.node)
    assert operators == {"Conv": 7, "Clip": 5, "Add": 2, "ReduceMean": 1, "Gemm": 1}
