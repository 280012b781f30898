"""Image files as RGB pixels: which files are images, how they lie, and what their values mean."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from layer_folding.errors import InputError

# Formats that Pillow recognises, but decodes with another program (Ghostscript), with a plugin, or on Windows only.
_NOT_BY_ITSELF = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_SIXTEEN_BITS = {("I", "PNG"), ("I", "PPM")}  # where Pillow gives 0 to 65535 as 32-bit integers
_SIXTEEN_TO_EIGHT = 257  # 65535 / 255


@cache
def extensions() -> frozenset[str]:
    """The suffixes of image files, ".jpg" among them: those of all formats that Pillow decodes by itself."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in _NOT_BY_ITSELF)


def read_rgb(path: Path) -> Image.Image:
    """The image in ``path`` as 8-bit RGB, turned as its EXIF orientation says. Values of 16 bits are scaled to 8;
    transparency is dropped.

    Raises InputError for a file that cannot be read, and for one of 32-bit integers or floats, of which no file says
    what black and white are.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            mode, kind = file.mode, file.format
            if mode.startswith("I;16") or (mode, kind) in _SIXTEEN_BITS:
                image = Image.fromarray((np.asarray(image) / _SIXTEEN_TO_EIGHT).round().clip(0, 255).astype(np.uint8))
            elif mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # Pillow warns where this step is left out
            elif mode not in _EIGHT_BITS:
                raise InputError(
                    f"data {path}: is a {kind} of mode {mode}, 32-bit integers or floats without a known range; scale "
                    "it to 8 or 16 bits"
                )
            return image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise much more than OSError on damaged files
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"data {path}: cannot be read ({error.strerror}); check it, or remove it") from error
        raise InputError(f"data {path}: does not decode as an image ({error}); repair or remove it") from error
