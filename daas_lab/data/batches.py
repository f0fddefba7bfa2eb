"""Data sets, read whole, and batched augmentation on the device.

Legend: N images of a set, B batch, C image channels, H = W side. Images are kept as uint8 [N, H, W, C] on the device of
the training; a batch is gathered, augmented and normalised there as float32 [B, C, H, W] in channels-last memory. What
is too large for that is a `FileSet` (image_files.py), which both kinds of batches take as well.
"""

import gzip
import math
import os
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.data import image_files
from daas_lab.data.image_files import FileSet, normalise
from daas_lab.data.image_folder import folder_facts, list_images, list_parts
from daas_lab.data.sources import DATASETS, Dataset, folder_of
from daas_lab.errors import LabError, refuse

# Where Debian's package `dataset-fashion-mnist` puts its files.
SYSTEM_FOLDERS = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, H, W, C] and targets int64 [N], with the mean and deviation [C] that normalise them."""

    images: Tensor
    targets: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def image_channels(self) -> int:
        """C."""
        return self.images.shape[3]

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images with these indices."""
        return replace(self, images=self.images[indices], targets=self.targets[indices])

    def to(self, device: str | torch.device) -> "ImageSet":
        """The set on another device."""
        return ImageSet(*(getattr(self, name).to(device) for name in ("images", "targets", "mean", "std")))


def in_memory(training: list[FileSet], others: list[FileSet], crop_padding: int) -> list[ImageSet]:
    """The images themselves, of both lists in their order. Raises `LabError` if they and the padded copies that
    `training_batches` makes of the first would take more than half of this machine's memory."""
    parts, side = [*training, *others], training[0].side
    pixels = sum(map(len, parts)) * side**2 + sum(map(len, training)) * (side + 2 * crop_padding) ** 2
    size = pixels * training[0].image_channels
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
        raise LabError(
            f"{sum(map(len, parts)):,} images of {side} × {side} pixels, padded copies included, would take "
            f"{size / 2**30:,.0f} GiB, more than half of this machine's memory: take fewer of them or a smaller side, "
            "or retrain with crops = resized"
        )
    return [ImageSet(part.read(), part.targets, part.mean, part.std) for part in parts]


