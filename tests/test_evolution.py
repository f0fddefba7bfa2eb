"""What a search's epochs say: the gap while searching, cells of every epoch, when edges settled."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.methods.method import Architecture
from daas_lab.report import plots
from daas_lab.runs.folder import Run, read_run
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges
from daas_lab.space.genotype import Genotype
from daas_lab.train.discretize import accuracy_drops, weight_evolution
from daas_lab.train.evolution import (
    close_choices,
    close_choices_sentence,
    epoch_summaries,
    gap_evolution,
    genotype_after,
    genotype_evolution,
    kept_weight,
    parameter_free,
    settled_edges,
)
from daas_lab.train.search import load_supernet, search
from daas_lab.train.splits import search_splits

PLAIN = search_config("tiny", "digits", "da2s", epochs=4, steps=2, seed=3, layers=3, channels=2)
MEASURED = replace(PLAIN, gap_every=3, gap_budgets="8/14 3/14", gap_edge_weight="one")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolution")
    for name, config in (("plain", PLAIN), ("measured", MEASURED)):
        search(config, folder / name, progress=False)
    return read_run(folder / "plain"), read_run(folder / "measured")


def test_measuring_the_gap_changes_nothing_of_the_search(runs):
    plain, measured = runs
    assert config_hash(PLAIN) == config_hash(MEASURED)
    for name in ("architecture.safetensors", "genotype.json"):
        assert (plain.folder / name).read_bytes() == (measured.folder / name).read_bytes(), name
    without = [{key: value for key, value in record.items() if key != "gap"} for record in measured.history]
    assert without == plain.history
    ours, theirs = (load_supernet(run.folder)[0].state_dict() for run in runs)
    assert all((value == theirs[name]).all() for name, value in ours.items())


def test_the_gap_is_measured_every_third_epoch_and_at_the_end_and_its_seconds_are_kept(runs):
    plain, measured = runs
    rows = gap_evolution(measured)
    assert [(row["epoch"], row["budget"]) for row in rows] == [(3, "8/14"), (3, "3/14"), (4, "8/14"), (4, "3/14")]
    network, config = load_supernet(measured.folder)
    splits = search_splits(config)
    again = accuracy_drops(
        network,
        config,
        splits.held_out,
        splits.weights,
        ["8/14", "3/14"],
        edge_weights=["one"],
        batch_norms=["as-trained"],
        stages=["both"],
    )
    assert [{"epoch": 4} | row for row in again] == rows[2:]
    assert rows[2]["before"] == measured.history[-1]["held_out_accuracy"]
    timing = [json.loads(line) for line in (measured.folder / "timing.jsonl").read_text().splitlines()]
    assert ["gap_seconds" in entry for entry in timing] == [False, False, True, True]
    assert all(0 < entry["gap_seconds"] < entry["seconds"] for entry in timing[2:])
    ax = plots.gap_over_epochs(rows)
    assert [line.get_label() for line in ax.lines] == ["continuous", "3/14", "8/14"]
    assert list(ax.lines[0].get_ydata()) == [measured.history[t]["held_out_accuracy"] for t in (2, 3)]
    with pytest.raises(LabError, match="gap_every"):
        gap_evolution(plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gap_every": -1}, ["gap_every", "-1", "at least 0"]),
        ({"gap_budgets": "8/14 9/14"}, ["gap_budgets", "9/14", "8/14"]),
        ({"gap_budgets": "8/14 2,2"}, ["gap_budgets", "2,2", "4 intermediate nodes"]),
        ({"gap_edge_weight": "two"}, ["gap_edge_weight", "two", "renormalised"]),
    ],
)
def test_settings_of_the_gap_that_cannot_be_are_refused(changes, words):
    with pytest.raises(LabError) as error:
        search_config("tiny", "digits", **changes)
    assert all(word in str(error.value) for word in words), error.value


def test_no_budgets_named_means_the_search_s_own():
    config = search_config("tiny", "digits", budget="4/14", epochs=5, gap_every=2)
    assert [config.gap_budgets_of(epoch) for epoch in range(1, 6)] == [[], ["4/14"], [], ["4/14"], ["4/14"]]
    assert replace(config, gap_every=0).gap_budgets_of(5) == []


def made_up_run(alphas, betas):
    """A run with these α [T, E, O] and β [T, E] in both cells; the paper's relaxation, nodes 2 and 3 only."""
    config = search_config("tiny", "digits", "da2s", "paper", nodes=4, budget="2,1", partial_channels=1)
    arrays = [{name: np.array(values, dtype=np.float32) for name in CELL_TYPES} for values in (alphas, betas)]
    return Run(None, config, [], 0.0, True, *arrays, None, [], None, {})


