"""What the study beyond the paper is made of: which searches, their steps' time, what stands for a run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from daas_lab.methods.pruning import GONE
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.report import plots_evolution, tables
from daas_lab.runs.folder import read_run
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.studies import beyond, estimate, make
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import Evolution
from daas_lab.train.evolution import genotype_after
from daas_lab.train.search import search
from tests.made_runs import write_search

CASES = {
    "DARTS": {"method": "darts"},
    "by perturbation": {"method": "darts", "select": "perturbation"},
    "code": {"method": "da2s"},
    "text": {"method": "da2s", "protocol": "paper", "partial_channels": 1},
    "all": {"method": "da2s_descent", "budget": "3/14", "epochs": 6, "retire": 1e-3},
    "random": {"method": "random"},
}


def settings(root, **changes):
    given = {"preset": "tiny", "dataset": "digits", "seeds": (0, 1), "epochs": 1, "retrain_epochs": 1, "workers": 1}
    return Settings(**given | {"runs": root / "runs", "figures": root / "figures"} | changes)


def test_each_case_has_a_search_for_each_seed_and_budget_unless_one_serves_several(tmp_path):
    found = beyond.searches(CASES, settings(tmp_path))
    counts = {name: len(configs) for name, configs in found.items()}
    assert counts == {"DARTS": 2, "by perturbation": 2, "code": 10, "text": 8, "all": 2, "random": 10}
    assert found["DARTS"] == found["by perturbation"]
    assert {(c.protocol, c.partial_channels, c.budget) for c in found["text"]} == {
        ("paper", 1, budget) for budget in NAMED_BUDGETS if budget != "3/14"
    }
    assert {(c.epochs, c.retire, c.budget) for c in found["all"]} == {(6, 1e-3, "3/14")}
    others = beyond.searches({"others": CASES["by perturbation"] | {"seeds": (5, 6)}}, settings(tmp_path))["others"]
    assert [(c.label, c.seed, c.budget) for c in others] == [("darts", 5, "8/14"), ("darts", 6, "8/14")]


@pytest.mark.slow
def test_rows_of_every_case_name_it_at_every_budget_that_it_serves(tmp_path):
    own = settings(tmp_path, seeds=(0,))
    cases = {name: CASES[name] for name in ("DARTS", "text", "all", "random")}
    made = beyond.make_searches(cases, own)
    gaps = beyond.gap_rows(made, cases, own)
    wanted = {(name, budget, weight) for name in ("DARTS", "text", "all") for budget in NAMED_BUDGETS
              for weight in ("one", "learned")}  # fmt: skip
    assert {(row["search"], row["budget"], row["edge_weight"]) for row in gaps} == wanted and len(gaps) == len(wanted)
    assert all(row["batch_norm"] == "as-trained" and row["stage"] == "both" for row in gaps)
    series = beyond.entropy_series(made)
    assert series.keys() == {"DARTS", "text", "all"} and len(series["all"]["edge_entropy"]) == 7
    assert all(np.isfinite(own["operation_entropy"]).all() for own in series.values())
    figure = plots_evolution.entropies(series)
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]
    words = beyond.drop_sentence(gaps)
    assert all(f"{name} " in words for name in ("DARTS", "text", "all")) and "5 cuts" in words
    assert "accuracy before the cut of all" in beyond.network_sentence(gaps, "DARTS")

    # Of a study that is not finished: DARTS of one seed of two, the cut at two budgets; by perturbation nothing, for a
    # record does not stand for it.
    few = replace(own, seeds=(0, 1), finished_only=True, publish=True)
    make.make_runs([run.config for run in made["DARTS"]], few)  # the record
    few = replace(few, runs=tmp_path / "elsewhere", publish=False)
    here = replace(few, runs=tmp_path / "runs")
    partly = beyond.make_searches(CASES, few)
    assert [(run.config.seed, run.folder) for run in partly["DARTS"]] == [(0, None)]
    assert partly.keys() == {"DARTS"}
    every = beyond.make_searches(cases, here)
    assert {name: len(runs) for name, runs in every.items()} == {"DARTS": 1, "text": 4, "all": 1, "random": 5}
    assert beyond.cell_rows(partly, CASES, few) == []
    assert len(beyond.gap_rows(partly, CASES, few)) == 2 * len(NAMED_BUDGETS)
    make.make_runs([own.retraining(genotype_after(made["DARTS"][0], budget="4/14"), 0)], own)
    [cell] = beyond.cell_rows(every, CASES, here)
    assert (cell["search"], cell["budget"]) == ("DARTS", "4/14")
    assert beyond.error_sentence([cell], "all") and beyond.network_sentence(gaps, "prox")
    assert not beyond.search_time(every, here, plain="code", retired="text", one="all", five="DARTS")
    assert "finished" in beyond.time_sentence({})


def test_a_network_that_serves_two_budgets_counts_once():
    """Told by its run: one search for all budgets may have the same accuracy at two of them."""
    accuracies = {"DARTS": [82, 82, 82, 82, 82], "each": [80, 80, 80, 81, 81], "one": [82, 81, 80, 70, 70]}
    served = dict(zip(beyond.BUDGETS, ("8/14", "6/14", "5/14", "4/14", "4/14"), strict=True))
    gaps = [
        {
            "search": name,
            "run": f"{name} {seed} {served[budget] if name == 'each' else ''}",
            "seed": seed,
            "budget": budget,
            "edge_weight": "one",
            "before": before + seed * (1 + before / 99),
        }
        for name, own in accuracies.items()
        for seed in (0, 1)
        for budget, before in zip(beyond.BUDGETS, own, strict=True)
    ]
    said = beyond.network_sentence(gaps, "DARTS")
    assert "of each is 1.76 points lower" in said and "(8/14, 6/14, 5/14, 4/14) of each" in said  # 80, 80, 80, 81
    assert "accuracy before the cut of one is 5.43 points lower" in said
    # By two runs that are the same network, too.
    twice = [row | {"run": f"{row['run']} {row['budget']}"} if row["search"] == "each" else row for row in gaps]
    assert beyond.network_sentence(twice, "DARTS") == said
    furthest = beyond.furthest_sentence(gaps, "DARTS", "one")
    assert (
        furthest
        == "Beside DARTS's super-network that of one is furthest below at 3/14, by 12.06 points in the mean (2 seeds)."
    )
    assert beyond.furthest_sentence(gaps, "each", "DARTS").endswith("is nowhere below (2 seeds).")
    assert beyond.furthest_sentence(gaps, "DARTS", "none") == ""


@pytest.mark.slow
def test_a_record_stands_for_a_run_where_it_has_what_is_asked(tmp_path):
    own = settings(tmp_path, seeds=(0,), publish=True)
    [config] = beyond.searches({"DARTS": CASES["DARTS"]}, own)["DARTS"]
    make.make_runs([config], own)
    elsewhere = settings(tmp_path, seeds=(0,), runs=tmp_path / "others")
    assert make.make_runs([config], elsewhere)[0].folder is None
    assert make.make_runs([config], elsewhere, lambda record: bool(record.cells))[0].folder is not None


@pytest.mark.slow
def test_a_record_without_measured_cells_does_not_stand_for_a_search_that_needs_them(tmp_path, monkeypatch):
    own = settings(tmp_path, seeds=(0,), publish=True)
    cases = {"by perturbation": CASES["by perturbation"]}
    [config] = beyond.searches(cases, own)["by perturbation"]
    make.make_run(config, own, threads=1)  # the record; threads are no part of a run's name
    monkeypatch.setattr(make, "drops", lambda *given, **named: [])  # of five times 200 accuracies (test_rules.py)
    [run] = beyond.make_searches(cases, settings(tmp_path, seeds=(0,), runs=tmp_path / "others"))["by perturbation"]
    assert run.folder is not None


def test_under_the_papers_text_only_da2s_shares_searches(tmp_path):
    found = beyond.searches(CASES, settings(tmp_path, seeds=(0,), protocol="paper"))
    assert [c.budget for c in found["code"]] == [budget for budget in NAMED_BUDGETS if budget != "3/14"]
    assert found["all"][0].budget == "3/14" and len(found["random"]) == 5
    run = read_run(write_search(tmp_path / "run", "darts", "tiny", "digits", protocol="paper"))
    assert beyond._budgets(run) == list(beyond.BUDGETS)


@pytest.mark.slow
def test_the_time_of_a_search_is_that_of_its_steps_with_who_is_left(tmp_path):
    own = settings(tmp_path, epochs=2)
    config = own.search("da2s", 0, budget="4/14", side=16, channels=8, steps=7, batch_size=32)
    search(config, tmp_path / "run", progress=False)
    plain = read_run(tmp_path / "run")
    alphas = {name: array.copy() for name, array in plain.alphas.items()}
    for array in alphas.values():
        array[1:, :, 1:] = GONE  # in the second epoch only max-pools are left
    few = replace(plain, alphas=alphas)
    runs = {"plain": plain, "few": few, "readable": plain}
    seconds = estimate.search_seconds(runs, own, readable={"readable"})
    assert 0 < seconds["few"] < seconds["plain"] < seconds["readable"]
    larger = estimate.search_seconds({"plain": plain, "few": few}, own, sizes={"channels": 32}, stages=1)
    assert larger["few"] > larger["plain"] / 2 > seconds["plain"]  # few candidates, but measured with the first epoch's


def test_of_some_stages_each_stands_for_the_steps_up_to_the_next(tmp_path):
    own = settings(tmp_path, epochs=5)
    config = own.search("da2s", 0, budget="4/14", steps=7, retire=1e-3)
    search(config, tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    for array in run.alphas.values():
        array[1:, :, 1:] = 0
        for epoch, gone in enumerate((0, 1, 2, 2, 3), start=1):  # four sets of candidates
            array[epoch, :, 7 - gone :] = GONE
    every = estimate._stages(run, None)
    assert [(epoch, count) for epoch, _, count in every] == [(1, 7), (2, 7), (3, 14), (5, 7)]
    assert [(epoch, count) for epoch, _, count in estimate._stages(run, 2)] == [(1, 14), (3, 21)]
    assert [(epoch, count) for epoch, _, count in estimate._stages(run, 9)] == [(1, 7), (2, 7), (3, 14), (5, 7)]
    resting = replace(run, config=replace(run.config, warmup=2))  # they stand for no others
    assert [(epoch, count) for epoch, _, count in estimate._stages(resting, 1)] == [(1, 7), (2, 7), (3, 21)]
    assert [int((start["alphas_reduce"][0] == GONE).sum()) for _, start, _ in every] == [0, 1, 2, 3]


def test_times_are_divided_by_what_they_are_compared_with(tmp_path, monkeypatch):
    own = settings(tmp_path, epochs=8)

    def run_of(method, budget, **changes):
        return SimpleNamespace(search=(config := own.search(method, 0, budget=budget, **changes)), config=config)

    made = {
        "plain": [run_of("da2s", "4/14")],
        "retired": [run_of("da2s", "4/14", retire=1e-3)],
        "one": [run_of("da2s_descent", "3/14")],
        "five": [run_of("da2s_exact", budget) for budget in NAMED_BUDGETS],
    }
    asked = []

    def seconds(runs, settings, rounds=3, readable=(), sizes=None, stages=None):
        asked.append((set(readable), sizes, stages))
        known = {"plain": 10.0, "retired": 5.0, "textbook": 40.0 if sizes else 20.0, "one": 8.0}
        return {name: known.get(name, 4.0) for name in runs}

    monkeypatch.setattr(beyond, "search_seconds", seconds)
    names = {name: name for name in made}
    took = beyond.search_time(made, own, **names)
    assert took == {"retired_over_plain": 0.5, "one_over_five": 0.4, "textbook_over_retired": 4.0}
    took = beyond.search_time(made, own, **names, full=True)
    assert took["textbook_over_retired_full"] == 8.0 and "it is 8.0 times" in beyond.time_sentence(took)
    assert asked[-1] == ({"textbook"}, beyond.FULL_SIZE, beyond.FULL_STAGES)


def test_what_retirement_changes_is_told_at_the_budgets_of_both():
    rows = [
        {"search": name, "seed": seed, "budget": budget, "edge_weight": weight}
        | {"before": 80.0 + seed, "drop": 1.0 + (name == "retired") + seed, "error": 12.0 + seed / 2, "method": "da2s"}
        for name, budgets in (("plain", ("8/14", "4/14")), ("retired", ("4/14",)))
        for budget in budgets
        for seed in (0, 1, 2)
        for weight in ("one", "learned")
    ]
    said = beyond.retired_sentence(rows, [row for row in rows if row["edge_weight"] == "one"], "plain", "retired")
    assert said.count("(4/14)") == 3 and "3 pairs" in said
    assert "drop (4/14) of retired is 1.00 points higher than that of plain" in said
    assert beyond.retired_sentence(rows, [], "plain", "other") == ""


def test_of_no_search_there_is_no_time():
    assert estimate.search_seconds({}, Settings()) == {}


def test_a_step_is_taken_with_the_cells_of_its_epoch(tmp_path):
    config, cells = settings(tmp_path, epochs=9).search("p_darts", 0, layers=8, channels=2, steps=1), []

    def form(*given, layers, **options):
        cells.append(layers)
        return SuperNetwork(*given, layers=layers, **options)

    for epoch in (1, 4, None):
        estimate.make_search_step(config, torch.device("cpu"), epoch, form=form)
    assert cells == [5, 11, 17]


def test_entropies_of_what_has_weight_end_at_zero_where_all_is_decided():
    a = np.full((2, 14, 7), 1 / 7)
    b = np.ones((2, 14))
    a[1], b[1] = np.eye(7)[0], 0
    b[1, [0, 2, 5, 9]] = 1  # an edge a node
    a[1, 1] = 1 / 7  # of an edge that is gone
    operations, edges = beyond._entropies(Evolution(a, b), nodes=6)
    assert operations == pytest.approx([np.log(7), 0])
    assert edges == pytest.approx([sum(n * np.log(n) for n in (2, 3, 4, 5)) / 14, 0])


def test_what_a_table_has_beside_its_rows_is_in_its_file(tmp_path):
    facts = {"dataset": "digits", "preset": "tiny", "command": "x", "versions": {}, "machine": {}, "wall_s": 1}
    tables.save_table("t", [{"a": 1}], facts, tmp_path, "text", more={"search_time": {"one_over_five": 0.3}})
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["search_time"] == {"one_over_five": 0.3} and document["rows"] == [{"a": 1}]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
