"""Images as people have them, kind by kind: what is read as it is meant, what is said, and what is refused."""

import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from daas_lab import cli
from daas_lab.compose import retrain_config, search_config
from daas_lab.data.batches import load
from daas_lab.data.image_folder import list_images
from daas_lab.data.sources import Dataset, facts_of
from daas_lab.errors import LabError, say_once
from daas_lab.report.tables import save_table
from daas_lab.runs.provenance import provenance
from daas_lab.studies.make import run_name
from daas_lab.train.splits import retrain_splits, search_splits

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def nothing_said_or_seen():
    say_once.cache_clear()


def shade(level, side=8):
    """An image of noise around a brightness of its own."""
    return (np.random.default_rng(level).integers(0, 20, (side, side)) + level).astype(np.uint8)


def fill(folder, *names, count=4, to_image=Image.fromarray, suffix=".png"):
    """`count` images of each class in a folder; every file is different."""
    for level, name in enumerate(names or CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            to_image(shade(60 * level + 10 * number)).save(folder / name / f"{number}{suffix}")
    return folder


def relative(files, root):
    return [os.path.relpath(path, root) for path, _ in files]


# --- the parts of a split ---------------------------------------------------------------------------------------------


@pytest.mark.kind("the parts of a split")
@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("train", name) for name in ("test", "val", "valid", "validation", "dev", "eval", "testing", "evaluation")],
        *[("Train", "Valid"), ("TRAIN", "TEST"), ("training", "Validation"), ("Training", "test")],
    ],
)
def test_the_usual_names_of_a_split_are_known_in_any_case(tmp_path, train, test):
    fill(tmp_path / train, count=5)
    fill(tmp_path / test, count=2)
    listing = list_images(tmp_path)
    assert listing.classes == list(CLASSES) and (len(listing.train), len(listing.test)) == (15, 6)
    assert all(path.startswith(f"{train}/") for path in relative(listing.train, tmp_path))
    assert facts_of(f"folder:{tmp_path}").train_images == 15


@pytest.mark.kind("the parts of a split")
@pytest.mark.parametrize(
    ("others", "taken"),
    [(["val"], "test"), (["valid", "Validation"], "Test"), (["unlabelled", "extra"], "valid"), (["evaluation"], "dev")],
)
def test_what_stands_beside_a_split_is_left_out_and_said(tmp_path, capsys, others, taken):
    for name in ("train", taken, *others):
        fill(tmp_path / name)
    Image.fromarray(shade(3)).save(tmp_path / "overview.png")
    assert {path.split("/")[0] for path in relative(list_images(tmp_path).test, tmp_path)} == {taken}
    for _ in range(2):
        search_config("tiny", f"folder:{tmp_path}", batch_size=2)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(name in line for name in ("left out", "overview.png", *others))


@pytest.mark.kind("the parts of a split")
def test_an_unlabelled_test_folder_is_no_part_of_a_split_that_has_another(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "val", count=1), fill(tmp_path, "test")
    listing = list_images(tmp_path)
    assert len(listing.test) == 3 and listing.left_out == ["beside train and val: test"]


@pytest.mark.kind("the parts of a split")
@pytest.mark.parametrize(
    "folders",
    [
        ["train/"],
        ["train/", "holdout/"],
        ["train/", "test"],  # images without classes
        ["train", "test"],
        ["train", "test", "unlabelled"],
        ["val/", "test/"],
        ["train/", "Train/", "test/"],
        ["train/", "training/", "test/"],
        ["train2017/", "val2017/"],
        ["training_set/", "test_set/"],
        ["TrainImages", "TestImages"],
        ["X_train/", "X_test/"],
        ["fold1/", "fold2/", "fold3/"],
        ["part-1/", "part-2/"],
        ["held_out/", "seen/"],
        ["2019/", "2020/"],
        ["A/", "B/"],
        ["train/", "ant", "bee"],
    ],
)
def test_what_else_looks_like_a_split_is_refused(tmp_path, folders):
    for name in folders:
        if name.endswith("/"):
            fill(tmp_path / name, count=1)
        else:
            fill(tmp_path, name)
    with pytest.raises(
        LabError, match=r"looks like the parts of a split \(.*must be one of train, training and one of"
    ):
        search_config("tiny", f"folder:{tmp_path}")


