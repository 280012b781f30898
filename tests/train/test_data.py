"""Data sets: digits and image folders, their cache, every bad folder."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layer_folding.errors import InputError
from layer_folding.train.data import (
    RGB_MEAN,
    RGB_STD,
    Split,
    calibration_count,
    calibration_images,
    load,
    save_calibration_set,
    save_eval_set,
    save_held_out_set,
)
from layer_folding.train.settings import FitSettings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layer-folding"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Classes cat and dog; three images each to train, two to test; PNG, so that pixels are exact."""
    root = tmp_path / "pets"
    for split, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            for i in range(count):
                write_image(root / split / name / f"{i}.png", pixels(f"{split}/{name}/{i}"))
    return root


def pixels(seed: str, size: int = 32) -> np.ndarray:
    return np.frombuffer(random.Random(seed).randbytes(size * size * 3), np.uint8).reshape(size, size, 3)


def write_image(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def refused(spec: object) -> str:
    """The message of the InputError that loading raises; it must be one line."""
    with pytest.raises(InputError) as caught:
        load(str(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- digits


def test_digits_are_split_by_class_and_resized():
    data = load("digits")
    assert data.train.images.shape == (1437, 1, 32, 32) and data.test.images.shape == (360, 1, 32, 32)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert data.classes == tuple("0123456789") and not data.flip
    assert data.mean == (0.5,) and data.std == (0.5,)
    assert data.train.images.max() > 240 and data.train.images.min() == 0
    share = torch.bincount(data.test.labels) / torch.bincount(torch.cat([data.train.labels, data.test.labels]))
    assert (share - 0.2).abs().max() < 0.01


def test_digits_are_the_same_every_time_and_no_image_is_in_both_splits():
    first, second = load("digits", 8), load("digits", 8)
    assert torch.equal(first.train.images, second.train.images) and torch.equal(first.test.labels, second.test.labels)

    from sklearn.datasets import load_digits

    images = torch.cat([first.train.images, first.test.images]).flatten(1)
    original = (torch.from_numpy(load_digits().images).flatten(1) * 255 / 16).round().to(torch.uint8)
    assert sorted(map(bytes, images.numpy())) == sorted(map(bytes, original.numpy()))


# ---- folders


def test_folder_is_read_in_order_of_names(folder):
    data = load(str(folder))
    assert data.name == "pets" and data.classes == ("cat", "dog") and data.flip
    assert data.mean == RGB_MEAN and data.std == RGB_STD
    for split, part in (("train", data.train), ("test", data.test)):
        count = len(part.labels) // 2
        assert part.labels.tolist() == [0] * count + [1] * count
        names = [f"{split}/{name}/{i}" for name in ("cat", "dog") for i in range(count)]
        expected = np.stack([pixels(name) for name in names]).transpose(0, 3, 1, 2)
        assert np.array_equal(part.images.numpy(), expected)


def test_jpeg_gray_and_palette_images_become_rgb(folder):
    write_image(folder / "train/cat/a.JPG", pixels("x"), format="JPEG")
    write_image(folder / "train/cat/b.png", pixels("x")[:, :, 0])
    Image.fromarray(pixels("x")).quantize(16).save(folder / "train/cat/c.png")
    images = load(str(folder)).train.images
    assert images.shape == (9, 3, 32, 32)
    gray = torch.from_numpy(pixels("x")[:, :, 0].copy())
    assert torch.equal(images[4], gray.expand(3, 32, 32))


def test_hidden_files_are_ignored_and_others_are_left_out_and_said(folder, capsys):
    (folder / "train/cat/notes.txt").write_text("x")
    (folder / "train/cat/.0.png").write_bytes(b"x")
    (folder / "train/.ipynb_checkpoints").mkdir()
    (folder / "README").write_text("x")
    (folder / "test/dog/more").mkdir()
    (folder / "test/dog/x.heic").write_bytes(b"x")
    assert len(load(str(folder)).train.labels) == 6
    assert "left out 3 that are no images by their suffix: .txt 1, folders 1, .heic 1" in capsys.readouterr().err


def test_other_sizes_are_resized_and_counted_once(folder, capsys):
    write_image(folder / "train/cat/0.png", np.full((64, 48, 3), 77, np.uint8))
    write_image(folder / "test/dog/0.png", np.full((10, 10, 3), 78, np.uint8))
    data = load(str(folder))
    assert (data.train.images[0] == 77).all() and (data.test.images[2] == 78).all()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("resized 2 of 10 images to 32x32") == 1
    assert "read 10 images" in captured.err and "\r" not in captured.err


def test_size_is_that_of_the_tensors_and_of_the_cache(folder):
    assert load(str(folder), 16).train.images.shape == (6, 3, 16, 16)
    assert load(str(folder), 24).train.images.shape == (6, 3, 24, 24)


# ---- cache


def same(a, b) -> bool:
    pairs = ((a.train, b.train), (a.test, b.test))
    return a.classes == b.classes and all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in pairs
    )


def test_second_load_decodes_nothing(folder, cache, monkeypatch, capsys):
    first = load(str(folder))
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    capsys.readouterr()
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded an image that is in the cache"))
    monkeypatch.chdir(folder.parent)
    assert same(load("pets"), first)  # the same folder by another path
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_changed_folder_is_read_again(folder, change):
    load(str(folder))
    file = folder / "train/cat/1.png"
    if change == "content":  # of the same number of bytes: only the time tells
        stat, data = file.stat(), (folder / "train/dog/1.png").read_bytes()
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    elif change == "added":
        shutil.copy(file, file.with_name("9.png"))
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("9.png"))
    images = load(str(folder)).train.images
    assert len(images) == {"added": 7, "removed": 5}.get(change, 6)
    index = {"content": 1, "renamed": 2, "added": 3}.get(change)
    if index is not None:
        wanted = "train/dog/1" if change == "content" else "train/cat/1"
        assert np.array_equal(images[index].numpy(), pixels(wanted).transpose(2, 0, 1))


def test_renamed_class_is_not_served_from_the_cache(folder):
    load(str(folder))
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "cow")
    assert load(str(folder)).classes == ("cow", "dog")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other tensors"])
