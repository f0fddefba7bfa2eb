"""The errors that a user can cause. The command line prints them as one line and exits with 2."""

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

STOPPED = "stopped; the same command goes on from the last epoch"


class LabError(ValueError):
    """Something the user gave cannot be used; the message names field, value and what is allowed."""


class NewerVersion(LabError):
    """A file that a newer version made: not damage, but more than this version can read."""


def refuse(field: str, value: object, allowed: str) -> LabError:
    """The one wording of every refusal, to be raised by the caller."""
    text = repr(value)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 1]}…"
    return LabError(f"{field} = {text}: must be {allowed}")


LONGEST = 200  # of a value in a message, where somebody gave a whole file's text


def one_of(field: str, value: object, allowed) -> None:
    """Raise unless `value` is one of the names `allowed`, suggesting the closest one."""
    allowed = list(allowed)
    if value not in allowed:
        raise refuse(field, value, "one of " + ", ".join(map(str, allowed)) + suggestion(value, allowed))


def suggestion(value: object, allowed) -> str:
    """' (did you mean …?)' for a misspelt name, else nothing."""
    close = difflib.get_close_matches(str(value), list(map(str, allowed)), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def imported(name: str, extra: str) -> Any:
    """The module `name`, or `LabError` with the command that installs the `extra` which has it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        what = error.name or name
        raise LabError(f"{what} is missing, of the extra `{extra}`: pip install 'daas-lab[{extra}]'") from error


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


@cache
def say_once(line: str) -> None:
    """One line on stderr, once in a process: of what can be used, but may not be what the user meant."""
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr)  # names of files need not be UTF-8


@contextlib.contextmanager
def ending_well() -> Iterator[None]:
    """Inside, SIGTERM (of `kill`, of a cluster's time limit) stops a command as Ctrl-C does: KeyboardInterrupt(143). At
    the end what was printed is written, while an error can still be said: a full disk, a reader that has gone."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(128 + number)

    mine = threading.current_thread() is threading.main_thread()  # signals are the main thread's
    before = signal.signal(signal.SIGTERM, interrupt) if mine else None
    try:
        yield
        _flush()
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait, if this process answers them by code of its own: for the end of what takes
    little time and must not be left half done."""
    came: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if mine}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again when it ends
        raise
