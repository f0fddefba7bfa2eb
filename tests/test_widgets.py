"""The controls without a browser: what a change of each one shows. tests/test_explore_browser.py uses a real one."""

import json
import subprocess
import sys
import threading
import time
from base64 import b64decode
from html import unescape

import pytest

from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.lab import editor, explorer, live
from daas_lab.report import drawing
from daas_lab.runs.folder import read_run, read_search_config
from daas_lab.space.text_forms import PUBLISHED, load_genotype
from daas_lab.studies.settings import Settings
from daas_lab.train.search import search
from tests.made_runs import write_search
from tests.test_notebooks import papermill
from tests.waiting import wait_until

ipywidgets = pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
pytest.importorskip("anywidget", reason="the extra `lab` is not installed")

from daas_lab.lab import parts, widgets  # noqa: E402


def inside(view, kind, description=None):
    """The widgets of a kind in a view, in the order of the page."""
    found = [view] if isinstance(view, kind) and description in (None, getattr(view, "description", None)) else []
    return found + [item for child in getattr(view, "children", ()) for item in inside(child, kind, description)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings with two searches of the paper's size and an unfinished small one in their runs folder."""
    folder = tmp_path_factory.mktemp("widgets")
    write_search(folder / "runs" / "da2s-full", "da2s")
    write_search(folder / "runs" / "darts-full", "darts")
    write_search(folder / "runs" / "da2s-tiny", "da2s", "tiny", "digits", finish=False, budget="1,2,1,2")
    return Settings(preset="tiny", dataset="digits", runs=folder / "runs", figures=folder / "figures")


def raising(error):
    def function(*_, **__):
        raise error

    return function


def expected(settings, name, *what):
    return parts.fitted(explorer.frame(explorer.read_search(settings.runs / name), *what))


def test_run_explorer_moves_both_searches(settings, monkeypatch):
    view = widgets.run_explorer(settings, second="da2s-full")
    (slider,), pictures = inside(view, ipywidgets.IntSlider), inside(view, ipywidgets.HTML)[1:3]
    (budget,), (run_2,) = inside(view, ipywidgets.Dropdown, "cut to"), inside(view, ipywidgets.Dropdown, "run 2")
    (edge_weight,) = inside(view, ipywidgets.Dropdown, "edge weight")
    assert slider.value == slider.max == 50
    with monkeypatch.context() as patch:  # a move shows what was drawn before, and draws nothing
        patch.setattr(explorer, "frame", None)
        patch.setattr(explorer, "frames", None)
        slider.value = 20
    assert [p.value for p in pictures] == [expected(settings, name, "8/14", 20) for name in ("darts-full", "da2s-full")]
    budget.value = "3/14"
    assert pictures[1].value == expected(settings, "da2s-full", "3/14", 20)
    edge_weight.value = "learned"
    assert pictures[1].value == expected(settings, "da2s-full", "3/14", 20, "learned")
    # A shorter search rests at its end while the other one goes on; its own budget can be asked for.
    run_2.value = "da2s-tiny"
    assert pictures[1].value == expected(settings, "da2s-tiny", "3/14", 3, "learned")
    assert "1,2,1,2" in budget.options and budget.value == "3/14"


def test_words_narrow_the_lists_and_choose_nothing(settings):
    view = widgets.run_explorer(settings, second="da2s-full")
    (find,), sides = inside(view, ipywidgets.Text, "find"), inside(view, ipywidgets.Dropdown)[:2]
    message, *pictures = inside(view, ipywidgets.HTML)[:3]
    shown = [picture.value for picture in pictures]
    find.value = "da2s digits"
    assert message.value == "1 of 3 found: da2s digits"
    options = [[name for _, name in side.options] for side in sides]
    assert options == [["darts-full", "da2s-tiny"], ["da2s-full", "da2s-tiny"]]
    find.value = "da2s <cluster>"
    assert message.value == "nothing found among 3: da2s &lt;cluster&gt;"
    assert [side.value for side in sides] == ["darts-full", "da2s-full"]
    find.value = " "
    assert message.value == "" and [len(side.options) for side in sides] == [3, 3]
    assert [picture.value for picture in pictures] == shown
    # The lists of the other views too, published cells included.
    for view, name, words, kept in (
        (widgets.cell_editor(settings), "start from", "pnas", ["DARTS_V2", "PNASNet"]),
        (widgets.live_search(settings), "search", "full da2s", ["da2s-full"]),
    ):
        (found,) = inside(view, ipywidgets.Dropdown, name)
        inside(view, ipywidgets.Text, "find")[0].value = words
        labels = [option if isinstance(option, str) else option[0] for option in found.options]
        assert [label for label in labels if label != found.value or label in kept] == kept


def test_a_cut_can_be_measured_only_where_the_weights_are(settings, tmp_path):
    made = {name: write_search(tmp_path / "runs" / name, "da2s", "tiny", "cifar10") for name in ("with", "without")}
    (made["with"] / "checkpoint.pt").touch()
    write_search(tmp_path / "runs" / "unfinished", "da2s", "tiny", "cifar10", finish=False)
    (tmp_path / "runs" / "unfinished" / "checkpoint.pt").touch()
    there = Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path, data=tmp_path / "data")
    view = widgets.run_explorer(there, "with", "without")
    buttons, message = inside(view, ipywidgets.Button), inside(view, ipywidgets.HTML)[0]
    (run_2,) = inside(view, ipywidgets.Dropdown, "run 2")
    assert [button.layout.display for button in buttons] == ["", "none"]
    run_2.value = "unfinished"
    assert buttons[1].layout.display == "none"
    run_2.value = "with"
    assert [button.layout.display for button in buttons] == ["", ""]
    # What goes wrong is said in a line, and the button is there to try again.
    assert buttons[0].description == "Measure the cut to 8/14" and not buttons[0].disabled
    buttons[0].click()
    wait_until(lambda: "cifar10" in message.value and not parts._measuring)
    assert "var(--jp-error-color1" in message.value and "Traceback" not in message.value
    assert [button.disabled for button in buttons] == [False, False]


