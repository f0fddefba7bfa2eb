"""Rows of single runs are joined by the run's name, in whatever order they come."""

import pytest

from daas_lab.studies import make, paper_tables
from daas_lab.studies.settings import Settings


@pytest.fixture
def reversed_drops(monkeypatch):
    """`make.drops` as if it had measured the searches from the last to the first."""
    fixed = {"method": "da2s", "budget": "8/14", "stage": "both"}
    rows = [
        fixed | {"run": run, "seed": seed, "edge_weight": edge_weight, "batch_norm": batch_norm, "after": after + seed}
        for seed, run in reversed(list(enumerate(("first", "second", "third"))))
        for edge_weight, batch_norm, after in (
            ("one", "as-trained", 10),
            ("learned", "as-trained", 20),
            ("learned", "recalibrated", 30),
        )
    ]
    monkeypatch.setattr(make, "drops", lambda *_: rows)


def test_drops_are_joined_by_the_name_of_the_run(reversed_drops):
    named = enumerate(("first", "second", "third"))
    rows = [{"run": run, "method": "da2s", "budget": "2,2,2,2", "error": n} for n, run in named]
    joined = paper_tables.with_drops(rows, [], Settings())
    found = [(row["run"], row["error"], row["after"]) for row in joined]
    assert found == [("first", 0, 20), ("second", 1, 21), ("third", 2, 22)]
    assert all(row["budget"] == "2,2,2,2" for row in joined)  # however a row writes its budget
    assert all(row["edge_weight"] == "learned" and row["batch_norm"] == "as-trained" for row in joined)


def test_every_search_is_asked_for_once():
    settings = Settings(preset="tiny", dataset="digits", seeds=(0, 1, 2))
    configs = paper_tables.every_search(settings)
    methods = [config.method for config in configs]
    # DA²S: five budgets, five functions of λ_c, ten pairs of λ_1 and λ_2 and three ablations; two of these coincide.
    assert {name: methods.count(name) for name in set(methods)} == {"darts": 3, "da2s": 3 * 22, "da2s_exact": 3 * 5}
    assert len(set(configs)) == len(configs) == 84