@pytest.mark.kind("the parts of a split")
@pytest.mark.parametrize(
    "names",
    [
        ("train", "car", "plane"),
        ("freight_train", "passenger_train"),
        ("test_tube", "flask"),
        ("control", "test"),
        ("valley", "trainer", "testament"),
        ("land/forest", "land/field", "sea/reef"),
    ],
)
def test_classes_with_names_like_these_are_classes(tmp_path, names):
    fill(tmp_path, *names)
    assert set(list_images(tmp_path).classes) == {name.split("/")[0] for name in names}


@pytest.mark.kind("the parts of a split")
def test_a_folder_for_each_class_with_the_split_inside_is_refused(tmp_path):
    for name in CLASSES:
        fill(tmp_path / name, "train", "test")
    with pytest.raises(LabError, match="looks like the parts of a split"):
        list_images(tmp_path)


# --- each file once, and hidden ones never ----------------------------------------------------------------------------


def hidden_folder(root):
    fill(root / "ant", ".ipynb_checkpoints"), fill(root / ".thumbnails", "ant")


def apple_double(root):
    for name in CLASSES:
        (root / name / "._0.png").write_bytes(b"\0\5\26\7")
    fill(root / "__MACOSX", "ant")
    (root / "ant" / ".DS_Store").write_bytes(b"\0")


def thumbnails_of_a_nas(root):
    fill(root / "bee", "@eaDir")


def loop_in_a_class(root):
    (root / "ant" / "loop").symlink_to("..")
    (root / "bee" / "self").symlink_to(".")


def loop_beside_the_classes(root):
    (root / "all").symlink_to(".")


def two_loops(root):
    (root / "ant" / "to_bee").symlink_to("../bee")
    (root / "bee" / "to_ant").symlink_to("../ant")


def links_in_a_circle(root):
    (root / "cat" / "x.png").symlink_to("y.png")
    (root / "cat" / "y.png").symlink_to("x.png")


def links_to_files(root):
    (root / "ant" / "again.png").symlink_to("0.png")
    (root / "ant" / "00.png").symlink_to(root / "bee" / "1.png")


def hard_link(root):
    os.link(root / "cat" / "2.png", root / "cat" / "two.png")


def other_files(root):
    (root / "ant" / "labels.csv").write_text("0")
    (root / "bee" / "photo.heic").write_bytes(b"0")


KINDS = [
    *[hidden_folder, apple_double, thumbnails_of_a_nas, loop_in_a_class, loop_beside_the_classes, two_loops],
    *[links_in_a_circle, links_to_files, hard_link, other_files],
]


@pytest.mark.kind("each file once, and hidden ones never")
@pytest.mark.parametrize("add", KINDS)
@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_what_is_hidden_or_there_already_changes_nothing_and_is_said(tmp_path, capsys, add, parts):
    for number, part in enumerate(parts):
        fill(tmp_path / part, count=4 + number)
    plain = list_images(tmp_path)
    for part in parts:
        add(tmp_path / part)
    listing = list_images(tmp_path)
    assert listing[:3] == plain[:3]
    assert search_config("tiny", f"folder:{tmp_path}", batch_size=2).classes == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "left out: " in said


@pytest.mark.kind("each file once, and hidden ones never")
@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp"])
def test_further_images_of_a_file_are_left_out_and_said(tmp_path, capsys, suffix):
    fill(tmp_path)
    first, *others = (Image.fromarray(shade(level)).convert("RGB") for level in (10, 90, 200))
    first.save(tmp_path / "bee" / f"several{suffix}", save_all=True, append_images=others)
    assert facts_of(f"folder:{tmp_path}").classes == 3
    assert "left out: all but the first image of files with several: 1\n" in capsys.readouterr().err


@pytest.mark.kind("each file once, and hidden ones never")
def test_no_image_is_in_both_parts_of_a_split(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "test", count=1)
    (tmp_path / "test" / "ant" / "all").symlink_to(tmp_path / "train" / "ant")
    os.link(tmp_path / "train" / "bee" / "3.png", tmp_path / "test" / "bee" / "9.png")
    listing = list_images(tmp_path)
    assert len(listing.train) == 12 and len(listing.test) == 3
    assert listing.left_out == ["files that are there already: 5"]


