"""Where a result comes from: versions, machine, data, command. Stands beside every run, figure and table."""

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import daas_lab

_PACKAGES = ("torch", "torchvision", "numpy", "matplotlib")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "daas_lab": daas_lab.__version__} | packages


def provenance(dataset: str, preset: str, command: str, wall_s: float, searches: Iterable = ()) -> dict:
    """Where a figure's or table's numbers come from: data, preset, command, versions, machine, seconds it took.

    `searches`: the runs behind it (`runs.folder.Run`), which other machines may have made, and other versions.
    """
    facts = {
        "dataset": dataset,
        "preset": preset,
        "command": command,
        "versions": versions(),
        "machine": machine(),
        "wall_s": round(wall_s, 1),
    }
    if searches := list(searches):
        origins = Counter(origin_text(run.origin) for run in searches)
        facts["searches"] = {"seconds": round(sum(run.seconds for run in searches)), "made_on": dict(origins)}
    return facts


def machine() -> dict:
    """`{"processor", "cores", "capability", "threads"}` of this machine and process, and `"gpu"` where torch finds one.

    `capability`: the instructions that torch computes with there (AVX2, AVX512, …), on which the last digits depend.
    """
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # Linux leaves platform.processor() empty
        names = (
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        )
        processor = next(names, processor)
    import torch  # here, for reading a table needs no torch

    facts = {"processor": processor, "cores": os.cpu_count()}
    facts |= {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return facts | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def origin_in(document: Mapping) -> dict:
    """What a run's `config.json` or record says of where it was made: `Run.origin`."""
    own = {name: document[name] for name in ("versions", "machine")}
    return own | ({"resumed": document["resumed"]} if document.get("resumed") else {})


def resumed_here(document: dict, epoch: int) -> dict:
    """A run's `config.json` when its training goes on after `epoch`, with versions and machine added under `resumed` if
    they are not those of the epochs before, on which the last digits depend."""
    now = {"versions": versions(), "machine": machine()}
    rest = {key: value for key, value in document.items() if key != "resumed"}
    if epoch == 0:  # nothing is left of what another machine may have begun
        return rest | now
    resumed = [part for part in document.get("resumed", []) if part["after"] < epoch]
    last = [document, *resumed][-1]
    if any(last.get(name) != value for name, value in now.items()):
        resumed.append({"after": epoch, **now})
    return rest | ({"resumed": resumed} if resumed else {})


def origin_text(origin: Mapping) -> str:
    """Machine and torch that made a run, in words; with those that made the last of its epochs, if others did."""
    parts = [
        (part, f"from epoch {part['after'] + 1} on " if "after" in part else "")
        for part in (origin, *origin.get("resumed", []))
    ]
    return "; ".join(
        f"{since}{machine_text(part['machine'])}, torch {part['versions']['torch']}" for part, since in parts
    )


def provenance_text(facts: Mapping) -> str:
    """The provenance as Markdown, one line each for data, searches, time, machine and versions."""
    searches = ""
    if "searches" in facts:
        made_on = "; ".join(f"{count} on {where}" for where, count in facts["searches"]["made_on"].items())
        searches = f"- Searches: {made_on}; {facts['searches']['seconds'] / 3600:.1f} h in all\n"
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"- Data: {facts['dataset']}, preset {facts['preset']}; made by `{facts['command']}`\n"
        f"{searches}"
        f"- Time: {facts['wall_s']} s, without the runs that were finished before\n"
        f"- Machine: {machine_text(facts['machine'])}\n"
        f"- Versions: {packages}\n"
    )


def machine_text(machine: Mapping) -> str:
    """What `machine` gives, in words."""
    counts = {"cores": "core", "threads": "thread"}
    return ", ".join(
        f"{value} {counts[key]}{'s' * (value != 1)}" if key in counts else str(value) for key, value in machine.items()
    )
