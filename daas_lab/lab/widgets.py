"""Controls for JupyterLab: run explorer, cell editor, live search. They only connect inputs to functions elsewhere.

What they show is drawn by `explorer.py` and `drawing.py`, what they do is done by `editor.py` and `live.py`. Callbacks
run in a thread of their own, so none of them draws with pyplot: each puts finished SVG text into a widget. What is
wrong is said in a line below the controls, never by a traceback that no cell would show.
"""

try:
    import anywidget
    import ipywidgets
    import traitlets
except ImportError as error:
    raise ImportError(
        f"daas_lab.lab.widgets needs {error.name}, of the extra `lab`: python -m pip install 'daas-lab[lab]'"
    ) from error

import base64
import contextlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from daas_lab.config import PRESETS
from daas_lab.data.sources import DATASETS
from daas_lab.errors import LabError, one_of
from daas_lab.identity import config_hash
from daas_lab.lab import editor, explorer, live, parts, theme
from daas_lab.lab.svg import note, side_by_side
from daas_lab.methods.lookup import METHODS, PAPERS, method_class
from daas_lab.report import drawing
from daas_lab.report.plots import CELL_NAMES
from daas_lab.runs.folder import read_search_config
from daas_lab.space.cell_space import known_operations
from daas_lab.studies.make import run_name
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import EDGE_WEIGHTS

PLAY_INTERVAL = 250  # milliseconds an epoch