def test_corrupt_cache_is_said_and_remade(folder, cache, capsys, damage):
    first = load(str(folder))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    if damage == "other tensors":
        from safetensors.torch import save_file

        save_file({"train.images": torch.zeros(2)}, file)
    else:
        file.write_bytes({"cut": whole[:-100], "garbage": b"x" * 1000, "empty": b""}[damage])
    capsys.readouterr()
    assert same(load(str(folder)), first)
    error = capsys.readouterr().err
    assert str(file) in error and "reading the images again" in error
    assert file.read_bytes() == whole


def test_unwritable_cache_is_a_warning(folder, cache, capsys):
    cache.parent.write_text("a file where the folder should be")
    assert len(load(str(folder)).train.labels) == 6
    assert "cannot be written" in capsys.readouterr().err


def test_cache_is_below_home_without_xdg(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(str(folder))
    assert len(list((tmp_path / "home/.cache/layer-folding").iterdir())) == 1


# ---- bad input


@pytest.mark.parametrize("spec", ["digit", "/no/such/folder"])
def test_neither_digits_nor_a_folder(spec):
    message = refused(spec)
    assert spec in message and "digits, mnist, cifar10, cifar100" in message


def test_the_home_of_nobody():
    assert "'~nosuchuser/data': there is no such user" in refused("~nosuchuser/data")


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(b"")
    message = refused(tmp_path / "data.tar.gz")
    assert "data.tar.gz" in message and "not a folder" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_train_or_test(folder, split):
    shutil.rmtree(folder / split)
    message = refused(folder)
    assert str(folder) in message and f"no folder {split}" in message and "train/CLASS" in message


def test_val_is_taken_where_there_is_no_test(folder):
    tested = load(str(folder))
    (folder / "test").rename(folder / "val")
    assert torch.equal(load(str(folder)).test.images, tested.test.images)
    write_image(folder / "test/cat/0.png", np.zeros((32, 32, 3), np.uint8))
    write_image(folder / "test/dog/0.png", np.zeros((32, 32, 3), np.uint8))
    assert not load(str(folder)).test.images.any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_class_folders(folder, split):
    shutil.rmtree(folder / split)
    (folder / split).mkdir()
    write_image(folder / split / "loose.png", pixels("x"))
    message = refused(folder)
    assert str(folder / split) in message and "no class folders" in message


def test_empty_class(folder):
    for file in (folder / "test/dog").iterdir():
        file.unlink()
    message = refused(folder)
    assert str(folder / "test/dog") in message and "no images" in message


def test_class_sets_that_differ(folder):
    write_image(folder / "train/eel/0.png", pixels("x"))
    write_image(folder / "test/fox/0.png", pixels("x"))
    message = refused(folder)
    assert str(folder) in message and "eel (only in train)" in message and "fox (only in test)" in message


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_image_that_does_not_decode_is_named_and_nothing_is_cached(folder, cache, damage):
    file = folder / "test/cat/1.png"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"x" * 100, "empty": b""}[damage])
    message = refused(folder)
    assert str(file) in message and "does not decode" in message
    assert not cache.exists()


