"""Table 4 under the paper's text: which searches, and rows and sentences that follow from what was measured."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from daas_lab.compose import search_config
from daas_lab.config import EDGE_WEIGHTS
from daas_lab.report import plots_table_4
from daas_lab.runs.folder import read_run
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.space.cell_space import CELL_TYPES, cell_edges
from daas_lab.studies import table_4
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import BATCH_NORMS
from daas_lab.train.search import search
from tests.made_runs import write_search

MINI = Settings(preset="mini", dataset="fashion_mnist", protocol="paper", seeds=(0, 1))


# --- which runs -------------------------------------------------------------------------------------------------------


def test_one_search_a_seed_for_every_budget_but_3_of_14():
    configs = table_4.searches(MINI)
    assert [(config.budget, config.seed) for config in configs] == [
        (budget, seed) for budget in ("8/14", "6/14", "5/14", "4/14") for seed in (0, 1)
    ]
    assert {(config.method, config.protocol, config.partial_channels) for config in configs} == {("da2s", "paper", 1)}
    full = table_4.searches(replace(MINI, preset="full", dataset="cifar10"))
    assert {config.partial_channels for config in full} == {4}
    assert table_4.searched_for("3/14") == "4/14" and table_4.searched_for("2,2,2,2") == "8/14"
    assert table_4.searched_for("1,2,1,2") == "1,2,1,2"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "authors"])
def test_the_searches_for_3_and_4_of_14_are_one_and_the_same(tmp_path, protocol):
    changes = {"epochs": 2, "steps": 2, "layers": 3, "channels": 2, "partial_channels": 1, "seed": 3}
    for budget in ("3/14", "4/14"):
        config = search_config("tiny", "digits", "da2s", protocol, budget=budget, **changes)
        search(config, tmp_path / budget[0], progress=False)
    first, second = (tmp_path / name / "architecture.safetensors" for name in "34")
    assert first.read_bytes() == second.read_bytes()
    runs = [read_run(tmp_path / name) for name in "34"]
    assert runs[0].history == runs[1].history
    assert table_4.budgets_served(runs[1]) == ["4/14", "3/14"] and table_4.budgets_served(runs[0]) == []


# --- rows -------------------------------------------------------------------------------------------------------------


def gaps(budget, seed=0, **after):
    """Rows as `table_4.drops` gives them; `after`: accuracies that are not 80, by weight, stage and statistics."""
    rows = []
    for weight, batch_norm, stage in itertools.product(EDGE_WEIGHTS, BATCH_NORMS, table_4.STAGES):
        named = {"run": f"da2s-{budget}-{seed}", "protocol": "paper", "method": "da2s", "budget": budget, "seed": seed}
        named |= {"edge_weight": weight, "batch_norm": batch_norm, "stage": stage, "before": 80.0}
        key = f"{weight}_{stage}" + ("_again" if batch_norm == "recalibrated" else "")
        rows.append(named | {"after": after.get(key, 80.0)})
    return rows


MEASURED = [
    *gaps("4/14", one_both=79.5, one_scale=79.75),
    *gaps("5/14", one_both=60.0, one_scale=61.0, one_both_again=78.0, one_none_again=79.0),
    *gaps("5/14", seed=1, one_both=64.0, one_scale=64.0, learned_both=78.5),
    *gaps("6/14", one_both=40.0, one_scale=39.0),
    *gaps("3/14", one_both=50.0, learned_both=20.0),
]


def test_the_pattern_s_rows_are_differences_of_what_was_measured():
    rows = {(row["budget"], row["seed"]): row for row in table_4.pattern_rows(MEASURED)}
    assert {key: row["two_edges"] for key, row in rows.items()} == {
        ("4/14", 0): 0,
        ("5/14", 0): 1,
        ("5/14", 1): 1,
        ("6/14", 0): 2,
        ("3/14", 0): 0,
    }
    assert {row["dropped"] for (budget, _), row in rows.items() if budget != "3/14"} == {0}
    assert rows["3/14", 0]["dropped"] == 1
    row = rows["5/14", 0]
    expected = {"before": 80, "control": 79, "one": 20, "predicted": 19, "recalibrated": 1, "learned": 0}
    assert {key: row[key] for key in expected} == expected


def test_the_sentences_follow_the_rows_whichever_way_they_point():
    rows = table_4.pattern_rows(MEASURED)
    said = table_4.pattern_sentence(rows)
    assert "0.50 at 4/14 (no nodes), 18.00 ± 2.83 at 5/14 (1 node), 40.00 at 6/14 (2 nodes)" in said
    assert "grows with every such node" in said and "0.21 at 4/14, 12.91 at 5/14, 20.05 at 6/14" in said
    flat = table_4.pattern_rows([*gaps("4/14", one_both=40.0), *gaps("5/14", one_both=60.0)])
    assert "does not grow" in table_4.pattern_sentence(flat)
    said = table_4.prediction_sentence(rows)
    assert "17.50 ± 2.12 of 18.00 ± 2.83 at 5/14" in said and "adds 0.06 points in the mean of 4 cuts" in said
    assert "between -1.00 and 1.00" in said
    assert "at the worst 1.50 (5/14, seed 1)" in table_4.learned_sentence(rows)
    said = table_4.recalibration_sentence(rows)
    assert "0.50 ± 0.71 at 5/14" in said and "moves the accuracy by -0.20 points" in said


def test_how_many_searches_decide_every_edge(tmp_path):
    runs = [read_run(write_search(tmp_path / str(n), "da2s", "tiny", "digits", seed=n)) for n in range(2)]
    said = table_4.decided_sentence(runs)
    assert said.startswith("0 of 2 searches end with all 28 edges decided, the others ") and said.count(" and ") == 1
    for run in runs:
        for kind in (run.alphas, run.betas):
            for values in kind.values():
                values[-1] *= 1000  # sure
    assert table_4.decided_sentence(runs) == "2 of 2 searches end with all 28 edges decided."


def nodes():
    return [
        {"cell": cell, "node": node, "dropped": node == 3, "batch_norm": batch_norm, "incoming": 1.0}
        | {"rms": 0.5 + 0.1 * node, "drop": 30.0 if node == 3 else 10.0, "seed": 0}
        for cell, node, batch_norm in itertools.product(CELL_TYPES, range(2, 6), BATCH_NORMS)
    ]


def test_what_is_said_of_the_dropped_node():
    said = table_4.dropped_node_sentence(table_4.pattern_rows(MEASURED), nodes(), [{"b": 0.002}, {"b": 0.01}])
    assert "costs 30.00 points with weight 1, 60.00 with what was learned (the paper: 21.29)" in said
    assert "remove nothing costs 0.00" in said
    assert "To drop it alone costs 30.00 points" in said and said.count("the other") == 3
    assert "(30.00 with statistics estimated again), the other 10.00." in said
    assert "2 leave a dropped node" in said and "b = 0.006 in the mean, 0.010 at most" in said
    assert "No edge" in table_4.dropped_node_sentence(table_4.pattern_rows(MEASURED), nodes(), [])


def test_edges_that_lose_their_source_are_found_with_what_takes_their_place(tmp_path):
    run = read_run(
        write_search(tmp_path, "da2s", "tiny", "digits", protocol="paper", partial_channels=1, budget="4/14")
    )
    edges = cell_edges(6)
    betas = np.full(14, -4.0)
    # Node 2 takes node 0, node 3 node 1 and is weaker; node 4 has node 3, with node 2 next; node 5 has node 4.
    for edge, value in {(0, 2): 1.0, (1, 3): 0.8, (3, 4): 1.0, (2, 4): 0.0, (4, 5): 1.0}.items():
        betas[edges.index(edge)] = value
    run = replace(run, betas={name: np.stack([betas, betas]).astype(np.float32) for name in CELL_TYPES},
                  alphas={name: run.alphas[name][:2] for name in CELL_TYPES})  # fmt: skip
    rows = table_4.replaced_edges([run])
    assert [(row["cell"], row["node"], row["dropped"], row["source"]) for row in rows] == [
        (cell, 4, 3, 2) for cell in CELL_TYPES
    ]
    shares = np.exp([-4.0, -4.0, 0.0, 1.0])
    assert rows[0]["b"] == pytest.approx(shares[2] / shares.sum(), rel=1e-4)


def test_the_price_compares_the_text_s_cells_with_the_others():
    rows = [
        {
            "search": search,
            "protocol": "paper",
            "method": "da2s",
            "budget": "8/14",
            "seed": seed,
            "error": error + seed / 9,
        }
        | {"parameter_free_normal": share}
        for search, error, share in ((table_4.THE_TEXT, 13.0, 90.0), (table_4.THE_CODE, 12.0, 20.0))
        for seed in range(3)
    ]
    said = table_4.price_sentence(rows)
    assert f"{table_4.THE_TEXT} 90.00 ± 0.00 %" in said and "1.00 points lower than that of DA²S, the text" in said
    errors = [row | {"protocol": "paper" if row["search"] == table_4.THE_TEXT else "authors"} for row in rows]
    assert "of DA²S, the text at 8/14 is 1.00 points higher" in table_4.protocols_sentence(errors)
    axes = plots_table_4.price(rows, title="x")
    assert [line.get_label() for line in axes.lines] == [table_4.THE_TEXT, table_4.THE_CODE]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_pattern_is_drawn_beside_what_the_paper_prints():
    axes = plots_table_4.drop_pattern(table_4.pattern_rows(MEASURED), table_4.PRINTED, title="x")
    lines = {line.get_label(): line for line in axes.lines}
    means = lines[plots_table_4.PATTERN["one"]]
    assert list(means.get_xdata()) == [0, 1, 2] and list(means.get_ydata()) == pytest.approx([0.5, 18, 40])
    printed = lines["the paper, CIFAR-10"]
    assert list(printed.get_ydata()) == pytest.approx([0.21, 12.91, 20.05])


def test_dropped_nodes_stand_out():
    figure = plots_table_4.node_panels(nodes(), title="x")
    panel = figure.axes[1]
    by_label = {line.get_label(): line for line in panel.lines}
    assert list(by_label["dropped at 3/14"].get_xydata()[0]) == [3, 30]
    assert list(by_label["stays"].get_xdata()) == [2, 4, 5]


def test_a_panel_for_each_protocol():
    rows = [{"method": "da2s", "budget": budget, "before_mean": 80, "after_mean": 70} for budget in NAMED_BUDGETS]
    figure = plots_table_4.protocol_panels({"code": rows, "text": rows[:2]}, chance=10, title="x")
    assert [ax.get_title() for ax in figure.axes] == ["code", "text"]
