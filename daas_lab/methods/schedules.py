"""The control functions of Fig. 5: epoch → coefficient of a regularisation term.

Pure functions of the epoch e = 1 … E. A schedule is written as text: `linear` starts at once, `log:delayed` stays
zero for the first d = round(0.16 E) epochs (8 of the paper's 50) and then runs over what is left; `zero` (ours)
switches a term off.
"""

import math

from daas_lab.errors import one_of, refuse

FUNCTIONS = ("const", "linear", "log", "exp", "step")
ZERO = "zero"


def delay_epochs(epochs: int) -> int:
    """d, the epochs that a delayed schedule (and, in the authors' protocol, α) waits: 8 of 50."""
    return round(0.16 * epochs)


def progress(epoch: int, epochs: int, hold: int = 0) -> float:
    """How far the epochs after the first `hold` of `epochs` have come: 0 until then, 1 in the last epoch."""
    return max(0, epoch - hold) / max(1, epochs - hold)


def between(start: float, end: float, epoch: int, epochs: int) -> float:
    """From `start` in the first epoch to `end` in the last, linearly: in shares of the search, so that it arrives."""
    return start + (end - start) * coefficient("linear", epoch, epochs)


def stage(epoch: int, epochs: int, stages: int) -> tuple[int, int, int]:
    """Which of several stages of (almost) the same length `epoch` is in, from 0; which of its epochs, from 0; and how
    many it has."""
    number = stages * (epoch - 1) // epochs
    first, after = (-(-epochs * s // stages) for s in (number, number + 1))
    return number, epoch - 1 - first, after - first


def parse(text: str, field: str = "schedule") -> tuple[str, bool]:
    """`"log:delayed"` → `("log", True)`; what is neither one of the five functions nor `zero` is refused under the name
    `field`."""
    function, colon, suffix = str(text).partition(":")
    one_of(field, function, (*FUNCTIONS, ZERO))
    if colon and (suffix != "delayed" or function == ZERO):
        raise refuse(field, text, ZERO if function == ZERO else f"{function} or {function}:delayed")
    return function, suffix == "delayed"


def coefficient(text: str, epoch: int, epochs: int, authors_log: bool = True) -> float:
    """The value of schedule `text` in epoch `epoch` of `epochs` (Fig. 5).

    `authors_log` keeps the published code's delayed logarithm, ln(e'+1) / ln E', which ends slightly above 1; without
    it the denominator is ln(E'+1). Every schedule but `zero` is 1 when there is a single epoch.
    """
    function, delayed = parse(text)
    if function == ZERO:
        return 0.0
    if epochs == 1:
        return 1.0
    delay = delay_epochs(epochs) if delayed else 0
    if epoch <= delay:
        return 0.0
    e, total = epoch - delay, epochs - delay
    if function == "const":
        return 1.0
    if function == "exp":
        return 2.0 ** ((epoch - epochs) / (epochs / 10))
    if function == "step":
        return min(3, 4 * e // total) / 3
    if not delayed:
        return (e - 1) / (total - 1) if function == "linear" else math.log(e) / math.log(total)
    if function == "linear":
        return e / total
    # One epoch left after the delay: ln 1 would divide by zero, and the schedule has arrived.
    return math.log(e + 1) / math.log(total if authors_log and total > 1 else total + 1)
