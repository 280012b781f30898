"""What only moves elements: transpositions, slices and concatenations in a row, and shapes computed for them."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.export.test_simplifying import make, simplified


def ints(**arrays):
    return {name: np.array(values, np.int64) for name, values in arrays.items()}


def transpose(source, result, *order):
    return helper.make_node("Transpose", [source], [result], perm=order)


def cut(source, result, starts, ends, axes, steps):
    return helper.make_node("Slice", [source, starts, ends, axes, steps], [result])


def test_two_transpositions():
    nodes = [transpose("x", "t", 0, 2, 3, 1), transpose("t", "y", 0, 2, 3, 1)]
    assert simplified(make(nodes, ["y"])) == {"Transpose": 1}
    assert simplified(make(nodes, ["t", "y"])) == {"Transpose": 2}
    back = [transpose("x", "t", 0, 2, 3, 1), transpose("t", "u", 0, 3, 1, 2), helper.make_node("Relu", ["u"], ["y"])]
    assert simplified(make(back, ["y"])) == {"Relu": 1}


@pytest.mark.parametrize(
    ("shape", "order", "left"),
    [
        (("batch", 4, 1, 1), (0, 2, 3, 1), {"Reshape": 1}),
        (("batch", 1, 6, 1), (0, 3, 2, 1), {"Reshape": 1}),
        (("batch", 4, 6, 1), (0, 2, 3, 1), {"Transpose": 1}),
        (("batch", 1, "size", 5), (0, 2, 1, 3), {"Transpose": 1}),  # of two open axes, a Reshape could have one
    ],
)
def test_axes_of_size_1(shape, order, left):
    model = make([transpose("x", "y", *order)], ["y"], input_shape=shape)
    assert simplified(model) == left


@pytest.mark.parametrize(
    ("order", "parted", "left"),
    [
        ((0, 2, 1), (-1, 4, 5, 6), {"Transpose": 1}),  # heads joined, keys transposed, heads parted
        ((0, 2, 1), (-1, 2, 10, 6), {"Reshape": 2, "Transpose": 1}),
        ((1, 0, 2), (6, -1, 4, 5), {"Reshape": 2, "Transpose": 1}),
    ],
)
def test_between_reshapes(order, parted, left):
    nodes = [
        helper.make_node("Reshape", ["x", "joined"], ["j"]),
        transpose("j", "t", *order),
        helper.make_node("Reshape", ["t", "parted"], ["y"]),
    ]
    constants = ints(joined=[-1, 6, 5], parted=parted)
    assert simplified(make(nodes, ["y"], constants, ("batch", 4, 6, 5))) == left


def test_slices_of_different_axes():
    constants = ints(one=[1], two=[2], end=[2**62], height=[2], width=[-1])
    first = cut("x", "a", "one", "end", "height", "two")
    second = cut("a", "b", "two", "end", "width", "one")
    third = cut("a", "c", "one", "end", "width", "two")
    assert simplified(make([first, second], ["b"], constants)) == {"Slice": 1}
    assert simplified(make([first, second, third], ["b", "c"], constants)) == {"Slice": 2}
    assert simplified(make([first, second], ["a", "b"], constants)) == {"Slice": 2}
    same = cut("a", "b", "one", "end", "height", "two")
    assert simplified(make([first, same], ["b"], constants)) == {"Slice": 2}
    relu = helper.make_node("Relu", ["a"], ["r"])
    assert simplified(make([first, second, relu], ["b", "r"], constants)) == {"Slice": 2, "Relu": 1}


def test_concatenations_along_one_axis():
    relu = helper.make_node("Relu", ["x"], ["r"])
    inner = helper.make_node("Concat", ["x", "r"], ["i"], axis=1)
    assert simplified(make([relu, inner, helper.make_node("Concat", ["r", "i", "x"], ["y"], axis=1)], ["y"])) == {
        "Relu": 1,
        "Concat": 1,
    }
    twice = [relu, inner, helper.make_node("Concat", ["i", "i"], ["y"], axis=1)]
    assert simplified(make(twice, ["y"])) == {"Relu": 1, "Concat": 2}
    across = [relu, inner, helper.make_node("Concat", ["i", "i"], ["y"], axis=2)]
    assert simplified(make(across, ["y"])) == {"Relu": 1, "Concat": 2}


def test_shapes_but_for_open_axes_are_constants():
    """As torch writes the transposition of keys in attention."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "start", "minus_two"], ["leading"]),
        helper.make_node("Slice", ["s", "minus_two", "minus_one"], ["rows"]),
        helper.make_node("Slice", ["s", "minus_one", "end"], ["columns"]),
        helper.make_node("Concat", ["minus_one", "rows", "columns"], ["joined"], axis=0),
        helper.make_node("Concat", ["leading", "columns", "rows"], ["parted"], axis=0),
        helper.make_node("Reshape", ["x", "joined"], ["j"]),
        transpose("j", "t", 0, 2, 1),
        helper.make_node("Reshape", ["t", "parted"], ["y"]),
    ]
    constants = ints(start=[0], minus_one=[-1], minus_two=[-2], end=[2**62])
    assert simplified(make(nodes, ["y"], constants, ("batch", 4, 6, 5))) == {"Transpose": 1}


@pytest.mark.parametrize(("axis", "left"), [(1, {}), (0, {"Shape": 1, "Gather": 1})])
def test_one_axis_of_a_shape(axis, left):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "axis"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    constants = {"axis": np.array(axis, np.int64)}
    expected = {"Mul": 1} if not left else left | {"Cast": 1, "Mul": 1}
    assert simplified(make(nodes, ["y"], constants)) == expected


@pytest.mark.parametrize("inferred", [True, False])
def test_sizes_keep_their_axes(inferred):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "one", "three"], ["sizes"]),
        helper.make_node("Unsqueeze", ["sizes", "zero"], ["row"]),
        helper.make_node("Concat", ["row", "row"], ["both"], axis=0),
        helper.make_node("Cast", ["both"], ["y"], to=TensorProto.FLOAT),
    ]
    model = make(nodes, ["y"], ints(zero=[0], one=[1], three=[3]))
    if not inferred:
        del model.graph.value_info[:]
    simplified(model)  # holds the shape of the result to that of the original, [2, 2]
