"""Sets of image files that are read whenever they are used: what does not fit in memory, and ImageNet's augmentation.

Legend: B batch, C image channels, H = W side. Processes of the DataLoader decode, crop and jitter; what they hand over
is uint8 [B, H, W, C].
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from daas_lab.data.picture import check_range, read_image
from daas_lab.errors import LabError

# Of the colours of ImageNet's training images, as the field uses them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FileSet:
    """Image files and their targets int64 [N], used at side × side pixels, with mean and deviation [C].

    `white` is the level that becomes 255 in files of more than 8 bits (picture.py), `device` where batches go;
    `workers` processes read the files.
    """

    paths: list[str]
    targets: Tensor
    side: int
    mean: Tensor
    std: Tensor
    white: Mapping[str, float] = field(default_factory=dict)
    device: str | torch.device = "cpu"
    workers: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def image_channels(self) -> int:
        """1 for grey images, 3 for coloured ones."""
        return len(self.mean)

    def subset(self, indices: Tensor) -> "FileSet":
        """The files with these indices."""
        return replace(self, paths=[self.paths[index] for index in indices.tolist()], targets=self.targets[indices])

    def to(self, device: str | torch.device) -> "FileSet":
        """The set with its batches on another device."""
        return replace(self, device=device, mean=self.mean.to(device), std=self.std.to(device))

    def read(self) -> Tensor:
        """All images, uint8 [N, H, W, C], the largest square in the middle scaled to the side."""
        images = torch.empty(len(self), self.side, self.side, self.image_channels, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
            for number, pixels in enumerate(pool.map(self._read_square, self.paths)):
                images[number] = pixels
        return images

    def _read_square(self, path: str) -> Tensor:
        image = read_image(path, self.image_channels, self.white)
        (width, height), square = image.size, min(image.size)
        left, top = (width - square) // 2, (height - square) // 2
        image = image.crop((left, top, left + square, top + square))
        return _pixels(image.resize((self.side, self.side), Image.Resampling.BILINEAR))


def with_statistics(files: FileSet, images: int = 2000) -> FileSet:
    """The set with mean and deviation of its own pixels, from at most `images` files spread over it."""
    chosen = torch.linspace(0, len(files) - 1, min(images, len(files))).long()
    pixels = files.subset(chosen).read()
    check_range(f"images {files.paths[0]} …", int(pixels.max()))
    std, mean = pixel_statistics(pixels)
    return replace(files, mean=mean, std=std)


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation and mean [C] of images uint8 [N, H, W, C], in units of 255."""
    std, mean = torch.std_mean(images.float().div_(255).reshape(-1, images.shape[-1]), dim=0)
    # The deviations of a constant channel would divide by zero.
    return std.clamp(min=1e-3), mean


def training_batches(
    files: FileSet,
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    flip: bool,
    share: tuple[int, int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` shuffled batches of random resized crops with jittered colours, each image by its own seed.

    `share`: as in `batches.training_batches`.
    """
    from torchvision import transforms  # here and below: it takes as long to import as torch

    rounds = math.ceil(steps * batch_size / len(files))
    order = torch.cat([torch.randperm(len(files), generator=generator) for _ in range(rounds)])
    order = order[: steps * batch_size]
    seeds = torch.randint(2**62, order.shape, generator=generator)
    mine = slice(*(batch_size * (share[0] + end) // share[1] for end in (0, 1)))
    keys = [
        list(zip(indices[mine].tolist(), draws[mine].tolist(), strict=True))
        for indices, draws in zip(order.split(batch_size), seeds.split(batch_size), strict=True)
    ]
    steps_of_one = [transforms.RandomResizedCrop(files.side)]
    steps_of_one += [transforms.RandomHorizontalFlip()] if flip else []
    steps_of_one += [transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)]
    yield from _load(files, keys, transforms.Compose(steps_of_one))


def plain_batches(files: FileSet, batch_size: int, share: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in order, the middle of each: 224 of 256 pixels for ImageNet."""
    from torchvision import transforms

    middle = [transforms.Resize(round(files.side * 8 / 7)), transforms.CenterCrop(files.side)]
    batches = torch.arange(len(files)).split(batch_size)[share[0] :: share[1]]
    keys = [[(index, 0) for index in batch.tolist()] for batch in batches]
    yield from _load(files, keys, transforms.Compose(middle))


class _Decoded(Dataset):
    """(index, seed) → pixels uint8 [H, W, C] and target, or the message of what is wrong with the file."""

    def __init__(self, files: FileSet, transform):
        self.files, self.transform = files.to("cpu"), transform

    def __getitem__(self, key: tuple[int, int]):
        index, seed = key
        try:
            image = read_image(self.files.paths[index], self.files.image_channels, self.files.white)
        except LabError as error:  # raised in a reading process it would arrive with that process's traceback
            return str(error), 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
            return _pixels(self.transform(image)), self.files.targets[index]


def _load(files: FileSet, keys: list[list[tuple[int, int]]], transform) -> Iterator[tuple[Tensor, Tensor]]:
    pinned = torch.device(files.device).type == "cuda"
    # A generator of its own: the loader would draw a seed from torch's.
    options: dict[str, Any] = {"num_workers": files.workers, "pin_memory": pinned, "generator": torch.Generator()}
    decoded = _Decoded(files, transform)
    for images, targets in DataLoader(decoded, batch_sampler=keys, collate_fn=_stack, **options):
        if isinstance(images, str):
            raise LabError(images)
        pixels, targets = (part.to(files.device, non_blocking=pinned) for part in (images, targets))
        yield normalise(pixels, files.mean, files.std), targets


def _stack(items: list):
    broken = next((image for image, _ in items if isinstance(image, str)), None)
    if broken is not None:
        return broken, 0
    return torch.stack([image for image, _ in items]), torch.stack([target for _, target in items])


def _pixels(image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(-1) if pixels.ndim == 2 else pixels


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, H, W, C] → float32 [B, C, H, W] in channels-last memory."""
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