def shuffled(count: int, seed: int) -> Tensor:
    """The numbers below `count` in the order that `seed` gives: the one split of a data set."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


# --- reading ----------------------------------------------------------------------------------------------------------


def load(
    dataset: str, data: str | Path | Dataset, side: int, split_seed: int = 0, classes: int = 1000
) -> tuple[ImageSet, ImageSet] | tuple[FileSet, FileSet]:
    """(training images, test images) of a data set in the folder `data`, brought to `side` pixels.

    Arrays (the named data sets but ImageNet, and one's own) are small images all of one size: larger ones are averaged
    down by area, whatever their shape, smaller ones padded with black. The files of a folder are photographs of any
    size: the largest square in the middle, scaled up or down by Pillow's bilinear filter. So the same images give other
    pixels as files than as arrays, unless they have `side` pixels already.

    Raises `LabError` naming the folder and how to get the data if they are missing, or the file that is damaged.
    ImageNet must have `classes` folders.
    """
    if dataset.startswith("folder:"):
        return _folder_files(dataset, side, split_seed)
    if isinstance(data, Dataset):
        (images, targets), (test_images, test_targets) = _own_arrays(data)
    elif dataset == "imagenet":
        return _imagenet_files(_imagenet_folder(Path(data)), side, classes)
    else:
        (images, targets), (test_images, test_targets) = _READERS[dataset](Path(data), split_seed)
    resized = [_resize(part, side) for part in (images, test_images)]
    std, mean = image_files.pixel_statistics(resized[0])
    return ImageSet(resized[0], targets, mean, std), ImageSet(resized[1], test_targets, mean, std)


def check_available(dataset: str, data: str | Path) -> None:
    """Raise what `load` would raise for missing data, without reading images: for a check before other work."""
    if dataset.startswith("folder:"):
        list_images(folder_of(dataset))
    if dataset in _PLACES:
        _PLACES[dataset](Path(data))


def is_available(dataset: str, data: str | Path) -> bool:
    """Whether the data set is on this machine."""
    try:
        check_available(dataset, data)
    except LabError:
        return False
    return True


def _resize(images: Tensor, side: int) -> Tensor:
    """uint8 [N, H, W, C] → side × side: averaged down by area, or padded with black around the middle."""
    height, width = images.shape[1:3]
    if height > side or width > side:
        chunks = images.permute(0, 3, 1, 2).split(4096)
        scaled = [F.interpolate(chunk.float(), size=(side, side), mode="area").round().byte() for chunk in chunks]
        return torch.cat(scaled).permute(0, 2, 3, 1).contiguous()
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(images, (0, 0, left, side - width - left, top, side - height - top))


def _read_digits(data: Path, split_seed: int):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(-1)
    targets = torch.from_numpy(digits.target.astype(np.int64))
    order = shuffled(len(targets), split_seed)
    train, test = order[:1400], order[1400:]
    return (images[train], targets[train]), (images[test], targets[test])


def _fashion_mnist_folder(data: Path) -> Path:
    folders = [data / "FashionMNIST" / "raw", data / "fashion_mnist", data, SYSTEM_FOLDERS["fashion_mnist"]]
    for folder in folders:
        if (folder / "train-images-idx3-ubyte.gz").is_file():
            return folder
    raise LabError(
        f"dataset = 'fashion_mnist': no train-images-idx3-ubyte.gz in {', '.join(map(str, folders))}; get it with "
        f"`apt-get install dataset-fashion-mnist`, or from {_torchvision_class('FashionMNIST').mirrors[0]} with "
        f"{_download('FashionMNIST', data)}"
    )


def _read_fashion_mnist(data: Path, split_seed: int):
    folder = _fashion_mnist_folder(data)
    parts = []
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", (count, 28, 28))
        targets = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (count,))
        parts.append((images.unsqueeze(-1), targets.long()))
    return parts


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A gzipped idx file of bytes: a magic number that ends in the number of dimensions, the sizes, the values."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"damaged file {path}: {error}") from error
    expected = (0x0800 + len(shape), *shape)
    whole = len(content) == 4 * len(expected) + math.prod(shape)
    if not whole or tuple(np.frombuffer(content, dtype=">i4", count=len(expected))) != expected:
        raise LabError(f"damaged file {path}: not an idx file of {' × '.join(map(str, shape))} bytes")
    values = np.frombuffer(content, dtype=np.uint8, offset=4 * len(expected)).reshape(shape)
    return torch.from_numpy(values.copy())


def _cifar_folder(name: str, data: Path) -> Path:
    from torchvision.datasets import utils

    dataset = _torchvision_class(name)
    folder = data if data.name == dataset.base_folder else data / dataset.base_folder
    if not folder.is_dir():
        raise LabError(
            f"dataset = {name.lower()!r}: no folder {folder}; get it from {dataset.url} with {_download(name, data)}"
        )
    for file, md5 in (*dataset.train_list, *dataset.test_list):
        if not (folder / file).is_file():
            raise LabError(
                f"dataset = {name.lower()!r}: {folder / file} is missing; get it with {_download(name, data)}"
            )
        if not utils.check_md5(folder / file, md5):
            raise LabError(f"damaged file {folder / file}: its md5 is not {md5}; get it with {_download(name, data)}")
    return folder


def _read_cifar(name: str):
    def read(data: Path, split_seed: int):
        root = _cifar_folder(name, data).parent
        sets = [_torchvision_class(name)(root, train=train) for train in (True, False)]
        return [(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in sets]

    return read


def _imagenet_folder(data: Path) -> Path:
    for folder in (data / "imagenet", data):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    raise LabError(
        f"dataset = 'imagenet': no folders train/ and val/ with a folder of images a class in {data / 'imagenet'} or "
        f"{data}; get the archives from https://image-net.org/download and unpack them there with "
        + _python(f"from torchvision.datasets import ImageNet; [ImageNet({str(data)!r}, s) for s in ('train', 'val')]")
    )


def _imagenet_files(folder: Path, side: int, classes: int) -> tuple[FileSet, FileSet]:
    listing = list_parts(folder, "train", "val")
    if len(listing.classes) != classes:
        raise refuse("classes", classes, f"{len(listing.classes)}, the folders in {folder / 'train'}")
    mean, std = (torch.tensor(values) for values in (image_files.IMAGENET_MEAN, image_files.IMAGENET_STD))
    train, test = (_files(part, side, mean, std) for part in (listing.train, listing.test or []))
    return train, test


def _folder_files(dataset: str, side: int, split_seed: int) -> tuple[FileSet, FileSet]:
    facts = folder_facts(str(folder_of(dataset)))
    listing = facts.listing
    blank = torch.zeros(facts.image_channels), torch.ones(facts.image_channels)
    train = _files(listing.train, side, *blank, facts.white)
    if listing.test is not None:
        test = _files(listing.test, side, *blank, facts.white)
    else:
        order = shuffled(len(train), split_seed)
        train, test = (train.subset(part) for part in order.tensor_split([facts.train_images]))
    train = image_files.with_statistics(train)
    return train, replace(test, mean=train.mean, std=train.std)


def _files(files: list[tuple[str, int]], side: int, *rest) -> FileSet:
    targets = torch.tensor([target for _, target in files], dtype=torch.int64)
    return FileSet([path for path, _ in files], targets, side, *rest)


def _own_arrays(data: Dataset):
    arrays = ((data.images, data.targets), (data.test_images, data.test_targets))
    return [tuple(torch.from_numpy(array.copy()) for array in pair) for pair in arrays]


def _torchvision_class(name: str):
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _download(name: str, data: Path) -> str:
    return _python(f"from torchvision.datasets import {name}; {name}({str(data)!r}, download=True)")


def _python(code: str) -> str:
    """The command that executes a line of Python, whatever quotes and paths are in it."""
    return f"`{shlex.join(['python', '-c', code])}`"


_READERS = {
    "digits": _read_digits,
    "fashion_mnist": _read_fashion_mnist,
    "cifar10": _read_cifar("CIFAR10"),
    "cifar100": _read_cifar("CIFAR100"),
}
_PLACES = {
    "fashion_mnist": _fashion_mnist_folder,
    "cifar10": lambda data: _cifar_folder("CIFAR10", data),
    "cifar100": lambda data: _cifar_folder("CIFAR100", data),
    "imagenet": _imagenet_folder,
}
assert {*_READERS, "imagenet"} == DATASETS.keys()


# --- batches ----------------------------------------------------------------------------------------------------------


def training_batches(
    images: ImageSet | FileSet,
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    crop_padding: int = 0,
    flip: bool = False,
    cutout: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` shuffled batches, each image cropped, flipped and cut out by its own draw from `generator`.

    The generator lives on the device of the images. A set that is too small for `steps` batches is gone through again.
    `share` (part, of parts): only this part of every batch; all parts together are the batches of one process.
    A `FileSet` has crops of its own.
    """
    if isinstance(images, FileSet):
        yield from image_files.training_batches(
            images, batch_size=batch_size, steps=steps, generator=generator, flip=flip, share=share
        )
        return
    device = images.targets.device
    padded = F.pad(images.images, (0, 0, crop_padding, crop_padding, crop_padding, crop_padding))
    side = images.images.shape[1]
    line = torch.arange(side, device=device)
    rounds = math.ceil(steps * batch_size / len(images))
    order = torch.cat([torch.randperm(len(images), generator=generator, device=device) for _ in range(rounds)])
    for indices in order[: steps * batch_size].split(batch_size):
        shape = (len(indices), 1)
        mine = slice(*(batch_size * (share[0] + end) // share[1] for end in (0, 1)))
        indices = indices[mine]
        rows = line.expand(len(indices), side)
        columns = rows
        if flip:
            mirrored = torch.rand(shape, generator=generator, device=device)[mine] < 0.5
            columns = torch.where(mirrored, side - 1 - columns, columns)
        if crop_padding:
            offsets = torch.randint(2 * crop_padding + 1, (2, *shape), generator=generator, device=device)[:, mine]
            rows, columns = rows + offsets[0], columns + offsets[1]
        pixels = padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        batch = normalise(pixels, images.mean, images.std)
        if cutout:
            centre = torch.randint(side, (2, *shape), generator=generator, device=device)[:, mine]
            inside = [(line >= middle - cutout // 2) & (line < middle - cutout // 2 + cutout) for middle in centre]
            batch = batch * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
        yield batch, images.targets[indices]


def plain_batches(
    images: ImageSet | FileSet, batch_size: int = 500, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in order, as they are. `share` (part, of parts): every so many-th batch."""
    if isinstance(images, FileSet):
        yield from image_files.plain_batches(images, min(batch_size, 100), share)
        return
    batches = zip(images.images.split(batch_size), images.targets.split(batch_size), strict=True)
    for pixels, targets in islice(batches, share[0], None, share[1]):
        yield normalise(pixels, images.mean, images.std), targets
