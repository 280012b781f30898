"""Whole networks of packages that people deploy, unmodified: from scanning to a file that runs, with random weights."""

import os

import pytest
from torch import Tensor, nn

from layer_folding.fold import checkpoints  # noqa: F401, saving needs it

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def yolo(name: str) -> nn.Module:
    os.environ.setdefault("YOLO_OFFLINE", "True")
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="needs ultralytics")
    kinds = {"cls": tasks.ClassificationModel, "seg": tasks.SegmentationModel, "pose": tasks.PoseModel}
    return kinds.get(name.partition("-")[2], tasks.DetectionModel)(f"{name}.yaml", verbose=False)


def transformer(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = getattr(transformers, f"{name}Config")
    small = {
        "MobileNetV2": {"depth_multiplier": 0.35},
        "ResNet": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]},
    }
    kind = "ForSemanticSegmentation" if name == "Segformer" else "ForImageClassification"
    return getattr(transformers, name + kind)(config(**small.get(name, {})))


def segmenter(name: str) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs segmentation_models_pytorch")
    return getattr(smp, name)("resnet18", encoder_weights=None)


def tensors(output: object) -> list[Tensor]:
    from layer_folding.fold.graph.comparing import tensors_in

    return list(tensors_in(output))
