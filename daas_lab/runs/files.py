"""Writing files so that a reader, a kill or a full disk never meets half of one."""

import contextlib
import os
from pathlib import Path

from daas_lab.errors import LabError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` or leave it as it was, whenever the process or the machine dies."""
    write_keeping(path, content.encode() if isinstance(content, str) else content)


def write_keeping(path: Path, content: bytes, previous: Path | None = None) -> None:
    """As `write_atomically`; what was at `path` is kept as `previous`; where writing fails both stay as they are."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # a new file, and not what a link of that name leads to
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            _keep_as(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise LabError(f"cannot write {path}: {error.strerror}; what was there before is intact") from error


def remove_half_written(folder: Path) -> None:
    """Remove what `write_keeping` left when its process was killed, and no other file."""
    for temporary in folder.glob(".?*.[0-9]*.tmp"):
        temporary.unlink()


def _keep_as(path: Path, previous: Path) -> None:
    """Have what is at `path` at `previous` too, so that a kill right after finds both; where the file system has no
    hard links it is moved."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous)
        link.unlink(missing_ok=True)  # it stays where both were one file already
        return
    os.replace(path, previous)


def append(path: Path, line: bytes) -> None:
    """Add `line` to the end of `path`; where that fails the file is as it was, and a kill leaves a part of it at most.

    A link is not followed: the file is one of this folder.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "ab", buffering=0) as file:
            before = os.fstat(descriptor).st_size
            try:
                if file.write(line) < len(line):
                    raise OSError(None, "the disk is full")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror}; what was there before is intact") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
