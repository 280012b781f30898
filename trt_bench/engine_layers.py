"""The layers of an engine: as TensorRT's engine inspector tells them, or the build log of TensorRT-RTX."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layer_folding.onnx_names import module_of

# A line of the build log: "Name: N, LayerType: T, Inputs: [...], Constants: [...], Outputs: [...], TacticName: ..."
LOGGED = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: (?P<inputs>.*?), Constants: .*?, "
    r"Outputs: (?P<outputs>.*?), TacticName: .*?, StreamId: .*?, Metadata: (?P<metadata>.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    ``kind`` is in TensorRT's words, which differ between versions, and empty where the inspector only names the layer.
    ``inputs`` and ``outputs`` are the types of what it reads and writes, weights aside. ``nodes`` are the ONNX nodes
    that it computes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def modules(self) -> list[str]:
        """The PyTorch modules that it computes."""
        return sorted({module_of(node) for node in self.nodes} - {""})


def of_inspector(information: str) -> list[Layer]:
    """The layers in the JSON of an engine inspector."""
    entries = json.loads(information).get("Layers", [])
    return [_inspected(entry if isinstance(entry, dict) else {"Name": entry}) for entry in entries]


def of_build_log(text: str) -> list[Layer]:
    """The layers in the list that ends the build log of TensorRT-RTX."""
    return [
        Layer(
            found["name"], found["kind"], _types(found["inputs"]), _types(found["outputs"]), _nodes(found["metadata"])
        )
        for found in LOGGED.finditer(text)
    ]


def module_map(layers: Sequence[Layer]) -> Callable[[str], list[str]]:
    """A function from the name of a layer, as the profiler reports it, to the modules that the layer computes."""
    known = {_plain(layer.name): layer.modules for layer in layers}
    return lambda name: known.get(_plain(name), _inspected({"Name": name}).modules)


def _inspected(entry: dict[str, Any]) -> Layer:
    """A layer from its JSON. TensorRT fuses nodes; before 8.6, a fused layer names all of them in its own name."""
    name = str(entry["Name"])
    return Layer(
        name,
        f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}".strip(),
        tuple(str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")) for tensor in entry.get("Inputs", [])),
        tuple(str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")) for tensor in entry.get("Outputs", [])),
        _nodes(str(entry.get("Metadata", ""))) or tuple(name.split(" + ")),
    )


def _types(tensors: str) -> tuple[str, ...]:
    return tuple(re.findall(r"Datatype: (\w+)", tensors))


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata))


def _plain(name: str) -> str:
    """A layer's name without the number of the optimisation profile that it belongs to."""
    return re.sub(r" \[profile \d+\]$", "", name)
