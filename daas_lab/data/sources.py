"""What is known of a data set before its images are read: by name, by folder, from one's own arrays or code."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from daas_lab.data.image_folder import folder_facts
from daas_lab.data.picture import check_range
from daas_lab.errors import LabError, one_of, refuse, say_once, some
from daas_lab.fields import check_text
from daas_lab.own_files import canonical_own, digest_at_hand, expanded, is_own, load_own, named_own, own_name


@dataclass(frozen=True)
class DatasetFacts:
    """What configurations and presets are composed from."""

    classes: int
    image_channels: int
    side: int  # native side in pixels
    flips: bool  # a mirrored image is still of its class
    split: tuple[int, int, int]  # training images of a search: for weights, for the architecture, and held out
    digest: str = ""  # of the content, where the name alone does not say what it is

    @property
    def train_images(self) -> int:
        """All images that are not test images."""
        return sum(self.split)


DATASETS = {
    "digits": DatasetFacts(10, 1, 8, False, (600, 600, 200)),
    "fashion_mnist": DatasetFacts(10, 1, 28, True, (27_500, 27_500, 5_000)),
    "cifar10": DatasetFacts(10, 3, 32, True, (25_000, 25_000, 0)),
    "cifar100": DatasetFacts(100, 3, 32, True, (25_000, 25_000, 0)),
    "imagenet": DatasetFacts(1000, 3, 224, True, (640_583, 640_584, 0)),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one's own: given as `dataset` to `search_config` and `retrain_config`, as `data` to the trainers.

    Images uint8 [N, H, W] or [N, H, W, C] from 0 (black) to 255, targets whole numbers [N]: the classes from 0, without
    gaps. Test images only serve the test error.
    """

    name: str
    images: np.ndarray
    targets: np.ndarray
    test_images: np.ndarray
    test_targets: np.ndarray
    flips: bool = True  # a mirrored image is still of its class

    def __post_init__(self):
        for prefix in ("", "test_"):
            images, targets = (_array(prefix + name, getattr(self, prefix + name)) for name in ("images", "targets"))
            shape = images.shape if images.ndim == 4 else (*images.shape, 1)
            if images.dtype != np.uint8 or len(shape) != 4 or min(shape[1:3]) < max(4, 1 + shape[3]):
                raise refuse(f"{prefix}images", f"{images.dtype} {list(images.shape)}", IMAGES)
            images = images.reshape(shape)
            numbers = targets.dtype.kind in "iu" and targets.astype(np.int64).min(initial=0) >= 0
            if targets.shape != images.shape[:1] or not numbers:
                what = f"{targets.dtype} {list(targets.shape)}"
                raise refuse(f"{prefix}targets", what, f"a whole number of at least 0 for each of {len(images)} images")
            object.__setattr__(self, f"{prefix}images", images)
            object.__setattr__(self, f"{prefix}targets", targets.astype(np.int64))
        if not len(self.images):
            raise refuse("images", 0, "at least 1")
        if self.images.shape[1:] != self.test_images.shape[1:]:
            raise refuse(
                "test_images", list(self.test_images.shape[1:]), f"{list(self.images.shape[1:])} as the others"
            )
        check_range("images", int(self.images.max()))
        check_range("test_images", int(self.test_images.max(initial=0)) if len(self.test_images) else 255)
        check_classes(str(self), self.targets, self.test_targets, int(self.targets.max()) + 1)

    def __str__(self) -> str:
        return f"own:{self.name}"

    @property
    def facts(self) -> DatasetFacts:
        """What configurations need of it."""
        digest = hashlib.sha256()
        for part in (self.images, self.targets, self.test_images, self.test_targets):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        classes = int(self.targets.max()) + 1
        sides, channels = self.images.shape[1:3], self.images.shape[3]
        return _facts(classes, channels, min(sides), len(self.images), self.flips, digest.hexdigest()[:16])


# The one form of arrays. Channels stand last, and are fewer than an image's rows or columns.
IMAGES = (
    "uint8 [N, H, W] or [N, H, W, C] from 0 (black) to 255, with H and W of at least 4 and more than C "
    "(a torch batch: images.transpose(0, 2, 3, 1))"
)


