"""One picture of a file: opened, its levels found, and brought to 8 bits."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from daas_lab.errors import LabError, refuse

# Largest byte of images that are no bytes at all but truth values, shades of 4 bits, or numbers from 0 to 1 cut off.
_TOO_DARK = 16


@contextmanager
def opened(path: str) -> Iterator[ImageFile.ImageFile]:
    """A file as Pillow opens it. Raises `LabError` naming the file if it, or what is asked of it, cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except LabError:
        raise
    except Exception as error:  # Pillow raises whatever its parsers meet in broken bytes
        raise damaged(path, error) from error


def damaged(path: str, why: object) -> LabError:
    """The one wording for an image that cannot be read."""
    why = "no image that Pillow knows" if isinstance(why, UnidentifiedImageError) else why
    return LabError(f"damaged image {path}: {why}")


def is_grey(image: Image.Image) -> bool:
    """Whether it has one channel without colour."""
    return image.mode in ("1", "L", "LA") or image.mode[0] in "IF"


def depth(image: ImageFile.ImageFile) -> str:
    """What has more than 8 bits: I whole numbers, F real ones, C colours of which Pillow gives the upper 8 of 16 bits.

    Empty for 8 bits. To be asked before the pixels are read.
    """
    return image.mode[0] if image.mode[0] in "IF" else "C" * (";16" in str(image.tile))


def brightest(path: str, image: Image.Image) -> float:
    """The largest level. Raises `LabError` naming the file for levels that are negative or not finite."""
    values = np.asarray(image if image.mode[0] in "IF" else image.convert("RGB"))
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high < math.inf):  # both are NaN where any is
        raise LabError(f"image {path}: has levels from {low:g} to {high:g}: must be finite and at least 0")
    return high


def white_level(largest: float) -> float:
    """What is shown as white where `largest` is the largest level of all images: the power of two that holds it.

    1 for levels from 0 to 1, 4,096 for 12 bits, 65,536 for 16: the same for all images, whose brightness may tell their
    class.
    """
    return 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0


def read_image(path: str, channels: int, white: Mapping[str, float]) -> Image.Image:
    """An image of 8 bits in grey (1 channel) or colour (3). Raises `LabError` naming the file if it cannot be read.

    `white`: the level that becomes 255, by `depth`.
    """
    with opened(path) as image:
        if (kind := image.mode[0]) in "IF":
            if kind not in white:
                raise LabError(f"image {path}: must have 8 bits, as the others")
            levels = np.asarray(image) * (255 / white[kind])
            image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        return image.convert("L" if channels == 1 else "RGB")


def check_range(field: str, largest: int) -> None:
    """Raise where the largest byte of all images says that they were not made for bytes."""
    if largest <= _TOO_DARK:
        raise refuse(field, f"bytes of at most {largest}", "bytes from 0 (black) to 255 (white)")
