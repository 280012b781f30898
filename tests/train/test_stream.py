"""Images read as they are needed: the same epoch with any number of workers or processes, and errors by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layer_folding.errors import InputError
from layer_folding.train import batches, data, stream
from layer_folding.train.batches import training_batches
from layer_folding.train.data import Dataset, load, save_eval_set

CPU = torch.device("cpu")


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Dataset:
    """Two classes of 10 and 3 images of several sizes; none is larger than what is allowed in memory but all are."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (40 + i, 60, 3), np.uint8)
                Image.fromarray(image).save(folder / f"{i}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "RESIDENT_BYTES", 26 * 3 * 48 * 48 - 1)
    return load(str(tmp_path / "pets"), 48)


def epoch(dataset: Dataset, *share: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(training_batches(dataset, 8, torch.Generator().manual_seed(0), CPU, *share))


def same(first: list, second: list) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_what_does_not_fit_in_memory_is_read_from_the_files_and_said(dataset, tmp_path, capsys):
    assert isinstance(dataset.train, stream.Files) and dataset.shape == (3, 48, 48)
    load(str(tmp_path / "pets"), 48)
    err = capsys.readouterr().err
    assert err == f"data {tmp_path / 'pets'}: 26 images of 48x48 are 0.0 GB; read from the files as they are needed\n"
    assert not (tmp_path / "cache").exists()
    assert isinstance(load(str(tmp_path / "pets"), 47).train, data.Split)


def test_an_epoch_is_the_same_with_any_number_of_workers_and_leaves_the_global_generator_alone(dataset, monkeypatch):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch(dataset)
    assert [tuple(images.shape) for images, _ in first] == [(8, 3, 48, 48)] * 2
    for cores in (0, 1, 3):
        monkeypatch.setattr(stream, "_cores", lambda cores=cores: cores)
        torch.manual_seed(cores)
        assert same(epoch(dataset), first)
    torch.manual_seed(0)
    epoch(dataset)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_moved_anew_in_every_epoch(dataset):
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.cat([images for images, _ in training_batches(dataset, 20, generator, CPU)]) for _ in range(2)]
    assert epochs[0].mean((1, 2, 3)).unique().numel() == 20
    assert not torch.equal(epochs[0].sum(), epochs[1].sum())


def test_the_parts_of_two_processes_are_the_batches_of_one(dataset):
    parts = [epoch(dataset, rank, 2) for rank in (0, 1)]
    together = [tuple(map(torch.cat, zip(*step, strict=True))) for step in zip(*parts, strict=True)]
    assert same(together, epoch(dataset))


def test_test_images_are_the_centre_and_in_order(dataset):
    got = list(batches.test_batches(dataset, 4, CPU))
    assert [len(labels) for _, labels in got] == [4, 2]
    assert torch.cat([labels for _, labels in got]).tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(dataset.test.paths[1]) as image:  # 60 wide, 41 high
        image = image.resize((round(60 * 55 / 41), 55), Image.Resampling.BILINEAR)
        left, top = round((image.width - 48) / 2), round((55 - 48) / 2)
        centre = torch.from_numpy(np.array(image)[top : top + 48, left : left + 48].transpose(2, 0, 1))
    want = batches.normalise(centre.unsqueeze(0), dataset.mean, dataset.std)
    assert (got[0][0][1] - want).abs().max() < 0.3  # a few grey levels: how the two round sizes


def test_an_image_that_does_not_decode_is_named_in_one_line(dataset):
    path = Path(dataset.train.paths[5])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="does not decode") as caught:
        epoch(dataset)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_eval_set_is_a_sample_that_fits_and_says_so(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "EVAL_IMAGES", 4)
    save_eval_set(tmp_path / "eval.npz", dataset)
    assert "holds 4 of the 6 test images" in capsys.readouterr().err
    with np.load(tmp_path / "eval.npz") as file:
        assert file["images"].shape == (4, 3, 48, 48) and file["images"].dtype == np.uint8
        assert file["labels"].tolist() == [0, 0, 1, 1]
