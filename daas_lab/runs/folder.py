"""A run's folder: configuration, history, α/β snapshots, checkpoints, lock, resume, records.

    config.json               the complete configuration, and the library versions that made the run
    history.jsonl             one record an epoch; nothing in it depends on the machine or the clock
    timing.jsonl              seconds of every epoch, and of the parts that are measured apart
    epochs.log                records, α and β of the epochs so far (`epoch_log`); epochs.copy.log is the same again
    checkpoint.pt             the state that a resume needs beside these; checkpoint.previous.pt is the one before it
    stop.012.pt               the weights after epoch 12, where the method stops at a budget and goes on
    architecture.safetensors  α and β at the start and after every epoch, once a search is finished
    genotype.json             the cell that was found (searches)
    result.json               test error and sizes (retrainings)
    gap.json, cells.json      accuracy drops, and cells by a measured rule: measured since
    lock                      pid, host and start of the process that writes, held by the system's file lock
    log.txt                   what a search printed that was started from a notebook (`live.py`)
    DONE                      written last: the SHA-256 of every file that holds a result

Files are written under a temporary name, synced and renamed, those of one line an epoch are only added to. Checkpoint
and log are the truth: when a run is resumed, the other files are written from them.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError, NewerVersion, refuse
from daas_lab.identity import KINDS, checked_config
from daas_lab.runs.epoch_log import LOGS, read_entries, records_of, stacked
from daas_lab.runs.files import write_atomically
from daas_lab.runs.provenance import origin_in
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import named_operations

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
RESULTS = ("config.json", "history.jsonl", "architecture.safetensors", "genotype.json", "result.json")
MEASURED = ("gap.json", "cells.json")  # of a finished run, at any time since


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
    origin: dict  # versions and machine that made it, and `resumed`: those that made later epochs, where they differ
    # Cells that a measured rule of selection chose: rule → budget → genotype as JSON.
    cells: dict[str, dict[str, dict]] = field(default_factory=dict)

    @property
    def search(self) -> SearchConfig:
        """The configuration of a search; `LabError` for a retraining."""
        if not isinstance(self.config, SearchConfig):
            raise refuse("run", str(self.folder or kind_of(self.config)), "a search")
        return self.config

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
        return checked_config(json.loads(path.read_text(encoding="utf-8")))


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
    finished = is_finished(folder)
    if finished:
        _check_digests(folder)
    history, arrays = _read_epochs(folder, finished)
    genotype, header = _read_json(folder / "genotype.json", None), _read_json(folder / "config.json", {})
    if genotype is not None and isinstance(config, SearchConfig):
        named_operations(config.operations, config.operations_digest)  # else a whole cell would read as damaged
    with naming_damage(folder / "genotype.json"):
        genotype = genotype and Genotype.from_json(genotype)
    return Run(
        folder=folder,
        config=config,
        history=history,
        seconds=sum(entry["seconds"] for entry in timings(folder)),
        finished=finished,
        alphas={name.removeprefix("alphas_"): array.numpy() for name, array in arrays.items() if "alphas" in name},
        betas={name.removeprefix("betas_"): array.numpy() for name, array in arrays.items() if "betas" in name},
        genotype=genotype,
        gap=_measured(folder, "gap.json", []),
        result=_read_json(folder / "result.json", {}),
        origin=origin_in({"versions": None, "machine": None} | header),
        cells=_measured(folder, "cells.json", {}),
    )


def _read_epochs(folder: Path, finished: bool) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """History, α and β; those of a run that is being made are in its log alone whole at any moment."""
    with naming_damage(folder / LOGS[0]):
        entries = [] if finished else read_entries(folder)
        if entries:
            return records_of(entries), stacked(entries)
    path = folder / "architecture.safetensors"
    with naming_damage(path):
        arrays = load_safetensors(path.read_bytes()) if path.is_file() else {}
    return _read_lines(folder / "history.jsonl"), arrays


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


def stop_name(epoch: int) -> str:
    """The file with the weights of a stop."""
    return f"stop.{epoch:03d}.pt"


def read_stop(folder: str | Path, epoch: int) -> dict[str, Any]:
    """The weights of the stop after `epoch`."""
    path = Path(folder) / stop_name(epoch)
    saved = _unpacked(path.read_bytes()) if path.is_file() else None
    if saved is None:
        raise LabError(
            f"run = {str(folder)!r}: must hold the weights of epoch {epoch}, and {path} is missing or damaged"
        )
    return saved["state"]


def read_checkpoint(folder: str | Path) -> tuple[dict[str, Any], int]:
    """The state of a run's last epoch that is whole, weights included, and the number of that epoch."""
    newest = Path(folder) / CHECKPOINTS[0]
    saved = load_checkpoint(Path(folder))
    if saved is None:
        raise LabError(f"run = {str(folder)!r}: must hold a checkpoint, and {newest} is missing or damaged")
    epoch = epoch_of(saved)
    if is_finished(folder) and epoch < read_config(folder).epochs:
        raise LabError(
            f"damaged file {newest}: of this finished run only the weights of epoch {epoch} are left; without "
            f"{Path(folder) / 'DONE'}, the run's own command makes the epochs after it again"
        )
    return saved["state"], epoch


