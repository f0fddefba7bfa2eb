"""A run that is being made: its epochs are written as they come, and a resume goes on from the last one.

Files and their order are those of `runs.folder`. An epoch is in the log before its checkpoint is written, so that the
checkpoint says how much of the log counts.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError, NewerVersion, unbroken
from daas_lab.identity import NOT_HASHED, config_hash, to_document
from daas_lab.runs.epoch_log import LOGS, Entry, add_entry, read_entries, records_of, stacked, write_entries
from daas_lab.runs.files import append, remove_half_written, write_atomically, write_keeping
from daas_lab.runs.folder import (
    CHECKPOINTS,
    MEASURED,
    RESULTS,
    as_lines,
    epoch_of,
    kind_of,
    load_checkpoint,
    naming_damage,
    read_config,
    seal,
    stop_name,
    timings,
)
from daas_lab.runs.lock import locked
from daas_lab.runs.provenance import machine, resumed_here, versions
from daas_lab.train import distributed


@dataclass
class RunWriter:
    """A run that is being made: how far it is, and where it is kept. What is on disk is not held in memory."""

    folder: Path
    config_hash: str = ""
    epoch: int = 0  # the last one that was saved
    record: dict = field(default_factory=dict)  # of that epoch
    snapshot: dict[str, torch.Tensor] = field(default_factory=dict)  # α and β, as the trainer left them last
    timings: dict[str, float] = field(default_factory=dict)  # parts of the epoch's seconds, by name
    on_epoch: Callable[[], None] = lambda: None  # called when an epoch is on disk
    pid: int = field(default_factory=os.getpid)

    def resume(self) -> dict[str, Any] | None:
        """The state of the last epoch that was saved, or None for a new run."""
        saved = distributed.from_main(self._last_saved() if distributed.is_main() else None)
        state = None
        if saved is not None:
            state, (self.epoch, self.record, self.snapshot) = saved
        if distributed.is_main():
            self._note_origin()
        return state

    def _note_origin(self) -> None:
        """What goes on here may have been begun by other versions, on another machine."""
        path = self.folder / "config.json"
        header = json.loads(path.read_text(encoding="utf-8"))
        if self.epoch < header["config"]["epochs"] and (noted := resumed_here(header, self.epoch)) != header:
            write_atomically(path, json.dumps(noted, indent=2) + "\n")

    def _last_saved(self) -> tuple[dict[str, Any], Entry] | None:
        """State and log entry of the last epoch that both hold; the files of one line an epoch end with it."""
        saved = load_checkpoint(self.folder, sets_aside=True)
        if saved is None:
            return None
        theirs = saved.get("config_hash") or self.config_hash
        if self.config_hash not in ("", theirs):  # config.json was lost, and another configuration has come
            why = f"its checkpoint is of hash {theirs}, the configuration of {self.config_hash}"
            raise LabError(f"run = {str(self.folder)!r}: must be a folder of its own: {why}")
        if "history" in saved:  # of an older version, without a log
            snapshots = saved["snapshots"] or [{}] * (1 + len(saved["history"]))
            records = [None, *saved["history"]]
            entries = [Entry(*entry) for entry in zip(range(len(records)), records, snapshots, strict=True)]
        else:
            with naming_damage(self.folder / LOGS[0]):
                entries = read_entries(self.folder)[: saved["epoch"] + 1]
        if len(entries) <= (epoch := epoch_of(saved)):
            lost = f"neither {' nor '.join(LOGS)} of {self.folder} holds all of the {epoch} epochs"
            print(f"{lost}: the run begins again", file=sys.stderr)
            return None
        write_entries(self.folder, entries)
        write_atomically(self.folder / "history.jsonl", as_lines(records_of(entries)))
        measured = [line for line in timings(self.folder) if line["epoch"] <= epoch]
        write_atomically(self.folder / "timing.jsonl", as_lines(measured))
        return saved["state"], entries[-1]

    def begin(self) -> None:
        """Log the start of a new run; `snapshot` was set by the trainer. What is left of one whose checkpoints are lost
        is of another network."""
        if not distributed.is_main():
            return
        for path in _replaced(self.folder):
            path.unlink()
        write_entries(self.folder, [Entry(0, None, self.snapshot)])

    def save_epoch(self, record: dict, state: dict[str, Any], seconds: float) -> None:
        """Add an epoch's record and make `state` the checkpoint; `snapshot` was set by the trainer."""
        self.epoch, self.record = record["epoch"], record
        if not distributed.is_main():
            return
        if os.getpid() != self.pid:
            raise LabError(f"run folder {self.folder}: written by process {self.pid}, of which this one is a fork")
        packed = self._packed(self.epoch, state)
        measured = {name: round(value, 3) for name, value in ({"seconds": seconds} | self.timings).items()}
        current, previous = (self.folder / name for name in CHECKPOINTS)
        with unbroken():  # who is stopped here goes on with the next epoch, not with this one again
            add_entry(self.folder, Entry(self.epoch, record, self.snapshot))
            write_keeping(current, packed, previous)
            append(self.folder / "history.jsonl", as_lines([record]).encode())
            append(self.folder / "timing.jsonl", as_lines([{"epoch": self.epoch} | measured]).encode())
        self.timings = {}
        self.on_epoch()

    def keep_stop(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state of an epoch to which readers come back when the run has gone on."""
        if distributed.is_main():
            write_atomically(self.folder / stop_name(epoch), self._packed(epoch, state))

    def _packed(self, epoch: int, state: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        torch.save({"epoch": epoch, "config_hash": self.config_hash, "state": state}, buffer)
        content = buffer.getvalue()
        return content + hashlib.sha256(content).digest()

    def finish(self, files: dict[str, str]) -> None:
        """Write α and β of all epochs and the last files (name → content), and then DONE."""
        if not distributed.is_main():
            return
        with naming_damage(self.folder / LOGS[0]):
            entries = read_entries(self.folder)
            if self.epoch and len(entries) <= self.epoch:
                raise LabError(f"of {self.epoch} epochs only {max(0, len(entries) - 1)} are whole in either copy")
            arrays = stacked(entries)
        if arrays:
            write_atomically(self.folder / "architecture.safetensors", save_safetensors(arrays))
        for name, content in files.items():
            write_atomically(self.folder / name, content)
        seal(self.folder, RESULTS)


@contextlib.contextmanager
def open_run(folder: str | Path, config: SearchConfig | RetrainConfig) -> Iterator[RunWriter]:
    """Lock `folder` for the run `config`, new or begun. A folder that holds another configuration is refused.

    Of several processes the first one locks and writes; the writers of the others record without writing.
    """
    folder = Path(folder)
    if not distributed.is_main():
        yield RunWriter(folder)
        return
    with locked(folder):
        path = folder / "config.json"
        _check_free(folder)
        remove_half_written(folder)
        if path.is_file() and not _is_there(config, folder):
            path.unlink()
        if not path.is_file():
            header = {"kind": kind_of(config), "hash": config_hash(config), "config": to_document(config)}
            header |= {"versions": versions(), "machine": machine()}
            write_atomically(path, json.dumps(header, indent=2) + "\n")
        yield RunWriter(folder, config_hash(config))


def _check_free(folder: Path) -> None:
    """Raise if files that a new run would replace lie in a folder that is no run's, nor what is left of one."""
    if any((folder / name).exists() for name in ("config.json", "DONE", *CHECKPOINTS, *LOGS)):
        return
    if found := ", ".join(path.name for path in _replaced(folder)):
        raise LabError(f"{folder} holds {found} and no run: a new one would replace that; choose another --out")


def _replaced(folder: Path) -> list[Path]:
    """What lies there of a run, but its configuration, log and checkpoints: a new one begins without it."""
    names = "DONE", *RESULTS[1:], *MEASURED, "timing.jsonl"
    paths = [*(folder / name for name in names), *folder.glob("stop.*.pt")]
    return [path for path in paths if path.exists() or path.is_symlink()]


def _is_there(config: SearchConfig | RetrainConfig, folder: Path) -> bool:
    """Whether the folder's configuration is `config`; False if another one may take its place. Else `LabError`."""
    try:
        there = read_config(folder)
    except NewerVersion:
        raise
    except LabError as damage:
        saved = load_checkpoint(folder)
        if saved is None or saved.get("config_hash") != config_hash(config):
            raise
        print(f"{damage}; written again, for the checkpoint is of this configuration", file=sys.stderr)
        return False
    # Where nothing was computed (the first epoch diverged, say) there is nothing to protect.
    same = config_hash(there) == config_hash(config)
    if not same and any((folder / name).exists() for name in ("DONE", *CHECKPOINTS)):
        raise _other_config(folder, there, config)
    return same


def _other_config(folder: Path, there: SearchConfig | RetrainConfig, ours: SearchConfig | RetrainConfig) -> LabError:
    if type(there) is not type(ours):
        return LabError(f"run folder {folder} holds another kind of run: {type(there).__name__}")
    ours, theirs = asdict(ours), asdict(there)
    unhashed = {*NOT_HASHED, *(["dataset"] if ours["data_digest"] and theirs["data_digest"] else [])}
    differing = [key for key in ours if ours[key] != theirs[key] and key not in unhashed]
    fields = [f"{key} = {theirs[key]!r} there, {ours[key]!r} here" for key in differing]
    return LabError(f"run folder {folder} holds another configuration: {'; '.join(fields)}; choose another --out")
