"""The runs that a few words mean, among many."""

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.lab.explorer import search_config_of


def matching(words: str, options: Sequence[tuple[str, str]], found: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Those (label, name) of `options` that have every one of the words, whatever their case.

    `found`: name → run or record. A word is a part of what a label says, of the method's name, data set, preset,
    protocol, budget, or hash; or one of these by its field, as `method=darts`. A number is a seed, also as `s0`,
    `seed 0` and `seed=0`: 1 does not find 10.
    """
    patterns = [_pattern(word) for word in words.casefold().split()]
    texts = [_text(label, path := found.get(name), path and _written(path)) for label, name in options]
    return [pair for pair, text in zip(options, texts, strict=True) if all(p.search(text) for p in patterns)]


def _pattern(word: str) -> re.Pattern:
    whole = re.fullmatch(r"(s|seed=)?\d{1,3}", word)
    return re.compile(rf"(?<![\w/=,]){re.escape(word)}(?![\w/,])" if whole else re.escape(word))


def _written(path: Path) -> int | None:
    """When the configuration in a run's folder or a record was written: a run may be made anew where one was."""
    with contextlib.suppress(OSError):
        return (path / "config.json" if path.is_dir() else path).stat().st_mtime_ns
    return None


@functools.lru_cache(maxsize=8192)
def _text(label: str, path: Path | None, written: int | None) -> str:
    if path is None:  # a published cell, say
        return label.casefold()
    try:
        config = search_config_of(path)
        method, facts = config.searcher, {"method": config.label, "data": config.dataset, "dataset": config.dataset}
    except LabError:  # damaged; who chooses it is told so
        return label.casefold()
    facts |= {name: getattr(config, name) for name in ("preset", "protocol", "seed")} | {"hash": config_hash(config)}
    facts |= {"budget": config.budget} if method.asks_for_budget else {}
    named = " ".join(f"{name}={value}" for name, value in facts.items())
    return f"{label} {method.title} seed {config.seed} {named}".casefold()
