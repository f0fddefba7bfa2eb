"""Data sets of one's own: folders of images, ImageNet's tree, arrays; read whole or at every use."""

import contextlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from daas_lab import cli
from daas_lab.compose import retrain_config, search_config
from daas_lab.data import batches as data
from daas_lab.data.batches import load, plain_batches, training_batches
from daas_lab.data.image_files import FileSet
from daas_lab.data.sources import Dataset, facts_of
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.runs.folder import read_run
from daas_lab.studies.settings import Settings
from daas_lab.train.retrain import retrain
from daas_lab.train.search import search
from daas_lab.train.splits import retrain_splits, search_splits

CLASSES = ("ant", "bee", "cat")


def write_images(folder, count, mode="RGB", size=(20, 14), suffix=".png", classes=CLASSES):
    """`count` images of noise for each class, of the class's own brightness."""
    generator = np.random.default_rng(len(str(folder)))
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            shape = (size[1], size[0], *((3,) if mode == "RGB" else ()))
            pixels = generator.integers(0, 60, shape) + 90 * number
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index}{suffix}")
    return folder


@pytest.fixture(scope="module")
def one_tree(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("bugs"), 60)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's tree: JPEGs of different sizes in train/ and val/."""
    root = tmp_path_factory.mktemp("data")
    write_images(root / "imagenet" / "train", 6, size=(300, 240), suffix=".JPEG")
    write_images(root / "imagenet" / "val", 2, size=(180, 320), suffix=".JPEG")
    return root


# --- what a folder holds ----------------------------------------------------------------------------------------------


def test_classes_channels_side_and_normalisation_are_read_from_the_folder(one_tree):
    facts = facts_of(f"folder:{one_tree}")
    assert (facts.classes, facts.image_channels, facts.side, facts.train_images) == (3, 3, 12, 144)
    config = search_config("tiny", f"folder:{one_tree}")
    assert (config.classes, config.image_channels, config.side) == (3, 3, 8)
    assert config.weight_images + config.architecture_images + config.held_out_images == 144
    splits = search_splits(config)
    assert len(splits.test) == 36 and splits.weights.images.shape == (config.weight_images, 8, 8, 3)
    pixels = torch.cat([splits.weights.images, splits.architecture.images, splits.held_out.images]).double() / 255
    torch.testing.assert_close(splits.weights.mean, pixels.mean((0, 1, 2)).float())
    torch.testing.assert_close(splits.weights.std, pixels.flatten(0, 2).std(0).float())
    for part in (splits.weights, splits.architecture, splits.held_out):
        brightness = part.images.float().mean((1, 2, 3))
        assert torch.equal(((brightness - 30) / 90).round().long(), part.targets), "each image has its class"


def test_one_tree_is_split_by_the_seed_of_the_split_alone(one_tree):
    def test_paths(**changes):
        return load(f"folder:{one_tree}", "data", 8, **changes)[1].paths

    assert test_paths() == test_paths() != test_paths(split_seed=1)
    train, test = load(f"folder:{one_tree}", "data", 8)
    assert len(train) == 144 and not set(train.paths) & set(test.paths)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_train_and_test_folders_are_taken_as_they_are(tmp_path, test_name):
    write_images(tmp_path / "train", 4, mode="L")
    write_images(tmp_path / test_name, 2, mode="L", classes=CLASSES[1:])
    train, test = load(f"folder:{tmp_path}", "data", 16)
    assert len(train) == 12 and test.targets.tolist() == [1, 1, 2, 2]
    assert train.image_channels == 1 and train.read().shape == (12, 16, 16, 1)


def test_images_of_any_size_become_the_square_in_their_middle(tmp_path):
    for name, size, stripe in (("a", (30, 10), np.s_[:, 10:20]), ("b", (10, 30), np.s_[10:20])):
        (tmp_path / name).mkdir()
        pixels = np.zeros(size[::-1], dtype=np.uint8)
        pixels[stripe] = 200
        for number in range(5):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    train, _ = load(f"folder:{tmp_path}", "data", 20)
    assert (train.read() == 200).all()


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / name / f"{number}.png")
    assert facts_of(f"folder:{tmp_path}").image_channels == 1
    assert (load(f"folder:{tmp_path}", "data", 8)[0].read() == 40_000 >> 8).all()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda folder: None, ["dataset = 'folder:", "existing folder"]),
        (lambda folder: folder.mkdir(), ["must hold a folder of images for each of two or more classes"]),
        (lambda folder: (folder / "a").mkdir(parents=True) or (folder / "b").mkdir(), ["/a: must hold images", ".png"]),
        (
            lambda folder: (
                write_images(folder / "train", 1),
                write_images(folder / "test", 1, classes=("dog", "ant")),
            ),
            ["test/dog: must be a class of", "ant, bee, cat"],
        ),
    ],
)
def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path, broken, words):
    broken(tmp_path / "x")
    with pytest.raises(LabError) as error:
        search_config("tiny", f"folder:{tmp_path / 'x'}")
    assert all(word in str(error.value) for word in words), error.value


