"""Data sets as they are read, split once by seed, and augmented image by image."""

import gzip
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from daas_lab.compose import retrain_config, search_config
from daas_lab.data import batches as data
from daas_lab.data.batches import ImageSet, load, plain_batches, training_batches
from daas_lab.errors import LabError
from daas_lab.train.splits import retrain_splits, search_splits


def image_set(count=12, side=8, channels=1):
    """Images whose pixels all differ, so that any displacement shows."""
    images = torch.arange(count * side * side * channels).remainder(251).byte().view(count, side, side, channels)
    return ImageSet(images, torch.arange(count), torch.zeros(channels), torch.ones(channels))


def rows(images):
    return {tuple(image) for image in images.images.flatten(1).tolist()}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    train, test = load("digits", "nowhere", 8)
    assert (len(train), len(test)) == (1400, 397)
    original = load_digits()
    assert sorted(train.targets.tolist() + test.targets.tolist()) == sorted(original.target.tolist())
    scaled = (original.images * 255 / 16).round().astype(np.uint8)
    assert rows(train) | rows(test) == set(map(tuple, scaled.reshape(-1, 64).tolist()))
    pixels = train.images.double() / 255
    torch.testing.assert_close(train.mean, pixels.mean().view(1).float())
    torch.testing.assert_close(train.std, pixels.std().view(1).float())
    assert torch.equal(test.mean, train.mean), "test images are normalised by the training images' statistics"


def test_images_are_padded_with_black_or_averaged_down():
    train, _ = load("digits", "nowhere", 8)
    larger, _ = load("digits", "nowhere", 12)
    assert torch.equal(larger.images[:, 2:10, 2:10], train.images)
    assert larger.images.sum() == train.images.sum()
    smaller, _ = load("digits", "nowhere", 4)
    blocks = F.avg_pool2d(train.images.permute(0, 3, 1, 2).float(), 2).round().byte()
    assert torch.equal(smaller.images, blocks.permute(0, 2, 3, 1))


def write_idx(path, array):
    header = struct.pack(f">{1 + array.ndim}i", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=1))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """The files of Fashion-MNIST in form and size; the images are stripes of their class."""
    folder = tmp_path_factory.mktemp("data") / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        labels = np.arange(count) % 10
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", np.broadcast_to(labels[:, None, None] * 25, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder.parent.parent


def test_fashion_mnist_is_read_from_its_idx_files(fashion):
    train, test = load("fashion_mnist", fashion, 16)
    assert train.images.shape == (60_000, 16, 16, 1) and test.images.shape == (10_000, 16, 16, 1)
    assert torch.equal(test.images[:, 3, 5, 0].long(), test.targets * 25)


@pytest.mark.needs("Fashion-MNIST")
def test_fashion_mnist_is_the_published_one():
    train, test = load("fashion_mnist", "data", 28)
    assert (
        torch.bincount(train.targets).tolist() == [6000] * 10 and torch.bincount(test.targets).tolist() == [1000] * 10
    )
    # As everybody normalises it.
    assert train.mean.item() == pytest.approx(0.2860, abs=5e-5) and train.std.item() == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize("kept", [40, -1])
def test_a_file_that_was_cut_short_is_named(fashion, tmp_path, kept):
    for path in (fashion / "FashionMNIST" / "raw").iterdir():
        (tmp_path / path.name).symlink_to(path)
    broken = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[:kept])
    with pytest.raises(LabError, match="damaged file") as error:
        load("fashion_mnist", tmp_path, 16)
    assert str(broken) in str(error.value)


def test_a_file_of_another_size_is_named(fashion, tmp_path):
    for path in (fashion / "FashionMNIST" / "raw").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(99))
    with pytest.raises(LabError, match=r"t10k-labels.*not an idx file of 10000 bytes"):
        load("fashion_mnist", tmp_path, 16)


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10", "cifar100", "imagenet"])
def test_missing_data_names_folder_address_and_command(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SYSTEM_FOLDERS", {"fashion_mnist": tmp_path / "system"})
    for read in (lambda: load(dataset, tmp_path, 16), lambda: data.check_available(dataset, tmp_path)):
        with pytest.raises(LabError) as error:
            read()
        assert all(word in str(error.value) for word in (f"'{dataset}'", str(tmp_path), "http", "`"))


def test_a_cifar_file_with_another_checksum_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for part in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / part).write_bytes(b"not a batch")
    with pytest.raises(LabError, match=r"damaged file .*data_batch_1: its md5 is not c99cafc"):
        load("cifar10", tmp_path, 32)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_search_splits_once_by_seed_and_never_sees_test_images():
    config = search_config("quick", "digits")
    splits, again = search_splits(config), search_splits(config)
    parts = [splits.weights, splits.architecture, splits.held_out, splits.test]
    assert [len(part) for part in parts] == [600, 600, 200, 397]
    assert torch.equal(splits.weights.images, again.weights.images)
    seen = [rows(part) for part in parts]
    # A few of scikit-learn's digits are there twice.
    assert all(len(a & b) <= 2 for i, a in enumerate(seen) for b in seen[i + 1 :])
    other_run = search_splits(search_config("quick", "digits", seed=5))
    assert torch.equal(splits.weights.images, other_run.weights.images), "the run's seed moves no image"
    assert not torch.equal(
        splits.weights.images, search_splits(search_config("quick", "digits", split_seed=1)).weights.images
    )