def test_a_run_that_has_changed_since_it_was_drawn_is_drawn_again(tmp_path):
    folder = write_search(tmp_path / "runs" / "one", "da2s", "tiny", "digits")
    there = Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path)
    view = widgets.run_explorer(there, "one", "one")
    (budget,), pictures = inside(view, ipywidgets.Dropdown, "cut to"), inside(view, ipywidgets.HTML)[1:3]
    assert all("not measured" in picture.value for picture in pictures)
    measured = {"budget": "8/14", "edge_weight": "learned", "batch_norm": "as-trained", "stage": "both"}
    (folder / "gap.json").write_text(json.dumps([measured | {"before": 60.0, "after": 33.0}]))
    budget.value = "4/14"
    budget.value = "8/14"
    assert all("after the cut 33.0 %" in picture.value for picture in pictures)


def test_two_buttons_of_one_run_measure_it_once(tmp_path, monkeypatch):
    path = write_search(tmp_path / "runs" / "mine", "da2s", "tiny", "digits")
    (path / "checkpoint.pt").touch()
    there = Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path)
    view = widgets.run_explorer(there, "mine", "mine")
    buttons, message = inside(view, ipywidgets.Button), inside(view, ipywidgets.HTML)[0]
    begun, ended = [], threading.Event()

    def drops(*given, **named):
        begun.append(given)
        ended.wait(20)
        return []

    monkeypatch.setattr(parts.make, "drops", drops)
    buttons[0].click()
    assert [button.disabled for button in buttons] == [True, True]
    buttons[1].click()  # the browser may not have heard of it yet
    ended.set()
    wait_until(lambda: not parts._measuring and not buttons[0].disabled)
    assert len(begun) == 1 and message.value == ""


