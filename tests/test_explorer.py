"""The pictures of the run explorer: what they say is what the discretizer says, for every epoch."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from daas_lab import own_files
from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.lab import explorer
from daas_lab.lab.svg import WIDTH, note, side_by_side
from daas_lab.methods.lookup import CHANCE, METHODS
from daas_lab.runs.records import write_record
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges, own_operations
from daas_lab.space.operations import load_operations
from daas_lab.train.discretize import derive_genotype, weight_evolution
from daas_lab.train.evolution import genotype_after
from tests.made_runs import write_search

SVG = "{http://www.w3.org/2000/svg}"
RECORDS = Path(__file__).parents[1] / "figures" / "records"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of the paper's size: 28 edges, 7 operations, 50 epochs."""
    return explorer.read_search(write_search(tmp_path_factory.mktemp("runs") / "da2s"))


def tips(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


@pytest.mark.parametrize("budget", ["8/14", "3/14", "8/14*2", "normal=4/14;reduce=8/14"])
def test_a_frame_shows_the_weights_and_the_cells_of_its_epoch(run, budget):
    epoch = 31
    svg = explorer.frame(run, budget, epoch)
    weights = weight_evolution(run)
    genotype = derive_genotype(run.config, run.architecture(epoch), EdgeBudget.parse(budget), epoch)
    found = tips(svg)
    a = weights["reduce"].operations[epoch]
    assert f"0→5 sep_conv_3x3: {a[cell_edges().index((0, 5)), 3]:.3f}" in found
    assert sum(": " in tip for tip in found) == 28 * 7
    kept = [tip for tip in found if ": " not in tip]
    for edge in (edge for name in CELL_TYPES for edge in genotype.cell(name).edges):
        assert any(tip.startswith(f"{edge.source}→{edge.node} ") and edge.operation in tip for tip in kept)
    assert len(kept) == sum(len({edge[:2] for edge in genotype.cell(name).edges}) for name in CELL_TYPES)
    outlined = [rect for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect") if rect.get("stroke")]
    assert len(outlined) == sum(len(genotype.cell(name).edges) for name in CELL_TYPES)
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert f"epoch 31 of 50, protocol authors, searched for 8/14; cut to {EdgeBudget.parse(budget)}" in texts
    assert f"before {90 - 80 / 31:.1f} %" in texts


@pytest.mark.parametrize("method", [name for name in METHODS if name != CHANCE])
def test_the_frame_of_every_method_has_its_cells(method, tmp_path):
    changes = {"preset": "tiny", "dataset": "digits", "epochs": 8}
    found = explorer.read_search(write_search(tmp_path / "run", method, **changes))
    drawn = [tip for tip in tips(explorer.frame(found, "4/14", 8)) if ": " not in tip]
    for edge in genotype_after(found, budget="4/14").normal.edges:
        assert any(tip.startswith(f"{edge.source}→{edge.node} ") and edge.operation in tip for tip in drawn)


def assert_inside(root):
    """Every text of a picture is within it."""
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(f"{SVG}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        # 5.4 pixels a character are on the safe side at size 10.
        size = 0 if text.get("transform") else float(text.get("font-size", 10)) / 10
        room = 5.4 * size * len("".join(text.itertext()))
        share = {"start": (0, 1), "end": (1, 0)}.get(text.get("text-anchor"), (0.5, 0.5))
        assert x - share[0] * room >= 0
        assert x + share[1] * room <= width
        assert 0 < y < height


def test_nodes_stand_still_and_nothing_is_outside(run):
    places = set()
    for epoch in (0, 20, 50):
        root = ElementTree.fromstring(explorer.frame(run, "3/14", epoch, "renormalised"))
        nodes = [circle for circle in root.iter(f"{SVG}circle") if circle.get("r") == "11"]
        places.add(tuple((node.get("cx"), node.get("cy")) for node in nodes))
        assert_inside(root)
    assert len(places) == 1 and len(places.pop()) == 12


def test_all_epochs_are_drawn_before_the_slider_moves(run):
    drawn = explorer.frames(run, "8/14")
    assert len(drawn) == 51 and len(set(drawn)) == 51
    assert drawn[31] == explorer.frame(run, "8/14", 31)


def test_side_by_side_is_one_document_with_all_that_is_in_either(run):
    frames = [explorer.frame(run, "8/14", epoch) for epoch in (0, 50)]
    root = ElementTree.fromstring(side_by_side(frames))
    inner = root.findall(f"{SVG}svg")
    assert [float(part.get("x")) for part in inner] == [0, WIDTH + 12]
    assert float(root.get("width")) == 2 * WIDTH + 12


def test_cells_of_another_size(tmp_path):
    run = explorer.read_search(write_search(tmp_path / "small", "darts", "tiny", "digits", nodes=4, budget="1,2"))
    assert len(explorer.frames(run, "1,2")) == 4
    with pytest.raises(LabError, match="budget = '8/14': must be for the 2 intermediate nodes of this run"):
        explorer.frame(run, "8/14", 1)
    assert explorer.budgets_of([run]) == ["1,2"]


def test_runs_and_records_are_found_by_name(tmp_path):
    runs, records = tmp_path / "runs", tmp_path / "records"
    write_search(runs / "da2s-digits-s0-x", "da2s", "tiny", "digits")
    (runs / "figures").mkdir()
    for name, method in (("da2s-digits-s0-x", "da2s"), ("darts-digits-s0-y", "darts"), ("da2s-cifar10-s0-z", "da2s")):
        run = explorer.read_search(write_search(tmp_path / "made" / name, method, "tiny", "digits"))
        write_record(run, records / f"{name}.json")
    for name in ("retrain-digits-s0-v", "random-digits-s0-w"):  # nothing to look at over epochs
        (records / f"{name}.json").write_text("{}")
    found = explorer.searches(runs, records)
    assert list(found) == ["da2s-digits-s0-x", "da2s-cifar10-s0-z", "darts-digits-s0-y"]  # runs, then records
    assert list(explorer.searches(runs)) == ["da2s-digits-s0-x"]
    assert found["da2s-digits-s0-x"] == runs / "da2s-digits-s0-x"
    assert explorer.first_choice(found) == "darts-digits-s0-y"
    assert explorer.second_choice(found) == "da2s-digits-s0-x"
    # A record draws the same picture as its run, but for the digits that it leaves away.
    drawn = [
        explorer.frame(explorer.read_search(path / "da2s-digits-s0-x"), "8/14", 3) for path in (runs, tmp_path / "made")
    ]
    assert drawn[0] == drawn[1]
    assert tips(explorer.frame(explorer.read_search(records / "da2s-digits-s0-x.json"), "8/14", 3)) == tips(drawn[0])
    with pytest.raises(LabError, match=r"run = .*figures.*config.json is missing"):
        explorer.read_search(runs / "figures")


def test_beside_darts_the_usual_search_is_shown_first_and_labels_tell_the_others_apart(tmp_path):
    write_search(tmp_path / "darts-digits-s0-a", "darts", "tiny", "digits")
    for name, budget in (("da2s-digits-s0-b", "4/14"), ("da2s-digits-s0-c", "8/14")):
        write_search(tmp_path / name, "da2s", "tiny", "digits", budget=budget)
    write_search(tmp_path / "da2s-digits-s0-bb", "da2s", "tiny", "digits", lambda_c="step", lambda_1="const")
    found = explorer.searches(tmp_path)
    assert explorer.second_choice(found) == "da2s-digits-s0-c"
    assert explorer.second_choice(found, "da2s-digits-s0-b") == "darts-digits-s0-a"
    (tmp_path / "da2s-digits-s0-c" / "config.json").write_text("{")
    assert explorer.labels(found) == [
        ("da2s-digits-s0-b · tiny · 4/14", "da2s-digits-s0-b"),
        ("da2s-digits-s0-bb · tiny · 8/14 · λ_c step · λ_1 const", "da2s-digits-s0-bb"),
        ("da2s-digits-s0-c", "da2s-digits-s0-c"),
        ("darts-digits-s0-a · tiny", "darts-digits-s0-a"),
    ]


def test_the_cut_is_shown_where_it_was_measured(run):
    row = {"budget": "6/14", "batch_norm": "as-trained", "stage": "both", "before": 88.4}
    gap = [row | {"edge_weight": "one", "after": 12.5}, row | {"edge_weight": "learned", "after": 71.25}]
    while_searching = [row | {"edge_weight": "learned", "after": 33.5}]
    history = [record | ({"gap": while_searching} if record["epoch"] == 7 else {}) for record in run.history]
    measured = replace(run, gap=gap, history=history)
    after = explorer.accuracies(measured, "6/14", "learned")["after"]
    assert {epoch: value for epoch, value in enumerate(after) if value is not None} == {7: 33.5, 50: 71.25}
    texts = "".join(ElementTree.fromstring(explorer.frame(measured, "6/14", 50, "one")).itertext())
    assert "after the cut 12.5 % (edge weight one)" in texts
    assert "after the cut not measured" in explorer.frame(measured, "8/14", 50)
    # DARTS's edges weigh 1 as they are.
    darts = replace(measured, gap=[], config=search_config("full", "cifar10", "darts"))
    assert explorer.accuracies(darts, "6/14", "one")["after"][7] == 33.5
    assert explorer.accuracies(darts, "6/14", "renormalised")["after"][7] is None


def test_of_two_operations_on_an_edge_one_is_not_what_it_has(run):
    row = {"budget": "8/14*2", "batch_norm": "as-trained", "stage": "both", "before": 88.4}
    gap = [row | {"edge_weight": "one", "after": 12.5}, row | {"edge_weight": "learned", "after": 71.25}]
    darts = replace(run, gap=gap, config=search_config("full", "cifar10", "darts"))
    after = {weight: explorer.accuracies(darts, "8/14*2", weight)["after"][50] for weight in ("one", "learned")}
    assert after == {"one": 12.5, "learned": 71.25}


def test_a_budget_that_a_search_has_left_is_shown_where_it_was_left():
    run = explorer.read_search(RECORDS / "da2s_descent-fashion_mnist-s0-578f856cb1.json")
    stop, last = run.search.epoch_of("8/14"), run.search.epochs
    [row] = [
        row
        for row in run.gap
        if (row["budget"], row["stage"], row["edge_weight"], row["batch_norm"]) == ("8/14", "both", "one", "as-trained")
    ]
    found = explorer.accuracies(run, "8/14", "one")
    assert stop < last and found["after"][last] is None
    assert (found["before"][stop], found["after"][stop]) == (pytest.approx(row["before"]), row["after"])
    svg = explorer.frame(run, "8/14", last, "one")
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert f"epoch {stop} of {last}" in texts and f"this budget was left at epoch {stop}" in texts
    assert f"before {row['before']:.1f} % → after the cut {row['after']:.1f} %" in texts
    assert_inside(ElementTree.fromstring(svg))
    a, cells = weight_evolution(run)["normal"].operations[stop], genotype_after(run, budget="8/14")
    assert f"0→2 sep_conv_3x3: {a[0, 3]:.3f}" in tips(svg)
    for source, node, operation in cells.normal.edges:
        assert f"{source}→{node} {operation}" in tips(svg)
    assert "was left" not in explorer.frame(run, "8/14", stop) + explorer.frame(run, run.search.budget, last)


def test_the_images_of_the_accuracies_are_named(run, tmp_path):
    assert "accuracy on the architecture&#x27;s images" in explorer.frame(run, "8/14", 50)  # full has none held out
    tiny = explorer.read_search(write_search(tmp_path / "tiny", "da2s", "tiny", "digits"))
    assert "accuracy on held-out images" in explorer.frame(tiny, "8/14", 3)


MINE = """
from dataclasses import dataclass

from daas_lab import Method


@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    weight: float
    lambda_c: str = "linear"
    lambda_1: str = "log"
"""


def test_labels_and_heads_of_methods_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    method = f"{tmp_path / 'mine.py'}:Mine"
    made = {
        "usual": {},
        "off": {"lambda_c": "zero"},
        "both": {"lambda_c": "step", "lambda_1": "const"},
    }
    for name, changes in made.items():
        write_search(tmp_path / "runs" / name, method, "tiny", "digits", weight=2.0, **changes)
    assert {name: label for label, name in explorer.labels(explorer.searches(tmp_path / "runs"))} == {
        "usual": "usual · tiny",
        "off": "off · tiny · λ_c zero",
        "both": "both · tiny · λ_c step · λ_1 const",
    }
    svg = explorer.frame(explorer.read_search(tmp_path / "runs" / "usual"), "8/14", 3)
    assert "Mine on digits" in svg and "mine.py" not in svg


PLAIN = """
from torch import nn


def plain(channels, stride, affine):
    return nn.Conv2d(channels, channels, 1, stride)
"""


def test_a_whole_cell_of_an_operation_that_was_not_named_is_no_damage(tmp_path, monkeypatch, forgets_operations):
    (tmp_path / "mine.py").write_text(PLAIN)
    operation = f"{tmp_path / 'mine.py'}:plain"
    load_operations(operation)
    folder = write_search(tmp_path / "run", "darts", "tiny", "digits", operations=f"skip_connect,{operation}")
    cells = genotype_after(explorer.read_search(folder))
    (folder / "genotype.json").write_text(json.dumps(cells.to_json()))
    assert explorer.read_search(folder).genotype == cells
    own_operations.clear()
    monkeypatch.setattr(own_files, "_named", {})
    with pytest.raises(LabError, match=r"operations = .*executed only where it is named"):
        explorer.read_search(folder)


def test_a_search_of_a_method_that_was_not_named_leaves_the_lists_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    runs = tmp_path / "runs"
    write_search(runs / "own", f"{tmp_path / 'mine.py'}:Mine", "tiny", "digits", weight=2.0)
    write_search(runs / "usual", "da2s", "tiny", "digits")
    monkeypatch.setattr(own_files, "_named", {})  # as in another kernel
    found = explorer.searches(runs)
    assert explorer.labels(found) == [("own", "own"), ("usual · tiny · 8/14", "usual")]
    assert explorer.second_choice(found) in found


def test_notes_are_read_in_lines():
    root = ElementTree.fromstring(note("a word and " * 40))
    assert float(root.get("width")) == WIDTH and len(list(root.iter(f"{SVG}text"))) == 6
    assert_inside(root)


def test_the_budget_of_a_search_that_asks_for_none_is_the_one_it_measures():
    darts = search_config("tiny", "digits", "darts", gap_budgets="4/14 8/14")
    assert explorer.main_budget(darts) == "4/14"
    assert explorer.main_budget(search_config("tiny", "digits", "darts")) == "8/14"
    assert explorer.main_budget(search_config("tiny", "digits", "da2s", budget="5/14", gap_budgets="4/14")) == "5/14"


def test_losses_have_a_line_each(run):
    history = [record | {"operation_loss": 30.0, "held_out_loss": 1.5} for record in run.history]
    root = ElementTree.fromstring(explorer.losses(replace(run, history=history)))
    lines = [path for path in root.iter(f"{SVG}path") if path.get("d").count("L") == 49]
    assert len(lines) == 3
    texts = [element.text for element in root.iter(f"{SVG}text")]
    # Each panel has its own scale: 30 below, 2 above.
    assert {"train", "held out", "operation", "2", "30"} <= set(texts)
    terms = [record | {"zero_one_term": -0.5, "mine": 2.0} for record in history]
    root = ElementTree.fromstring(explorer.losses(replace(run, history=terms)))
    assert_inside(root)  # a term may be negative
    assert {"zero one", "mine", "-0.5"} <= {element.text for element in root.iter(f"{SVG}text")}
    many = [record | {f"term_{n}_loss": 1.0 for n in range(8)} for record in history]
    root = ElementTree.fromstring(explorer.losses(replace(run, history=many)))
    assert_inside(root)
    assert {f"term {n}" for n in range(8)} <= {element.text for element in root.iter(f"{SVG}text")}
