"""What the names of ONNX nodes say about the network that they come from."""


def module_of(node: str) -> str:
    """The module in an ONNX node's name as the export gives it, "module.path/Operator_1"; "" where there is none."""
    return node.strip().rpartition("/")[0].strip("/")