class View(ipywidgets.VBox):
    """A widget whose output also holds a static picture (SVG), for wherever no kernel or no widget can run.

    `picture` draws it, when the view is displayed or saved: what the view shows at that moment.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget], picture: Callable[[], str]):
        colours = ipywidgets.HTML(theme.stylesheet(), layout={"display": "none"})
        super().__init__([*children, colours])
        self.add_class(theme.VIEW)
        self.picture = picture

    def _repr_mimebundle_(self, **kwargs) -> dict:
        svg = self.picture()
        # JupyterLab shows neither widgets nor SVG of a notebook that it does not trust, but such an image it does.
        image = f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" alt="static picture">'
        return super()._repr_mimebundle_(**kwargs) | {"text/html": image, "image/svg+xml": svg}

    def save(self, stem: str, folder: str | Path) -> Path:
        """Write the static picture as `<stem>.svg`."""
        path = Path(folder) / f"{stem}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.picture(), encoding="utf-8")
        return path


def run_explorer(settings: Settings, first: str | None = None, second: str | None = None) -> View:
    """Two searches side by side, a slider over their epochs, a choice of the budget.

    `first` and `second` name the runs to begin with, by default a DARTS search and one of another method beside it.
    """
    found = explorer.searches(settings.runs, settings.figures / "records")
    if not found:
        out = shlex.quote(str(settings.runs / "NAME"))
        raise LabError(f"no search in {settings.runs}: make one with daas-lab search … --out {out}")
    names = [first or explorer.first_choice(found), second or explorer.second_choice(found, first)]
    for name in names:
        one_of("run", name, found)
    labels = explorer.labels(found)
    sides = [parts.dropdown(f"run {n}", labels, name, "520px") for n, name in enumerate(names, start=1)]
    budget, edge_weight = parts.dropdown("cut to", ["8/14"]), parts.dropdown("edge weight", EDGE_WEIGHTS, "learned")
    slider = ipywidgets.IntSlider(
        description="epoch", style=parts.LABELS, layout={"width": "420px", "max_width": "100%"}
    )
    play = ipywidgets.Play(interval=PLAY_INTERVAL, layout={"width": "150px"})
    ipywidgets.jslink((play, "value"), (slider, "value"))
    message, pictures = ipywidgets.HTML(), parts.pictures()
    find = parts.find_field(sides, lambda: labels, lambda: found, message)
    drawn: dict[tuple[str, str, str], list[str]] = {}
    seen: dict[str, Any] = {}  # run → how far it was when it was drawn

    def frames(side: ipywidgets.Dropdown) -> list[str]:
        key = (side.value, budget.value, edge_weight.value)
        if key not in drawn:
            try:
                drawn[key] = explorer.frames(explorer.read_search(found[side.value]), *key[1:])
            except LabError as error:  # the other one is shown
                return [note(str(error))]
        return drawn[key]

    def current() -> list[str]:
        """What the controls ask for; a search that ended earlier rests at its last epoch."""
        return [series[min(slider.value, len(series) - 1)] for series in map(frames, sides)]

    def show() -> None:
        for picture, svg in zip(pictures, current(), strict=True):
            picture.value = parts.fitted(svg)

    def look(side: ipywidgets.Dropdown) -> None:
        """Forget what was drawn of a run that has changed since: it went on, or its cut was measured elsewhere."""
        now = None
        with contextlib.suppress(LabError):  # its picture says what is wrong
            run = explorer.read_search(found[side.value])
            now = config_hash(run.config), run.history, run.finished, run.gap
        if seen.get(side.value) != now:
            seen[side.value] = now
            for key in [key for key in drawn if key[0] == side.value]:
                del drawn[key]

    def shown(side: ipywidgets.Dropdown) -> tuple[Path, str, str]:
        return found[side.value], budget.value, edge_weight.value

    def choose() -> None:
        offer()
        for side in sides:
            look(side)
        slider.max = play.max = max(len(frames(side)) for side in sides) - 1
        show()

    def choose_runs() -> None:
        runs, kept = [], budget.value
        for side in sides:
            with contextlib.suppress(LabError):  # its picture says what is wrong
                runs.append(explorer.read_search(found[side.value]))
        budget.options = explorer.budgets_of(runs) or budget.options
        budget.value = kept if kept in budget.options else budget.options[0]
        choose()

    measures, offer = parts.measure_buttons([partial(shown, side) for side in sides], settings, message, choose)
    for side in sides:
        side.observe(parts.reporting(message, choose_runs), "value")
    for control in (budget, edge_weight):
        control.observe(parts.reporting(message, choose), "value")
    slider.observe(parts.reporting(message, show), "value")
    choose_runs()
    slider.value = play.value = slider.max
    columns = [parts.column(button, picture) for button, picture in zip(measures, pictures, strict=True)]
    return View(
        [parts.row(find, *sides), parts.row(budget, edge_weight, play, slider), message, parts.row(*columns)],
        lambda: side_by_side(current()),
    )


# --- cell editor ------------------------------------------------------------------------------------------------------


class CellDrawing(anywidget.AnyWidget):
    """Both cells as SVG; a click on an edge sets `selected` to [cell type, number of the edge in its cell]."""

    _esm = Path(__file__).parent / "cell_editor.js"
    _css = Path(__file__).parent / "cell_editor.css"
    svg = traitlets.Unicode().tag(sync=True)
    selected: traitlets.List[Any] = traitlets.List(default_value=["", 0]).tag(sync=True)


def cell_editor(settings: Settings, start: str = "DARTS_V2") -> View:
    """Change the operation or the source of an edge that was clicked; parameters, multiply-adds and drawing follow.

    Begins with the cell of a search or a published one. Exported JSON goes to the folder `cells` beside the runs.
    """
    found = explorer.searches(settings.runs, settings.figures / "records")
    genotype, quiet, begun = editor.starting_cell(start, found), False, start
    cells = editor.starting_cells(found)
    begin = parts.dropdown("start from", cells, start, "520px")
    operation, source = parts.dropdown("operation", known_operations()), parts.dropdown("source", [0])
    edge_name, size, message = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
    picture = CellDrawing()
    find = parts.find_field([begin], lambda: cells, lambda: found, message)
    name = parts.text("file", "my_cell.json")
    save = ipywidgets.Button(description="Export JSON", icon="download")

    def show() -> None:
        nonlocal quiet
        cell_type, index = picture.selected
        chosen = cell_type != ""
        quiet = True  # controls that follow the drawing are no wish of the user
        try:
            if chosen:
                cell = genotype.cell(cell_type)
                edge = cell.edges[index]
                edge_name.value = f"<b>{CELL_NAMES[cell_type]}, edge {edge.source} → {edge.node}</b>"
                if operation.options != known_operations():  # one of one's own has been named since
                    operation.options = known_operations()
                source.options = range(cell.nodes)
                operation.value, source.value = edge.operation, edge.source
            else:
                edge_name.value = "Click an edge of the drawing to change it."
            operation.disabled = source.disabled = not chosen
        finally:
            quiet = False
        picture.svg = drawing.cells_svg(genotype)
        size.value = "counting …"  # takes longer than the drawing
        size.value = escape(editor.size_text(genotype))

    def change(**changes) -> None:
        nonlocal genotype
        if not quiet:
            try:
                genotype = editor.change_edge(genotype, *picture.selected, **changes)
            finally:
                show()  # a refused wish leaves the control too

    def restart() -> None:
        nonlocal genotype, quiet, begun
        if quiet:
            return
        try:
            genotype, begun = editor.starting_cell(begin.value, found), begin.value
        except LabError:  # the drawing stays, and so does what it began with
            quiet = True
            begin.value = begun
            quiet = False
            raise
        picture.selected = ["", 0]
        show()

    def write() -> str:
        return f"Written. To train it: {editor.export(genotype, settings.runs / 'cells' / name.value, settings)}"

    operation.observe(parts.reporting(message, lambda: change(operation=operation.value)), "value")
    source.observe(parts.reporting(message, lambda: change(source=source.value)), "value")
    picture.observe(parts.reporting(message, show), "selected")
    begin.observe(parts.reporting(message, restart), "value")
    save.on_click(parts.reporting(message, write))
    show()
    controls = [parts.row(find, begin, name, save), parts.row(edge_name, operation, source)]
    return View([*controls, size, message, picture], lambda: drawing.cells_svg(genotype))


# --- live search ------------------------------------------------------------------------------------------------------


def live_search(settings: Settings) -> View:
    """Start, watch, stop and resume searches that live in processes of their own, in the settings' folder of runs.

    Shows a search that is being written, whoever started it; else the last one that was. A search that is started here
    also measures after every epoch what the cut to its budget would cost.
    """
    method = parts.dropdown("method", [name for name in METHODS if method_class(name).trains], PAPERS)
    preset = parts.dropdown("preset", PRESETS, settings.preset)
    dataset = parts.dropdown("dataset", list(dict.fromkeys([*DATASETS, settings.dataset])), settings.dataset)
    budget = parts.text("budget", settings.budget)
    epochs, seed = parts.text("epochs", settings.epochs, "the preset's"), parts.text("seed", settings.seeds[0])
    start_button, stop_button, resume_button = (
        ipywidgets.Button(description=name, icon=icon, layout={"width": "110px"})
        for name, icon in (("Start", "play"), ("Stop", "stop"), ("Resume", "step-forward"))
    )
    found = live.current(settings.runs)
    chosen = parts.dropdown("search", live.known(settings.runs), found, "420px")
    state, message, pictures = ipywidgets.HTML(), ipywidgets.HTML(), parts.pictures()

    def known() -> dict[str, Path]:
        return {name: settings.runs / name for name in live.known(settings.runs)}

    find = parts.find_field([chosen], lambda: [(name, name) for name in known()], known, message)

    def folder() -> Path:
        if chosen.value is None:
            raise LabError(f"no search in {settings.runs} yet: press Start")
        return settings.runs / chosen.value

    def drawn() -> list[str]:
        run = explorer.read_search(folder())
        budget = explorer.main_budget(run.search)
        return [explorer.frame(run, budget, len(run.alphas["normal"]) - 1), explorer.losses(run)]

    def show() -> None:
        now = live.status(folder())
        state.value = f"<b>{escape(chosen.value)}</b>: {escape(live.line(folder(), now))}"
        offer()
        stop_button.disabled, resume_button.disabled = now.pid is None, now.state not in ("stopped", "failed")
        svgs = ["", ""]
        try:
            svgs = drawn() if now.epochs else svgs
        finally:  # of one that cannot be read no picture of another stays
            for picture, svg in zip(pictures, svgs, strict=True):
                picture.value = parts.fitted(svg)

    def shown() -> tuple[Path, str, str]:
        return folder(), explorer.main_budget(read_search_config(folder())), "learned"

    (measure,), offer = parts.measure_buttons([shown], settings, message, show)

    def still() -> str:
        try:
            return side_by_side(drawn())
        except LabError as error:  # nothing to draw yet
            return note(str(error))

    watch = parts.following(lambda: (chosen.value, live.status(folder())), show)

    def start() -> None:
        given = {"preset": preset.value, "dataset": dataset.value, "budget": budget.value}
        own = replace(settings, **given, epochs=epochs.value or None)
        # A search that serves every budget is measured at this one.
        measured = {} if method_class(method.value).asks_for_budget else {"gap_budgets": budget.value}
        search = own.search(method.value, seed.value, gap_every=1, **measured)
        name = run_name(search)
        live.start(search, settings.runs / name, settings.data)
        chosen.options = sorted({*known(), name})
        chosen.value = name
        watch()

    def resume() -> None:
        live.start(read_search_config(folder()), folder(), settings.data)
        watch()

    def stop() -> None:
        live.stop(folder())
        show()

    for button, action in ((start_button, start), (stop_button, stop), (resume_button, resume)):
        button.on_click(parts.reporting(message, action))
    chosen.observe(parts.reporting(message, watch), "value")
    parts.reporting(message, watch if found else lambda: str(folder()))()
    controls = [
        parts.row(method, dataset, preset, budget, epochs, seed, start_button),
        parts.row(find, chosen, stop_button, resume_button, measure),
    ]
    return View([*controls, state, message, parts.row(*pictures)], still)
