"""Which run a configuration is of: its hash, and its form in files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError, NewerVersion, one_of
from daas_lab.methods.lookup import METHODS, recorded_class
from daas_lab.own_files import is_own, own_name
from daas_lab.space.cell_space import operation_name

NOT_HASHED = (
    *("preset", "gap_every", "gap_budgets", "gap_edge_weight"),
    *("device", "threads", "workers", "tf32", "deterministic", "checkpointed", "compile"),
    "weights",  # a path: its content has a digest
)


# Fields that were added later, at the value that means "as it was before": there they are not hashed, so that the runs
# and records from before the field existed are found. Never change an entry; a default may change.
_ALWAYS = {
    "data_digest": "",
    "method_digest": "",
    "operations": "",
    "operations_digest": "",
    "weights_digest": "",
    "warmup": 0,
    "hold": 0,
    "temperature": 1.0,
    "retire": 0.0,
    "retire_after": 2,
    "crops": "padded",
    "schedule": "cosine",
    "precision": "float32",
    "micro_batches": 1,
    "sync_batch_norm": False,
}


def config_hash(config: SearchConfig | RetrainConfig) -> str:
    """Ten hexadecimal digits over everything that changes the result: not versions, device, threads or paths.

    Where content is known by a digest (a folder's images, the file of a method), its place does not matter.
    """
    values = asdict(config)
    values["operations"] = ",".join(operation_name(part) for part in config.operations.split(",") if part)
    if config.data_digest:
        values["dataset"] = "own" if is_own(config.dataset) else config.dataset.partition(":")[0]
    if isinstance(config, SearchConfig):
        always = {} if config.method_digest else config.method_class.always_under(config.protocol)
        values["method"] = own_name(config.method) if config.method_digest else config.method
        values["numbers"] = {name: value for name, value in config.numbers if (name, value) not in always.items()}
        if not values["numbers"]:
            del values["numbers"]
    identity = {
        key: value
        for key, value in values.items()
        if key not in NOT_HASHED and (key not in _ALWAYS or value != _ALWAYS[key])
    }
    text = json.dumps({"kind": type(config).__name__} | identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


# --- in files -------------------------------------------------------------------------------------------------

KINDS = {"search": SearchConfig, "retrain": RetrainConfig}


def to_document(config: SearchConfig | RetrainConfig) -> dict[str, Any]:
    """The configuration as JSON holds it; `from_document` gives it back."""
    document = asdict(config)
    return document | ({"numbers": dict(config.numbers)} if isinstance(config, SearchConfig) else {})


def from_document(kind: str, document: Mapping[str, Any]) -> SearchConfig | RetrainConfig:
    """The configuration of a file; what older versions wrote is brought up to date.

    Raises `NewerVersion` for a field, a method or a number of a method that this version does not know.
    """
    one_of("kind", kind, KINDS)
    unknown = [f"field {name!r}" for name in document if name not in {spec.name for spec in fields(KINDS[kind])}]
    if kind == "search" and not is_own(document["method"]):
        unknown += [f"method {name!r}" for name in {document["method"]} - set(METHODS)]
        if not unknown:
            known = {spec.name for spec in fields(recorded_class(document["method"], ""))}
            unknown = [f"number {name!r} of a method" for name in document.get("numbers", {}) if name not in known]
    if unknown:
        raise NewerVersion(f"made by a newer version of daas_lab: this one knows no {unknown[0]}")
    return KINDS[kind](**(upgrade(document) if kind == "search" else document))


def checked_config(document: Mapping[str, Any]) -> SearchConfig | RetrainConfig:
    """The configuration of what has `kind`, `config` and the `hash` of these: a run's `config.json`, or a record."""
    config = from_document(document["kind"], document["config"])
    if document["hash"] != config_hash(config):
        raise LabError(f"hash = {document['hash']!r}: its configuration's is {config_hash(config)!r}")
    return config


def upgrade(document: Mapping[str, Any]) -> dict[str, Any]:
    """A search's configuration with the numbers that the versions before did not write: as they always were."""
    if document.get("method_digest"):
        return dict(document)
    searcher = recorded_class(document["method"], "")  # a file that a document names is not executed
    known = {spec.name for spec in fields(SearchConfig)}
    numbers = {spec.name: spec.default for spec in fields(searcher) if spec.name not in known}
    always = searcher.always_under(document["protocol"])
    before = {name: always.get(name, default) for name, default in numbers.items()}
    return {**document, "numbers": before | dict(document.get("numbers", {}))}
