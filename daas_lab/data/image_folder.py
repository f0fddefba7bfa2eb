"""What a folder of images holds, found without reading more than it must: classes, files, channels, sizes.

PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (`TRAINING_NAMES`, `TEST_NAMES`), or PATH/CLASS/*.jpg, to be split by a
seed. Hidden files and folders are passed over, a file to which several ways lead counts once, and what is left out is
said. What looks like a split and is none of these is refused.
"""

import errno
import hashlib
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daas_lab.data.picture import brightest, damaged, depth, is_grey, opened, white_level
from daas_lab.errors import LabError, refuse, say_once, some

UNCOMPRESSED = (".bmp", ".pgm", ".ppm", ".tif", ".tiff")  # as a rule: images of one shape have one size
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_SHARE = 0.2  # of a tree without test folder

# Of the parts of a split, in any case. Of several folders of test images the first in this order is taken.
TRAINING_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")
_LIKE_A_PART = re.compile(
    rf"(?:^|[^a-z])({'|'.join(TRAINING_NAMES + TEST_NAMES)}|h[eo]ld[-_ ]?out|unseen|fold|split|part)"
    r"(?:set|s|data|images?)?(?:[^a-z]|$)",
    re.IGNORECASE,
)
# Beside what begins with a dot: archives of macOS, thumbnails of a NAS, waste of Windows, what a repair found.
_OF_SYSTEMS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")


class Listing(NamedTuple):
    """Files and the class of each; `test` is None where the tree is not split."""

    classes: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None
    left_out: list[str]  # what, and how much of it


class FolderFacts(NamedTuple):
    """What is known of a folder before its images are used."""

    classes: int
    image_channels: int
    side: int  # median of the shorter sides, in pixels
    train_images: int
    digest: str  # of names and sizes of all files: another content is another data set, another place is not
    white: dict[str, float]  # as `FileSet` has it
    listing: Listing


class _Found(NamedTuple):
    path: str
    part: str
    name: str  # of its class
    key: object  # the same for all ways to one file
    linked: bool  # a link leads here


def list_images(folder: str | Path) -> Listing:
    """All image files of a tree of class folders. Raises `LabError` naming what is missing, or what may be meant."""
    root = Path(folder).resolve()
    if not root.is_dir():
        raise refuse("dataset", f"folder:{root}", "an existing folder with a folder of images for each class")
    names = [entry.name for entry in _visible(root) if _is_folder(entry)]
    inner = {name: _class_folders(root / name) for name in names}
    parts = [name for name in names if inner[name]]
    train = [name for name in parts if name.lower() in TRAINING_NAMES]
    test = [name for name in parts if name.lower() in TEST_NAMES]
    if len(train) == 1 and test:
        return list_parts(root, train[0], min(test, key=lambda name: TEST_NAMES.index(name.lower())))
    words = {match[1].lower() if (match := _LIKE_A_PART.search(name)) else None for name in names}
    if (
        any(map(_LIKE_A_PART.search, parts))
        or len({name.lower() for name in names}.intersection(TRAINING_NAMES + TEST_NAMES)) > 1
        or (len(words) > 1 and None not in words)
        or (len(names) > 1 and len(set.intersection(*inner.values())) > 1)
    ):
        allowed = (
            f"one of {', '.join(TRAINING_NAMES)} and one of {', '.join(TEST_NAMES)}, each with the classes' folders"
        )
        raise LabError(
            f"folder {root}: holds what looks like the parts of a split ({some(names)}): must be {allowed}, or "
            "the classes' folders alone"
        )
    return list_parts(root, "", None)


def list_parts(root: Path, train: str, test: str | None) -> Listing:
    """The images of the class folders in root/train and, where it is split, in root/test."""
    root = root.resolve()
    left_out: Counter[str] = Counter()
    found: list[_Found] = []
    names = {}
    for part in (train,) if test is None else (train, test):
        entries = list(_visible(root / part, left_out))
        left_out["images in no class's folder"] += sum(map(_is_image, entries))
        names[part] = {entry.name: entry.is_symlink() for entry in entries if _is_folder(entry)}
        for name, linked in names[part].items():
            images = _images(root / part / name, linked, left_out)
            found += (_Found(path, part, name, key, by_link) for path, key, by_link in images)
    if empty := sorted(names[train].keys() - {item.name for item in found if item.part == train}):
        raise LabError(f"folder {root / train / empty[0]}: must hold images ({', '.join(SUFFIXES)})")
    kept = _each_once(found, left_out)
    classes = sorted({item.name for item in kept if item.part == train})
    if len(classes) < 2:
        raise LabError(f"folder {root / train}: must hold a folder of images for each of two or more classes")
    if test and (unknown := sorted({item.name for item in kept} - set(classes))):
        raise LabError(f"folder {root / test / unknown[0]}: must be a class of {root / train}: {', '.join(classes)}")
    number = {name: index for index, name in enumerate(classes)}
    files = {part: sorted((number[i.name], i.path) for i in kept if i.part == part) for part in names}
    files = {part: [(path, target) for target, path in pairs] for part, pairs in files.items()}
    said = [f"{what}: {count}" for what, count in left_out.items() if count]
    if test is not None:
        others = [e for e in _visible(root) if e.name not in (train, test) and (_is_folder(e) or _is_image(e))]
        said += [f"beside {train} and {test}: {some([entry.name for entry in others])}"] if others else []
    return Listing(classes, files[train], None if test is None else files[test], said)


