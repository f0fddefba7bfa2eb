"""Searches in processes of their own: started here, found again by their run's folder, stopped and resumed.

Such a process belongs to no notebook. Its folder's lock says whether it lives, its history how far it is; a kernel that
was restarted knows as much as the one that started it.
"""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from daas_lab.compose import options_of
from daas_lab.config import SearchConfig, check_named
from daas_lab.data.batches import check_available
from daas_lab.errors import STOPPED, LabError
from daas_lab.identity import config_hash
from daas_lab.runs.folder import epochs_done, is_finished, read_config, read_run
from daas_lab.runs.lock import writer
from daas_lab.train.progress import run_line, time_left

LOG = "log.txt"  # in the run's folder: what the process has printed
POLL = 0.1  # seconds
AT_WORK = ("starting", "running")  # states


class Status(NamedTuple):
    """Where a search is. `state`: absent, starting, running, stopped, failed or finished."""

    state: str
    pid: int | None
    epochs: int  # finished ones
    total: int
    message: str  # one line for a reader
    host: str = ""  # where the process is


# Processes that this one has started: only needed until they hold their lock, and to reap them.
_started: dict[Path, subprocess.Popen] = {}


def search_command(config: SearchConfig, folder: str | Path, data: str | Path = "data") -> list[str]:
    """The command line that makes exactly the search `config` in `folder`."""
    places = ["--data", str(Path(data).resolve()), "--out", str(Path(folder).resolve())]
    return [sys.executable, "-m", "daas_lab", "search", *options_of(config), *places]


def start(config: SearchConfig, folder: str | Path, data: str | Path = "data") -> None:
    """Begin a search, or go on with it, in a detached process. Refused where one is at work or done."""
    folder = Path(folder).resolve()
    check_named(config)  # the command names its files again: not those that only a folder has named
    check_available(config.dataset, data)
    before = status(folder)
    if before.state in (*AT_WORK, "finished"):
        raise LabError(f"run folder {folder}: {before.message}")
    if (folder / "config.json").is_file() and config_hash(read_config(folder)) != config_hash(config):
        raise LabError(f"run folder {folder} holds another configuration; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).unlink(missing_ok=True)
    with open(folder / LOG, "xb") as log:
        _started[folder] = subprocess.Popen(
            search_command(config, folder, data),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # what is sent to the kernel's group when it is restarted does not reach it
        )


def stop(folder: str | Path, patience: float = 20) -> None:
    """End the process that writes to `folder`; the epochs that it has finished are kept, and `start` goes on there."""
    folder, until = Path(folder).resolve(), time.monotonic() + patience
    now = status(folder)
    if now.pid is None:
        raise LabError(f"run folder {folder}: nothing to stop, {now.message}")
    if now.host not in ("", platform.node()):
        raise LabError(f"run folder {folder}: process {now.pid} is one of another machine, {now.host}: stop it there")
    # Not SIGINT: a kernel ignores it between cells, and what it starts then inherits that.
    os.kill(now.pid, signal.SIGTERM)
    while status(folder).pid == now.pid:
        if time.monotonic() > until:
            raise LabError(f"run folder {folder}: process {now.pid} has not ended after {patience} seconds")
        time.sleep(POLL)


def status(folder: str | Path) -> Status:
    """Where the search in `folder` is, whoever has started it."""
    folder = Path(folder).resolve()
    child = _started.get(folder)
    starting = child if child is not None and child.poll() is None else None
    holder = writer(folder)
    known = (folder / "config.json").is_file()
    total = read_config(folder).epochs if known else 0
    epochs = epochs_done(folder)
    progress = f"epoch {epochs} of {total}" if known else "no epoch yet"
    if holder is not None:
        pid = holder.get("pid")
        since = f"process {pid} since {holder.get('start')}"
        return Status("running", pid, epochs, total, f"running, {progress} ({since})", holder.get("host", ""))
    if is_finished(folder):
        return Status("finished", None, epochs, total, f"finished, {progress}")
    if starting is not None:
        return Status("starting", starting.pid, epochs, total, f"starting (process {starting.pid})")
    if reason := _failure(folder):
        return Status("failed", None, epochs, total, f"failed, {progress}: {reason}")
    if not known:
        return Status("absent", None, 0, 0, "not started")
    return Status("stopped", None, epochs, total, f"stopped, {progress}")


def line(folder: str | Path, now: Status) -> str:
    """What a reader wants to know of a search: its status, and what its last epoch has shown."""
    said = [now.message]
    with contextlib.suppress(LabError):  # of a folder that is being written
        said.append(run_line(read_run(folder)))
    if now.state == "running":
        said.append(time_left(folder, now.total - now.epochs))
    return "; ".join(filter(None, said))


def _failure(folder: Path) -> str:
    """The last line of what a process has printed if it ended by an error, else nothing; nothing either if the search
    has gone on since, from a command line, say."""
    log, history = folder / LOG, folder / "history.jsonl"
    if log.is_file() and history.is_file() and history.stat().st_mtime_ns > log.stat().st_mtime_ns:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    if not lines:
        return ""
    last = lines[-1]
    if last.endswith(STOPPED):
        return ""
    return last if last.startswith("daas-lab: ") or any(line.startswith("Traceback") for line in lines) else ""


def known(runs: str | Path) -> list[str]:
    """The names of all searches in the folder `runs`, those too that have not finished an epoch yet."""
    names = []
    for path in sorted(Path(runs).glob("*/config.json")):
        # A damaged folder is named where it is asked for, not where others are chosen.
        with contextlib.suppress(LabError):
            names += [path.parent.name] if isinstance(read_config(path.parent), SearchConfig) else []
    return names


def current(runs: str | Path) -> str | None:
    """The search in the folder `runs` to look at first: one that is being written, else the one that was last."""
    names = sorted(known(runs), key=lambda name: _last_written(Path(runs) / name))
    return next((name for name in reversed(names) if writer(Path(runs) / name)), names[-1] if names else None)


def _last_written(folder: Path) -> float:
    written = (folder / name for name in ("config.json", "history.jsonl"))
    return max(path.stat().st_mtime for path in written if path.is_file())
