"""Latency of ONNX networks on the device: build, run, time side by side, report.

Runs with Python 3.10, numpy and onnxruntime, or with the TensorRT of a Jetson; never imports PyTorch.
Command line: ``python -m trt_bench --help``.
"""
