"""Rows of single runs are joined by the run's name, in whatever order they come."""

import pytest

from daas_lab.studies import make, paper_tables
from daas_lab.studies.make import Settings


@pytest.fixture
def reversed_drops(monkeypatch):
    """`make.drops` as if it had measured the searches from the last to the first."""
    rows = [
        {"run": run, "method": "da2s", "seed": seed, "stage": "both", "edge_weight": edge_weight, "batch_norm": kind}
        | {"after": 10 * seed + (kind == "recalibrated")}
        for seed, run in reversed(list(enumerate(("first", "second", "third"))))
        for edge_weight in ("one", "learned")
        for kind in ("as-trained", "recalibrated")
    ]
    monkeypatch.setattr(make, "drops", lambda *_: rows)


def test_drops_are_joined_by_the_name_of_the_run(reversed_drops):
    rows = [{"run": run, "method": "da2s", "error": n} for n, run in enumerate(("first", "second", "third"))]
    joined = paper_tables.with_drops(rows, [], Settings())
    assert [(row["run"], row["error"], row["after"]) for row in joined] == [
        ("first", 0, 0),
        ("second", 1, 10),
        ("third", 2, 20),
    ]
    assert all(row["edge_weight"] == "learned" and row["batch_norm"] == "as-trained" for row in joined)
