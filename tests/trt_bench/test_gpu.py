"""On a machine with a GPU: the CUDA module against the hardware, and TensorRT's own refusal of a broken plan."""

import numpy as np
import pytest

from layer_folding.errors import InputError
from layer_folding.trt_bench import binding, cuda

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    try:
        return cuda.available()
    except InputError as error:
        pytest.skip(str(error))


def test_the_device_tells_what_engines_depend_on(gpu):
    assert gpu.name and "." in gpu.compute_capability and "." in gpu.cuda_driver and ":" in gpu.pci


def test_what_is_copied_there_comes_back(gpu):
    stream, source, target = gpu.stream(), gpu.pinned((3, 4), np.float32), gpu.pinned((3, 4), np.float32)
    source[...] = np.arange(12).reshape(3, 4)
    address = gpu.malloc(source.nbytes)
    gpu.to_device(address, source, stream)
    gpu.to_host(target, address, stream)
    gpu.synchronize(stream)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("spin", [False, True])
def test_events_measure_the_time_between_them(gpu, spin):
    stream, large = gpu.stream(), gpu.pinned((16 << 20,), np.uint8)
    address = gpu.malloc(large.nbytes)
    start, stop = gpu.event(spin=spin), gpu.event(spin=spin)
    gpu.record(start, stream)
    gpu.to_device(address, large, stream)
    gpu.record(stop, stream)
    gpu.wait(stop)
    assert 0.01 < gpu.elapsed_ms(start, stop) < 1000  # 16 MiB


def test_a_graph_does_what_was_captured(gpu):
    stream, source, target = gpu.stream(), gpu.pinned((4,), np.float32), gpu.pinned((4,), np.float32)
    address = gpu.malloc(source.nbytes)

    def copy():
        gpu.to_device(address, source, stream)
        gpu.to_host(target, address, stream)

    try:
        graph = gpu.capture(copy, stream)
    except InputError as error:
        if "pycuda" not in str(error):
            raise
        pytest.skip(str(error))
    source[...] = 7
    graph.launch()
    gpu.synchronize(stream)
    assert (target == 7).all()
    graph.release()


def test_tensorrt_refuses_a_broken_plan_with_a_reason(gpu):
    """With tensorrt, or with the lean runtime (tensorrt-lean-cu12 or -cu13) under its name."""
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    bound = binding.find("tensorrt")
    runtime = bound.create(trt.Runtime)
    assert runtime.deserialize_cuda_engine(b"no plan" * 100) is None
    assert bound.log.last != "no reason given"