def test_what_cannot_be_read_leaves_the_other_side(settings, tmp_path):
    runs = tmp_path / "runs"
    write_search(runs / "darts-digits-s0-a", "darts", "tiny", "digits")
    for name in ("da2s-digits-s0-b", "da2s-digits-s0-c"):
        write_search(runs / name, "da2s", "tiny", "digits", nodes=4, budget="1,2")
    (runs / "da2s-digits-s0-b" / "history.jsonl").write_text("{")
    there = Settings(preset="tiny", dataset="digits", runs=runs, figures=tmp_path)
    view = widgets.run_explorer(there)
    pictures, sides = inside(view, ipywidgets.HTML)[1:3], inside(view, ipywidgets.Dropdown)[:2]
    assert [side.value for side in sides] == ["darts-digits-s0-a", "da2s-digits-s0-b"]
    assert pictures[0].value == expected(there, "darts-digits-s0-a", "8/14", 3) and "damaged file" in pictures[1].value
    sides[1].value = "da2s-digits-s0-c"
    assert "for the 2 intermediate nodes of this run" in pictures[1].value
    (budget,) = inside(view, ipywidgets.Dropdown, "cut to")
    budget.value = "1,2"
    assert pictures[1].value == expected(there, "da2s-digits-s0-c", "1,2", 3)
    assert "for the 4 intermediate nodes of this run" in pictures[0].value
    sides[0].value = sides[1].value = "da2s-digits-s0-b"
    assert all("damaged file" in picture.value for picture in pictures) and "damaged file" in view.picture()


@pytest.mark.slow
def test_the_button_measures_in_a_process_of_its_own_and_keeps_what_it_found(tmp_path):
    brief = {"layers": 3, "channels": 2, "held_out_images": 16, "epochs": 2, "steps": 1, "seed": 5}
    search(search_config("tiny", "digits", "da2s", **brief), tmp_path / "runs" / "mine", progress=False)
    view = widgets.run_explorer(Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path))
    (button, _), message = inside(view, ipywidgets.Button), inside(view, ipywidgets.HTML)[0]
    (budget,), picture = inside(view, ipywidgets.Dropdown, "cut to"), inside(view, ipywidgets.HTML)[1]
    budget.value = "4/14"
    assert "after the cut not measured" in picture.value
    button.click()
    assert (button.disabled, button.description) == (True, "Measuring the cut to 4/14 …")
    wait_until(lambda: not parts._measuring and "not measured" not in picture.value)
    assert button.layout.display == "none"
    rows = read_run(tmp_path / "runs" / "mine").gap
    assert {row["budget"] for row in rows} == {"4/14"} and len(rows) == 6
    [row] = [row for row in rows if (row["edge_weight"], row["batch_norm"]) == ("learned", "as-trained")]
    assert f"after the cut {row['after']:.1f} %" in picture.value and message.value == ""
    budget.value = "5/14"
    assert button.layout.display == "" and button.description == "Measure the cut to 5/14"


def test_a_view_leaves_a_static_picture_beside_the_widget(settings, tmp_path):
    for view in (widgets.run_explorer(settings), widgets.cell_editor(settings), widgets.live_search(settings)):
        bundle = view._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert bundle["image/svg+xml"].startswith("<svg ")
        encoded = bundle["text/html"].split("base64,")[1].split('"')[0]
        assert b64decode(encoded).decode() == bundle["image/svg+xml"]
        assert view.save("view", tmp_path / "new").read_text() == bundle["image/svg+xml"]


def test_an_empty_folder_says_how_to_make_a_search(tmp_path):
    empty = Settings(runs=tmp_path, figures=tmp_path)
    with pytest.raises(LabError, match=r"no search in .*: make one with daas-lab search"):
        widgets.run_explorer(empty)
    # Live search is where one begins.
    view = widgets.live_search(empty)
    assert "no search in" in inside(view, ipywidgets.HTML)[1].value
    assert "no search in" in view.picture()