def _each_once(found: list[_Found], left_out: Counter) -> list[_Found]:
    """Every file at its own place, or where the first link to it is, training images first."""
    first: dict[object, _Found] = {}
    for item in sorted(found, key=lambda item: item.linked):
        other = first.setdefault(item.key, item)
        if other.name != item.name and other.linked == item.linked:
            raise LabError(f"image {item.path}: is the same file as {other.path}: must be of one class")
        left_out["files that are there already"] += other is not item
    return [item for item in found if first[item.key] is item]


def _images(folder: Path, linked: bool, left_out: Counter) -> Iterator[tuple[str, object, bool]]:
    """(path, key, linked) of all images below a folder; every folder is looked into once, links to folders last."""
    waiting, seen = deque([(str(folder), linked)]), set()
    while waiting:
        place, linked = waiting.popleft()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        for entry in _visible(place, left_out):
            by_link = linked or entry.is_symlink()
            if _is_folder(entry):
                (waiting.append if by_link else waiting.appendleft)((entry.path, by_link))
            elif not _is_image(entry):
                left_out[f"files {os.path.splitext(entry.name)[1].lower() or 'without suffix'}"] += 1
            elif status := _status(entry):
                hard = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
                yield entry.path, hard or (os.path.realpath(entry.path) if by_link else entry.path), by_link
            else:
                left_out["links in a circle"] += 1


def _status(entry: os.DirEntry) -> os.stat_result | None:
    """Of the file that an entry leads to; None where links lead in a circle."""
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise damaged(entry.path, error.strerror) from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(entry.path, "no file of bytes")
    return status


def _visible(folder: str | Path, left_out: Counter | None = None) -> list[os.DirEntry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise LabError(f"folder {folder}: cannot be read: {error.strerror}") from error
    visible = [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in _OF_SYSTEMS]
    if left_out is not None:
        left_out["hidden"] += len(entries) - len(visible)
    return visible


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not _is_folder(entry)


def _class_folders(folder: Path) -> set[str]:
    """Names of the folders with images in what may be a part of a split: there they outnumber stray images."""
    entries = _visible(folder)
    if not any(map(_is_folder, entries)):
        return set()
    own = sum(map(_is_image, entries))
    held = {e.name for e in entries if _is_folder(e) and any(_images(folder / e.name, e.is_symlink(), Counter()))}
    return held if len(held) > own else set()


def folder_facts(folder: str) -> FolderFacts:
    """Facts of a folder, from its files' headers and the levels of those that have more than 8 bits: looked into again
    when a file has come, gone or changed.

    Raises `LabError` naming a file that is no image.
    """
    listing = list_images(folder)
    files = listing.train + (listing.test or [])
    state = hashlib.sha256()
    for path, target in files:
        status = os.stat(path)
        state.update(f"{path} {target} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    key = folder, state.hexdigest()
    if key not in _known:
        _known[key] = _look_into(folder, listing)
    return _known[key]


_known: dict[tuple[str, str], FolderFacts] = {}  # (folder, state of its files) → facts


def _look_into(folder: str, listing: Listing) -> FolderFacts:
    files = listing.train + (listing.test or [])
    grey, sides, several, transparent = True, [], 0, 0
    largest: dict[str, float] = {}
    first: dict[str, str] = {}
    for path, _ in files:
        with opened(path) as image:
            grey &= is_grey(image)
            sides.append(min(image.size))
            kind = depth(image)
            first.setdefault(kind, path)
            if kind:
                largest[kind] = max(largest.get(kind, 0.0), brightest(path, image))
            several += getattr(image, "is_animated", False)
            transparent += image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    left_out = listing.left_out + ([f"all but the first image of files with several: {several}"] if several else [])
    left_out += [f"transparency, of {transparent} images"] if transparent else []
    if left_out:
        say_once(f"folder {folder}: left out: {'; '.join(left_out)}")
    if len(first) > 1 and {"I", "F"} & first.keys():  # one scale for both would be guessed
        raise LabError(f"images {' and '.join(sorted(first.values())[:2])}: must have levels of one depth")
    if largest.get("C", 255) < 128:
        allowed = "in the upper 8, which is what Pillow reads, or images of 8 bits"
        raise refuse("dataset", f"folder:{folder}", f"colours of 16 bits {allowed}")
    train = len(listing.train)
    if listing.test is None:
        train -= round(TEST_SHARE * train)
    side, white = sorted(sides)[len(sides) // 2], {kind: white_level(value) for kind, value in largest.items()}
    digest = folder_digest(folder, listing)
    return FolderFacts(len(listing.classes), 1 if grey else 3, side, train, digest, white, listing)


def folder_digest(folder: str | Path, listing: Listing) -> str:
    """16 hexadecimal digits over the names and sizes of the images listed in a folder, and over the content of those
    whose size tells nothing of it."""
    digest = hashlib.sha256()
    for path, _ in listing.train + (listing.test or []):
        line = f"{os.path.relpath(path, folder)} {os.path.getsize(path)}\n"
        digest.update(line.encode(errors="surrogateescape"))  # names on a disk need not be UTF-8
        if os.path.splitext(path)[1].lower() in UNCOMPRESSED:
            digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]
