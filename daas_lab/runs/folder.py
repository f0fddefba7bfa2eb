"""A run's folder: configuration, history, α/β snapshots, checkpoints, lock, resume, records.

    config.json               the complete configuration, and the library versions that made the run
    history.jsonl             one record an epoch; nothing in it depends on the machine or the clock
    timing.jsonl              seconds of every epoch, and of the parts that are measured apart
    architecture.safetensors  α and β at the start and after every epoch (searches)
    checkpoint.pt             everything that a resume needs; checkpoint.previous.pt is the one before it
    genotype.json             the cell that was found (searches)
    lock                      pid, host and start of the process that writes, held by the system's file lock
    log.txt                   what a search printed that was started from a notebook (`live.py`)
    DONE                      written last

Every file is written under a temporary name, synced and renamed. The checkpoint is the truth: history and snapshots are
part of it and written out again when a run is resumed.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError, NewerVersion, refuse
from daas_lab.identity import KINDS, from_document
from daas_lab.space.genotype import Genotype

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` or leave it as it was, whenever the process or the machine dies."""
    write_keeping(path, content.encode() if isinstance(content, str) else content)


def write_keeping(path: Path, content: bytes, previous: Path | None = None) -> None:
    """As `write_atomically`; what was at `path` is kept as `previous`; where writing fails both stay as they are."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise LabError(f"cannot write {path}: {error.strerror}; what was there before is intact") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- lock -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.2) -> Iterator[None]:
    """Be the one process that writes to `folder`, or raise `LabError` with the pid and host of the one that does, if it
    still does after `patience` seconds.

    The system drops the lock of a process that dies, so a dead writer's folder is simply taken over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise refuse("run folder", str(folder), f"a folder that can be written ({error.strerror})") from error
    try:
        try:
            _take_lock(descriptor, patience)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode().strip() or "an unknown process"
            raise LabError(f"run folder {folder} is being written by another process: {holder}") from None
        os.ftruncate(descriptor, 0)
        holder = {"pid": os.getpid(), "host": platform.node(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
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
    """`{"pid", "host", "start"}` of the living process that writes to `folder`, or None."""
    try:
        descriptor = os.open(Path(folder) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return json.loads(os.pread(descriptor, 1000, 0).decode() or "{}")
    finally:
        os.close(descriptor)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a run has recorded: all that plots and tables read.

    `alphas` and `betas`: cell type → [T, E, O] and [T, E], T = epochs so far + 1, the first entry before any training.
    """

    folder: Path | None  # None: from a record, without weights
    config: SearchConfig | RetrainConfig
    history: list[dict]
    seconds: float
    finished: bool
    alphas: dict[str, np.ndarray]
    betas: dict[str, np.ndarray]
    genotype: Genotype | None
    gap: list[dict]  # accuracy drops measured so far, rows of `discretize.accuracy_drops`
    result: dict  # of a retraining: test error, parameters, multiply-adds
    origin: dict  # versions and machine that made it
    # Cells that a measured rule of selection chose: rule → budget → genotype as JSON.
    cells: dict[str, dict[str, dict]] = field(default_factory=dict)

    def architecture(self, epoch: int = -1) -> dict[str, np.ndarray]:
        """`alphas_normal`, … after `epoch`; 0 is the start, -1 the last one."""
        kinds = {"alphas": self.alphas, "betas": self.betas}
        return {f"{kind}_{name}": array[epoch] for kind, arrays in kinds.items() for name, array in arrays.items()}


def kind_of(config: SearchConfig | RetrainConfig) -> str:
    """The name of a configuration's kind, as files state it."""
    return next(name for name, config_class in KINDS.items() if isinstance(config, config_class))


def read_config(folder: str | Path) -> SearchConfig | RetrainConfig:
    """The configuration of a run's folder."""
    path = Path(folder) / "config.json"
    if Path(folder).is_file():
        raise refuse("run", str(folder), "a run's folder: a file, such as a record, holds no weights")
    if not path.is_file():
        raise LabError(f"run = {str(folder)!r}: must be a run's folder, and {path} is missing")
    with naming_damage(path):
        header = json.loads(path.read_text(encoding="utf-8"))
        return from_document(header["kind"], header["config"])


def read_search_config(folder: str | Path) -> SearchConfig:
    """The configuration of a search's folder; `LabError` for that of a retraining."""
    config = read_config(folder)
    if not isinstance(config, SearchConfig):
        raise refuse("run", str(folder), "the folder of a search")
    return config


def read_run(folder: str | Path) -> Run:
    """Everything recorded in a run's folder, finished or not."""
    folder = Path(folder)
    config = read_config(folder)
    arrays = {}
    if (folder / "architecture.safetensors").is_file():
        with naming_damage(folder / "architecture.safetensors"):
            arrays = load_safetensors((folder / "architecture.safetensors").read_bytes())
    genotype, header = _read_json(folder / "genotype.json", None), _read_json(folder / "config.json", {})
    with naming_damage(folder / "genotype.json"):
        genotype = genotype and Genotype.from_json(genotype)
    return Run(
        folder=folder,
        config=config,
        history=_read_lines(folder / "history.jsonl"),
        seconds=sum(entry["seconds"] for entry in timings(folder)),
        finished=is_finished(folder),
        alphas={name.removeprefix("alphas_"): array.numpy() for name, array in arrays.items() if "alphas" in name},
        betas={name.removeprefix("betas_"): array.numpy() for name, array in arrays.items() if "betas" in name},
        genotype=genotype,
        gap=_gap(folder),
        result=_read_json(folder / "result.json", {}),
        origin={name: header.get(name) for name in ("versions", "machine")},
        cells=_read_json(folder / "cells.json", {}),
    )


def epochs_done(folder: str | Path) -> int:
    """How many epochs the run in `folder` has finished so far; 0 where there is none."""
    path = Path(folder) / "history.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.is_file() else 0


def is_finished(folder: str | Path) -> bool:
    """Whether the run in `folder` ended: success is DONE, not an exit code."""
    return (Path(folder) / "DONE").is_file()


def is_whole(folder: str | Path) -> bool:
    """Whether the run in `folder` is finished and can be read."""
    return read_finished(folder) is not None


def read_finished(folder: str | Path) -> Run | None:
    """The run in `folder` if it is finished and can be read. What is damaged is said on stderr: the trainer that then
    goes on writes it again from the checkpoint. Raises `NewerVersion` for a run that this version cannot know."""
    if not is_finished(folder):
        return None
    try:
        return read_run(folder)
    except NewerVersion:
        raise
    except LabError as error:
        print(f"{error}; written again from the checkpoint", file=sys.stderr)
        return None


def read_checkpoint(folder: str | Path) -> tuple[dict[str, Any], int]:
    """The state of a run's last epoch that is whole, weights included, and the number of that epoch."""
    newest = Path(folder) / CHECKPOINTS[0]
    saved = load_checkpoint(Path(folder))
    if saved is None:
        raise LabError(f"run = {str(folder)!r}: must hold a checkpoint, and {newest} is missing or damaged")
    epoch = len(saved["history"])
    if is_finished(folder) and epoch < read_config(folder).epochs:
        raise LabError(f"damaged file {newest}: of this finished run only the weights of epoch {epoch} are left")
    return saved["state"], epoch


def load_checkpoint(folder: Path, sets_aside: bool = False) -> dict[str, Any] | None:
    """The newest checkpoint that is whole: a damaged one gives way to the one before it, and stderr says so.

    `sets_aside`: rename what is damaged, so that the next checkpoint does not push out the whole one.
    """
    damaged = False
    for path in (folder / name for name in CHECKPOINTS):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        content, digest = whole[:-32], whole[-32:]
        if hashlib.sha256(content).digest() == digest:
            if damaged:
                print(f"going on from the one before it, {path}", file=sys.stderr)
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        damaged = True
        print(f"checkpoint {path} is damaged", file=sys.stderr)
        if sets_aside:
            os.replace(path, path.with_suffix(".damaged"))
    if damaged and sets_aside:
        print(f"no checkpoint of {folder} is whole: the run begins again", file=sys.stderr)
    return None


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Whatever cannot be read inside is said to be the damage of `path`."""
    try:
        yield
    except NewerVersion as error:
        raise NewerVersion(f"{path}: {error}") from None
    except LabError as error:
        raise LabError(f"damaged file {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise LabError(f"damaged file {path}: {error!r}") from error


def _read_json(path: Path, missing: Any) -> Any:
    if not path.is_file():
        return missing
    with naming_damage(path):
        return json.loads(path.read_text(encoding="utf-8"))


def _read_lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with naming_damage(path):
        return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _gap(folder: Path) -> list[dict]:
    """The accuracy drops measured so far; what is damaged counts as not measured."""
    with contextlib.suppress(LabError):
        return _read_json(folder / "gap.json", [])
    return []


def timings(folder: Path) -> list[dict]:
    """What is left of the seconds of every epoch: no result depends on them, so that damage there stops nothing."""
    with contextlib.suppress(LabError):
        return [entry for entry in _read_lines(folder / "timing.jsonl") if {"epoch", "seconds"} <= entry.keys()]
    return []


def as_lines(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