def test_cell_editor_follows_a_click_and_refuses_the_impossible(settings):
    view = widgets.cell_editor(settings, "DARTS_V2")
    (picture,), (save,) = inside(view, widgets.CellDrawing), inside(view, ipywidgets.Button)
    operation, source = (inside(view, ipywidgets.Dropdown, name)[0] for name in ("operation", "source"))
    name, size, message, _ = inside(view, ipywidgets.HTML)
    start = PUBLISHED["DARTS_V2"]
    assert operation.disabled and picture.svg == drawing.cells_svg(start)
    picture.selected = ["reduce", 2]
    assert (operation.value, source.value) == (start.reduce.edges[2].operation, start.reduce.edges[2].source)
    operation.value = "dil_conv_5x5"
    changed = editor.change_edge(start, "reduce", 2, operation="dil_conv_5x5")
    assert picture.svg == drawing.cells_svg(changed) and size.value == editor.size_text(changed)
    assert message.value == "" and "reduction cell" in name.value
    source.value = 4
    assert "source of edge (4, 3, " in unescape(message.value) and "an earlier node" in message.value
    assert source.value == start.reduce.edges[2].source and picture.svg == drawing.cells_svg(changed)
    inside(view, ipywidgets.Text, "file")[0].value = "mine.json"
    save.click()
    assert load_genotype(settings.runs / "cells" / "mine.json") == changed
    assert "daas-lab retrain --genotype" in message.value
    inside(view, ipywidgets.Dropdown, "start from")[0].value = "NASNet"
    assert picture.svg == drawing.cells_svg(PUBLISHED["NASNet"]) and picture.selected[0] == ""


def test_a_cell_that_cannot_be_read_leaves_the_editor_as_it_was(tmp_path):
    path = write_search(tmp_path / "runs" / "broken", "da2s", "tiny", "digits")
    (path / "history.jsonl").write_text("{")
    view = widgets.cell_editor(Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path))
    (picture,), (begin,) = inside(view, widgets.CellDrawing), inside(view, ipywidgets.Dropdown, "start from")
    picture.selected = ["reduce", 2]
    inside(view, ipywidgets.Dropdown, "operation")[0].value = "dil_conv_5x5"
    changed = editor.change_edge(PUBLISHED["DARTS_V2"], "reduce", 2, operation="dil_conv_5x5")
    begin.value = "broken"
    assert "damaged file" in inside(view, ipywidgets.HTML)[2].value
    assert begin.value == "DARTS_V2" and picture.svg == drawing.cells_svg(changed)
    begin.value = "NASNet"
    assert picture.svg == drawing.cells_svg(PUBLISHED["NASNet"])


def test_an_epoch_may_take_longer_than_a_view_waits(monkeypatch):
    monkeypatch.setattr(parts, "WATCH_IDLE", 0.05)
    monkeypatch.setattr(parts, "WATCH_INTERVAL", 0.01)
    now, shown = [live.Status("running", 1, 3, 9, "")], []
    parts.following(lambda: ("mine", now[0]), lambda: shown.append(now[0].epochs))()
    wait_until(lambda: len(shown) == 2)
    time.sleep(0.3)
    now[0] = now[0]._replace(epochs=4)
    wait_until(lambda: shown == [3, 3, 4])
    threads = threading.active_count()
    now[0] = now[0]._replace(state="stopped")
    wait_until(lambda: threading.active_count() < threads)


