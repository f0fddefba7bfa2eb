"""Controls for JupyterLab: the run explorer. They only connect inputs to the functions of `explorer.py`.

Callbacks run in a thread of their own, so none of them draws with pyplot: each puts finished SVG text into an `HTML`
widget. What is wrong is said in a line below the controls, never by a traceback that no cell would show.
"""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from daas_lab import explorer
from daas_lab.errors import LabError

try:
    import ipywidgets
except ImportError as error:
    raise ImportError(
        f"daas_lab.widgets needs {error.name}, of the extra `lab`: python -m pip install 'daas-lab[lab]'"
    ) from error

PLAY_INTERVAL = 250  # milliseconds an epoch


class View(ipywidgets.VBox):
    """A widget whose output also holds a static picture (SVG), for wherever no kernel or no widget can run.

    `picture` draws it, when the view is displayed or saved: what the view shows at that moment.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget], picture: Callable[[], str]):
        super().__init__(children)
        self.picture = picture

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return super()._repr_mimebundle_(**kwargs) | {"image/svg+xml": self.picture()}

    def save(self, stem: str, folder: str | Path) -> Path:
        """Write the static picture as `<stem>.svg`."""
        path = Path(folder) / f"{stem}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.picture(), encoding="utf-8")
        return path


def run_explorer(runs: str | Path, first: str | None = None, second: str | None = None) -> View:
    """Two searches of the folder `runs` side by side, a slider over their epochs, a choice of the budget.

    `first` and `second` name the runs to begin with; by default a DARTS search and one of another method.
    """
    found = {path.name: path for path in explorer.searches(runs)}
    if not found:
        raise LabError(f"no search in {runs}: make one with daas-lab search … --out {Path(runs) / 'NAME'}")
    darts = next((name for name in found if name.startswith("darts")), next(iter(found)))
    other = next((name for name in found if not name.startswith("darts")), darts)
    sides = [_dropdown(f"run {n}", list(found), name) for n, name in ((1, first or darts), (2, second or other))]
    budget = _dropdown("cut to", explorer.budgets_of(list(map(explorer.read_search, found.values()))), None)
    slider = ipywidgets.IntSlider(description="epoch", layout={"width": "420px", "max_width": "100%"})
    play = ipywidgets.Play(interval=PLAY_INTERVAL, layout={"width": "150px"})
    ipywidgets.jslink((play, "value"), (slider, "value"))
    message, pictures = (
        ipywidgets.HTML(),
        [ipywidgets.HTML(layout={"flex": "1 1 400px", "min_width": "0"}) for _ in sides],
    )
    drawn: dict[tuple[str, str], list[str]] = {}

    def frames(side: ipywidgets.Dropdown) -> list[str]:
        key = (side.value, budget.value)
        if key not in drawn:
            drawn[key] = explorer.frames(explorer.read_search(found[side.value]), budget.value)
        return drawn[key]

    def current() -> list[str]:
        """What the controls ask for; a search that ended earlier rests at its last epoch."""
        return [series[min(slider.value, len(series) - 1)] for series in map(frames, sides)]

    def show() -> None:
        for picture, svg in zip(pictures, current(), strict=True):
            picture.value = fitted(svg)

    def choose() -> None:
        slider.max = play.max = max(len(frames(side)) for side in sides) - 1
        show()

    for control in (*sides, budget):
        control.observe(reporting(message, choose), "value")
    slider.observe(reporting(message, show), "value")
    slider.max = slider.value = play.max = play.value = max(len(frames(side)) for side in sides) - 1
    show()
    controls = ipywidgets.HBox([*sides, budget, play, slider], layout={"flex_flow": "row wrap"})
    shown = ipywidgets.HBox(pictures, layout={"flex_flow": "row wrap", "width": "100%"})
    return View([controls, message, shown], lambda: explorer.side_by_side(current()))


# --- what the views share ---------------------------------------------------------------------------------------------


def _dropdown(description: str, options: Sequence, value) -> ipywidgets.Dropdown:
    layout = {"width": "330px", "max_width": "100%"} if description.startswith("run") else {"width": "170px"}
    return ipywidgets.Dropdown(
        description=description,
        options=options,
        value=options[0] if value is None else value,
        layout=layout,
        style={"description_width": "50px"},
    )


def fitted(svg: str) -> str:
    """An SVG document as wide as there is room, within what is readable."""
    return svg.replace("<svg ", '<svg style="width:100%;max-width:720px;height:auto;border-radius:4px" ', 1)


def reporting(message: ipywidgets.HTML, action: Callable[[], None]) -> Callable:
    """`action` as a callback: a `LabError` becomes the text of `message`, which is empty otherwise."""

    def callback(*_) -> None:
        try:
            action()
            message.value = ""
        except LabError as error:
            message.value = f'<span style="color:var(--jp-error-color1,#b00020)">{escape(str(error))}</span>'

    return callback