@pytest.mark.kind("each file once, and hidden ones never")
def test_a_tree_of_links_to_a_pool_is_read_through_them(tmp_path):
    fill(tmp_path / "pool")
    for name in CLASSES:
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "set" / name / f"{number}.png").symlink_to(tmp_path / "pool" / name / f"{number}.png")
    (tmp_path / "set" / "dog").symlink_to(fill(tmp_path / "more", "dog") / "dog")
    assert [target for _, target in list_images(tmp_path / "set").train] == [0] * 2 + [1] * 2 + [2] * 2 + [3] * 4
    # Two links of two classes to one image: which is right?
    (tmp_path / "set" / "ant" / "9.png").symlink_to(tmp_path / "pool" / "bee" / "0.png")
    with pytest.raises(LabError, match=r"image .*bee/0.png: is the same file as .*ant/9.png: must be of one class"):
        list_images(tmp_path / "set")


@pytest.mark.kind("each file once, and hidden ones never")
def test_a_link_that_leads_nowhere_and_what_is_no_file_are_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(LabError, match=r"damaged image .*ant/gone.png: No such file"):
        facts_of(f"folder:{tmp_path}")
    (tmp_path / "ant" / "gone.png").unlink()
    os.mkfifo(tmp_path / "ant" / "pipe.png")  # reading it would wait for ever
    with pytest.raises(LabError, match=r"damaged image .*ant/pipe.png: no file of bytes"):
        facts_of(f"folder:{tmp_path}")


# --- names that are not UTF-8 -----------------------------------------------------------------------------------------


@pytest.mark.kind("names that are not UTF-8")
@pytest.mark.parametrize("where", ["file", "class", "root", "folder in a class"])
def test_names_that_are_not_utf_8_work(tmp_path, monkeypatch, capsys, where):
    odd = os.fsdecode(b"caf\xe9")
    root = fill(tmp_path / (odd if where == "root" else "set"), *CLASSES, *([odd] if where == "class" else []))
    if where == "file":
        (root / "ant" / "0.png").rename(root / "ant" / f"{odd}.png")
    if where == "folder in a class":
        fill(root / "bee", odd)
    common = ["--preset", "tiny", "--dataset", f"folder:{root}", "--method", "random", "--set", "batch_size=2"]
    assert cli.main(["search", *common, "--out", str(tmp_path / "run")]) == 0
    config = search_config("tiny", f"folder:{root}", batch_size=2)
    assert len(search_splits(config).weights) == config.weight_images
    [page, _] = save_table("odd", [{"dataset": config.dataset}], provenance(config.dataset, "tiny", "", 1), tmp_path)
    assert json.loads(page.read_text(encoding="utf-8"))["rows"] == [{"dataset": config.dataset}]
    assert run_name(config).encode()
    # With a name in UTF-8 all is the same: the digest is over the same bytes as ever.
    assert config.data_digest == facts_of(f"folder:{root}").digest and len(config.data_digest) == 16


# --- levels of more than 8 bits ---------------------------------------------------------------------------------------


def numbers(kind, factor):
    """The shades 0 … 255 as other numbers, in a picture of Pillow."""
    return lambda shades: Image.fromarray((shades.astype(np.float64) * factor).astype(kind))


def tiff_of_12_bits(shades):
    """A TIFF of one strip, which Pillow can read but not write."""
    bits = "".join(f"{int(level):012b}" for level in shades.astype(int).flatten() * 16)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = shades.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    directory = struct.pack("<H", len(tags) + 1) + entries + struct.pack("<I", 0)

    class Picture:
        def save(self, path):
            path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)

    return Picture()


