"""What a folder of images holds, found without reading the pixels: classes, files, channels, sizes.

PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val/), or PATH/CLASS/*.jpg, to be split by a seed.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from daas_lab.errors import LabError, refuse

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_SHARE = 0.2  # of a tree without test folder

# Pillow's modes of one channel without colour.
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")


class Listing(NamedTuple):
    """Files and the class of each; `test` is None where the tree is not split."""

    classes: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None


class FolderFacts(NamedTuple):
    """What is known of a folder before its images are read."""

    classes: int
    image_channels: int
    side: int  # median of the shorter sides, in pixels
    train_images: int
    digest: str  # of names and sizes of all files: another content is another data set, another place is not


def list_images(folder: str | Path, test_names: tuple[str, ...] = ("test", "val")) -> Listing:
    """All image files of a tree of class folders. Raises `LabError` naming what is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise refuse("dataset", f"folder:{folder}", "an existing folder with a folder of images for each class")
    test = next((folder / name for name in test_names if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        classes, train = _list_classes(folder / "train")
        test_classes, test_files = _list_classes(test)
        if unknown := sorted(set(test_classes) - set(classes)):
            raise LabError(f"folder {test / unknown[0]}: must be a class of {folder / 'train'}: {', '.join(classes)}")
        numbers = [classes.index(name) for name in test_classes]
        return Listing(classes, train, [(path, numbers[target]) for path, target in test_files])
    return Listing(*_list_classes(folder), None)


def _list_classes(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise LabError(f"folder {folder}: must hold a folder of images for each of two or more classes")
    files = []
    for target, name in enumerate(classes):
        found = sorted(
            os.path.join(root, file)
            for root, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if file.lower().endswith(SUFFIXES)
        )
        if not found:
            raise LabError(f"folder {folder / name}: must hold images ({', '.join(SUFFIXES)})")
        files += [(path, target) for path in found]
    return classes, files


@lru_cache
def folder_facts(folder: str) -> FolderFacts:
    """Facts of a folder, from its files' headers. Raises `LabError` naming a file that is no image."""
    listing = list_images(folder)
    files = listing.train + (listing.test or [])
    grey, sides = True, []
    for path, _ in files:
        try:
            with Image.open(path) as image:
                grey &= image.mode in _GREY_MODES
                sides.append(min(image.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise damaged(path, error) from error
    train = len(listing.train)
    if listing.test is None:
        train -= round(TEST_SHARE * train)
    side = sorted(sides)[len(sides) // 2]
    return FolderFacts(len(listing.classes), 1 if grey else 3, side, train, folder_digest(folder, listing))


def folder_digest(folder: str | Path, listing: Listing) -> str:
    """16 hexadecimal digits over the names and sizes of the images listed in a folder."""
    digest = hashlib.sha256()
    for path, _ in listing.train + (listing.test or []):
        digest.update(f"{os.path.relpath(path, folder)} {os.path.getsize(path)}\n".encode())
    return digest.hexdigest()[:16]


def read_image(path: str, channels: int) -> Image.Image:
    """An image in grey (1 channel) or colour (3). Raises `LabError` naming the file if it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> LabError:
    """The one wording for an image that cannot be read."""
    why = "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
    return LabError(f"damaged image {path}: {why}")
