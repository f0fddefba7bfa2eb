"""Searching a list of runs by words, and the colours of what is shown of them."""

import re

import pytest

from daas_lab.lab import explorer, theme
from daas_lab.lab.finding import matching
from daas_lab.report import drawing
from daas_lab.runs.folder import read_run
from daas_lab.runs.records import write_record
from daas_lab.space.text_forms import PUBLISHED
from daas_lab.studies.make import run_name
from tests.made_runs import write_search

RUNS = {  # name → what it is
    "da2s": ("da2s", {"seed": 1, "budget": "4/14"}),
    "da2s_10": ("da2s", {"seed": 10}),
    "darts": ("darts", {"seed": 2}),
    "stepped": ("da2s", {"seed": 21, "lambda_c": "step"}),
    "exact": ("da2s_exact", {"seed": 3, "budget": "5/14", "dataset": "fashion_mnist"}),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Name → folder, or record, of searches with the names that `make_runs` gives, and one that the user named."""
    folder, found = tmp_path_factory.mktemp("finding"), {}
    for name, (method, changes) in RUNS.items():
        path = write_search(folder / name, method, "tiny", **{"dataset": "digits"} | changes)
        found[name if name == "stepped" else run_name(read_run(path).config)] = path
    last = next(name for name in found if name.startswith("da2s_exact"))
    write_record(read_run(found[last]), record := folder / "records" / f"{last}.json")
    return found | {last: record}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "da2s da2s_10 darts stepped exact"),
        ("darts", "darts"),
        ("DA²S", "da2s da2s_10 stepped"),
        ("da2s", "da2s da2s_10 stepped exact"),
        ("method=da2s_exact", "exact"),
        ("mnist", "exact"),
        ("data=digits 4/14", "da2s"),
        ("8/14", "da2s_10 stepped"),  # DARTS serves every budget
        ("8", ""),
        ("1", "da2s"),
        ("s1", "da2s"),
        ("seed 1", "da2s"),
        ("seed=10", "da2s_10"),
        ("step λ_c", "stepped"),
        ("digits da2s 21", "stepped"),
        ("digits fashion", ""),
        ("tiny", "da2s da2s_10 darts stepped exact"),
        ("* (", ""),
    ],
)
def test_every_word_must_be_found(found, words, expected):
    kept = dict(matching(words, explorer.labels(found), found)).values()
    assert [name for name, path in zip(RUNS, found, strict=True) if path in kept] == expected.split()


def test_a_hash_is_found_by_its_beginning_and_a_damaged_run_by_its_name(found, tmp_path):
    for name in found:
        hash_ = name.rpartition("-")[2]
        if hash_ != "stepped":
            assert [kept for _, kept in matching(hash_[:6], explorer.labels(found), found)] == [name]
    damaged = tmp_path / "darts-broken"
    damaged.mkdir()
    options = [("darts-broken", "darts-broken"), ("DARTS_V2", "DARTS_V2")]
    assert matching("broken", options, {"darts-broken": damaged}) == options[:1]
    assert matching("darts", options, {"darts-broken": damaged}) == options


def test_the_theme_knows_every_colour_of_what_is_drawn(found):
    pictures = [drawing.cells_svg(PUBLISHED["NASNet"], nodes=8)]
    for name in found:
        run = explorer.read_search(found[name])
        pictures += [explorer.frame(run, "3/14", epoch) for epoch in (0, 3)] + [explorer.losses(run)]
    used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', "".join(pictures))) - {"none", "transparent"}
    assert used - set(theme.own_colours()) == {colour for colour in theme.VARIABLES if colour in used}
    sheet = theme.stylesheet()
    for colour in used:
        assert f'[fill="{colour}"]' in sheet and f'[stroke="{colour}"]' in sheet


def test_a_run_made_anew_where_one_was_is_found_by_what_it_is_now(tmp_path):
    found = {"mine": write_search(tmp_path / "mine", "da2s", "tiny", dataset="digits", seed=1)}
    assert matching("seed=1", [("mine", "mine")], found)
    (tmp_path / "mine").rename(tmp_path / "before")
    found = {"mine": write_search(tmp_path / "mine", "darts", "tiny", dataset="digits", seed=4)}
    assert matching("method=darts seed=4", [("mine", "mine")], found) and not matching("1", [("mine", "mine")], found)
