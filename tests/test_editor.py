"""Changing cells edge by edge: what becomes of them, what is refused, what is exported."""

import json
import shlex
from pathlib import Path

import pytest

from daas_lab.cli import main
from daas_lab.errors import LabError
from daas_lab.lab import editor
from daas_lab.lab.explorer import read_search
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import own_operations
from daas_lab.space.cost import count
from daas_lab.space.operations import load_operations
from daas_lab.space.selection import random_genotype
from daas_lab.space.text_forms import PUBLISHED, load_genotype
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import genotype_after
from tests.made_runs import write_search

DARTS = PUBLISHED["DARTS_V2"]


def test_one_edge_changes_and_nothing_else():
    changed = editor.change_edge(DARTS, "reduce", 3, operation="dil_conv_5x5")
    assert changed.reduce.edges[3] == DARTS.reduce.edges[3]._replace(operation="dil_conv_5x5")
    moved = editor.change_edge(changed, "reduce", 3, source=0)
    assert moved.reduce.edges[3] == (0, DARTS.reduce.edges[3].node, "dil_conv_5x5")
    assert moved.normal == DARTS.normal
    assert [edge for n, edge in enumerate(moved.reduce.edges) if n != 3] == [
        edge for n, edge in enumerate(DARTS.reduce.edges) if n != 3
    ]


@pytest.mark.parametrize("source", [3, 5])
def test_an_edge_from_a_later_node_is_refused(source):
    with pytest.raises(
        LabError, match=r"normal cell: source of edge \(., 3, .*\) = .: must be an earlier node that has"
    ):
        editor.change_edge(DARTS, "normal", 2, source=source)


def test_an_edge_from_a_dropped_node_is_refused():
    genotype = next(
        cells for seed in range(9) if 3 not in (cells := random_genotype(EdgeBudget.parse("3/14"), seed)).normal.concat
    )
    index = next(n for n, edge in enumerate(genotype.normal.edges) if edge.node == 4)
    with pytest.raises(LabError, match=r"source of edge .* = 3: must be an earlier node that has inputs: 0, 1, 2"):
        editor.change_edge(genotype, "normal", index, source=3)


def test_an_unknown_operation_is_refused():
    with pytest.raises(LabError, match=r"= 'conv': must be one of max_pool_3x3"):
        editor.change_edge(DARTS, "normal", 0, operation="conv")


def test_the_sizes_are_those_of_the_network():
    changed = editor.change_edge(DARTS, "normal", 0, operation="skip_connect")
    numbers = count(changed)
    assert f"{numbers['parameters']:,} parameters, {numbers['multiply_adds'] / 1e6:,.1f} M" in editor.size_text(changed)
    assert numbers["parameters"] < count(DARTS)["parameters"]


PLAIN = """
from torch import nn


def plain(channels, stride, affine):
    return nn.Conv2d(channels, channels, 1, stride)
"""


def test_the_size_of_an_operation_that_was_edited_is_counted_again(tmp_path, forgets_operations):
    mine, sizes = None, []
    for body in (PLAIN, PLAIN.replace("1, stride", "3, stride, 1")):
        (tmp_path / "mine.py").write_text(body)
        load_operations(f"{tmp_path / 'mine.py'}:plain")
        mine = mine or editor.change_edge(DARTS, "normal", 0, operation="plain")
        sizes.append(editor.size_text(mine))
    assert sizes[0] != sizes[1]


def test_an_export_is_what_retrain_reads(tmp_path, monkeypatch, forgets_operations):
    path, settings = tmp_path / "my cells" / "$HOME; it's one.json", Settings(preset="tiny", dataset="digits")
    command = editor.export(DARTS, path, settings)
    assert load_genotype(path) == DARTS
    assert json.loads(path.read_text())["format"] == 1
    trained = []
    monkeypatch.setattr("daas_lab.train.retrain.retrain", lambda *given: trained.append(given))
    monkeypatch.setattr("daas_lab.commands._say_error", lambda folder: None)  # of what was not trained
    assert main(shlex.split(command)[1:]) == 0
    (tmp_path / "mine.py").write_text(PLAIN)
    load_operations(f"{tmp_path / 'mine.py'}:plain")
    mine = editor.change_edge(DARTS, "normal", 0, operation="plain")
    settings = Settings(preset="tiny", dataset="digits", data=tmp_path / "images", retrain_epochs=3, device="cuda:1")
    command = editor.export(mine, path, settings)
    own_operations.clear()  # as in another process
    assert main(shlex.split(command)[1:]) == 0
    out = str(path.with_suffix(""))
    assert [(config.preset, config.dataset, config.cells) for config, *_ in trained] == [
        ("tiny", "digits", cells) for cells in (DARTS, mine)
    ]
    assert [config.device for config, *_ in trained] == ["cpu", "cuda:1"] and trained[1][0].epochs == 3
    assert [tuple(map(Path, where)) for _, *where in trained] == [
        (Path(out), Path("data")),
        (Path(out), tmp_path / "images"),
    ]
    with pytest.raises(LabError, match=r"file = .*: must be a name that ends in .json"):
        editor.export(DARTS, tmp_path / "mine.txt", settings)
    with pytest.raises(LabError, match=r"file = .*: must be in a folder that can be made"):
        editor.export(DARTS, path / "below" / "a_file.json", settings)


def test_it_starts_from_searches_and_published_cells(tmp_path):
    found = {"mine": write_search(tmp_path / "mine", "da2s", "tiny", "digits", finish=False)}
    assert [name for _, name in editor.starting_cells(found)] == ["mine", *PUBLISHED]
    assert editor.starting_cell("mine", found) == genotype_after(read_search(tmp_path / "mine"))
    assert editor.starting_cell("PDARTS", found) == PUBLISHED["PDARTS"]
