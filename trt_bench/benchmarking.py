"""`bench`: measure ONNX networks from Python, as ``layer-folding bench`` does from the command line."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from layer_folding.bench_results import BenchResult

from . import measuring, prediction, runtimes


def bench(
    onnx: str | Path | Sequence[str | Path],
    *,
    data: str | Path | None = None,
    plan: str | Path | None = None,
    runtime: str = "auto",
    provider: str = "cpu",
    threads: int = 1,
    batch: int | Sequence[int] = 1,
    seconds: float = 3.0,
    profile: bool = False,
    cuda_graph: bool = True,
    transfers: bool = True,
    in_flight: Literal[1, 2] = 1,
    spin_wait: bool = False,
    workspace_mib: int | None = None,
    level: int | None = None,
    dla: int | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> BenchResult:
    """Time ONNX networks interleaved on this device, and compare each with the first, the baseline.

        >>> import torch
        >>> import layer_folding as lf
        >>> layers = [torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(8)]
        >>> example = torch.rand(1, 16, 16, 16)
        >>> for name, count in (("original", 8), ("folded", 1)):
        ...     _ = lf.export(torch.nn.Sequential(*layers[:count]).eval(), example, f"{name}.onnx")
        >>> result = lf.bench(["original.onnx", "folded.onnx"], seconds=0.1)
        >>> result.verdict, result.speedup > 1, result.ci95[0] < result.speedup < result.ci95[1]
        ('faster', True, True)

    Args:
        onnx: ONNX files, each with one float32 image input.
        data: an eval.npz to measure accuracy on.
        plan: a plan.json whose predicted speed-up is compared with the measured one.
        runtime: ``auto`` is the first of TensorRT, TensorRT-RTX and ONNX Runtime that works on this machine; or
            ``tensorrt``, ``tensorrt-rtx``, or ``onnxruntime``.
        provider: what ONNX Runtime runs on, ``cpu`` or ``cuda``.
        threads: CPU threads of ONNX Runtime.
        batch: images per inference; several numbers are measured one after another.
        seconds: the least time for which each network is timed, at each batch size.
        profile: time each layer, too, in a second run.
        cuda_graph: TensorRT: run each network as a CUDA graph.
        transfers: TensorRT: copy input and output in each inference.
        in_flight: TensorRT: inferences at a time; 1 shows the latency of one, 2 is the default of trtexec.
        spin_wait: TensorRT: wait for the GPU with a busy CPU core.
        workspace_mib: TensorRT: limit of scratch memory; None: all of the GPU's.
        level: TensorRT: optimisation level of the builder, 0 to 5; None: its default.
        dla: TensorRT: the DLA core to run on; None: the GPU.
        cache: TensorRT: the folder of engines; None: the user's.
        seed: of the random input.
        progress: is told what is being done.

    Raises:
        InputError: a file or option cannot be used here.
        CheckError: a network computes infinities or NaN, or its engine lacks the precision of its file.
    """
    paths = [onnx] if isinstance(onnx, (str, Path)) else list(onnx)
    module, reason = runtimes.choose(runtime, provider)
    options = runtimes.Options(
        batches=(batch,) if isinstance(batch, int) else tuple(dict.fromkeys(batch)),
        threads=threads,
        provider=provider,
        cuda_graph=cuda_graph,
        transfers=transfers,
        in_flight=in_flight,
        spin_wait=spin_wait,
        workspace_mib=workspace_mib,
        level=level,
        dla=dla,
        cache=None if cache is None else Path(cache),
        progress=progress,
    )
    planned = None if plan is None else prediction.load(str(plan))
    what = measuring.Bench(seconds, None if data is None else str(data), profile=profile, seed=seed)
    result = measuring.measure(paths, module, reason, options, what, progress).result
    if planned is None:
        return result
    return replace(result, prediction=prediction.compare(planned, result, module, options, progress))
