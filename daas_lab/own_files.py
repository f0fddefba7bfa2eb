"""Code of the user's own, named as `FILE.py:NAME`: a method's class, an operation's or a data set's function.

A file is executed only because somebody names it: on the command line, in a notebook, in a sweep file. Its digest goes
into the configuration, and with it into the hash. A run's folder only remembers name and digest, and never has a file
executed; what it needs must have been named in this process before (`load_own`), or it says so.
"""

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from daas_lab.errors import LabError, refuse

_named: dict[tuple[str, str], Any] = {}  # (digest, name) → what it is, of every file that was named in this process
_places: dict[tuple[str, str], str] = {}  # the same → FILE.py:NAME, here or in the process that started this one


def is_own(text: object) -> bool:
    """Whether `text` names something in a file: FILE.py:NAME."""
    return isinstance(text, str) and ".py:" in text


def own_name(text: str) -> str:
    """NAME of FILE.py:NAME."""
    return text.rpartition(":")[2]


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` for home folders; of a user whom nobody knows as it stands, as a shell has it."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def canonical_own(text: str) -> str:
    """FILE.py:NAME with the file's absolute path: the same file from every folder and in every process."""
    file, _, name = text.rpartition(":")
    return f"{expanded(file).resolve()}:{name}"


def digest_of(field: str, text: str) -> str:
    """Digest of the file that `text` names; `LabError` under the name `field` if there is none."""
    return _digest(_content(field, text))


def digest_at_hand(field: str, text: str) -> str:
    """The same; where the file is gone, as after a move, of the one that was loaded last under its NAME."""
    try:
        return digest_of(field, text)
    except LabError:
        loaded = [digest for digest, name in _places if name == own_name(text)]
        if not loaded:
            raise
        return loaded[-1]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _content(field: str, text: str) -> bytes:
    file, _, name = text.rpartition(":")
    if not name.isidentifier():
        raise refuse(field, text, "FILE.py:NAME")
    try:
        return expanded(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: what can be no path
        why = getattr(error, "strerror", error)
        raise refuse(field, text, f"FILE.py:NAME of a file that can be read ({why})") from None


def load_own(field: str, text: str, digest: str = "") -> Any:
    """What FILE.py:NAME names; its file is executed, once for every content it has had.

    `digest`: what the file must have; who was named with it need not be where it was. Raises `LabError` naming field
    and file for a file that cannot be executed, has no such name, or has another content.
    """
    if not is_own(text):
        raise refuse(field, text, "FILE.py:NAME")
    key = digest, own_name(text)
    if key in _named:
        return _last(*key)
    if digest and not _is_at(text, digest):
        text = _places.get(key, text)
    content = _content(field, text)
    found = _digest(content)
    if digest and found != digest:
        raise LabError(f"{field} = {text!r}: the file has changed since the configuration was made")
    file, _, name = canonical_own(text).rpartition(":")
    if (found, name) not in _named:
        # Registered, so that dataclasses and pickle find the module of a class.
        module_name = f"daas_lab_own_{found}"
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, file)
            assert spec  # a .py file has one
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                # Not by the loader: it takes code that Python has cached for what was there a moment before.
                exec(compile(content, file, "exec", dont_inherit=True), vars(module))
            except BaseException as error:
                del sys.modules[module_name]
                if isinstance(error, Exception):
                    frames = traceback.extract_tb(error.__traceback__)
                    where = next((f" in line {at.lineno}" for at in reversed(frames) if at.filename == file), "")
                    raise LabError(f"{field} = {text!r}: the file cannot be executed: {error!r}{where}") from error
                raise
        if not hasattr(sys.modules[module_name], name):
            raise refuse(field, text, f"a name that {file} defines")
        _named[found, name] = getattr(sys.modules[module_name], name)
    _places[found, name] = f"{file}:{name}"
    return _last(found, name)


def _last(digest: str, name: str) -> Any:
    """What is named so, from now on what was loaded last."""
    for known in (_named, _places):
        known[digest, name] = known.pop((digest, name))
    return _named[digest, name]


def _is_at(text: str, digest: str) -> bool:
    try:
        return digest_of("file", text) == digest
    except LabError:
        return False


def known_places() -> dict[tuple[str, str], str]:
    """Where the files are that were named in this process, for `find_at` in one that works for it."""
    return dict(_places)


def find_at(places: dict[tuple[str, str], str]) -> None:
    """Where a file is that has moved since a configuration was made; nothing is executed."""
    _places.update(places)


def named_label(name: str, kind: type) -> Any:
    """The subclass of `kind` that was loaded last under this NAME, whatever its file; None if none was."""
    named = (found for (_, own), found in reversed(_named.items()) if own == name)
    return next((found for found in named if isinstance(found, type) and issubclass(found, kind)), None)


def named_own(field: str, text: str, digest: str) -> Any:
    """What `load_own` loaded in this process under this digest; nothing is executed."""
    try:
        return _named[digest, own_name(text)]
    except KeyError:
        others = [found for found, name in _named if name == own_name(text)]
        why = (
            f"; the one that was named has another content: its digest is {others[-1]}, not {digest}" if others else ""
        )
        raise LabError(
            f"{field} = {text!r}: code of one's own, which is executed only where it is named: name the same file "
            f"again (--own FILE.py:NAME; in Python own_files.load_own){why}"
        ) from None