def test_an_unreadable_image_is_named(tmp_path, capsys):
    write_images(tmp_path, 30)
    (tmp_path / "bee" / "3.png").write_bytes(b"not an image at all")
    with pytest.raises(LabError, match=r"damaged image .*bee/3.png: no image that Pillow knows"):
        search_config("tiny", f"folder:{tmp_path}")
    # Cut short: the header is whole, so only reading the pixels shows it.
    write_images(tmp_path, 30)
    path = tmp_path / "cat" / "7.png"
    path.write_bytes(path.read_bytes()[:-200])
    command = ["search", "--preset", "tiny", "--dataset", f"folder:{tmp_path}", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert f"damaged image {path}" in message and message.count("\n") == 1
    for workers in (0, 2):  # also from within a process that reads
        files = FileSet([str(path)] * 4, torch.zeros(4).long(), 8, torch.zeros(3), torch.ones(3), workers=workers)
        with pytest.raises(LabError, match=rf"^damaged image {path}"):
            list(plain_batches(files))


# --- search and retraining --------------------------------------------------------------------------------------------


def test_search_and_retraining_on_a_folder_from_the_command_line(one_tree, tmp_path):
    common = ["--preset", "tiny", "--dataset", f"folder:{one_tree}", "--epochs", "1", "--steps", "1", "--side", "12"]
    assert cli.main(["search", *common, "--out", str(tmp_path / "s"), "--budget", "4/14"]) == 0
    genotype = str(tmp_path / "s" / "genotype.json")
    assert cli.main(["retrain", "--genotype", genotype, *common, "--out", str(tmp_path / "r")]) == 0
    assert 0 <= json.loads((tmp_path / "r" / "result.json").read_text())["test_error"] <= 100
    run = read_run(tmp_path / "r")
    assert run.config.classes == 3 and run.config.side == 12 and run.config.dataset == f"folder:{one_tree}"


def test_a_folder_is_the_same_wherever_it_lies_and_another_when_a_file_changes(tmp_path):
    first = write_images(tmp_path / "a", 10)
    config = search_config("tiny", f"folder:{first}", batch_size=8)
    (tmp_path / "b").mkdir()
    second = first.rename(tmp_path / "b" / "a")
    moved = search_config("tiny", f"folder:{second}", batch_size=8)
    assert config_hash(moved) == config_hash(config) and moved.dataset != config.dataset
    # A run from before the move is told where its images are now.
    there, here = search_splits(config, second), search_splits(moved)
    assert torch.equal(there.weights.images, here.weights.images)
    with pytest.raises(
        LabError, match=f"data = 'data': must be the folder with the images of .*{first}.*, which is gone"
    ):
        search_splits(config)
    (second / "bee" / "0.png").unlink()
    with pytest.raises(LabError, match="must hold the images that the configuration was made for"):
        search_splits(moved)
    assert search_config("tiny", f"folder:{second}", batch_size=8).data_digest != config.data_digest


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif"])
def test_an_edited_image_of_the_same_size_is_another_data_set(tmp_path, suffix):
    folder = write_images(tmp_path / "a", 10, suffix=suffix)
    before = search_config("tiny", f"folder:{folder}", batch_size=8)
    path = folder / "bee" / f"0{suffix}"
    with Image.open(path) as image:
        other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = path.stat().st_size
    other.save(path)
    assert path.stat().st_size == size
    with pytest.raises(LabError, match="must hold the images that the configuration was made for"):
        search_splits(before)


def test_that_transparency_is_left_out_is_said(tmp_path, capsys):
    folder = write_images(tmp_path / "a", 10)
    for name in ("ant", "bee"):
        path = folder / name / "0.png"
        with Image.open(path) as image:
            image.convert("RGBA").save(path)
    facts_of(f"folder:{folder}")
    assert "left out: transparency, of 2 images" in capsys.readouterr().err


def test_images_are_looked_into_once_until_one_changes(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "a", 5)
    name = f"folder:{folder}"
    before = facts_of(name)
    with monkeypatch.context() as patch:
        patch.setattr("daas_lab.data.image_folder.opened", lambda path: pytest.fail(f"{path} is opened"))
        assert facts_of(name) == before
    write_images(folder, 6)
    more = facts_of(name)
    assert more.digest != before.digest and sum(more.split) == round(0.8 * 18)
    write_images(folder, 6, mode="L")  # of the same names
    assert (more.image_channels, facts_of(name).image_channels) == (3, 1)


def own(count=240, classes=3):
    generator = np.random.default_rng(0)
    targets = np.arange(count) % classes
    images = (generator.integers(0, 60, (count, 8, 8)) + 90 * targets[:, None, None]).clip(0, 255).astype(np.uint8)
    return Dataset("stripes", images[40:], targets[40:], images[:40], targets[:40], flips=False)


def test_ones_own_arrays_are_one_object(tmp_path):
    mine = own()
    config = search_config("tiny", mine, "darts", epochs=1, steps=2, layers=3, channels=2, batch_size=8)
    assert (config.dataset, config.classes, config.image_channels, config.flip) == ("own:stripes", 3, 1, False)
    search(config, tmp_path / "s", mine, progress=False)
    retraining = retrain_config("PDARTS", "tiny", mine, epochs=3, steps=8, learning_rate=0.1, threads=1)
    retrain(retraining, tmp_path / "r", mine, progress=False)
    assert read_run(tmp_path / "r").result["test_error"] < 50, "three shades are told apart, by chance 67"
    with pytest.raises(LabError, match=r"dataset = 'own:stripes': must be a name, folder:PATH, or FILE\.py"):
        Settings(preset="tiny", dataset=mine)
    with pytest.raises(LabError, match="must be the Dataset object of own:stripes"):
        search_splits(config, "data")
    with pytest.raises(LabError, match="must hold the images that the configuration was made for"):
        search_splits(config, own(count=300))
    with pytest.raises(LabError, match="data = 'own:stripes': must be the images of dataset = 'digits'"):
        search_splits(search_config("tiny", "digits"), mine)
    untested = Dataset("untested", mine.images, mine.targets, mine.test_images[:0], mine.test_targets[:0])
    with pytest.raises(LabError, match="test_images = 0: must be at least 1"):
        retrain_splits(retrain_config("PDARTS", "tiny", untested), untested)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((4, 8, 8))}, r"images = 'float64 \[4, 8, 8\]': must be uint8 \[N, H, W\]"),
        ({"targets": np.zeros(3, dtype=int)}, "targets = 'int64 .3.': must be a whole number .* each of 4 images"),
        ({"images": np.zeros((0, 8, 8), dtype=np.uint8), "targets": np.zeros(0, dtype=int)}, "images = 0: must be at"),
        ({"test_images": np.zeros((4, 6, 6), dtype=np.uint8)}, r"test_images = \[6, 6, 1\]: must be \[8, 8, 1\]"),
    ],
)
def test_arrays_that_cannot_be_are_refused(changes, words):
    images, targets = np.zeros((4, 8, 8), dtype=np.uint8), np.zeros(4, dtype=int)
    given = {"images": images, "targets": targets, "test_images": images, "test_targets": targets} | changes
    with pytest.raises(LabError, match=words):
        Dataset("x", **given)