def test_when_each_edge_settled_and_what_it_is():
    edges, T = cell_edges(4), 4
    alphas = np.zeros((T, len(edges), 7))
    strongest = {(0, 2): [2, 2, 2, 2], (1, 2): [0, 3, 3, 3], (0, 3): [4, 1, 4, 1], (1, 3): [0, 0, 0, 5]}
    for edge, operations in strongest.items():
        alphas[range(T), edges.index(edge), operations] = 50.0
    betas = np.full((T, len(edges)), 0.5)
    betas[:2, edges.index((0, 3))] = 0.9  # node 3's one edge: first 0, at last 2
    betas[2:, edges.index((2, 3))] = 0.9
    rows = settled_edges(made_up_run(alphas, betas))
    found = {(row["source"], row["node"]): row for row in rows if row["cell"] == "reduce"}
    assert {edge: row["operation_epoch"] for edge, row in found.items()} == {
        (0, 2): 0,
        (1, 2): 1,
        (0, 3): 3,
        (1, 3): 3,
        (2, 3): 0,
    }
    assert {edge: PRIMITIVES.index(row["operation"]) for edge, row in found.items()} == {
        (0, 2): 2,
        (1, 2): 3,
        (0, 3): 1,
        (1, 3): 5,
        (2, 3): 0,
    }
    assert {edge: row["kept_epoch"] for edge, row in found.items()} == {
        (0, 2): 0,
        (1, 2): 0,
        (0, 3): 2,
        (1, 3): 0,
        (2, 3): 2,
    }
    assert [row["kept"] for row in rows] == 2 * [True, True, False, False, True]


