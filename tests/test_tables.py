"""Means over seeds, ours beside reported, Markdown and JSON."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from daas_lab import paper
from daas_lab.report import tables
from daas_lab.runs.folder import read_run
from daas_lab.runs.provenance import origin_in, origin_text, provenance, provenance_text, resumed_here
from daas_lab.studies.notebooks import save_results
from daas_lab.studies.settings import Settings
from tests.made_runs import write_search


def gap(method, budget, seed, after, **others):
    fixed = {"stage": "both", "edge_weight": "one", "batch_norm": "as-trained", "before": 90.0}
    row = fixed | {"method": method, "budget": budget, "seed": seed, "after": after} | others
    return row | {"drop": row["before"] - row["after"]}


def test_summarise():
    rows = [{"method": "da2s", "seed": seed, "error": error} for seed, error in ((2, 3.0), (0, 1.0), (1, 2.0))]
    rows.append({"method": "darts", "seed": 5, "error": 4.0})
    assert tables.summarise(rows, ("method",), ("error",)) == [
        {"method": "da2s", "seeds": [0, 1, 2], "error_mean": 2.0, "error_std": 1.0},
        {"method": "darts", "seeds": [5], "error_mean": 4.0, "error_std": None},
    ]


def test_summarise_says_which_seeds_a_quantity_has():
    rows = [{"seed": 0, "error": 1.0}, {"seed": 1, "error": None}]
    (summary,) = tables.summarise(rows, (), ("error", "wall"))
    assert summary["seeds"] == [0, 1]
    assert (summary["error_mean"], summary["error_std"], summary["error_seeds"]) == (1.0, None, [0])
    assert (summary["wall_mean"], summary["wall_std"], summary["wall_seeds"]) == (None, None, [])


def test_drop_rows():
    gaps = [gap("da2s", "4/14", 0, 89.0), gap("da2s", "4/14", 1, 80.0), gap("da2s", "4/14", 0, 10.0, stage="edges")]
    (row,) = tables.drop_rows(gaps)
    assert row["seeds"] == [0, 1]
    assert (row["before_mean"], row["after_mean"], row["drop_mean"], row["worst_drop"]) == (90, 84.5, 5.5, 10)
    assert (row["edge_weight"], row["batch_norm"]) == ("one", "as-trained")


def test_drop_rows_keep_edge_weights_apart():
    gaps = [gap("da2s", "4/14", 0, 89.0), gap("da2s", "4/14", 0, 30.0, edge_weight="learned")]
    assert [row["worst_drop"] for row in tables.drop_rows(gaps)] == [1, 60]


def test_drop_parts_add_up_to_the_drop():
    after = {
        ("as-trained", "none"): 90.0,
        ("as-trained", "operations"): 20.0,
        ("as-trained", "edges"): 40.0,
        ("as-trained", "both"): 10.0,
        ("recalibrated", "none"): 87.0,
        ("recalibrated", "operations"): 30.0,
        ("recalibrated", "edges"): 85.0,
        ("recalibrated", "both"): 32.0,
    }
    rows = [
        gap("darts", budget, 0, value + shift, stage=stage, batch_norm=batch_norm)
        for budget, shift in (("8/14", 0.0), ("4/14", -5.0))
        for (batch_norm, stage), value in after.items()
    ]
    first, second = tables.drop_parts(rows)
    expected = {"control": 87.0, "statistics": 25.0, "operations": 57.0, "edges": 2.0, "together": -4.0, "drop": 80.0}
    assert {name: first[name] for name in expected} == expected
    assert (first["method"], first["budget"], first["edge_weight"], first["seed"]) == ("darts", "8/14", "one", 0)
    assert second["budget"] == "4/14"
    for row in (first, second):
        assert row["drop"] == row["statistics"] + row["operations"] + row["edges"] + row["together"]


def test_recalibration_alone_is_charged_to_no_cut():
    # A cut that changes nothing: the network loses 3 points when its statistics are estimated again, cut or not.
    rows = [
        gap("da2s", "8/14", 0, after, stage=stage, batch_norm=batch_norm)
        for batch_norm, after in (("as-trained", 90.0), ("recalibrated", 87.0))
        for stage in ("none", "operations", "edges", "both")
    ]
    [row] = tables.drop_parts(rows)
    assert [row[part] for part in ("drop", "statistics", "operations", "edges", "together")] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("builder", [tables.table_1, tables.table_2, tables.table_3, tables.table_4, tables.table_5])
def test_without_results_the_paper_stands_alone(builder):
    reported = getattr(paper, builder.__name__.upper())
    rows = builder()
    assert len(rows) == len(reported)
    assert not any("seeds" in row for row in rows)


def test_table_4_beside_ours():
    ours = tables.drop_rows([gap("da2s", "4/14", 0, 89.0), gap("random", "4/14", 0, 50.0)])
    rows = tables.table_4(ours, scale=tables.scale_label("mini", "fashion_mnist"))
    assert len(rows) == 9
    row = next(row for row in rows if row["method"] == "da2s" and row["budget"] == "4/14")
    assert (row["reported_after"], row["after_mean"], row["scale"]) == (85.42, 89.0, "miniature (mini, fashion_mnist)")
    assert rows[-1]["method"] == "random"
    assert "reported_error_mean" not in rows[-1]
    assert "scale" not in rows[0]


def test_scale_label():
    assert tables.scale_label("full", "cifar10") == "full, cifar10"
    assert tables.scale_label("full", "digits").startswith("miniature")


def test_table_1_takes_counted_sizes():
    sizes = [
        {"architecture": "DARTS (1st order) + cutout", "cell": "DARTS_V1", "params_m": 3.169414, "remark": "a word"},
        {"architecture": "DA²S + cutout", "remark": "nothing to count"},
    ]
    ours = [{"architecture": name, "error_mean": 12.0} for name in ("DARTS (1st order) + cutout", "DA²S + cutout")]
    rows = tables.table_1(ours, sizes, "miniature")
    assert len(rows) == len(paper.TABLE_1) + 1
    counted, measured = (row for row in rows if row["architecture"].startswith("DARTS (1st"))
    assert (counted["reported_params_m"], counted["params_m"], counted["remark"]) == (3.3, 3.169414, "a word")
    assert "scale" not in counted and (measured["error_mean"], measured["scale"]) == (12.0, "miniature")
    [da2s] = [row for row in rows if row["architecture"] == "DA²S + cutout"]
    assert (da2s["error_mean"], da2s["remark"]) == (12.0, "nothing to count")


def test_to_text():
    rows = [{"edge_weight": "one", "drop": 7.125}, {"edge_weight": "learned", "drop": 12}]
    assert tables.to_text(rows).splitlines() == ["edge weight  drop", "one          7.12", "learned        12"]


def test_best_of():
    rows = [{"lambda_1": "const", "seed": seed, "error": error} for seed, error in enumerate((2.0, 1.0))]
    (row,) = tables.best_of(rows, ("lambda_1",), "error")
    assert (row["error_best"], row["error_mean"]) == (1.0, 1.5)


def test_mean_std_text():
    assert tables.mean_std_text(2.514, 0.09) == "2.51 ± 0.09"
    assert tables.mean_std_text(2.5, None) == "2.50"
    assert tables.mean_std_text(None, None) == "–"
    assert tables.mean_std_text(-0.004, 0.09) == "0.00 ± 0.09"


def test_to_markdown():
    rows = [
        {"method": "a|b", "error_mean": 1.0, "error_std": 0.5, "seeds": [0, 1], "reported_params_m": 3.3},
        {"method": "c", "error": 25},
    ]
    assert tables.to_markdown(rows).splitlines() == [
        "| method | test error (%) | seeds | parameters (M), paper |",
        "| --- | --- | --- | --- |",
        r"| a\|b | 1.00 ± 0.50 | 0, 1 | 3.30 |",
        "| c | 25 | – | – |",
    ]
    assert tables.to_markdown(rows, {"method": "Method"}).startswith("| Method |")


def test_save_table(tmp_path):
    facts = provenance("digits", "tiny", "daas-lab reproduce --preset tiny", 1.234)
    rows = tables.table_2([{"lambda_c": "log", "seeds": [0], "error_mean": math.nan, "error_std": None}])
    json_path, markdown_path = tables.save_table("table_2_lambda_c", rows, facts, tmp_path / "tiny")
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert set(document) == {"provenance", "rows", "runs"} and document["runs"] == []
    assert set(document["provenance"]) == {"dataset", "preset", "command", "versions", "machine", "wall_s"}
    assert {"python", "torch", "daas_lab"} <= set(document["provenance"]["versions"])
    machine = document["provenance"]["machine"]
    assert machine["processor"] and machine["capability"] and machine["cores"] >= 1
    assert machine["threads"] == torch.get_num_threads()
    log = next(row for row in document["rows"] if row["lambda_c"] == "log")
    assert (log["reported_error_mean"], log["error_mean"]) == (2.56, None)
    text = markdown_path.read_text(encoding="utf-8")
    assert "2.54 ± 0.02" in text
    assert "daas-lab reproduce" in text
    assert facts["versions"]["torch"] in text


def test_save_table_shows_what_it_is_given(tmp_path):
    facts = provenance("digits", "tiny", "daas-lab reproduce --preset tiny", 1.0)
    rows = [{"budget": "4/14", "drop": 0.21}, {"budget": "6/14", "drop": 20.05}]
    shown = tables.to_markdown(rows[:1]) + "\nOne budget of two."
    runs = [{"run": "da2s-digits-s0-0123456789", "seed": 0, "drop": 0.21}]
    json_path, markdown_path = tables.save_table("both", rows, facts, tmp_path, shown, runs)
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert document["rows"] == rows and document["runs"] == runs
    text = markdown_path.read_text(encoding="utf-8")
    assert "| 4/14 | 0.21 |\n\nOne budget of two.\n\n- Data: digits" in text and "6/14" not in text


def test_the_provenance_says_which_machines_made_the_searches():
    origin = {"machine": {"processor": "A", "cores": 2}, "versions": {"torch": "2.14.1"}}
    elsewhere = origin | {"machine": {"processor": "B", "cores": 8, "capability": "AVX2", "threads": 1, "gpu": "C"}}
    runs = [SimpleNamespace(origin=which, seconds=1800.2) for which in (origin, elsewhere, origin)]
    facts = provenance("digits", "tiny", "a command", 1.0, runs)
    made_on = {"A, 2 cores, torch 2.14.1": 2, "B, 8 cores, AVX2, 1 thread, C, torch 2.14.1": 1}
    assert facts["searches"] == {"seconds": 5401, "made_on": made_on}
    line = "- Searches: 2 on A, 2 cores, torch 2.14.1; 1 on B, 8 cores, AVX2, 1 thread, C, torch 2.14.1; 1.5 h in all\n"
    assert line in provenance_text(facts)


def test_a_search_behind_several_rows_of_a_notebook_counts_once(tmp_path):
    run = read_run(write_search(tmp_path / "x", preset="tiny", dataset="digits"))
    settings = Settings(preset="tiny", dataset="digits", runs=tmp_path)
    save_results("twice", settings, [], searches=[run, run], begun=0.0)
    [written] = tmp_path.rglob("twice.json")
    assert sum(json.loads(written.read_text())["provenance"]["searches"]["made_on"].values()) == 1


def test_what_went_on_elsewhere_says_from_which_epoch(monkeypatch):
    here = {"versions": {"torch": "2"}, "machine": {"processor": "A"}}
    monkeypatch.setattr("daas_lab.runs.provenance.versions", lambda: here["versions"])
    monkeypatch.setattr("daas_lab.runs.provenance.machine", lambda: here["machine"])
    header = {"kind": "search", **here}
    assert resumed_here(header, 3) == header
    here = here | {"machine": {"processor": "B"}}
    header = resumed_here(header, 4)
    assert resumed_here(header, 9) == header and resumed_here(header, 4) == header
    assert origin_text(origin_in(header)) == "A, torch 2; from epoch 5 on B, torch 2"
    assert resumed_here(header, 0) == {"kind": "search", **here}  # all of it is made here
    here = here | {"machine": {"processor": "A"}}
    assert origin_text(origin_in(resumed_here(header, 2))) == "A, torch 2"  # epoch 5 is made again
    assert origin_text(origin_in(resumed_here(header, 7))).endswith("; from epoch 8 on A, torch 2")


def test_errors_of_other_seeds_than_the_drops_are_said():
    drops = [{"method": "a", "budget": "8/14", "seeds": [0, 1]}, {"method": "b", "budget": "8/14", "seeds": [0]}]
    errors = [{"method": "a", "budget": "8/14", "seeds": [0], "error_mean": 3.0}]
    errors += [{"method": "b", "budget": "8/14", "seeds": [0], "error_mean": 4.0}]
    first, second = tables.with_errors(drops, errors)
    assert (first["seeds"], first["error_seeds"], first["error_mean"]) == ([0, 1], [0], 3.0)
    assert second["seeds"] == [0] and "error_seeds" not in second