def test_start_goes_on_after_looking_and_measures_the_budget_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "WATCH_IDLE", 0)
    runs = tmp_path / "runs"
    write_search(runs / "da2s-x", "da2s", "tiny", "digits")
    made = []

    def start(config, folder, data):
        made.append(config)
        write_search(folder, config.method, "tiny", "digits", finish=False, gap_budgets=config.gap_budgets)

    monkeypatch.setattr(live, "start", start)
    view = widgets.live_search(Settings(preset="tiny", dataset="digits", runs=runs, figures=tmp_path))
    (chosen,), message = inside(view, ipywidgets.Dropdown, "search"), inside(view, ipywidgets.HTML)[1]
    inside(view, ipywidgets.Text, "find")[0].value = "da2s"
    inside(view, ipywidgets.Dropdown, "method")[0].value = "darts"
    inside(view, ipywidgets.Text, "budget")[0].value = "4/14"
    inside(view, ipywidgets.Button, "Start")[0].click()
    assert message.value == "" and set(chosen.options) == {"da2s-x", chosen.value}
    [config] = made
    assert (config.gap_budgets, config.gap_every) == ("4/14", 1)
    assert read_search_config(runs / chosen.value).gap_budgets == "4/14"
    picture = inside(view, ipywidgets.HTML)[2]
    assert "cut to 4/14" in picture.value and picture.value == expected(Settings(runs=runs), chosen.value, "4/14", 3)


def test_live_search_attaches_and_says_what_is_wrong(settings, monkeypatch):
    monkeypatch.setattr(parts, "WATCH_IDLE", 0)
    view = widgets.live_search(settings)
    (chosen,) = inside(view, ipywidgets.Dropdown, "search")
    state, message, picture, *_ = inside(view, ipywidgets.HTML)
    start, stop, resume, _ = inside(view, ipywidgets.Button)
    chosen.value = "da2s-tiny"
    assert state.value.startswith("<b>da2s-tiny</b>: stopped, epoch 3 of 3; accuracy 63.3 %, ")
    assert state.value.endswith("/28 edges decided")
    assert (stop.disabled, resume.disabled) == (True, False)
    assert picture.value == expected(settings, "da2s-tiny", "1,2,1,2", 3)
    chosen.value = "darts-full"
    assert "finished, epoch 50 of 50" in state.value and resume.disabled
    chosen.options = [*chosen.options, "begun"]  # a process has been started, and has written nothing yet
    chosen.value = "begun"
    assert (state.value, message.value) == ("<b>begun</b>: not started", "")
    chosen.value, chosen.options = "darts-full", chosen.options[:-1]
    with monkeypatch.context() as patch:  # a run that cannot be read does not show another's pictures
        patch.setattr(explorer, "read_search", raising(LabError("cannot be read")))
        chosen.value = "da2s-tiny"
        assert message.value.endswith("cannot be read</span>") and picture.value == ""
    chosen.value = "darts-full"
    with monkeypatch.context() as patch:  # what is no LabError is said too: no cell would show it
        patch.setattr(live, "start", raising(NotADirectoryError(20, "Not a directory")))
        start.click()
        assert "Not a directory" in message.value
    for name, text, reason in (
        ("epochs", "some", "epochs = "),
        ("budget", "9/14", "budget = "),
        ("seed", "x", "seed = "),
    ):
        (field,) = inside(view, ipywidgets.Text, name)
        before, field.value = field.value, text
        start.click()
        assert reason in unescape(message.value)
        field.value = before
    assert sorted(chosen.options) == ["da2s-full", "da2s-tiny", "darts-full"]


@pytest.mark.slow
def test_under_papermill_the_notebook_keeps_a_picture_of_every_view(tmp_path):
    write_search(tmp_path / "runs" / "darts-digits-s0-made", "darts", "tiny", "digits")
    done = papermill("explore", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "explore.ipynb").read_text())["cells"]
    shown = [output["data"] for cell in cells for output in cell.get("outputs", ()) if "data" in output]
    pictures = ["".join(data["image/svg+xml"]) for data in shown if "image/svg+xml" in data]
    for stem, picture in zip(("explore_runs", "explore_editor", "explore_live"), pictures, strict=True):
        assert picture == (tmp_path / "runs" / "figures" / "tiny" / f"{stem}.svg").read_text()


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_without_the_extra_its_name_is_said(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import daas_lab.lab.widgets"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: daas_lab.lab.widgets needs {missing}, of the extra `lab`: python -m pip install 'daas-lab[lab]'"
    )