def test_edges_settle_as_the_cell_of_the_stop_has_them(tmp_path):
    config = search_config("tiny", "digits", "da2s_descent", budget="4/14", epochs=6, steps=1, seed=2)
    search(replace(config, arch_learning_rate=0.05), tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    for budget in ("8/14", "4/14"):
        rows = [row for row in settled_edges(run, budget) if row["kept"]]
        found = {(row["cell"], row["source"], row["node"], row["operation"]) for row in rows}
        cells = genotype_after(run, budget=budget)
        assert found == {(name, *edge) for name in ("normal", "reduce") for edge in cells.cell(name).edges}


def test_a_cell_that_was_drawn_has_no_epochs(tmp_path):
    search(search_config("tiny", "digits", "random"), tmp_path / "run", progress=False)
    for ask in (weight_evolution, genotype_evolution, epoch_summaries, settled_edges, kept_weight):
        with pytest.raises(LabError, match="a search with a super-network"):
            ask(read_run(tmp_path / "run"))


def test_summaries_of_every_epoch():
    alphas = np.zeros((2, 5, 7))
    alphas[1, :, PRIMITIVES.index("skip_connect")] = 100.0
    betas = np.full((2, 5), 0.5)
    betas[1] = [1.0, -300.0, -300.0, 1.0, -300.0]
    rows = epoch_summaries(made_up_run(alphas, betas))
    start, end = rows[0], rows[-1]
    assert (start["epoch"], end["epoch"], len(rows)) == (0, 1, 4)
    assert (start["skip_connections"], end["skip_connections"]) == (0, 3) and end["operations"] == 3
    assert start["largest_operation_weight"] == pytest.approx(1 / 7)
    assert start["operation_entropy"] == pytest.approx(math.log(7), rel=1e-5)
    assert start["edge_entropy"] == pytest.approx((math.log(2) + math.log(3)) / 2, rel=1e-5)
    assert end["largest_operation_weight"] == 1
    assert end["operation_entropy"] == pytest.approx(0, abs=1e-12) == end["edge_entropy"]


def test_how_much_of_the_weights_the_cut_keeps():
    start, alphas = np.zeros((2, 5, 7)), np.zeros((2, 5, 7))
    alphas[1, :, PRIMITIVES.index("skip_connect")] = 100.0
    betas = np.full((2, 5), 0.5)
    # The budget keeps both edges of node 2 and one of node 3's three.
    undecided = kept_weight(made_up_run(start, betas))
    assert undecided == pytest.approx({"kept_operations": 1 / 7, "kept_edges": (1 + 1 / 3) / 2})
    betas[1, 2:] = [-300.0, 1.0, -300.0]
    assert kept_weight(made_up_run(alphas, betas)) == pytest.approx({"kept_operations": 1, "kept_edges": 1})


def test_choices_that_are_a_coin_toss_are_named():
    alphas, betas = np.zeros((1, 5, 7)), np.full((1, 5), -9.0)
    alphas[:, :, PRIMITIVES.index("skip_connect")] = 5.0
    edges = cell_edges(4)
    # Edge 1 → 2: two operations whose shares of what both have are 0.504 and 0.496, a difference of 0.008.
    alphas[0, edges.index((1, 2)), PRIMITIVES.index("sep_conv_3x3")] = 5.0 - 2 * math.atanh(0.008)
    # Node 3, one edge to keep: a softmax over the last two gives 0.5045 and 0.4955.
    betas[0, edges.index((1, 3)) :] = [0.5, 0.5 + 2 * math.atanh(0.009)]
    run = made_up_run(alphas, betas)
    expected = [(2, "1→2 skip_connect", "1→2 sep_conv_3x3", 0.008), (3, "2→3", "1→3", 0.009)]
    rows = [row for row in close_choices(run) if row["cell"] == "normal"]
    assert [(row["node"], row["kept"], row["next"]) for row in rows] == [row[:3] for row in expected]
    assert [row["margin"] for row in rows] == pytest.approx([row[3] for row in expected], rel=1e-3)
    sentence = close_choices_sentence(run.search, rows)
    assert sentence.startswith("2 choices") and "normal 2→3 before 1→3 (0.90 %)" in sentence
    betas[0, -1] = 0.5 + 2 * math.atanh(0.011)
    assert [row["node"] for row in close_choices(made_up_run(alphas, betas))] == [2, 2]
    # A node that keeps all its edges leaves no choice between them.
    assert not [row for row in close_choices(run, budget="2,3") if "skip_connect" not in row["kept"]]
    assert "No choice" in close_choices_sentence(run.search, [])


def test_edges_that_rank_by_their_operations_are_close_by_these_weights():
    alphas = np.zeros((1, 5, 7))
    alphas[0, :, 2] = [3.0, 3.001, 1.0, 2.0, 3.0]
    run = made_up_run(alphas, np.zeros((1, 5)))
    run = replace(run, config=search_config("tiny", "digits", "darts", nodes=4, budget="1,1"))
    [row, _] = close_choices(run)
    weights = (np.exp(x) / (np.exp(x) + 6) for x in (3.001, 3.0))
    kept, other = weights
    assert (row["kept"], row["next"]) == ("1→2", "0→2")
    assert row["margin"] == pytest.approx((kept - other) / (kept + other), rel=1e-2)


def test_edges_of_a_node_without_beta_are_close_by_their_operation_weights():
    """Under the authors' protocol node 2 has none."""
    alphas = np.zeros((1, 5, 7))
    alphas[0, :2, 2] = [math.log(6 * 0.2 / 0.8), math.log(6 * 0.198 / 0.802)]
    alphas[0, 2:, 2] = 9.0
    betas = np.array([[0.0, 0.0, 5.0, 0.0, 0.0]])
    run = made_up_run(alphas, betas)
    changed = search_config("tiny", "digits", "da2s", nodes=4, budget="1,1")
    [row, _] = close_choices(replace(run, config=changed))
    given = Architecture(*map(torch.tensor, (alphas[0], betas[0])))
    mixture = changed.searcher.mix(given, "normal", changed.moment(1))
    kept, other = mixture.operations[:2, 2].tolist()
    assert (row["kept"], row["next"]) == ("0→2", "1→2") and 0.15 < other < kept < 0.3
    assert row["margin"] == pytest.approx((kept - other) / (kept + other), rel=1e-3)


def test_what_a_methods_own_rule_leaves_out_is_no_close_choice():
    """P-DARTS keeps two skips; where they are barely the strongest on every edge, the rest was no choice."""
    alphas = np.zeros((1, 14, 7))
    alphas[0, :, PRIMITIVES.index("skip_connect")] = 5.001 + np.linspace(0, 1e-4, 14)
    alphas[0, :, PRIMITIVES.index("max_pool_3x3")] = 5.0
    run = replace(made_up_run(alphas, np.zeros((1, 14))), config=search_config("tiny", "digits", "p_darts"))
    kept = {f"{edge.source}→{edge.node} {edge.operation}" for edge in genotype_after(run).normal.edges}
    rows = [row for row in close_choices(run) if row["cell"] == "normal" and " " in row["kept"]]
    assert len(rows) == 2 and {row["kept"] for row in rows} <= kept
    assert all(row["kept"].endswith("skip_connect") for row in rows)


def test_pools_and_skips_are_counted_for_each_cell(runs):
    edges = [[0, 2, "max_pool_3x3"], [1, 2, "skip_connect"], [0, 3, "sep_conv_3x3"], [1, 3, "avg_pool_3x3"]]
    cell = {"edges": edges, "concat": [2, 3]}
    other = {"edges": [[source, node, "dil_conv_5x5"] for source, node, _ in edges], "concat": [2, 3]}
    cells = Genotype.from_json({"format": 1, "normal": cell, "reduce": other})
    assert parameter_free(cells) == {"parameter_free_normal": 75.0, "parameter_free_reduce": 0.0}


def test_the_cell_of_every_epoch(runs):
    plain, _ = runs
    cells = genotype_evolution(plain, "3/14")
    assert len(cells) == 5 and all(len(cell.normal.edges) == 3 for cell in cells)
    assert genotype_after(plain) == plain.genotype == genotype_evolution(plain)[-1]
    assert genotype_after(plain, 0, "3/14") == cells[0]
