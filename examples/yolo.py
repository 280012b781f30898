"""Layer folding in a YOLO of ultralytics, run by its own predictor; a minute on a CPU.

pip install ultralytics && python examples/yolo.py            # or yolo.py yolo11n.pt, for trained weights
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from ultralytics import YOLO

import layer_folding as lf

SIZE = 160  # pixels; 640 for trained weights


def main(source: str = "yolov8n.yaml") -> lf.FoldResult:
    """Fit two blocks of backbone and neck, fold, export, and predict; of a .yaml the weights are random."""
    torch.manual_seed(0)
    detector = YOLO(source)
    model = detector.model.eval().float()
    model.model[-1].export = True  # 1: the head returns boxes and scores alone, as it does in a file
    images = torch.rand(32, 3, SIZE, SIZE)  # yours: some hundred, as the network takes them, without labels
    example = images[:1]

    activations = [f"model.{block}.m.0.cv1.act" for block in (2, 15)]
    fitted = lf.fit(model, images, dict.fromkeys(activations, 3))  # 2: one 3x3 layer for each bottleneck
    result = lf.fold(fitted.model.eval(), example)
    layers = lf.depth(model, example), lf.depth(result.model, example)
    print(f"folded     {layers[0]} => {layers[1]} layers, outputs off by {fitted.divergence:.2g} of their variance")

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "yolo.onnx"
        lf.export(result.model, example, file, opset=17, batch=1)
        proto = onnx.load(file)  # 3: what the predictor wants to know
        known = {"task": "detect", "stride": 32, "names": detector.names, "imgsz": [SIZE, SIZE], "batch": 1}
        onnx.helper.set_model_props(proto, {key: str(value) for key, value in known.items()})
        onnx.save(proto, file)
        picture = np.full((SIZE, SIZE, 3), 127, np.uint8)
        (found,) = YOLO(file, task="detect").predict(picture, imgsz=SIZE, conf=0.001, verbose=False, device="cpu")
        print(f"predicted  {len(found.boxes)} boxes with the folded file, of {len(found.names)} classes")
    assert layers[1] < layers[0] and result.max_error <= 1e-9 and len(found.names) == 80
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