def _array(field: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, a tensor on a GPU
        raise refuse(field, type(values).__name__, f"an array: {error}") from error


def check_classes(
    dataset: str, targets: np.ndarray, test_targets: np.ndarray, classes: int, names: Sequence[str] = ()
) -> None:
    """The rule of all data sets: every class from 0 must have training images; one without test images is said.

    Nothing is said where there are no test images at all. `names`: of the classes, where they have any.
    """
    trained, tested = np.unique(targets), np.unique(test_targets)
    empty = next((number for number, found in enumerate(trained) if number != found), len(trained))
    if empty < classes:
        what = f"training images of each of its {classes} classes: there are none of {_class_name(empty, names)}"
        raise refuse("dataset", dataset, f"{what}, and {np.sum(test_targets == empty)} for the test")
    if unknown := [number for number in tested if number >= classes]:
        raise refuse("test_targets", int(unknown[0]), f"a class of the training images, 0 to {classes - 1}")
    if untested := [_class_name(number, names) for number in np.setdiff1d(trained, tested)] if len(tested) else []:
        say_once(f"{dataset}: no test images of {len(untested)} of the {classes} classes: {some(untested)}")


def _class_name(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def own_dataset(text: str) -> Dataset:
    """The data set that FILE.py:function gives; the file must have been named (`facts_of`) in this process.

    The function takes nothing and returns images, targets, test images and test targets as `Dataset` has them, or a
    `Dataset`. It is called once for every content of its file.
    """
    return _called(text, digest_at_hand("dataset", text))


@lru_cache
def _called(text: str, digest: str) -> Dataset:
    function = named_own("dataset", text, digest)
    try:
        made = function()
        if not isinstance(made, Dataset) and len(made) != 4:
            parts = "images, targets, test images and test targets"
            raise LabError(f"{own_name(text)} gives {len(made)} values; allowed: {parts}, or a Dataset")
        return made if isinstance(made, Dataset) else Dataset(own_name(text), *made)
    except LabError as error:
        raise LabError(f"dataset = {text!r}: {error}") from error
    except Exception as error:
        raise LabError(f"dataset = {text!r}: the function cannot be used: {error!r}") from error


def check_name(dataset: object) -> None:
    """Raise unless `dataset` is a data set's name, a `Dataset` or the text of one."""
    if not isinstance(dataset, Dataset):
        check_text("dataset", dataset)
    if str(dataset).strip() == "folder:":
        raise refuse("dataset", dataset, "folder:PATH, with the path of a folder of images")
    if not str(dataset).startswith(("folder:", "own:")) and not is_own(str(dataset)):
        one_of("dataset", dataset, [*DATASETS, "folder:PATH", "FILE.py:function"])


def facts_of(dataset: str | Dataset) -> DatasetFacts:
    """The facts of a data set. Raises `LabError` for an unknown name, a missing folder or a damaged image."""
    check_name(dataset)
    if isinstance(dataset, Dataset):
        return dataset.facts
    if is_own(dataset):
        load_own("dataset", dataset)
        return own_dataset(canonical_own(dataset)).facts
    if dataset.startswith("folder:"):
        classes, channels, side, images, digest, *_ = folder_facts(str(folder_of(dataset)))
        return _facts(classes, channels, side, images, True, digest)
    if dataset.startswith("own:"):
        raise LabError(f"dataset = {dataset!r}: must be given as the Dataset object itself")
    return DATASETS[dataset]


def folder_of(dataset: str) -> Path:
    """The folder of `folder:PATH`."""
    return expanded(dataset.removeprefix("folder:")).resolve()


def canonical(dataset: str | Dataset) -> str:
    """The text by which a configuration names a data set; a folder's path is absolute."""
    name = str(dataset)
    if is_own(name):
        return canonical_own(name)
    return f"folder:{folder_of(name)}" if name.startswith("folder:") else name


def short_name(dataset: str) -> str:
    """A data set's name that can be part of a file's, and of any text; file systems take 255 bytes."""
    name = Path(dataset.partition(":")[2]).name or "folder" if ":" in dataset else dataset
    return os.fsencode(name).decode(errors="replace").encode()[:150].decode(errors="ignore")


def _facts(classes: int, channels: int, side: int, images: int, flips: bool, digest: str) -> DatasetFacts:
    """Facts of a data set without a split of its own: a tenth is held out, the rest halved."""
    held_out = images // 10
    weights = (images - held_out) // 2
    split = (weights, images - held_out - weights, held_out)
    return DatasetFacts(classes, channels, max(8, side // 4 * 4), flips, split, digest)