def test_image_that_is_a_dangling_link_or_a_folder_is_named(folder):
    link = folder / "train/cat/x.png"
    link.symlink_to(folder / "none.png")
    assert str(link) in refused(folder)
    link.unlink()
    link.mkdir()
    assert str(link) in refused(folder)
    link.rmdir()
    os.mkfifo(link)
    assert str(link) in refused(folder)


@pytest.mark.parametrize("where", ["", "train", "test/cat"])
def test_unreadable_folder(folder, where, monkeypatch):
    scandir = os.scandir

    def locked(path):
        if Path(path) == folder / where:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    message = refused(folder)
    assert str(folder / where) in message and "Permission denied" in message


# ---- evaluation set


def test_eval_set_holds_the_test_split_and_no_pickle(folder, tmp_path):
    data = load(str(folder))
    path = tmp_path / "run" / "eval.npz"
    save_eval_set(path, data)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["images", "labels", "mean", "std"]
        assert np.array_equal(file["images"], data.test.images.numpy()) and file["images"].dtype == np.uint8
        assert np.array_equal(file["labels"], data.test.labels.numpy()) and file["labels"].dtype == np.int64
        for key, value in (("mean", data.mean), ("std", data.std)):
            assert file[key].dtype == np.float32
            np.testing.assert_array_equal(file[key], np.float32(value))
    assert [p.name for p in path.parent.iterdir()] == ["eval.npz"]


def test_calibration_set_is_training_images_of_all_classes_alike(tmp_path):
    digits = load("digits", 8)
    for name in ("a.npz", "b.npz"):
        save_calibration_set(tmp_path / name, digits, count=55)
    first, second = (np.load(tmp_path / name, allow_pickle=False) for name in ("a.npz", "b.npz"))
    assert sorted(np.bincount(first["labels"], minlength=10)) == [5] * 5 + [6] * 5
    np.testing.assert_array_equal(first["images"], second["images"])
    train = {image.tobytes() for image in digits.train.images.numpy()}
    assert first["images"].shape == (55, 1, 8, 8) and all(image.tobytes() in train for image in first["images"])


@pytest.mark.parametrize(
    ("images", "largest", "count"),
    [(50_000, 2**16, 4096), (20_000, 2**16, 2000), (1437, 9, 1024), (50_000, 2**24, 1024)],
)
def test_a_tenth_of_the_training_images_is_fitted_to_as_far_as_memory_goes(images, largest, count):
    split = Split(torch.empty(images, 1, 1, 1, dtype=torch.uint8), torch.zeros(images))
    assert calibration_count(replace(load("digits", 8), train=split), largest) == count


def test_images_held_out_are_training_images_that_no_fit_and_no_calibration_sees(tmp_path, folder):
    digits = load("digits", 8)
    save_calibration_set(tmp_path / "calib.npz", digits)
    save_held_out_set(tmp_path / "heldout.npz", digits)
    fitted, held_out = (np.load(tmp_path / name)["images"] for name in ("calib.npz", "heldout.npz"))
    train = sorted(image.tobytes() for image in digits.train.images.numpy())
    assert len(fitted) == 1024 and sorted(image.tobytes() for image in [*fitted, *held_out]) == train
    drawn = calibration_images(digits, len(fitted), FitSettings.seed).images.numpy()
    np.testing.assert_array_equal(drawn, fitted)  # a plan is measured with the fits that `fit` makes
    save_held_out_set(tmp_path / "none.npz", load(str(folder)))
    assert not (tmp_path / "none.npz").exists()  # the calibration set has all images