def epoch_of(saved: dict[str, Any]) -> int:
    """The number of epochs behind a checkpoint; those of older versions hold the history itself."""
    return saved["epoch"] if "epoch" in saved else len(saved["history"])


def load_checkpoint(folder: Path, sets_aside: bool = False) -> dict[str, Any] | None:
    """The newest checkpoint that is whole: a damaged one gives way to the one before it, and stderr says so.

    `sets_aside`: rename what is damaged, so that the next checkpoint does not push out the whole one.
    """
    damaged = False
    for path in (folder / name for name in CHECKPOINTS):
        if not path.is_file():
            continue
        saved = _unpacked(path.read_bytes())
        if saved is not None:
            if damaged:
                print(f"going on from the one before it, {path}", file=sys.stderr)
            return saved
        damaged = True
        print(f"checkpoint {path} is damaged", file=sys.stderr)
        if sets_aside:
            os.replace(path, path.with_suffix(".damaged"))
    if damaged and sets_aside:
        print(f"no checkpoint of {folder} is whole: the run begins again", file=sys.stderr)
    return None


def _unpacked(whole: bytes) -> dict[str, Any] | None:
    """What a checkpoint holds, tensors and plain values only, or None if it is not as it was written or holds code."""
    content, digest = whole[:-32], whole[-32:]
    if hashlib.sha256(content).digest() != digest or not content.startswith(b"PK"):  # ours are zip archives
        return None
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError):
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return saved if isinstance(saved, dict) and "state" in saved and {"epoch", "history"} & saved.keys() else None
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


def _measured(folder: Path, name: str, missing: Any) -> Any:
    """What was measured after the run, so far; what is damaged counts as not measured."""
    with contextlib.suppress(LabError):
        return missing if _differs(folder / name, _digests(folder)) else _read_json(folder / name, missing)
    return missing


# --- DONE -------------------------------------------------------------------------------------------------------------


def keep_measured(folder: Path, name: str, content: str) -> None:
    """Replace what was measured after a finished run. DONE knows the new content before it is there, beside that which
    it replaces: dying in between loses neither."""
    path, digests, digest = folder / name, _known(folder), hashlib.sha256(content.encode()).hexdigest()
    before = [_digest(path)] if path.is_file() and not _differs(path, digests) else []
    _write_digests(folder, digests | {name: " ".join([digest, *before])})
    write_atomically(path, content)


def seal(folder: Path, names: Iterable[str]) -> None:
    """Note in DONE what these files of a finished run hold, so that damage does not pass for a result."""
    _write_digests(
        folder, _known(folder) | {name: _digest(folder / name) for name in names if (folder / name).is_file()}
    )


def _known(folder: Path) -> dict[str, str]:
    """`_digests`; of a damaged DONE, which is written anew, none."""
    with contextlib.suppress(LabError):
        return _digests(folder)
    return {}


def _write_digests(folder: Path, digests: dict[str, str]) -> None:
    write_atomically(folder / "DONE", json.dumps(digests, indent=1) + "\n")


def _digests(folder: Path) -> dict[str, str]:
    """File → digest, or two with a space between them where it was to be replaced; none of a run that an older version
    finished."""
    path = folder / "DONE"
    with naming_damage(path):
        return dict(json.loads(path.read_bytes() or b"{}")) if path.is_file() else {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _differs(path: Path, digests: dict[str, str]) -> bool:
    return path.name in digests and (not path.is_file() or _digest(path) not in digests[path.name].split())


def _check_digests(folder: Path) -> None:
    digests = _digests(folder)
    for name in RESULTS:
        if _differs(folder / name, digests):
            raise LabError(f"damaged file {folder / name}: its content is not what the run wrote")


def timings(folder: Path) -> list[dict]:
    """What is left of the seconds of every epoch: no result depends on them, so that damage there stops nothing."""
    path, found = folder / "timing.jsonl", {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[entry["epoch"]] = entry | {"seconds": float(entry["seconds"])}
    return list(found.values())  # an epoch that was made twice took the time of the second


def as_lines(records: Iterable[dict]) -> str:
    """One JSON document a line."""
    return "".join(json.dumps(record) + "\n" for record in records)
