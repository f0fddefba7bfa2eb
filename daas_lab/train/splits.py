"""Which images a run trains on, holds out and is tested on: the data set cut once, by a split seed."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.data.batches import ImageSet, in_memory, load, shuffled
from daas_lab.data.image_files import FileSet
from daas_lab.data.image_folder import folder_digest, list_images
from daas_lab.data.sources import Dataset, check_classes, folder_of, own_dataset
from daas_lab.errors import LabError, refuse
from daas_lab.own_files import is_own


@dataclass(frozen=True)
class Splits:
    """The four parts of a data set. `held_out` are the images of the accuracies before and after discretization."""

    weights: ImageSet
    architecture: ImageSet
    held_out: ImageSet
    test: ImageSet


def search_splits(config: SearchConfig, data: str | Path | Dataset = "data") -> Splits:
    """The split of a search, by `split_seed`. Without held-out images the architecture's serve, as in the paper."""
    train, test = _load_for(config, data)
    names = ("weight_images", "architecture_images", "held_out_images")
    sizes = [getattr(config, name) for name in names]
    if sum(sizes) > len(train):
        raise refuse(" + ".join(names), sum(sizes), f"at most the {len(train)} training images of {config.dataset}")
    parts = [train.subset(part) for part in shuffled(len(train), config.split_seed)[: sum(sizes)].split(sizes)]
    weights, architecture, held_out = _read(parts[:2], parts[2:], config)
    return Splits(weights, architecture, held_out if len(held_out) else architecture, test)


def retrain_splits(
    config: RetrainConfig, data: str | Path | Dataset = "data"
) -> tuple[ImageSet | FileSet, ImageSet | FileSet]:
    """Training images (the first `train_images` of the same order as in a search) and test images."""
    train, test = _load_for(config, data)
    if config.train_images > len(train):
        raise refuse("train_images", config.train_images, f"at most the {len(train)} of {config.dataset}")
    if not len(test):
        raise refuse("test_images", 0, f"at least 1 in {config.dataset}, to measure the test error on")
    train = train.subset(shuffled(len(train), config.split_seed)[: config.train_images])
    if config.crops == "padded":
        train, test = _read([train], [test], config)
        return train, test
    if isinstance(train, ImageSet):
        raise refuse("crops", config.crops, f"padded for {config.dataset}, which is no folder of images")
    return tuple(replace(part, workers=config.workers) for part in (train, test))


def _read(training: list, others: list, config: SearchConfig | RetrainConfig) -> list[ImageSet]:
    """The images of all parts: files are read, arrays are there."""
    if isinstance(training[0], ImageSet):
        return [*training, *others]
    return in_memory(training, others, config.crop_padding)


def _folder(config: SearchConfig | RetrainConfig, data: str | Path | Dataset) -> Path:
    """Of a configuration's images; where it is gone the folder `data`, if that has them."""
    folder = folder_of(config.dataset)
    if folder.is_dir() or not isinstance(data, str | Path):
        return folder
    with contextlib.suppress(LabError):
        if folder_digest(data, list_images(data)) == config.data_digest:
            return Path(data).resolve()
    raise refuse("data", str(data), f"the folder with the images of dataset = {config.dataset!r}, which is gone")


def _load_for(config: SearchConfig | RetrainConfig, data: str | Path | Dataset):
    """`load`, if the data set is what the configuration was made for, in name, content, channels and classes."""
    if is_own(config.dataset):
        data = own_dataset(config.dataset)
    elif isinstance(data, Dataset) and str(data) != config.dataset:
        raise refuse("data", str(data), f"the images of dataset = {config.dataset!r}")
    if config.dataset.startswith("own:") and not isinstance(data, Dataset):
        raise refuse("data", str(data), f"the Dataset object of {config.dataset}")
    names, dataset = (), config.dataset
    if config.data_digest:
        # Not `facts_of` for a folder, which looks into every image of one that has changed.
        if isinstance(data, Dataset):
            digest = data.facts.digest
        else:
            folder = _folder(config, data)
            listing = list_images(folder)
            digest, names = folder_digest(folder, listing), listing.classes
            dataset = f"folder:{folder}"
        if digest != config.data_digest:
            raise LabError(f"dataset = {config.dataset!r}: must hold the images that the configuration was made for")
    train, test = load(dataset, data, config.side, config.split_seed, config.classes)
    channels = train.image_channels
    if channels != config.image_channels:
        raise refuse("image_channels", config.image_channels, f"{channels}, as in the images of {config.dataset}")
    classes = 1 + max(int(part.targets.max()) for part in (train, test) if len(part))
    if classes > config.classes:
        raise refuse("classes", config.classes, f"at least {classes}, as in the images of {config.dataset}")
    check_classes(config.dataset, train.targets.numpy(), test.targets.numpy(), config.classes, names)
    return train, test
