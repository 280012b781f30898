"""Opset 17 for TensorRT 8.6, and sizes that are fixed or open."""

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

from layer_folding.errors import InputError
from layer_folding.export import lower
from layer_folding.export.opsets import step_down
from tests.export.networks import Residual, randomised


class ChangedIn18(nn.Module):
    """Uses the operators that opset 18 changed: Pad, Split, Resize, Mish and reductions."""

    def forward(self, x):
        left, right = F.pad(x, (1, 0, 2, 0)).chunk(2, 1)
        x = F.interpolate(F.mish(torch.cat([right, left], 1)), scale_factor=2, mode="nearest")
        return x.amax(2) + x.norm(dim=2) + x.sum(2) + x.mean(2)


def run(proto, x):
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def test_opset_17_is_opset_17():
    model, x = ChangedIn18().eval(), torch.randn(3, 4, 8, 8)
    proto = lower(model, x, opset=17)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8
    torch.testing.assert_close(run(proto, x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("operator", ["BitwiseNot", "NoSuchOperator"])
def test_what_opset_17_has_not_is_named(operator):
    value = helper.make_tensor_value_info("x", TensorProto.INT32, [1])
    node = helper.make_node(operator, ["x"], ["y"], name="layer/node")
    graph = helper.make_graph([node], "graph", [value], [helper.make_tensor_value_info("y", TensorProto.INT32, [1])])
    with pytest.raises(InputError, match=f"no {operator} as layer/node uses it; use --opset 18"):
        step_down(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_uneven_split_is_refused():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [3 - i]) for i in range(2)]
    node = helper.make_node("Split", ["x"], ["y0", "y1"], name="split", num_outputs=2)
    model = helper.make_model(
        helper.make_graph([node], "graph", [x], outputs), opset_imports=[helper.make_opsetid("", 18)]
    )
    with pytest.raises(InputError, match="no Split as split uses it"):
        step_down(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"batch": 1}, [[1, 3, 12, 12], [1, 10]]),
        ({"dynamic_size": True}, [["batch", 3, "height", "width"], ["batch", 10]]),
        ({"batch": 3, "dynamic_size": True}, [[3, 3, "height", "width"], [3, 10]]),
    ],
)
def test_sizes(options, shapes):
    torch.manual_seed(0)
    model = randomised(Residual())
    proto = lower(model, torch.zeros(1, 3, 12, 12), **options)
    values = (*proto.graph.input, *proto.graph.output)
    assert [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values] == shapes
    x = torch.randn(options.get("batch", 5), 3, *((19, 14) if "dynamic_size" in options else (12, 12)))
    expected = model(x).detach()
    torch.testing.assert_close(run(proto, x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
