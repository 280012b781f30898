"""MNIST and CIFAR in their published formats: read, found again, damaged, out of reach. Nothing is downloaded."""

import shutil
from pathlib import Path

import pytest
import torch

from layer_folding.errors import InputError
from layer_folding.train.data import GRAY_MEAN, RGB_MEAN, load
from tests.train.published_files import pixels, publish


@pytest.fixture
def folders(tmp_path, monkeypatch) -> dict[str, Path]:
    return publish(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_it_is(folders, name):
    data = load(name)
    classes = int(name.removeprefix("cifar"))
    assert data.name == name and data.classes[:2] == ("class 0", "class 1") and len(data.classes) == classes
    assert data.flip and data.mean == RGB_MEAN
    for split, part in (("train", data.train), ("test", data.test)):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert torch.equal(part.images, torch.from_numpy(pixels(name, split)))
    assert data.train.labels.tolist() == [i * 7 % classes for i in range(20)]


def test_mnist_has_one_channel_and_its_own_size_when_asked(folders):
    data = load("mnist", 28)
    assert data.classes == tuple("0123456789")
    assert not data.flip and data.mean == GRAY_MEAN and data.shape == (1, 28, 28)
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(pixels("mnist", "test")))
    assert load("mnist").shape == (1, 32, 32)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_what_has_been_unpacked_is_found_without_its_archive(folders, name):
    first = load(name)
    for archive in folders[name].glob("*.gz"):
        archive.unlink()
    assert torch.equal(load(name).train.images, first.train.images)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_without_a_network_it_says_which_files_go_where(folders, name, damage):
    for archive in folders[name].glob("*.gz"):
        archive.write_bytes(archive.read_bytes()[:-10])
        if damage == "gone":
            archive.unlink()
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    file = "t10k-labels-idx1-ubyte.gz" if name == "mnist" else name.replace("cifar", "cifar-") + "-python.tar.gz"
    assert f"data {name!r}: cannot be downloaded" in message and "\n" not in message
    assert f"{file} from http" in message and f"into {folders[name]} and run the command again" in message


def test_a_changed_file_of_cifar_is_not_unpickled_but_unpacked_again(folders):
    first = load("cifar10")
    file = folders["cifar10"] / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(b"\x80\x04cos\nsystem\n(S'exit'\ntR.")
    assert torch.equal(load("cifar10").train.images, first.train.images)
    shutil.rmtree(file.parent)
    assert torch.equal(load("cifar10").train.images, first.train.images)


def test_a_damaged_file_of_mnist_is_said(folders):
    load("mnist")
    (folders["mnist"] / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 half")
    with pytest.raises(InputError, match=r"data 'mnist': damaged; remove .*MNIST and run the command again"):
        load("mnist")
