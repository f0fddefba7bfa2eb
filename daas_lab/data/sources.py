"""What is known of a data set before its images are read: by name, by folder, from one's own arrays or code."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from daas_lab.data.image_folder import folder_facts
from daas_lab.errors import LabError, one_of, refuse
from daas_lab.own_files import canonical_own, digest_of, is_own, load_own, named_own, own_name


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

    Images uint8 [N, H, W] or [N, H, W, C], targets whole numbers [N] from 0; test images only serve the test error.
    """

    name: str
    images: np.ndarray
    targets: np.ndarray
    test_images: np.ndarray
    test_targets: np.ndarray
    flips: bool = True  # a mirrored image is still of its class

    def __post_init__(self):
        for prefix in ("", "test_"):
            images, targets = (np.asarray(getattr(self, prefix + name)) for name in ("images", "targets"))
            if images.dtype != np.uint8 or images.ndim not in (3, 4):
                raise refuse(
                    f"{prefix}images", f"{images.dtype} {list(images.shape)}", "uint8 [N, H, W] or [N, H, W, C]"
                )
            if images.ndim == 3:
                images = images[..., None]
            if targets.shape != images.shape[:1] or targets.dtype.kind not in "iu" or targets.min(initial=0) < 0:
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

    def __str__(self) -> str:
        return f"own:{self.name}"

    @property
    def facts(self) -> DatasetFacts:
        """What configurations need of it."""
        digest = hashlib.sha256()
        for part in (self.images, self.targets, self.test_images, self.test_targets):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        classes = int(max(self.targets.max(), self.test_targets.max(initial=0))) + 1
        sides, channels = self.images.shape[1:3], self.images.shape[3]
        return _facts(classes, channels, min(sides), len(self.images), self.flips, digest.hexdigest()[:16])


def own_dataset(text: str) -> Dataset:
    """The data set that FILE.py:function gives; the file must have been named (`facts_of`) in this process.

    The function takes nothing and returns images, targets, test images and test targets as `Dataset` has them, or a
    `Dataset`. It is called once for every content of its file.
    """
    return _called(text, digest_of("dataset", text))


@lru_cache
def _called(text: str, digest: str) -> Dataset:
    function = named_own("dataset", text, digest)
    try:
        made = function()
        return made if isinstance(made, Dataset) else Dataset(own_name(text), *made)
    except LabError as error:
        raise LabError(f"dataset = {text!r}: {error}") from error
    except Exception as error:
        raise LabError(f"dataset = {text!r}: the function cannot be called: {error!r}") from error


def check_name(dataset: object) -> None:
    """Raise unless `dataset` is a data set's name, a `Dataset` or the text of one."""
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
        classes, channels, side, images, digest = folder_facts(str(folder_of(dataset)))
        return _facts(classes, channels, side, images, True, digest)
    if dataset.startswith("own:"):
        raise LabError(f"dataset = {dataset!r}: must be given as the Dataset object itself")
    return DATASETS[dataset]


def folder_of(dataset: str) -> Path:
    """The folder of `folder:PATH`."""
    return Path(dataset.removeprefix("folder:")).expanduser().resolve()


def canonical(dataset: str | Dataset) -> str:
    """The text by which a configuration names a data set; a folder's path is absolute."""
    if is_own(str(dataset)):
        return canonical_own(str(dataset))
    return f"folder:{folder_of(dataset)}" if str(dataset).startswith("folder:") else str(dataset)


def short_name(dataset: str) -> str:
    """A data set's name that can be part of a file's."""
    return Path(dataset.partition(":")[2]).name or "folder" if ":" in dataset else dataset


def _facts(classes: int, channels: int, side: int, images: int, flips: bool, digest: str) -> DatasetFacts:
    """Facts of a data set without a split of its own: a tenth is held out, the rest halved."""
    held_out = images // 10
    weights = (images - held_out) // 2
    split = (weights, images - held_out - weights, held_out)
    return replace(DatasetFacts(classes, channels, max(8, side // 4 * 4), flips, split), digest=digest)
