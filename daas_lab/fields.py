"""Fields of a configuration: numbers within limits, coerced from what users write, refused by name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from types import NoneType
from typing import Any, get_args

from daas_lab.errors import LabError, refuse, suggestion


def number(
    at_least: float | None = None, at_most: float | None = None, above: float | None = None, default: Any = MISSING
) -> Any:
    """A field that holds a number, with the limits that `check_fields` keeps."""
    return field(default=default, metadata={"at_least": at_least, "at_most": at_most, "above": above})


def coerce(name: str, kind: type, value: Any, limits: Mapping) -> Any:
    """`value` as `kind` within `limits`: texts such as "3e-4" count as the number they write, nothing is rounded."""
    allowed = _in_words(kind, limits)
    if isinstance(value, bool):
        raise refuse(name, value, allowed)
    try:
        number = float(value)
        if kind is int and number != int(number):
            raise ValueError
        exact = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    except (TypeError, ValueError, OverflowError) as error:
        raise refuse(name, value, allowed) from error
    inside = {"at_least": number.__ge__, "at_most": number.__le__, "above": number.__gt__}
    kept = all(inside[key](limit) for key, limit in limits.items() if limit is not None)
    if number != number or abs(number) == float("inf") or not kept:
        raise refuse(name, value, allowed)
    return kind(exact if isinstance(exact, int) else number)  # a float has 53 bits, a seed may have more


def _in_words(kind: type, limits: Mapping) -> str:
    bounds = [f"{words} {limits[key]}" for key, words in _BOUND_WORDS.items() if limits.get(key) is not None]
    return " ".join(["a whole number" if kind is int else "a number", " and ".join(bounds)]).rstrip()


def allowed_values(spec: Field) -> str:
    """What a field may hold, in the words of its refusals; nothing for a text."""
    kind, _ = _kind(spec)
    return "true or false" if kind is bool else _in_words(kind, spec.metadata) if kind in (int, float) else ""


_KINDS: dict[Any, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_BOUND_WORDS = {"at_least": "of at least", "at_most": "of at most", "above": "above"}


def _kind(spec: Field) -> tuple[Any, bool]:
    """The type of a field, and whether it may be None: of `float | None` (float, True). Annotations may be texts."""
    if isinstance(spec.type, str):
        text = re.sub(r"^None \| | \| None$|^(typing\.)?Optional\[|\]$", "", spec.type)
        return _KINDS.get(text, spec.type), text != spec.type
    parts = get_args(spec.type)
    if len(parts) == 2 and NoneType in parts:
        return next(part for part in parts if part is not NoneType), True
    return spec.type, False


def check_fields(config: Any) -> None:
    """Coerce every number and truth value of a frozen configuration; raises `LabError` naming a wrong one, and what
    stands where a text should."""
    for spec in fields(config):
        value, (kind, may_be_none) = getattr(config, spec.name), _kind(spec)
        if value is None and may_be_none:
            continue
        if kind in (int, float):
            object.__setattr__(config, spec.name, coerce(spec.name, kind, value, spec.metadata))
        elif kind is bool:
            object.__setattr__(config, spec.name, truth(spec.name, value))
        elif kind is str:
            check_text(spec.name, value)


def truth(name: str, value: Any) -> bool:
    """True or False, or a text that writes one of them."""
    if str(value).lower() not in ("true", "false"):
        raise refuse(name, value, "true or false")
    return str(value).lower() == "true"


def plain(name: str, value: Any) -> Any:
    """`value` as a frozen configuration can hold it and JSON give it back: a number, a text, true, false or none, or a
    tuple of these."""
    if isinstance(value, (list, tuple)):
        return tuple(plain(name, part) for part in value)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise refuse(name, value, "a number, a text, true, false or none, or a sequence of these")
    return value


def check_text(name: str, value: Any) -> None:
    """Raise unless `value` is a text that a file and a path can hold."""
    if not isinstance(value, str) or "\0" in value:
        raise refuse(name, value, "a text")


def whole(value: Any, at_least: int, at_most: int = 10**9) -> int:
    """A number needed to fill in others; what is wrong with it is said by the field's own check."""
    try:
        return min(max(at_least, int(float(value))), at_most)
    except (TypeError, ValueError, OverflowError):
        return at_least


def one_or_more(values: Any) -> list:
    """A sequence as a list; a text, or what is no sequence, as the only one of it."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def refuse_unknown(what: str, changes: Mapping, known: Iterable[str]) -> None:
    """Raise for a keyword that is no field, naming the closest one."""
    known = list(dict.fromkeys(known))
    for name in changes:
        if name not in known:
            raise LabError(f"unknown {what} setting {name!r}{suggestion(name, known)}; known: {', '.join(known)}")
