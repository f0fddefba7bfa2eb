"""Who writes to a run's folder: one process, on one machine."""

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from daas_lab.errors import LabError, refuse

_held: set[int] = set()  # descriptors of the locks of this process


class BeingWritten(LabError):
    """Another process writes to the folder; whoever wants what it makes can wait for it."""


def _let_go() -> None:
    """A process that forked from one that writes does not write: the lock must not outlive the one that does."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.2) -> Iterator[None]:
    """Be the one process that writes to `folder`, or raise `LabError` with the pid and host of the one that does, if it
    still does after `patience` seconds.

    The system drops the lock of a process that dies, so a dead writer's folder is simply taken over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise refuse("run folder", str(folder), f"a folder that can be written ({error.strerror})") from error
    _held.add(descriptor)
    try:
        try:
            _take_lock(descriptor, patience)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "an unknown process"
            raise BeingWritten(f"run folder {folder} is being written by another process: {holder}") from None
        os.ftruncate(descriptor, 0)
        holder = {"pid": os.getpid(), "host": platform.node(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _take_lock(descriptor: int, patience: float) -> None:
    # Whoever asks for the `writer` holds the lock for an instant; that must not pass for a process that writes.
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def writer(folder: str | Path) -> dict | None:
    """`{"pid", "host", "start"}` of the living process that writes to `folder`, or None; {} if the file is damaged."""
    try:
        descriptor = os.open(Path(folder) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        with contextlib.suppress(ValueError):
            return dict(json.loads(os.pread(descriptor, 1000, 0)))
        return {}
    finally:
        os.close(descriptor)