@pytest.mark.kind("levels of more than 8 bits")
@pytest.mark.parametrize(
    ("to_image", "suffix"),
    [
        (numbers(np.float32, 1 / 256), ".tif"),
        (numbers(np.float32, 1), ".tif"),
        (numbers(np.float32, 1 / 4096), ".tiff"),
        (numbers(np.float32, 2048), ".tif"),
        (tiff_of_12_bits, ".tif"),
        (numbers(np.uint16, 16), ".png"),  # 12 bits in 16
        (numbers(np.uint16, 1), ".png"),  # 8 bits in 16
        (numbers(np.uint16, 64), ".tif"),  # 14 bits
        (numbers(np.uint16, 256), ".png"),
        (numbers(np.uint16, 256), ".pgm"),
        (numbers(np.int32, 256), ".tif"),
        (numbers(np.int32, 2**22), ".tif"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_levels_of_any_depth_are_the_same_shades(tmp_path, to_image, suffix):
    fill(tmp_path / "eight", count=5)
    fill(tmp_path / "deep", count=5, to_image=to_image, suffix=suffix)
    assert facts_of(f"folder:{tmp_path / 'deep'}").image_channels == 1
    eight, deep = (load(f"folder:{tmp_path / name}", "data", 8)[0] for name in ("eight", "deep"))
    assert deep.targets.equal(eight.targets)
    assert (deep.read().int() - eight.read().int()).abs().max() <= 1


@pytest.mark.kind("levels of more than 8 bits")
@pytest.mark.parametrize("other", [numbers(np.float32, 1 / 256), numbers(np.uint16, 256)], ids=["float", "16 bits"])
def test_levels_of_several_depths_in_one_folder_are_refused(tmp_path, other):
    fill(tmp_path)  # a class of its own depth would be told apart by its scale
    fill(tmp_path, "dog", to_image=other, suffix=".tif")
    with pytest.raises(LabError, match=r"images .*ant/0.png and .*dog/0.tif: must have levels of one depth"):
        search_config("tiny", f"folder:{tmp_path}")


def with_pixel(value):
    def change(shades):
        levels = (shades / 255).astype(np.float32)
        levels[3, 4] = value
        return levels

    return change


@pytest.mark.kind("levels of more than 8 bits")
@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (with_pixel(np.nan), "levels from nan to nan: must be finite"),
        (with_pixel(np.inf), "levels from .* to inf: must be finite"),
        (with_pixel(-np.inf), "levels from -inf to"),
        (with_pixel(-0.5), "levels from -0.5 to"),
        (lambda shades: shades.astype(np.int32) - 1000, "levels from -9"),
    ],
)
def test_levels_that_are_negative_or_not_finite_name_their_image(tmp_path, levels, words):
    fill(tmp_path)
    Image.fromarray(levels(shade(40))).save(tmp_path / "bee" / "odd.tif")
    with pytest.raises(LabError, match=f"image .*bee/odd.tif: has {words}"):
        search_config("tiny", f"folder:{tmp_path}")


def png_of_16_bits(factor):
    """Colours of 16 bits in a PNG, which Pillow can read but not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def to_image(shades):
        rows = (np.stack([shades] * 3, 2).astype(np.uint32) * factor).astype(">u2")
        header = struct.pack(">IIBBBBB", *shades.shape[::-1], 16, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

        class Picture:
            def save(self, path):
                signature = b"\x89PNG\r\n\x1a\n"
                path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))

        return Picture()

    return to_image


@pytest.mark.kind("levels of more than 8 bits")
def test_colours_of_16_bits_keep_their_range_or_are_refused(tmp_path):
    fill(tmp_path / "eight", count=5)
    fill(tmp_path / "full", count=5, to_image=png_of_16_bits(256))
    fill(tmp_path / "low", count=5, to_image=png_of_16_bits(16))
    full, eight = (load(f"folder:{tmp_path / name}", "data", 8)[0] for name in ("full", "eight"))
    assert full.read().equal(eight.read().expand(-1, -1, -1, 3))
    with pytest.raises(LabError, match=r"dataset = .*low': must be colours of 16 bits in the upper 8"):
        facts_of(f"folder:{tmp_path / 'low'}")


@pytest.mark.kind("levels of more than 8 bits")
@pytest.mark.parametrize("largest", [0, 1, 16])
def test_bytes_that_were_not_made_for_bytes_are_refused(tmp_path, largest):
    dark = np.random.default_rng(0).integers(0, largest + 1, (40, 8, 8)).astype(np.uint8)
    dark[0] = largest
    with pytest.raises(LabError, match=f"images = 'bytes of at most {largest}': must be bytes from 0 .black. to 255"):
        Dataset("dark", dark, np.arange(40) % 2, dark, np.arange(40) % 2)
    for number, image in enumerate(dark):
        (tmp_path / CLASSES[number % 3]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / CLASSES[number % 3] / f"{number}.png")
    with pytest.raises(LabError, match="bytes of at most"):
        load(f"folder:{tmp_path}", "data", 8)


# --- arrays -----------------------------------------------------------------------------------------------------------


def dataset(images=None, targets=None, test_images=None, test_targets=None):
    """A data set of 12 images of three classes, but for what is given."""
    usual = np.stack([shade(60 * (n % 3), 16) for n in range(12)])
    classes = np.arange(12) % 3
    given = (images, targets, test_images, test_targets)
    return Dataset("x", *(b if a is None else a for a, b in zip(given, (usual, classes, usual, classes), strict=True)))


def of_shape(*shape, kind=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(kind)


@pytest.mark.kind("arrays")
@pytest.mark.parametrize(
    "images",
    [
        of_shape(12, 3, 32, 32),
        of_shape(12, 1, 28, 28),
        of_shape(12, 4, 24, 32),
        of_shape(12, 13, 64, 64),
        of_shape(12, 3, 8, 8),
        of_shape(32, 32, 3, 12),  # as in SVHN's files
        of_shape(12, 28, 28, 28),  # volumes
        of_shape(12, 1, 3, 16, 16),
        of_shape(12, 784),
        of_shape(12, 16, 3),  # signals of three channels
        of_shape(12, 16, 16) / 255,
        of_shape(12, 16, 16, kind=np.float32),
        of_shape(12, 16, 16, kind=np.int64),
        of_shape(12, 16, 16, kind=np.int8, high=100),
        of_shape(12, 16, 16, kind=np.uint16),
        of_shape(12, 16, 16) > 100,
        np.full((12, 16, 16), np.nan),
        np.array(["a"] * 12),
        torch.rand(12, 3, 16, 16),
        None,
    ],
    ids=lambda images: f"{getattr(images, 'dtype', None)} {list(getattr(images, 'shape', []))}",
)
@pytest.mark.parametrize("prefix", ["", "test_"])
def test_arrays_in_another_layout_or_type_are_refused_with_the_form_that_is_meant(images, prefix):
    usual = dataset()
    given = {name: getattr(usual, name) for name in ("images", "targets", "test_images", "test_targets")}
    with pytest.raises(LabError) as error:
        Dataset("x", **given | {f"{prefix}images": images})
    text = str(error.value)
    assert text.startswith(f"{prefix}images = ") and "must be uint8 [N, H, W] or [N, H, W, C]" in text


@pytest.mark.kind("arrays")
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (12, 20, 3), (16, 16, 4), (20, 20, 13), (6, 4)])
def test_arrays_as_they_are_meant_are_taken(shape):
    images = of_shape(12, *shape)
    for given in (images, torch.from_numpy(images), list(images)):
        facts = facts_of(dataset(given, test_images=given))
        assert (facts.classes, facts.image_channels) == (3, shape[2] if len(shape) == 3 else 1)


@pytest.mark.kind("arrays")
@pytest.mark.parametrize(
    "targets",
    [
        np.eye(3, dtype=int)[np.arange(12) % 3],
        (np.arange(12) % 3)[:, None],
        np.arange(12) % 3 / 1.0,
        np.arange(12) % 3 - 1,
        np.array(["ant", "bee", "cat"] * 4),
        np.arange(12) % 2 > 0,
        np.arange(11) % 3,
        np.full(12, 2**63, dtype=np.uint64),
        [[0], [1, 2]],
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["", "test_"])
def test_targets_that_are_no_classes_are_refused(targets, prefix):
    usual = dataset()
    given = {name: getattr(usual, name) for name in ("images", "targets", "test_images", "test_targets")}
    with pytest.raises(LabError, match=f"^{prefix}targets = .*(a whole number of at least 0 for each of 12|an array)"):
        Dataset("x", **given | {f"{prefix}targets": targets})


# --- classes without images: one rule for folders and arrays, training and test ---------------------------------------


@pytest.mark.kind("classes without images")
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 1, 3], "4 classes: there are none of 2, and 4 for the test"),
        ([1, 2, 3], "4 classes: there are none of 0, and 4 for the test"),
        ([0, 1, 255], "256 classes: there are none of 2,"),
        ([0, 1, 10**12], "there are none of 2,"),
    ],
)
def test_arrays_whose_classes_have_gaps_in_training_are_refused(targets, words):
    with pytest.raises(LabError, match=f"dataset = 'own:x': must be training images of .*{words}"):
        dataset(targets=np.array(targets * 4))


@pytest.mark.kind("classes without images")
def test_a_class_of_the_test_alone_is_refused_and_one_of_training_alone_is_said(tmp_path, capsys):
    with pytest.raises(LabError, match="test_targets = 3: must be a class of the training images, 0 to 2"):
        dataset(test_targets=np.array([0, 1, 3] * 4))
    fill(tmp_path / "a" / "train"), fill(tmp_path / "a" / "test", "ant", "bee", "cat", "dog")
    with pytest.raises(LabError, match=r"a/test/dog: must be a class of .*train: ant, bee, cat"):
        facts_of(f"folder:{tmp_path / 'a'}")
    assert capsys.readouterr().err == ""
    for _ in range(2):
        dataset(test_targets=np.array([0, 0, 2] * 4))
    assert capsys.readouterr().err == "own:x: no test images of 1 of the 3 classes: 1\n"
    fill(tmp_path / "b" / "train"), fill(tmp_path / "b" / "test", "ant")
    (tmp_path / "b" / "test" / "cat").mkdir()
    name = f"folder:{tmp_path / 'b'}"
    for _ in range(2):
        search_splits(search_config("tiny", name, batch_size=2))
    assert capsys.readouterr().err == f"{name}: no test images of 2 of the 3 classes: bee, cat\n"


@pytest.mark.kind("classes without images")
def test_a_folder_without_training_images_of_a_class_is_refused(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "test")
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(LabError, match="train/dog: must hold images"):
        facts_of(f"folder:{tmp_path}")
    (tmp_path / "train" / "dog").rmdir()
    # In one tree it is the seed of the split that decides.
    fill(tmp_path / "tree", count=8), fill(tmp_path / "tree", "one", count=1)
    seen = set()
    for seed in range(12):
        config = search_config("tiny", f"folder:{tmp_path / 'tree'}", batch_size=2, split_seed=seed)
        try:
            search_splits(config)
            seen.add("said")
        except LabError as error:
            assert "each of its 4 classes: there are none of one, and 1 for the test" in str(error)
            seen.add("refused")
    assert seen == {"said", "refused"}


@pytest.mark.kind("classes without images")
def test_more_classes_than_the_data_have_are_refused():
    with pytest.raises(LabError, match="classes = 12: must be 10"):
        search_splits(search_config("tiny", "digits", classes=12))


# --- few images -------------------------------------------------------------------------------------------------------


@pytest.mark.kind("few images")
@pytest.mark.parametrize(
    ("names", "count", "words"),
    [
        (["ant"], 40, "folder of images for each of two or more classes"),
        (["ant", "bee"], 6, "batch_size = 16: must be at most weight_images = 4"),
        (["ant", "bee", "cat"], 4, "batch_size = 16: must be at most weight_images = 4"),
        (["ant", "bee"], 1, "batch_size = 16: must be at most weight_images = 1"),
    ],
)
def test_few_images_are_refused_for_the_batch_and_one_class_as_such(tmp_path, names, count, words):
    fill(tmp_path, *names, count=count)
    with pytest.raises(LabError, match=words):
        search_config("tiny", f"folder:{tmp_path}")


@pytest.mark.kind("few images")
def test_one_image_and_a_batch_larger_than_the_set():
    one = dataset(of_shape(1, 16, 16), np.zeros(1, int), test_targets=np.zeros(12, int))
    with pytest.raises(LabError, match="classes = 1: must be a whole number of at least 2"):
        search_config("tiny", one)
    with pytest.raises(LabError, match="batch_size = 16: must be at most train_images = 12"):
        retrain_config("PDARTS", "tiny", dataset())
    with pytest.raises(LabError, match="batch_size = 7: must be at most weight_images = 5"):
        search_config("tiny", dataset(), batch_size=7)


@pytest.mark.kind("few images")
def test_twelve_images_two_classes_and_one_test_image_are_enough():
    images, classes = of_shape(12, 16, 16), np.arange(12) % 2
    few = Dataset("few", images, classes, images[:1], classes[:1])
    splits = search_splits(search_config("tiny", few, batch_size=4), few)
    assert [len(part) for part in (splits.weights, splits.architecture, splits.held_out, splits.test)] == [5, 6, 1, 1]
    train, test = retrain_splits(retrain_config("PDARTS", "tiny", few, batch_size=4), few)
    assert len(train) == 12 and len(test) == 1
