"""The log of a run's epochs: a line is added for each, so that an epoch costs the same however many came before it.

A line is the SHA-256 of the rest of it, then JSON: `epoch`, its `record`, and in a search α and β after it as `arrays`
(safetensors in base64). The first line is the start, epoch 0, without a record. The log is kept twice: a line that is
damaged in one file is read from the other.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from daas_lab.runs.files import append, write_atomically

LOGS = ("epochs.log", "epochs.copy.log")


class Entry(NamedTuple):
    """What is logged of an epoch."""

    epoch: int
    record: dict | None  # None at the start
    snapshot: dict[str, Tensor]  # α and β after the epoch; empty in a retraining


def records_of(entries: Iterable[Entry]) -> list[dict]:
    """The records of the epochs; the start has none."""
    return [entry.record for entry in entries if entry.record is not None]


def add_entry(folder: Path, entry: Entry) -> None:
    """Add an epoch to both files of the log."""
    for name in LOGS:
        append(folder / name, _line(entry))


def write_entries(folder: Path, entries: Iterable[Entry]) -> None:
    """Make both files of the log hold these epochs and no others."""
    content = b"".join(map(_line, entries))
    for name in LOGS:
        write_atomically(folder / name, content)


def read_entries(folder: Path) -> list[Entry]:
    """The epochs from the start on, as far as each is whole in one of the files; the last may be half-written."""
    lines: dict[int, dict] = {}
    for path in (folder / name for name in LOGS):
        for line in path.read_bytes().split(b"\n") if path.is_file() else ():
            digest, _, content = line.partition(b" ")
            if hashlib.sha256(content).hexdigest().encode() == digest:
                document = json.loads(content)
                lines[document["epoch"]] = document
    whole = next(epoch for epoch in range(len(lines) + 1) if epoch not in lines)
    return [_entry(lines[epoch]) for epoch in range(whole)]


def stacked(entries: Iterable[Entry]) -> dict[str, Tensor]:
    """α and β of all epochs by name [T, …]; empty in a retraining."""
    snapshots = [entry.snapshot for entry in entries if entry.snapshot]
    return {name: torch.stack([snapshot[name] for snapshot in snapshots]) for name in (snapshots or [{}])[0]}


def _line(entry: Entry) -> bytes:
    arrays = base64.b64encode(save_safetensors(entry.snapshot)).decode() if entry.snapshot else ""
    content = json.dumps({"epoch": entry.epoch, "record": entry.record, "arrays": arrays}).encode()
    return hashlib.sha256(content).hexdigest().encode() + b" " + content + b"\n"


def _entry(document: dict) -> Entry:
    arrays = document["arrays"]
    snapshot = load_safetensors(base64.b64decode(arrays)) if arrays else {}
    return Entry(document["epoch"], document["record"], snapshot)