def test_without_held_out_images_the_architectures_serve():
    splits = search_splits(search_config("tiny", "digits", held_out_images=0))
    assert splits.held_out is splits.architecture


def test_retraining_takes_training_images_only():
    train, test = retrain_splits(retrain_config("PDARTS", "tiny", "digits"))
    assert len(train) == 96 and len(test) == 397
    assert torch.equal(test.images, search_splits(search_config("tiny", "digits")).test.images)


def test_more_images_than_there_are_is_refused():
    with pytest.raises(
        LabError, match=r"weight_images \+ .* = 1792: must be at most the 1400 training images of digits"
    ):
        search_splits(search_config("tiny", "digits", weight_images=1600))
    with pytest.raises(LabError, match=r"train_images = 5000: must be at most the 1400 of digits"):
        retrain_splits(retrain_config("PDARTS", "tiny", "digits", train_images=5000))


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(images, seed=0, **changes):
    options = {"batch_size": 4, "steps": 3, "generator": torch.Generator().manual_seed(seed)} | changes
    return list(training_batches(images, **options))


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    images = image_set()
    shown = torch.cat([y for _, y in batches(images)])
    assert sorted(shown.tolist()) == list(range(12)) and shown.tolist() != list(range(12))
    assert torch.equal(shown, torch.cat([y for _, y in batches(images)]))
    assert not torch.equal(shown, torch.cat([y for _, y in batches(images, seed=1)]))
    # A set too small for the steps is gone through again.
    many = torch.cat([y for _, y in batches(images, steps=9)])
    assert torch.bincount(many).tolist() == [3] * 12


def test_batches_without_augmentation_are_the_images_normalised():
    images = image_set(channels=3)
    images = ImageSet(images.images, images.targets, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0]))
    expected = (images.images.float() / 255 - images.mean) / images.std
    for x, y in [*batches(images), *plain_batches(images, 5)]:
        assert x.shape[1:] == (3, 8, 8) and x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x.permute(0, 2, 3, 1), expected[y])


def test_each_image_is_cropped_and_flipped_by_its_own_draw():
    images = image_set(count=60)
    seen = set()
    for x, y in batches(images, batch_size=60, steps=3, crop_padding=2, flip=True):
        padded = F.pad(images.images[y].permute(0, 3, 1, 2).float() / 255, (2, 2, 2, 2))
        for image, source in zip(x, padded, strict=True):
            crops = {(top, left): source[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)}
            found = [(*at, False) for at, crop in crops.items() if torch.equal(image, crop)]
            found += [(*at, True) for at, crop in crops.items() if torch.equal(image, crop.flip(2))]
            assert len(found) == 1, "every image is one crop of the padded original"
            seen.add(found[0])
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    assert {flipped for _, _, flipped in seen} == {False, True} and len(seen) > 40


def test_cutout_blanks_a_square_of_its_own_in_each_image():
    images = ImageSet(
        torch.full((64, 8, 8, 1), 255, dtype=torch.uint8), torch.arange(64), torch.zeros(1), torch.ones(1)
    )
    ((x, _),) = batches(images, batch_size=64, steps=1, cutout=4)
    centres = set()
    for blanked in x[:, 0] == 0:
        down, across = (blanked.any(dim=d).nonzero().flatten() for d in (1, 0))
        assert blanked[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
        assert 2 <= len(down) <= 4 and 2 <= len(across) <= 4, "smaller only where it leaves the image"
        centres.add((down[0].item(), across[0].item(), len(down), len(across)))
    assert len(centres) > 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"classes": 5}, "classes = 5: must be 10"), ({"image_channels": 3}, "image_channels = 3: must be 1")],
)
def test_a_configuration_that_does_not_fit_the_images_is_refused_before_training(changes, words):
    with pytest.raises(LabError, match=words):
        search_splits(search_config("tiny", "digits", **changes))
