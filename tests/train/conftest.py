from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from layer_folding.fold.models import build
from tests.fold.conftest import one_thread  # noqa: F401, it is used by all tests here


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Iterator[Path]:
    """Two classes of 24 and 8 images, and nobody's cache."""
    root = tmp_path_factory.mktemp("data") / "images"
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, name in enumerate(("dark", "bright")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 128, (16, 16), generator=generator) + 127 * label
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / split / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
        yield root


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(build("mobilenetv2-digits", 2, 3).state_dict(), path)
    return path
