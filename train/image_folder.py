"""An image folder: listed, and as tensors, decoded once in threads and then read from a cache until a file changes."""

import hashlib
import json
import os
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL.Image import Resampling
from torch import Tensor
from tqdm import tqdm

from layer_folding.errors import InputError
from layer_folding.files import atomic_path

from .images import extensions, read_rgb
from .published import cache_folder

SPLITS = ("train", "test")
DECODING = "2"  # raised where `train.images` gives other pixels for a file than before
FEWEST = 10  # images without labels
CHUNK = 250  # images a task: enough that a thread rarely waits, few enough for a smooth progress bar


@dataclass(frozen=True)
class Entry:
    """An image file: its path below the root, its label, and what changes when the file does."""

    name: str
    label: int
    bytes: int
    mtime_ns: int


def decode_image_folder(
    root: Path, size: int, classes: tuple[str, ...], listing: dict[str, list[Entry]]
) -> dict[str, Tensor]:
    """What is in ``listing``, at ``size`` x ``size`` (others are resized, aspect ratio not kept): for both splits
    ``{train,test}.images`` uint8 [N, 3, size, size] and ``{train,test}.labels`` int64 [N].

    Raises InputError where an image does not decode.
    """
    cache = cache_path(root, size, classes, listing)
    tensors = _from_cache(cache, size, listing)
    if tensors is None:
        tensors = _decode(root, size, listing)
        _to_cache(cache, tensors)
    return tensors


def list_image_folder(root: Path) -> tuple[tuple[str, ...], dict[str, list[Entry]]]:
    """The class names, sorted, and for "train" and "test" the images ``root/SPLIT/CLASS/*`` in order of their names;
    where there is no folder test, val is taken for it.

    Hidden files are ignored; other files that are no images by their suffix are left out, and counted on stderr. Raises
    InputError naming what is wrong where.
    """
    if not os.path.isdir(root):
        raise InputError(f"data {root}: is not a folder; give one with train/CLASS and test/CLASS")
    there = {entry.name for entry in _scan(root) if entry.is_dir()}
    folders = {"train": "train", "test": "val" if "val" in there and "test" not in there else "test"}
    for split, folder in folders.items():
        if folder not in there:
            or_val = " or val" if split == "test" else ""
            raise InputError(
                f"data {root}: has no folder {split}{or_val}; lay it out as train/CLASS/*.jpg and test/CLASS/*.jpg"
            )
    found = {split: _class_names(root / folder) for split, folder in folders.items()}
    if found["train"] != found["test"]:
        only = sorted(set(found["train"]) ^ set(found["test"]))
        where = ", ".join(f"{name} (only in {'train' if name in found['train'] else 'test'})" for name in only[:4])
        raise InputError(f"data {root}: train and test have different classes: {where}; make the folders match")
    classes = tuple(found["train"])
    listing: dict[str, list[Entry]] = {split: [] for split in folders}
    left_out: Counter[str] = Counter()
    for split, folder in folders.items():
        for label, name in enumerate(classes):
            visible = [entry for entry in _scan(root / folder / name) if not entry.name.startswith(".")]
            images = list(_images(root, f"{folder}/{name}", label, visible))
            if not images:
                raise InputError(
                    f"data {root / folder / name}: class has no images; add some, or remove it from train and test"
                )
            listing[split] += images
            left_out.update(_kind(entry) for entry in visible if not _is_image(entry))
    _say_left_out(root, left_out)
    return classes, listing


def has_classes(root: Path) -> bool:
    """Whether ``root`` is laid out as `list_image_folder` wants it, or was meant to be."""
    return any((root / folder).is_dir() for folder in ("train", "test", "val"))


