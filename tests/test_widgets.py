"""The controls without a browser: what a change of each one shows. tests/test_explore_browser.py uses a real one."""

import subprocess
import sys
import time

import pytest

from daas_lab import explorer
from daas_lab.errors import LabError
from tests.made_runs import write_search

ipywidgets = pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
pytest.importorskip("anywidget", reason="the extra `lab` is not installed")

from daas_lab import widgets  # noqa: E402


def inside(view, kind, description=None):
    """The widgets of a kind in a view, in the order of the page."""
    found = [view] if isinstance(view, kind) and description in (None, getattr(view, "description", None)) else []
    return found + [item for child in getattr(view, "children", ()) for item in inside(child, kind, description)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two searches of the paper's size and an unfinished small one."""
    folder = tmp_path_factory.mktemp("runs")
    write_search(folder / "da2s-full", "da2s")
    write_search(folder / "darts-full", "darts")
    write_search(folder / "da2s-tiny", "da2s", "tiny", "digits", finish=False, budget="1,2,1,2")
    return folder


def expected(runs, name, budget, epoch):
    return widgets.fitted(explorer.frame(explorer.read_search(runs / name), budget, epoch))


def test_run_explorer_moves_both_searches(runs):
    view = widgets.run_explorer(runs, second="da2s-full")
    (slider,), pictures = inside(view, ipywidgets.IntSlider), inside(view, ipywidgets.HTML)[1:]
    (budget,), (run_2,) = inside(view, ipywidgets.Dropdown, "cut to"), inside(view, ipywidgets.Dropdown, "run 2")
    assert slider.value == slider.max == 50
    begun = time.perf_counter()
    slider.value = 20
    assert time.perf_counter() - begun < 0.15
    assert [p.value for p in pictures] == [expected(runs, name, "8/14", 20) for name in ("darts-full", "da2s-full")]
    budget.value = "3/14"
    assert pictures[1].value == expected(runs, "da2s-full", "3/14", 20)
    # A shorter search rests at its end while the other one goes on.
    run_2.value = "da2s-tiny"
    assert pictures[1].value == expected(runs, "da2s-tiny", "3/14", 3)
    assert "1,2,1,2" in budget.options


def test_a_view_leaves_a_static_picture_beside_the_widget(runs, tmp_path):
    view = widgets.run_explorer(runs)
    bundle = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/svg+xml"].startswith("<svg ")
    assert view.save("explore_runs", tmp_path / "new").read_text() == bundle["image/svg+xml"]


def test_an_empty_folder_says_how_to_make_a_search(tmp_path):
    with pytest.raises(LabError, match=r"no search in .*: make one with daas-lab search"):
        widgets.run_explorer(tmp_path)


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_without_the_extra_its_name_is_said(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import daas_lab.widgets"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: daas_lab.widgets needs {missing}, of the extra `lab`: python -m pip install 'daas-lab[lab]'"
    )
