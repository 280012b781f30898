"""Layer folding in an image classifier of transformers, unmodified; a minute on a CPU.

pip install transformers && python examples/transformers_image.py
"""

import tempfile
from pathlib import Path

import torch
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

import layer_folding as lf


def network() -> MobileNetV2ForImageClassification:
    """For weights that are trained: `from_pretrained("google/mobilenet_v2_0.35_96")`, where there is a network."""
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, image_size=96)).eval()


def main() -> lf.FoldResult:
    """Fold, save, load and export; weights are random, and so is which activations go."""
    torch.manual_seed(0)
    model, example = network(), torch.rand(1, 3, 96, 96)  # 1: outputs are a data class, with the scores in .logits
    gated = lf.linearize(model, example)
    loss = gated(example).logits.square().mean() + 0.25 * lf.depth_penalty(gated)  # 2: your loss
    loss.backward()
    for gate in list(lf.gates(gated).values())[::2]:  # what training would do
        gate.alpha.data.fill_(1.0)
    hard, _ = lf.hoist_padding(lf.harden(gated), example)  # 3: fine-tune this
    result = lf.fold(hard.eval(), example)  # 4
    layers = lf.depth(model, example), lf.depth(result.model, example)
    print(f"folded     {layers[0]} => {layers[1]} layers, off by {result.max_error:.0e} (relative, float64)")

    with tempfile.TemporaryDirectory() as folder:
        saved, name = Path(folder) / "net.safetensors", f"{network.__module__}:network"
        lf.save(saved, result.model, network=name, example=example)
        loaded = lf.load(saved, trust=name)
        assert torch.equal(loaded(example).logits, result.model(example).logits)
        written = lf.export(loaded, example, Path(folder) / "net.onnx", precision="fp16")
        print(f"exported   {written.nodes[1]} nodes, off by {written.error:.0e} in {written.precision}")
    assert layers[1] < layers[0] and result.max_error <= 1e-9
    return result


if __name__ == "__main__":
    main()
