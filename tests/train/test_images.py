"""What an image file says: its mode, its range, how it lies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layer_folding.errors import InputError
from layer_folding.train.images import extensions, read_rgb

GRAY = np.random.default_rng(0).integers(0, 65536, (6, 4), np.uint16)
SCALED = np.round(GRAY / 257).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm", ".jp2"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(GRAY).save(path)
    np.testing.assert_array_equal(np.asarray(read_rgb(path)), np.repeat(SCALED[..., None], 3, 2))


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int32)], ids=["F", "I"])
def test_values_without_a_known_range_are_refused_by_name_and_mode(tmp_path, array):
    path = tmp_path / "x.tiff"
    Image.fromarray(array).save(path)
    with pytest.raises(InputError, match=rf"{path}: is a TIFF of mode {Image.fromarray(array).mode}, .*; scale it"):
        read_rgb(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_lies_as_exif_says(tmp_path, dtype):
    exif = Image.Exif()
    exif[0x0112] = 6  # its first row is the right-hand side
    Image.fromarray(SCALED if dtype == np.uint8 else GRAY).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "x.png"))[..., 0], np.rot90(SCALED, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bits_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new("L", (4, 4), 255).convert(mode).save(path)
    assert (np.asarray(read_rgb(path)) == 255).all()


def test_a_palette_with_transparency_becomes_rgb(tmp_path):
    image = Image.fromarray(SCALED).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "x.png"))[..., 0], SCALED)


def test_every_format_that_pillow_decodes_by_itself_is_an_image():
    assert {".jpg", ".jfif", ".png", ".tga", ".jp2", ".webp", ".tiff", ".bmp", ".pgm"} <= extensions()
    assert not {".eps", ".h5", ".mpg", ".txt", ".npz"} & extensions()


def test_a_path_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_rgb(Path(tmp_path / "none.png"))
