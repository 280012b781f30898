"""MNIST and CIFAR as they are published, but with a few random images, and torchvision told of their checksums."""

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

COUNTS = {"train": 20, "test": 10}


def publish(cache: Path, patch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Put the archives of "mnist", "cifar10" and "cifar100" where downloads go; their folders. Nothing else can be had:
    the network is cut off, and the cache is below ``cache``."""
    patch.setenv("XDG_CACHE_HOME", str(cache))
    root = cache / "layer-folding" / "datasets"
    _cut_off(patch)
    _mnist(root / "MNIST" / "raw", patch)
    names = [f"data_batch_{i}" for i in range(1, 6)]
    _cifar(root, datasets.CIFAR10, 10, "labels", names, "test_batch", patch)
    _cifar(root, datasets.CIFAR100, 100, "fine_labels", ["train"], "test", patch)
    return {"mnist": root / "MNIST" / "raw", "cifar10": root, "cifar100": root}


def _cut_off(patch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments, **options):
        raise urllib.error.URLError("no network")

    patch.setattr(urllib.request, "urlopen", no_network)


def pixels(name: str, split: str) -> np.ndarray:
    """The images of ``name`` as they are stored, uint8 [N, 28, 28] or [N, 3, 32, 32]."""
    shape = (28, 28) if name == "mnist" else (3, 32, 32)
    return np.random.default_rng(len(name) + len(split)).integers(0, 256, (COUNTS[split], *shape), np.uint8)


def _mnist(folder: Path, patch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    resources = []
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images, labels = pixels("mnist", split), np.arange(COUNTS[split], dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            resources.append((path.name, _md5(path.read_bytes())))
    patch.setattr(datasets.MNIST, "resources", resources)


def _cifar(root: Path, kind: type, classes: int, key: str, train: list[str], test: str, patch) -> None:
    name = kind.__name__.lower()
    meta = {kind.meta["key"]: [f"class {i}" for i in range(classes)]}
    contents = {kind.meta["filename"]: pickle.dumps(meta)}
    batches = dict(zip(train, np.split(pixels(name, "train"), len(train)), strict=True))
    labels = np.split(np.arange(COUNTS["train"]) * 7 % classes, len(train))
    batches |= {test: pixels(name, "test")}
    for (file, images), part in zip(batches.items(), [*labels, np.arange(COUNTS["test"])], strict=True):
        contents[file] = pickle.dumps({"data": images.reshape(len(images), -1), key: part.tolist()})
    with tarfile.open(root / kind.filename, "w:gz") as archive:
        for file, content in contents.items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    patch.setattr(kind, "train_list", [[file, _md5(contents[file])] for file in train])
    patch.setattr(kind, "test_list", [[test, _md5(contents[test])]])
    patch.setattr(kind, "meta", {**kind.meta, "md5": _md5(contents[kind.meta["filename"]])})
    patch.setattr(kind, "tgz_md5", _md5((root / kind.filename).read_bytes()))


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
