"""notebooks/explore.ipynb as it is used: JupyterLab in a headless Chromium, with real searches.

The tests share a page and follow one another. With DAAS_LAB_SCREENSHOTS=FOLDER pictures of all views are left there, in
both themes and at both widths.
"""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from daas_lab.compose import search_config
from daas_lab.lab import live
from daas_lab.runs.folder import read_run
from daas_lab.runs.lock import writer
from daas_lab.space.text_forms import PUBLISHED, load_genotype
from daas_lab.train.search import search
from tests.jupyter import ROOT, choose_menu, complaints, jupyter_lab, open_notebook
from tests.made_runs import write_search
from tests.waiting import PATIENCE

pytest.importorskip("anywidget", reason="the extra `lab` is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.needs("chromium")]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SIZES = {1280: 800, 1920: 1080}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with the notebook and two searches of the paper's size: 28 edges, 7 operations, 50 epochs; a small one
    beside them has its weights."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "figures"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.rmtree(folder / "figures" / "records", ignore_errors=True)
    brief = {"layers": 3, "channels": 2, "held_out_images": 16, "epochs": 2, "steps": 1, "seed": 5}
    search(search_config("tiny", "digits", "da2s", **brief), folder / "runs" / "small", progress=False)
    write_search(folder / "runs" / "darts-cifar10-s0-made", "darts")
    write_search(folder / "runs" / "da2s-cifar10-s0-made", "da2s")
    yield folder
    for path in (folder / "runs").iterdir():  # a search that a failed test has left
        if writer(path):
            live.stop(path)


@pytest.fixture(scope="module")
def page(folder):
    """The notebook, all its cells run."""
    with jupyter_lab(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": SIZES[1280]})
        page.set_default_timeout(PATIENCE * 1000)
        open_notebook(page, address.format(path="notebooks/explore.ipynb"))
        choose_menu(page, "Run", "Run All Cells")
        yield page
        browser.close()


@pytest.fixture(autouse=True)
def nothing_went_wrong(page):
    yield
    assert complaints(page) == []


def view(page, number):
    """The output of the notebook's view: 0 the run explorer, 1 the cell editor, 2 the live search."""
    return page.locator(".jp-OutputArea-output:has(.widget-vbox)").nth(number)


def control(area, label, kind):
    return area.locator(f".jupyter-widgets:has(> .widget-label:text-is('{label}')) {kind}")


def choose_theme(page, theme):
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[theme])
    page.wait_for_function("light => document.body.dataset.jpThemeLight == light", arg=str(theme == "light").lower())


def screenshot(page, number, name):
    if target := os.environ.get("DAAS_LAB_SCREENSHOTS"):
        view(page, number).evaluate("area => area.scrollIntoView({block: 'start'})")
        time.sleep(0.5)
        Path(target).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{target}/{name}.png")


def test_all_three_views_are_on_the_page(page):
    for number, text in enumerate(("epoch 50 of 50", "Normal cell", "finished, epoch 50 of 50")):
        view(page, number).get_by_text(text).first.wait_for()
    # And the static pictures for those without a kernel.
    widths = page.locator(".jp-MarkdownOutput img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 3 and min(widths) > 0


def test_the_slider_moves_both_searches_together(page):
    explorer = view(page, 0)
    handle = explorer.locator(".noUi-handle")
    page.evaluate(
        """() => {
            window.changes = [0, 0];
            document.querySelectorAll('.widget-html svg').forEach((svg, run) => {
                new MutationObserver(() => { changes[run] += 1; }).observe(svg.parentElement, {childList: true});
            });
        }"""
    )
    for epoch in range(49, 39, -1):
        handle.press("ArrowLeft")
        for run in range(2):
            explorer.locator("svg").nth(run).get_by_text(f"epoch {epoch} of 50").wait_for()
    # A move changes each picture once: it is not drawn, and does not pass through others on its way.
    assert page.evaluate("changes") == [10, 10]


def test_play_goes_through_the_epochs(page):
    explorer = view(page, 0)
    explorer.locator(".noUi-handle").press("Home")
    explorer.get_by_text("epoch 0 of 50").first.wait_for()
    buttons = explorer.locator(".widget-play button")
    buttons.nth(0).click()
    for epoch in (1, 2, 3):
        explorer.get_by_text(f"epoch {epoch} of 50").first.wait_for()
    buttons.nth(0).click()


def test_budget_and_run_can_be_changed(page):
    explorer = view(page, 0)
    before = explorer.locator("svg").nth(1).inner_html()
    control(explorer, "cut to", "select").select_option("3/14")
    explorer.locator("svg").nth(1).get_by_text("cut to 3/14").wait_for()
    assert explorer.locator("svg").nth(1).inner_html() != before
    control(explorer, "run 2", "select").select_option("darts-cifar10-s0-made · full")
    explorer.locator("svg").nth(1).get_by_text("darts on cifar10").wait_for()
    control(explorer, "run 2", "select").select_option("da2s-cifar10-s0-made · full · 8/14")
    explorer.locator("svg").nth(1).get_by_text("da2s on cifar10").wait_for()


def test_a_run_is_found_by_words_and_its_cut_measured(page, folder):
    explorer = view(page, 0)
    find, runs = control(explorer, "find", "input"), control(explorer, "run 2", "select").locator("option")
    assert explorer.get_by_role("button", name="Measure the cut").count() == 0  # without weights
    find.fill("nothing like it")
    explorer.get_by_text("nothing found among 3: nothing like it").wait_for()
    assert len(runs.all()) == 1
    find.fill("digits 5")
    explorer.get_by_text("1 of 3 found: digits 5").wait_for()
    labels = [label.replace("\xa0", " ") for label in runs.all_inner_texts()]
    assert labels == ["da2s-cifar10-s0-made · full · 8/14", "small · tiny · 8/14"]
    control(explorer, "run 2", "select").select_option("small · tiny · 8/14")
    picture = explorer.locator("svg").nth(1)
    picture.get_by_text("after the cut not measured").wait_for()
    find.fill("")
    control(explorer, "cut to", "select").select_option("4/14")
    screenshot(page, 0, "measure-before")
    explorer.get_by_role("button", name="Measure the cut to 4/14").click()
    explorer.get_by_role("button", name="Measuring the cut to 4/14 …", disabled=True).wait_for()
    screenshot(page, 0, "measure-running")
    # The kernel is not busy with it: the other search still moves.
    for key, epoch in (("Home", 0), ("End", 50)):
        explorer.locator(".noUi-handle").press(key)
        explorer.locator("svg").nth(0).get_by_text(f"epoch {epoch} of 50").wait_for()
    picture.get_by_text(re.compile(r"after the cut \d+\.\d %")).wait_for()
    explorer.get_by_role("button", name="Measur").wait_for(state="detached")
    assert {row["budget"] for row in read_run(folder / "runs" / "small").gap} == {"4/14"}


def colours(page, number):
    """Contrast to the page of every text and line of a view's drawings, what they are, and the drawings' grounds."""
    return view(page, number).evaluate(
        """area => {
            const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
            const rgb = (colour, ground) => {
                for (const fill of [ground, colour]) {
                    canvas.fillStyle = fill;
                    canvas.fillRect(0, 0, 1, 1);
                }
                return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            const light = colour => {
                const linear = c => c > 0.04 ? ((c + 0.055) / 1.055) ** 2.4 : c / 12.92;
                const [r, g, b] = colour.map(c => linear(c / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const page = getComputedStyle(area.closest('.jp-Notebook')).backgroundColor;
            const contrast = colour => {
                const [a, b] = [rgb(colour, page), rgb(page, page)].map(light);
                return Math.max(a, b) / Math.min(a, b);
            };
            const all = (selector, kind) => [...area.querySelectorAll(selector)].map(
                part => [part.textContent || part.getAttribute(kind), contrast(getComputedStyle(part)[kind])]);
            const grounds = [...area.querySelectorAll('svg > rect[width="100%"]')].map(r => getComputedStyle(r).fill);
            return {
                page: rgb(page, page), grounds: grounds.map(colour => rgb(colour, page)),
                texts: all('svg text', 'fill'),
                lines: all('svg g.edge path:not([stroke="transparent"])', 'stroke'),
            };
        }"""
    )


def test_panels_follow_the_theme_while_they_are_open(page):
    seen = {}
    for theme in ("dark", "light", "dark", "light"):
        choose_theme(page, theme)
        for number in range(3):
            found = colours(page, number)
            assert found["grounds"] and all(ground == found["page"] for ground in found["grounds"])
            if theme == "dark":  # on the white sheet operations have the colours that they have everywhere
                assert not [text for text in found["texts"] if text[1] < 4.5]
                assert not [line for line in found["lines"] if line[1] < 3]
            assert seen.setdefault((theme, number), found) == found
    assert sum(seen["dark", 0]["page"]) < 150 < 600 < sum(seen["light", 0]["page"])


def test_an_edge_is_clicked_changed_and_exported(page, folder):
    editor = view(page, 1)
    sizes = editor.get_by_text("multiply-adds")
    before = sizes.inner_text()
    edge = editor.locator('g.edge[data-cell="normal"]').nth(1)
    edge.locator("text").click()
    edge_name = PUBLISHED["DARTS_V2"].normal.edges[1]
    editor.get_by_text(f"normal cell, edge {edge_name.source} → {edge_name.node}").wait_for()
    assert "selected" in edge.get_attribute("class")
    control(editor, "operation", "select").select_option("dil_conv_5x5")
    editor.locator('g.edge[data-operation="dil_conv_5x5"]').wait_for()
    page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)
    control(editor, "source", "select").select_option("4")
    editor.get_by_text("an earlier node that has inputs: 0, 1").wait_for()
    assert editor.locator('g.edge[data-operation="dil_conv_5x5"]').get_attribute("data-source") == str(edge_name.source)
    control(editor, "file", "input").fill("edited.json")
    editor.get_by_role("button", name="Export JSON").click()
    editor.get_by_text("daas-lab retrain --genotype").wait_for()
    exported = load_genotype(folder / "runs" / "cells" / "edited.json")
    assert exported.normal.edges[1] == edge_name._replace(operation="dil_conv_5x5")


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("theme", THEMES)
def test_nothing_is_cut_off(page, theme, width):
    page.set_viewport_size({"width": width, "height": SIZES[width]})
    choose_theme(page, theme)
    for number in range(3):
        boxes = view(page, number).evaluate(
            """area => {
                const box = part => {
                    const r = part.getBoundingClientRect();
                    return [r.left, r.right, r.top, r.bottom];
                };
                const parts = area.querySelectorAll('.widget-inline-hbox, .widget-play, button.widget-button, svg');
                return [box(area), ...[...parts].filter(part => part.getClientRects().length).map(box)];
            }"""
        )
        (left, right, _, _), *parts = boxes
        assert len(parts) >= 5
        for n, (a, b, top, bottom) in enumerate(parts):
            assert left - 1 <= a and b <= right + 1
            for c, d, other_top, other_bottom in parts[:n]:
                apart = a >= d - 1 or b <= c + 1 or top >= other_bottom - 1 or bottom <= other_top + 1
                inside = a >= c and b <= d and top >= other_top and bottom <= other_bottom
                assert apart or inside
        screenshot(page, number, f"{('explorer', 'editor', 'live')[number]}-{theme}-{width}")


def test_a_live_search_outlives_the_kernel(page, folder):
    area = view(page, 2)
    control(area, "epochs", "input").fill("500")
    area.get_by_role("button", name="Start").click()
    area.get_by_text(re.compile("running, epoch [1-9]")).wait_for()
    area.get_by_text("classification loss").wait_for()
    name = control(area, "search", "select").evaluate("select => select.selectedOptions[0].innerText")
    pid = writer(folder / "runs" / name)["pid"]

    # The views of the old kernel stay on the page until their cells have run again.
    page.evaluate("document.querySelectorAll('.jp-OutputArea-output').forEach(area => area.remove())")
    choose_menu(page, "Kernel", "Restart Kernel and Run All Cells…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    view(page, 2).get_by_text(f"(process {pid} since").wait_for()
    assert writer(folder / "runs" / name)["pid"] == pid

    view(page, 2).get_by_role("button", name="Stop").click()
    view(page, 2).get_by_text("stopped, epoch").wait_for()
    assert writer(folder / "runs" / name) is None
    stopped = len(read_run(folder / "runs" / name).history)
    view(page, 2).get_by_role("button", name="Resume").click()
    view(page, 2).get_by_text("running, epoch").wait_for()
    live.stop(folder / "runs" / name)
    view(page, 2).get_by_text("stopped, epoch").wait_for()
    assert len(read_run(folder / "runs" / name).history) >= stopped
    assert json.loads((folder / "runs" / name / "config.json").read_text())["config"]["epochs"] == 500
