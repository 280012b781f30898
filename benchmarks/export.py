"""Export and simplifying: time and number of nodes beside onnxsim and onnxslim, on the same files."""

from collections.abc import Callable

import onnx
import onnxsim
import onnxslim
import torch

from benchmarks.measure import Progress, Row, interleave
from benchmarks.networks import NETWORKS
from layer_folding.export import lower, simplify

ROUNDS = 10
NAMES = ("resnet18", "mobilenet_v2", "densenet121")


def run(progress: Progress) -> list[Row]:
    """Three networks of torchvision, as torch exports them; timed from memory to memory."""
    rows = []
    for name in NAMES:
        network = NETWORKS[name]
        model = network.make().eval()
        image = torch.zeros(1, 3, network.pixels, network.pixels)
        export = {"export.lower, before any of these": lambda m=model, x=image: lower(m, x)}
        rows.append(interleave(name, export, 2, progress))  # seconds each
        rows.append(beside_others(name, lower(model, image), ROUNDS, progress))
    return rows


def beside_others(name: str, model: onnx.ModelProto, rounds: int, progress: Progress) -> Row:
    """Time all three on ``model``; each says in its name how many nodes it leaves."""
    simplifiers: dict[str, Callable[[], onnx.ModelProto]] = {
        "onnxsim": lambda: onnxsim.simplify(model)[0],
        "onnxslim": lambda: onnxslim.slim(model),
        "export.simplify": lambda: simplify(model)[0],
    }
    nodes = {contender: len(call().graph.node) for contender, call in simplifiers.items()}
    contenders = {f"{contender}: {nodes[contender]} nodes": call for contender, call in simplifiers.items()}
    return interleave(f"{name}, {len(model.graph.node)} nodes", contenders, rounds, progress)
