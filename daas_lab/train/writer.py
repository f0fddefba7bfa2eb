"""A run that is being made: its epochs are written as they come, and a resume goes on from the last one.

Files and their order are those of `runs.folder`. The checkpoint is the truth: history and snapshots are part of it.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError
from daas_lab.identity import config_hash, to_document
from daas_lab.runs.folder import (
    CHECKPOINTS,
    as_lines,
    kind_of,
    load_checkpoint,
    locked,
    read_config,
    timings,
    write_atomically,
    write_keeping,
)
from daas_lab.runs.provenance import machine, versions
from daas_lab.train import distributed


@dataclass
class RunWriter:
    """A run that is being made: what its epochs have recorded so far, and where it is kept."""

    folder: Path
    history: list[dict] = field(default_factory=list)
    snapshots: list[dict[str, torch.Tensor]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)  # parts of the epoch's seconds, by name
    on_epoch: Callable[[], None] = lambda: None  # called when an epoch is on disk

    def resume(self) -> dict[str, Any] | None:
        """The state of the last epoch that was saved, or None for a new run."""
        saved = distributed.from_main(load_checkpoint(self.folder, True) if distributed.is_main() else None)
        if saved is None:
            return None
        self.history, self.snapshots = saved["history"], saved["snapshots"]
        self._write_out()
        return saved["state"]

    def save_epoch(self, record: dict, state: dict[str, Any], seconds: float) -> None:
        """Add an epoch's record and make `state` the checkpoint; snapshots were appended by the trainer."""
        self.history.append(record)
        if not distributed.is_main():
            return
        buffer = io.BytesIO()
        torch.save({"state": state, "history": self.history, "snapshots": self.snapshots}, buffer)
        content = buffer.getvalue()
        current, previous = (self.folder / name for name in CHECKPOINTS)
        write_keeping(current, content + hashlib.sha256(content).digest(), previous)
        measured = {name: round(value, 3) for name, value in ({"seconds": seconds} | self.timings).items()}
        lines = [line for line in timings(self.folder) if line["epoch"] < record["epoch"]]
        lines.append({"epoch": record["epoch"]} | measured)
        write_atomically(self.folder / "timing.jsonl", as_lines(lines))
        self.timings = {}
        self._write_out()
        self.on_epoch()

    def finish(self, files: dict[str, str]) -> None:
        """Write the last files (name → content) and then DONE."""
        if not distributed.is_main():
            return
        for name, content in files.items():
            write_atomically(self.folder / name, content)
        write_atomically(self.folder / "DONE", "")

    def _write_out(self) -> None:
        if not distributed.is_main():
            return
        write_atomically(self.folder / "history.jsonl", as_lines(self.history))
        if self.snapshots:
            names = self.snapshots[0]
            stacked = {name: torch.stack([snapshot[name] for snapshot in self.snapshots]) for name in names}
            write_atomically(self.folder / "architecture.safetensors", save_safetensors(stacked))


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
        if path.is_file() and config_hash(there := read_config(folder)) != config_hash(config):
            # Where nothing was computed (the first epoch diverged, say) there is nothing to protect.
            if any((folder / name).exists() for name in ("DONE", *CHECKPOINTS)):
                raise _other_config(folder, there, config)
            path.unlink()
        if not path.is_file():
            header = {"kind": kind_of(config), "hash": config_hash(config), "config": to_document(config)}
            header |= {"versions": versions(), "machine": machine()}
            write_atomically(path, json.dumps(header, indent=2) + "\n")
        yield RunWriter(folder)


def _other_config(folder: Path, there: SearchConfig | RetrainConfig, ours: SearchConfig | RetrainConfig) -> LabError:
    if type(there) is not type(ours):
        return LabError(f"run folder {folder} holds another kind of run: {type(there).__name__}")
    ours, theirs = asdict(ours), asdict(there)
    fields = [f"{key} = {theirs[key]!r} there, {ours[key]!r} here" for key in ours if ours[key] != theirs[key]]
    return LabError(f"run folder {folder} holds another configuration: {'; '.join(fields)}; choose another --out")
