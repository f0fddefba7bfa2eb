"""The page of `daas-lab report` as it is read: opened from the file system in a headless Chromium, without a network.

With DAAS_LAB_SCREENSHOTS=FOLDER pictures of it are left there, light, dark and as it is printed.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from daas_lab.report.page import save_page
from daas_lab.runs.folder import read_run
from daas_lab.train.discretize import BATCH_NORMS, EDGE_WEIGHTS, STAGES, weight_evolution
from tests.made_runs import write_search
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.browser, pytest.mark.needs("chromium")]

# What lies over something else: pairs of texts, pictures and controls, and what sticks out of the page.
OVERLAPS = """() => {
    const own = part => [...part.childNodes].some(node => node.nodeType == 3 && node.data.trim());
    const parts = [...document.body.querySelectorAll('*')].filter(part =>
        part.matches('input, svg') || (own(part) && !part.matches('script, style, title, metadata *')));
    const boxes = parts.map(part => [part, part.getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
    const found = boxes.filter(([part, box]) => box.left < 0 || (box.right > innerWidth && !part.closest('.wide')));
    boxes.forEach(([a, p], n) => boxes.slice(0, n).forEach(([b, q]) => {
        const apart = p.left >= q.right - 1 || p.right <= q.left + 1 || p.top >= q.bottom - 1 || p.bottom <= q.top + 1;
        if (!apart && !a.contains(b) && !b.contains(a)) found.push([a], [b]);
    }));
    return found.map(([part]) => part.outerHTML.slice(0, 200));
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page of two searches of the paper's size, 28 edges, 7 operations, 50 epochs, and of one that is damaged."""
    folder = tmp_path_factory.mktemp("page")
    rows = [
        {"budget": budget, "edge_weight": weight, "batch_norm": norm, "stage": stage, "before": 88.4, "after": 9.75}
        for budget in ("8/14", "6/14", "3/14")
        for weight in EDGE_WEIGHTS
        for norm in BATCH_NORMS
        for stage in STAGES
    ]
    for method in ("da2s", "darts"):
        write_search(folder / f"{method}-cifar10-s0-made", method)
    (folder / "da2s-cifar10-s0-made" / "gap.json").write_text(json.dumps(rows))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_text("{")
    names = ("da2s-cifar10-s0-made", "darts-cifar10-s0-made", "damaged")
    save_page([folder / name for name in names], folder / "page.html")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opened_from_a_file_without_a_network(folder, scheme):
    complaints, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "page.html").as_uri())
        if target := os.environ.get("DAAS_LAB_SCREENSHOTS"):
            Path(target).mkdir(parents=True, exist_ok=True)
            for n, section in enumerate(["h1", "h2 >> nth=0", ".slider >> nth=0", "h3:text('Configuration') >> nth=0"]):
                page.locator(section).first.evaluate("part => part.scrollIntoView({block: 'start'})")
                page.screenshot(path=f"{target}/page-{scheme}-{n}.png")

        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        body = "getComputedStyle(document.body)"
        paper, ink = page.evaluate(f"[{body}.backgroundColor, {body}.color]")
        shades = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (paper, ink)]
        assert (shades[0] > 200 > 100 > shades[1]) if scheme == "light" else (shades[0] < 50 < 200 < shades[1])

        view, other = page.locator(".weights").all()
        slider, output = view.get_by_role("slider"), view.locator("output")
        weights = weight_evolution(read_run(folder / "da2s-cifar10-s0-made"))["reduce"]
        assert slider.get_attribute("aria-valuetext") == "50 of 50, accuracy 88.4 %"
        untouched = other.inner_text()
        for key, epoch in (("ArrowLeft", 49), ("ArrowLeft", 48), ("Home", 0), ("ArrowRight", 1), ("End", 50)):
            slider.press(key)
            assert output.inner_text().startswith(f"{epoch} of 50")
            cells, a = view.locator("[data-cell=reduce] .a"), weights.operations[epoch].flatten()
            assert np.abs(np.array(cells.all_inner_texts(), dtype=float) - a).max() < 0.006
            # From white to a blue with 8 of 255 parts of red.
            shades = cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")
            red = np.array([float(shade.split()[1]) for shade in shades])
            assert np.abs(1 - a * (1 - 8 / 255) - red).max() < 0.006
            assert view.locator("[data-cell=reduce] .kept").count() == 8
        assert other.inner_text() == untouched

        page.emulate_media(media="print")
        page.set_viewport_size({"width": 760, "height": 1000})
        assert not slider.is_visible() and output.is_visible() and page.evaluate(OVERLAPS) == []
        if target:
            page.locator(".slider").first.evaluate("part => part.scrollIntoView({block: 'start'})")
            page.screenshot(path=f"{target}/page-{scheme}-print.png")
        browser.close()
    assert complaints == [] and {url.partition(":")[0] for url in asked} == {"file"}
