"""The pages under docs/: their blocks run, their commands exist, their numbers are published, and the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from daas_lab import cli
from daas_lab.methods.lookup import METHODS
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *PAGES]
FENCED = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def name_of(path):
    return str(path.relative_to(ROOT))


# --- blocks and commands ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXTS if FENCED.search(page.read_text())], ids=name_of)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch, forgets_operations):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": "__main__"}
    for language, title, body in FENCED.findall(page.read_text()):
        if title:
            Path(title).write_text(body)
        elif language == "python":
            exec(compile(body, f"{name_of(page)}:\n{body}", "exec"), names)
        else:
            assert language == "sh"
            for line in body.splitlines():
                program, *arguments = shlex.split(line)
                assert (program, cli.main(arguments)) == ("daas-lab", 0), line


def lines_of_code(page):
    """Lines of fenced and of indented blocks."""
    fenced = [line for *_, body in FENCED.findall(page.read_text()) for line in body.splitlines()]
    return fenced + re.findall(r"^ {4,8}(\S.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_command_that_a_page_shows_is_one(page):
    for line in lines_of_code(page):
        program, _, rest = line.partition(" ")
        if program == "torchrun":
            program, _, rest = line[line.index("daas_lab") :].replace("daas_lab", "daas-lab", 1).partition(" ")
        if program == "daas-lab":
            cli._parser().parse_args(shlex.split(rest))
        if program == "papermill":
            assert (ROOT / shlex.split(rest)[0]).is_file(), line
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)", page.read_text())) <= set(targets)


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_a_page_can_be_read_in_the_source_tree_too(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if not urlsplit(link).scheme and urlsplit(link).path:
            assert (page.parent / unquote(urlsplit(link).path)).exists(), link


def test_the_readme_is_read_in_two_minutes_and_counts_the_methods():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 900
    assert int(re.search(r"(\d+) \[methods\]\(\S+\), two of them ours", text)[1]) == len(METHODS) - 1  # chance is none


def test_every_notebook_is_in_the_index():
    index = (ROOT / "docs" / "notebooks.md").read_text()
    assert set(re.findall(r"\((\.\./notebooks/[^)]*)\)", index)) == {f"../{name_of(path)}" for path in NOTEBOOKS}


# --- numbers ----------------------------------------------------------------------------------------------------------


def unpublished(text):
    """Measured numbers in a page's prose, as far as no published table has them: decimals, and counts of % or points.

    Code, addresses and versions hold no measurements.
    """
    elsewhere = r"^ {4,}.*$|`[^`]*`|<!--.*?-->|\]\([^)]*\)|arXiv [\d.]+|Python [\d.]+"
    prose = re.sub(elsewhere, "", FENCED.sub("", text), flags=re.MULTILINE)
    published = " ".join(path.read_text() for path in (ROOT / "figures").glob("*.md"))
    numbers = re.findall(r"-?\d+\.\d+(?: ± \d+\.\d+)?|-?\d+(?= ?%| points?\b)", prose)
    return [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", published)]


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_a_number_in_a_page_is_in_a_published_table(page):
    assert unpublished(page.read_text()) == []


def test_a_number_that_nobody_measured_is_found():
    assert unpublished("from 81.62 ± 0.35 to 10.19 ± 2.17, which is 71.43 points (`0.987`)") == ["10.19 ± 2.17"]
    assert unpublished("costs 1234 points") == ["1234"]


# --- the site ---------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given.get("id"), given.get("name")}
        self.links += [given["href"]] if tag == "a" and given.get("href") else []
        self.loaded += [given[key] for key in ("src", "href") if tag in ("img", "link", "script") and given.get(key)]


NEEDS_MATERIAL = pytest.mark.skipif(
    find_spec("material") is None, reason="mkdocs-material is missing: pip install -e '.[docs]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a network and without executed notebooks."""
    folder = tmp_path_factory.mktemp("docs")
    no_network = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = os.environ | no_network | {"EXECUTED": str(folder), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
@NEEDS_MATERIAL
def test_the_site_builds_without_a_network_and_all_its_links_lead_somewhere(site):
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    written = {(site / path.relative_to(ROOT / "docs")).with_suffix(".html") for path in PAGES}
    notebooks = {site / "notebooks" / f"{path.stem}.html" for path in NOTEBOOKS}
    assert pages.keys() == written | notebooks
    for path, found in pages.items():
        assert not [link for link in found.loaded if urlsplit(link).netloc], "loaded from elsewhere"
        for link in {*found.links, *found.loaded}:
            if urlsplit(link).scheme:
                continue
            target = (path.parent / unquote(urlsplit(link).path)).resolve() if urlsplit(link).path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            assert target not in pages or unquote(urlsplit(link).fragment) in pages[target].anchors, f"{path}: {link}"
    left = re.compile("<!-- (generated|table|rows|sentences|everything):")
    assert not [path for path in pages if left.search(path.read_text())], "asks for what the hooks do not give"


@pytest.mark.browser
@pytest.mark.needs("chromium")
@NEEDS_MATERIAL
def test_from_the_file_system_the_site_is_searched_switches_its_palette_and_fits_the_window(site):
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("requestfailed", lambda request: complaints.append((request.url, request.failure)))
        for path in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # which only a server shows
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path
        page.goto((site / "index.html").as_uri())
        for scheme in ("slate", "default"):
            page.locator(f"body[data-md-color-scheme={scheme}]").wait_for()
            page.locator("label[for^=__palette]:visible").click()
        page.locator(".md-search__input").press_sequentially("edge budget glossary")
        page.locator(".md-search-result__link[href*='glossary.html']").first.click()
        page.wait_for_url("**/reference/glossary.html*")
        browser.close()
    # A request that the next page overtakes has not failed.
    complaints = [said for said in complaints if "net::ERR_ABORTED" not in said]
    assert complaints == []
