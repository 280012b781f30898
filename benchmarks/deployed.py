"""Networks that people deploy beside the classifiers of torchvision and timm; weights are random, nothing is loaded."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn


def yolo(name: str) -> nn.Module:
    """`yolov8n`, `yolo11n-seg` and the like of ultralytics, which give boxes and scores alone, as their files do."""
    os.environ.setdefault("YOLO_OFFLINE", "True")  # it would look for a new version of itself
    from ultralytics.nn import tasks

    kinds = {"cls": tasks.ClassificationModel, "seg": tasks.SegmentationModel, "pose": tasks.PoseModel}
    model = kinds.get(name.partition("-")[2], tasks.DetectionModel)(f"{name}.yaml", verbose=False)
    model.model[-1].export = True
    # all boxes: of the best, in order, two would change places where rounding makes one score larger than another
    model.model[-1].end2end = False
    return model


def transformer(name: str, **settings: Any) -> nn.Module:
    """The network of transformers whose configuration is called ``name``, for classes, or for the class of a pixel."""
    import transformers

    kind = "ForSemanticSegmentation" if name == "Segformer" else "ForImageClassification"
    return getattr(transformers, name + kind)(getattr(transformers, f"{name}Config")(**settings))


def segmenter(name: str) -> nn.Module:
    """`Unet`, `FPN` and the like of segmentation_models_pytorch, on a ResNet-18."""
    import segmentation_models_pytorch as smp

    return getattr(smp, name)("resnet18", encoder_weights=None)


def backbone(name: str) -> nn.Module:
    """The backbone of a detector of torchvision, ``name`` with `.backbone` behind it."""
    from torchvision.models import get_model

    return get_model(name.removesuffix(".backbone"), weights=None, weights_backbone=None).get_submodule("backbone")


def frozen_backbone(name: str) -> nn.Module:
    """As `backbone`, of a detector that is trained: its BatchNorms are frozen, and theirs are buffers."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    model = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    for norm in (module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)):
        for values, low, high in (
            (norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2),
        ):  # fmt: skip
            torch.nn.init.uniform_(values, low, high)
    return model


def features(name: str) -> nn.Module:
    """A network of timm that gives the feature maps of its stages, ``name`` with `.features` behind it."""
    import timm

    return timm.create_model(name.removesuffix(".features"), features_only=True)


def facenet(name: str) -> nn.Module:
    """`InceptionResnetV1` of facenet-pytorch, which gives embeddings of faces."""
    import facenet_pytorch

    return getattr(facenet_pytorch, name)(pretrained=None)