# --- ImageNet: read at every use --------------------------------------------------------------------------------------


def retraining(**changes):
    sizes = {"classes": 3, "train_images": 18, "batch_size": 4, "epochs": 1, "steps": 2, "threads": 1, "workers": 0}
    return retrain_config("DARTS_V2", "full", "imagenet", **(sizes | {"micro_batches": 2, "warmup": 0} | changes))


def test_the_recipe_for_imagenet():
    config = retrain_config("DARTS_V2", "full", "imagenet")
    expected = {"form": "imagenet", "layers": 14, "channels": 48, "epochs": 250, "batch_size": 1024, "steps": 1251}
    expected |= {"learning_rate": 0.5, "schedule": "linear", "warmup": 5, "momentum": 0.9, "weight_decay": 3e-5}
    expected |= {"label_smoothing": 0.1, "auxiliary_weight": 0.4, "drop_path": 0, "side": 224, "crops": "resized"}
    expected |= {"train_images": 1_281_167, "classes": 1000, "micro_batches": 8, "cutout": 0, "gradient_clip": 5.0}
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.slow
def test_two_steps_of_the_full_recipe_at_full_width_on_a_small_tree(imagenet, tmp_path):
    retrain(retraining(), tmp_path, imagenet, progress=False)
    run = read_run(tmp_path)
    assert run.result["parameters"] == 4_718_752 - 997 * 769, "the published count, with 3 classes for 1,000"
    assert set(run.result) == {"test_error", "test_error_top_5", "parameters", "multiply_adds"}
    assert run.result["test_error_top_5"] == 0, "three classes are among any five"
    assert 0 < run.history[0]["train_loss"] < 10


