"""Layer folding in a part of a network: a detector that torch.fx cannot trace; ten seconds on a CPU.

python examples/backbone.py
"""

import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import layer_folding as lf
from layer_folding.errors import InputError


def main() -> lf.FoldResult:
    """Fold the backbone of a detector and put it back; weights are random, and so is which activations go."""
    torch.manual_seed(0)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    example = torch.rand(1, 3, 320, 320)
    try:
        lf.scan(detector, example)
    except InputError as error:  # its number of boxes depends on the image
        print(f"whole      {error}")

    gated = lf.linearize(detector.backbone, example)  # 1: any module with one tensor as input, and any output
    # 2: detector.backbone = gated, and train the detector with your loop + penalty; here every second gate is opened
    for gate in list(lf.gates(gated).values())[::2]:
        gate.alpha.data.fill_(1.0)
    hard, _ = lf.hoist_padding(lf.harden(gated), example)  # 3: fine-tune the detector with detector.backbone = hard
    result = lf.fold(hard.eval(), example)  # 4

    layers = lf.depth(detector.backbone, example), lf.depth(result.model, example)
    print(f"backbone   {layers[0]} => {layers[1]} layers, {len(result.folded)} merged, off by {result.max_error:.0e}")
    detector.backbone = hard
    before = detector(list(example))[0]
    detector.backbone = result.model
    after = detector(list(example))[0]
    print(f"detector   {len(before['boxes'])} boxes before folding, {len(after['boxes'])} after")
    assert layers[1] < layers[0]
    assert after["boxes"].shape == before["boxes"].shape
    torch.testing.assert_close(after["scores"], before["scores"], rtol=1e-3, atol=1e-4)
    return result


if __name__ == "__main__":
    main()