def list_unlabelled_folder(root: Path) -> dict[str, list[Entry]]:
    """For "train" and "test" the images of `list_images`, four fifths and one, drawn once and for all.

    Raises InputError naming what is wrong where.
    """
    found = list_images(root)
    if len(found) < FEWEST:
        raise InputError(
            f"data {root}: has no folder train, and {len(found)} images without labels; lay it out as "
            f"train/CLASS/*.jpg and test/CLASS/*.jpg, or give at least {FEWEST} images, in any folders"
        )
    shuffled = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    test = set(shuffled[: len(found) // 5])
    return {
        split: [entry for number, entry in enumerate(found) if (number in test) == (split == "test")]
        for split in SPLITS
    }


def list_images(root: Path) -> list[Entry]:
    """The images in ``root`` and the folders in it, in the order of their names; all have the label 0.

    Hidden files and folders are ignored; other files that are no images by their suffix are left out, and counted on
    stderr. Raises InputError naming what is wrong where.
    """
    left_out: Counter[str] = Counter()
    found = list(_below(root, "", left_out))
    _say_left_out(root, left_out)
    return found


def _below(root: Path, folder: str, left_out: Counter[str]) -> Iterator[Entry]:
    visible = [entry for entry in _scan(root / folder) if not entry.name.startswith(".")]
    folders = [entry for entry in visible if entry.is_dir(follow_symlinks=False)]  # a link may lead back up
    files = [entry for entry in visible if not entry.is_dir()]
    yield from _images(root, folder, 0, files)
    left_out.update(_kind(entry) for entry in visible if entry not in folders and not _is_image(entry))
    for entry in sorted(folders, key=lambda entry: entry.name):
        yield from _below(root, os.path.join(folder, entry.name), left_out)


def _say_left_out(root: Path, left_out: Counter[str]) -> None:
    if left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in left_out.most_common(8))
        print(f"data {root}: left out {left_out.total()} that are no images by their suffix: {kinds}", file=sys.stderr)


def cache_path(root: Path, size: int, classes: tuple[str, ...], listing: dict[str, list[Entry]]) -> Path:
    """Where this folder, with these very files, is cached at this size."""
    digest = hashlib.sha256(json.dumps([DECODING, os.fspath(root.resolve()), size, classes]).encode())
    for split in SPLITS:
        for entry in listing[split]:
            digest.update(f"{entry.name!r} {entry.bytes} {entry.mtime_ns}\n".encode())
    return cache_folder() / f"{digest.hexdigest()[:32]}.safetensors"


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in _scan(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"data {folder}: has no class folders; put the images into {folder.name}/CLASS/")
    return names


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in extensions()


def _kind(entry: os.DirEntry[str]) -> str:
    return "folders" if entry.is_dir() else os.path.splitext(entry.name)[1] or "without suffix"


def _images(root: Path, folder: str, label: int, entries: list[os.DirEntry[str]]) -> Iterator[Entry]:
    images = sorted(filter(_is_image, entries), key=lambda entry: entry.name)
    for entry in images:
        try:
            status = entry.stat()
        except OSError as error:
            raise InputError(f"data {entry.path}: cannot be read ({error.strerror}); repair or remove it") from error
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise InputError(f"data {entry.path}: has the name of an image and is not a file; remove it")
        yield Entry(os.path.join(folder, entry.name), label, status.st_size, status.st_mtime_ns)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"data {folder}: cannot be read ({error.strerror}); check its permissions") from error


def _decode(root: Path, size: int, listing: dict[str, list[Entry]]) -> dict[str, Tensor]:
    total = sum(map(len, listing.values()))
    pixels = {split: np.empty((len(listing[split]), 3, size, size), np.uint8) for split in SPLITS}
    stop = threading.Event()

    def read_chunk(split: str, start: int) -> tuple[int, int]:
        entries = listing[split][start : start + CHUNK]
        resized = 0
        for i, entry in enumerate(entries, start):
            if stop.is_set():  # another chunk failed, or Ctrl-C
                break
            resized += _read_image(root / entry.name, pixels[split][i])
        return len(entries), resized

    resized = 0
    tty = sys.stderr.isatty()
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=total, desc=f"reading {root}", unit=" images", file=sys.stderr, disable=not tty) as bar,
    ):
        try:
            tasks = [
                pool.submit(read_chunk, split, i) for split in SPLITS for i in range(0, len(listing[split]), CHUNK)
            ]
            for task in as_completed(tasks):
                done, changed = task.result()
                bar.update(done)
                resized += changed
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if not tty:
        print(f"data {root}: read {total} images", file=sys.stderr)
    if resized:
        print(f"data {root}: resized {resized} of {total} images to {size}x{size}", file=sys.stderr)
    tensors = {}
    for split in SPLITS:
        tensors[f"{split}.images"] = torch.from_numpy(pixels[split])
        tensors[f"{split}.labels"] = torch.tensor([entry.label for entry in listing[split]])
    return tensors


def _read_image(path: Path, out: np.ndarray) -> bool:
    """Decode ``path`` into ``out``, uint8 [3, size, size]; whether it had to be resized."""
    size = out.shape[-1]
    image = read_rgb(path)
    resize = image.size != (size, size)
    if resize:
        image = image.resize((size, size), Resampling.BILINEAR)  # Pillow's is antialiased
    out[:] = np.asarray(image).transpose(2, 0, 1)
    return resize


def _from_cache(path: Path, size: int, listing: dict[str, list[Entry]]) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        tensors = safetensors.torch.load_file(path)
        for split in SPLITS:
            count = len(listing[split])
            images, labels = tensors[f"{split}.images"], tensors[f"{split}.labels"]
            if images.shape != (count, 3, size, size) or images.dtype != torch.uint8:
                raise ValueError("images")
            if labels.tolist() != [entry.label for entry in listing[split]]:
                raise ValueError("labels")
        return tensors
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        print(f"cache {path}: unreadable; reading the images again", file=sys.stderr)
        return None


def _to_cache(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(tensors, temporary)
    except (OSError, safetensors.SafetensorError) as error:
        print(f"cache {path}: cannot be written ({error}); the next run reads the images again", file=sys.stderr)
