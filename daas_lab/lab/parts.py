"""What the views of `widgets.py` share: controls, callbacks that say what is wrong, a search field, a button that
measures the cut."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import ipywidgets

from daas_lab.config import check_named
from daas_lab.errors import LabError
from daas_lab.lab import explorer, live
from daas_lab.lab.finding import matching
from daas_lab.studies import make
from daas_lab.studies.settings import Settings

WATCH_INTERVAL, WATCH_IDLE = 0.5, 60  # seconds between looks at a live search, and until nobody looks any more
LABELS = {"description_width": "90px"}


def dropdown(description: str, options: Sequence, value=None, width: str = "220px") -> ipywidgets.Dropdown:
    options, layout = list(options), {"width": width, "max_width": "100%"}
    value = options[0] if value is None and options else value
    return ipywidgets.Dropdown(options=options, value=value, description=description, layout=layout, style=LABELS)


def text(description: str, value: object, placeholder: str = "") -> ipywidgets.Text:
    layout = {"width": "220px", "max_width": "100%"}
    text = "" if value is None else str(value)
    return ipywidgets.Text(text, placeholder=placeholder, description=description, layout=layout, style=LABELS)


def pictures() -> list[ipywidgets.HTML]:
    # Beside each other where both are at least this wide, else one below the other.
    return [ipywidgets.HTML(layout={"flex": "1 1 400px", "min_width": "0"}) for _ in range(2)]


def column(*items: ipywidgets.Widget) -> ipywidgets.VBox:
    """One of several that stand beside each other, as `pictures` do."""
    return ipywidgets.VBox(items, layout={"flex": "1 1 400px", "min_width": "0"})


def row(*items: ipywidgets.Widget) -> ipywidgets.HBox:
    return ipywidgets.HBox(items, layout={"flex_flow": "row wrap", "width": "100%"})


def fitted(svg: str) -> str:
    """An SVG document as wide as there is room, within what is readable."""
    return svg.replace("<svg ", '<svg style="width:100%;max-width:600px;height:auto;border-radius:4px" ', 1)


def find_field(
    lists: Sequence[ipywidgets.Dropdown],
    options: Callable[[], list[tuple[str, str]]],
    found: Callable[[], Mapping[str, Path]],
    message: ipywidgets.HTML,
) -> ipywidgets.Text:
    """A field whose words (`finding.matching`) narrow what the lists offer. What a list shows stays, in the first
    place: nothing is chosen by looking for it."""
    field = text("find", "", "darts s0 …")
    field.tooltip = "words that narrow the list: method, data, preset, seed, budget, hash"

    def narrow() -> str:
        every = options()
        wanted = matching(field.value, every, found())
        for one in lists:
            shown = [pair for pair in every if pair[1] == one.value]
            one.options = shown + [pair for pair in wanted if pair not in shown]
        if not field.value.strip():
            return ""
        count = f"{len(wanted)} of {len(every)} found" if wanted else f"nothing found among {len(every)}"
        return f"{count}: {field.value.strip()}"

    field.observe(reporting(message, narrow), "value")
    return field


_measuring: dict[Path, str] = {}  # run → the budget to which its cut is being measured, whichever view has begun it


def measure_buttons(
    shown: Sequence[Callable[[], tuple[Path, str, str]]],
    settings: Settings,
    message: ipywidgets.HTML,
    done: Callable[[], None],
) -> tuple[list[ipywidgets.Button], Callable[[], None]]:
    """Buttons that measure the cut where a view says that it was not, and the function that offers or hides them.

    `shown`, for each button: the run's folder or record, the budget and the edge weight that the view shows. A process
    of its own measures, as `make.drops` does, while a thread waits for it; `done()` then draws the view again.
    """
    layout = {"width": "auto", "align_self": "flex-start", "display": "none"}
    buttons = [ipywidgets.Button(layout=layout) for _ in shown]

    def offer() -> None:
        for button, of in zip(buttons, shown, strict=True):
            can = False
            with contextlib.suppress(LabError):  # of a run without an epoch, or damaged: whoever draws it says so
                path, budget, edge_weight = of()
                button.disabled = path in _measuring
                button.icon = "spinner spin" if button.disabled else "bar-chart"
                words = ("Measuring", f"{_measuring.get(path)} …") if button.disabled else ("Measure", budget)
                button.description = " the cut to ".join(words)
                can = button.disabled or explorer.can_measure(explorer.read_search(path), budget, edge_weight)
            button.layout.display = "" if can else "none"

    def measure(path: Path, budget: str) -> None:
        try:
            make.drops([explorer.read_search(path)], [budget], settings, progress=False)
        except LabError:
            raise
        except Exception as error:  # of a process that was ended, say: a thread has no cell that would show it
            raise LabError(f"{path}: the cut to {budget} was not measured: {error!r}") from error
        finally:
            _measuring.pop(path, None)
            done()

    def begin(of: Callable[[], tuple[Path, str, str]]) -> None:
        path, budget, _ = of()
        if path in _measuring:  # by another button, perhaps of another view
            offer()
            return
        check_named(explorer.read_search(path).config)  # what only a folder names is not executed
        _measuring[path] = budget
        offer()
        threading.Thread(target=reporting(message, lambda: measure(path, budget)), daemon=True).start()

    for button, of in zip(buttons, shown, strict=True):
        button.on_click(reporting(message, partial(begin, of)))
    return buttons, offer


def reporting(message: ipywidgets.HTML, action: Callable[[], str | None]) -> Callable:
    """`action` as a callback: what it returns, or what it raises, becomes the text of `message`: there is no cell that
    would show a traceback."""

    def callback(*_) -> None:
        try:
            message.value = escape(action() or "")
        except Exception as error:
            said = str(error) if isinstance(error, (LabError, OSError)) else repr(error)
            message.value = f'<span style="color:var(--jp-error-color1,#b00020)">{escape(said)}</span>'

    return callback


def following(look: Callable[[], tuple[object, live.Status]], show: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `show` now and, in a thread, whenever `look`, at a search, returns something new.

    The thread ends when nothing was new for `WATCH_IDLE` seconds of a search that is not at work, for an epoch may take
    longer; calling the function again starts another.
    """
    alive = threading.Event()

    def follow() -> None:
        seen, changed = None, time.monotonic()
        try:
            while time.monotonic() - changed < WATCH_IDLE:
                # A folder that is being written may lack a file for a moment: then look again.
                with contextlib.suppress(LabError):
                    if (now := look()) != seen:
                        show()
                        seen, changed = now, time.monotonic()
                    if now[1].state in live.AT_WORK:
                        changed = time.monotonic()
                time.sleep(WATCH_INTERVAL)
        finally:
            alive.clear()

    def start() -> None:
        show()
        if not alive.is_set():
            alive.set()
            threading.Thread(target=follow, daemon=True).start()

    return start
