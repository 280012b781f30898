"""ResNet-20 on CIFAR-10 as JPEG: what is left of its accuracy when blocks become one 3x3 layer, without training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import layer_folding as lf
from layer_folding.fold.models import build

SHARED = Path(__file__).parents[4] / "shared"
WEIGHTS = SHARED / "models" / "resnet20-cifar10-jpeg.pt"
IMAGES = SHARED / "data" / "cifar10-jpeg.tar.gz"
BLOCKS = [f"layer{stage}.{block}.relu" for stage in (1, 2, 3) for block in (0, 1, 2)]
FOUR = ["layer1.0.relu", "layer1.1.relu", "layer2.1.relu", "layer2.2.relu"]


@pytest.fixture(scope="module")
def resnet20() -> nn.Module:
    if not WEIGHTS.exists():
        pytest.skip("the weights of ResNet-20 are not there (../shared)")
    model = build("resnet20", num_classes=10, in_channels=3)
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Tensor]:
    """1,024 training images, every tenth test image, and the classes of these."""
    import io
    import tarfile

    import numpy as np
    from PIL import Image

    if not IMAGES.exists():
        pytest.skip("the images are not there (../shared)")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = {"train": [], "test": []}
    with tarfile.open(IMAGES) as archive:
        for i, member in enumerate(archive):
            split, *_ = member.name.split("/")
            if member.isfile() and i % (48 if split == "train" else 10) == 0:
                pixels = np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
                scaled = (torch.from_numpy(pixels.copy()).float() / 255 - mean) / std
                found[split].append((scaled.permute(2, 0, 1), member.name.split("/")[-2]))
    classes = sorted({label for _, label in found["test"]})
    labels = torch.tensor([classes.index(label) for _, label in found["test"]])
    return *(torch.stack([image for image, _ in found[split]]) for split in ("train", "test")), labels


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    found = torch.cat([model.eval()(x).argmax(1) for x in images.split(500)])
    return (found == labels).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "least"), [(BLOCKS, 0.63), (FOUR, 0.825)], ids=["nine", "four"])
def test_blocks_as_one_3x3_layer(resnet20, images, chosen, least):
    """Bounds are 2 points below what all test images give, for a sample of them."""
    calibration, test, labels = images
    result = lf.fit(resnet20, calibration, dict.fromkeys(chosen, 3))
    assert accuracy(result.model, test, labels) > least
    folded = lf.fold(result.model.eval(), test[:1])
    assert len(folded.folded) == len(chosen)
    assert lf.depth(folded.model, test[:1]) == lf.depth(resnet20, test[:1]) - len(chosen)
    assert lf.cost(folded.model, test[:1]).macs < (1 - len(chosen) / 20) * lf.cost(resnet20, test[:1]).macs