def test_each_image_is_cropped_by_its_own_draw_whoever_reads_it(imagenet, monkeypatch):
    train, _ = retrain_splits(retraining(side=32), imagenet)

    def batches(share=(0, 1), workers=0, seed=0):
        files = FileSet(**vars(train) | {"workers": workers})
        options = {"batch_size": 6, "steps": 3, "generator": torch.Generator().manual_seed(seed), "flip": True}
        return list(training_batches(files, **options, share=share))

    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs' generators are seeded"))
        whole = batches()
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    assert sorted(torch.cat([y for _, y in whole]).tolist()) == sorted(train.targets.tolist())
    for other in (batches(workers=2), batches()):
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole, other, strict=True))
    halves = [batches(share=(part, 2)) for part in (0, 1)]
    for (x, y), *parts in zip(whole, *halves, strict=True):
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(y, torch.cat([part[1] for part in parts]))
    assert not torch.equal(whole[0][0], batches(seed=1)[0][0])
    assert whole[0][0].is_contiguous(memory_format=torch.channels_last)


def test_test_images_are_the_middle_of_the_scaled_image(tmp_path):
    for name in CLASSES:
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = np.zeros((256, 256, 3), dtype=np.uint8)
            pixels[16:240, 16:240] = 255
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    _, test = retrain_splits(retraining(side=224, train_images=3, batch_size=2, micro_batches=1), tmp_path)
    ((x, y),) = plain_batches(test)
    assert y.tolist() == [0, 1, 2] and x.shape == (3, 3, 224, 224)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, white[:, None, None].expand_as(x))


def test_the_number_of_folders_must_be_the_number_of_classes(imagenet):
    with pytest.raises(LabError, match="classes = 1000: must be 3, the folders in"):
        retrain_splits(retraining(classes=1000), imagenet)


def test_a_search_reads_only_its_images_of_imagenet(imagenet, monkeypatch):
    images = {"weight_images": 8, "architecture_images": 8, "held_out_images": 2}
    config = search_config("tiny", "imagenet", classes=3, batch_size=4, side=16, **images)
    splits = search_splits(config, imagenet)
    assert splits.weights.images.shape == (8, 16, 16, 3) and isinstance(splits.test, FileSet)
    monkeypatch.setattr(data.os, "sysconf", lambda name: 50)
    refused = r"18 images of 16 × 16 pixels, padded copies included, would take .* more than half of this machine"
    with pytest.raises(LabError, match=refused):
        search_splits(config, imagenet)
    # All parts count, and the padded copies of those that are trained on; no part alone is too much.
    needed = 3 * (18 * 16**2 + 16 * (16 + 2 * config.crop_padding) ** 2)
    for memory, fits in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr(data.os, "sysconf", lambda name, memory=memory: memory if "PAGES" in name else 1)
        with contextlib.nullcontext() if fits else pytest.raises(LabError, match=refused):
            search_splits(config, imagenet)


def test_crops_that_a_data_set_cannot_have_are_refused(tmp_path):
    config = retrain_config("PDARTS", "tiny", "digits", crops="resized")
    with pytest.raises(LabError, match="crops = 'resized': must be padded for digits"):
        retrain_splits(config)
    with pytest.raises(LabError, match="cutout = 4: must be 0 with crops = resized"):
        retrain_config("PDARTS", "tiny", "digits", crops="resized", cutout=4)
    with pytest.raises(LabError, match=r"warmup = 250: must be 0 with a cosine, else less than epochs = 250"):
        retrain_config("PDARTS", "full", "imagenet", warmup=250)
