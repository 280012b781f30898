"""Layer folding in a YOLO of ultralytics, run by its own predictor; a minute on a CPU.

pip install ultralytics && python examples/yolo.py            # or yolo.py yolo11n.pt, for trained weights
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ultralytics import YOLO

import layer_folding as lf


def main(source: str = "yolov8n.yaml", size: int = 320) -> lf.FoldResult:
    """Fit the inner layers of two blocks, fold, export, and predict; of a .yaml the weights are random."""
    torch.manual_seed(0)
    detector = YOLO(source)
    model = detector.model.eval()
    model.model[-1].export = True  # 1: the head returns boxes and scores alone, as in a file
    images = torch.rand(24, 3, size, size)  # yours: as the network takes them, some hundred, without labels
    example = images[:1]

    activations = [f"model.{block}.m.0.cv1.act" for block in (2, 15)]
    fitted = lf.fit(
        model, images, dict.fromkeys(activations, 3)
    )  # 2: one 3x3 layer in place of two and what is between
    result = lf.fold(fitted.model.eval(), example)
    layers = lf.depth(model, example), lf.depth(result.model, example)
    print(
        f"folded     {layers[0]} => {layers[1]} layers; boxes and scores are off by {fitted.divergence:.2g} (squared)"
    )

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "yolo.onnx"
        written = lf.export(result.model, example, file, opset=17)
        print(f"exported   {written.nodes[1]} nodes, off by {written.error:.0e}")
        # 3: the predictor of ultralytics reads names and sizes from the metadata of a file of its own
        detector.model.model[-1].export = False
    picture = np.zeros((size, size, 3), np.uint8)
    before = detector.predict(picture, imgsz=size, verbose=False)[0]
    model.load_state_dict(model.state_dict())
    print(f"predicted  {len(before.boxes)} boxes")
    assert layers[1] < layers[0]
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
