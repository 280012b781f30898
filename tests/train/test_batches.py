"""Batches: normalised, augmented image by image, determined by the generator, shared by processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_folding.errors import InputError
from layer_folding.train import batches
from layer_folding.train.batches import augment, draw, normalise, steps, training_batches
from layer_folding.train.data import RGB_MEAN, RGB_STD, Dataset, Split, load

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, test: int = 1) -> Dataset:
    """Images of one pixel whose value is their label; nothing of theirs can be moved."""
    splits = (Split(torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(n)) for n in (count, test))
    return Dataset("numbers", tuple(map(str, range(count))), *splits, (0.0,), (1 / 255,), flip=False)


def test_normalise_is_the_formula_per_channel():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    got = normalise(images, RGB_MEAN, RGB_STD)
    want = (images.numpy() / 255 - np.reshape(RGB_MEAN, (3, 1, 1))) / np.reshape(RGB_STD, (3, 1, 1))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), want, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    channels=st.integers(1, 3),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_augment_equals_crop_and_flip_image_by_image(count, channels, height, width, padding, flip, seed):
    images = torch.randint(1, 256, (count, channels, height, width), generator=seeded(seed), dtype=torch.uint8)
    before = images.clone()
    offsets, mirrored = draw(count, padding, flip, seeded(seed))
    got = augment(images, padding, offsets, mirrored)
    assert torch.equal(images, before)
    assert (offsets is not None, mirrored is not None) == (padding > 0, flip)
    for i in range(count):
        canvas = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.uint8)
        canvas[:, padding : padding + height, padding : padding + width] = images[i].numpy()
        y, x = offsets[i].tolist() if padding else (0, 0)
        crop = canvas[:, y : y + height, x : x + width]
        assert np.array_equal(got[i].numpy(), crop[:, :, ::-1] if flip and mirrored[i] else crop)


def test_augment_reaches_every_offset_and_both_sides():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(2000, 1, 5, 5)
    got = augment(image, 2, *draw(2000, 2, True, seeded()))
    assert len(torch.unique(got.flatten(1), dim=0)) == 5 * 5 * 2


def test_test_batches_are_in_order_and_complete():
    got = list(batches.test_batches(numbered(1, test=10), 4, CPU))
    assert [len(labels) for _, labels in got] == [4, 4, 2]
    assert torch.cat([labels for _, labels in got]).tolist() == list(range(10))
    torch.testing.assert_close(torch.cat([images for images, _ in got]).flatten(), torch.arange(10.0))


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4]), (8, [4, 4]), (4, [4]), (3, [3])])
def test_training_batches_drop_a_short_last_one_unless_it_is_the_only_one(count, sizes):
    got = list(training_batches(numbered(count), 4, seeded(), CPU))
    assert [len(labels) for _, labels in got] == sizes and steps(numbered(count), 4) == len(sizes)
    labels = torch.cat([labels for _, labels in got])
    assert len(set(labels.tolist())) == sum(sizes)
    torch.testing.assert_close(torch.cat([images for images, _ in got]).flatten(), labels.float())


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", 16)


def test_an_epoch_is_determined_by_the_generator(digits):
    def epoch(seed: int) -> torch.Tensor:
        return torch.cat([images for images, _ in training_batches(digits, 128, seeded(seed), CPU)])

    torch.manual_seed(1)
    first = epoch(1)
    torch.manual_seed(2)
    assert torch.equal(first, epoch(1))
    assert not torch.equal(first, epoch(2))


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_all_processes_are_the_batches_of_one(digits, world):
    whole = list(training_batches(digits, 64, seeded(), CPU))
    parts = [list(training_batches(digits, 64, seeded(), CPU, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)} == {steps(digits, 64)}
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)


def test_a_batch_that_cannot_be_shared_is_refused(digits):
    with pytest.raises(InputError, match=r"--batch: 10 images a step cannot be shared by 4 processes; give a multiple"):
        next(training_batches(digits, 10, seeded(), CPU, 0, 4))
