"""A network from an ONNX file, as one that can be trained, fitted and folded."""

from .onnx_networks import OnnxNetwork, load, read_network, rebuild

__all__ = ["OnnxNetwork", "load", "read_network", "rebuild"]
