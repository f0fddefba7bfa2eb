"""Rows of single runs are joined by the run's name, in whatever order they come."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from daas_lab import paper
from daas_lab.studies import make, paper_tables
from daas_lab.studies.settings import Settings

ROOT = Path(__file__).parent.parent


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


class Asked(Exception):
    """A notebook has asked for runs."""


@pytest.fixture
def searches_of(monkeypatch):
    """Notebook → the searches that it asks for first. Its cells are executed up to there, nothing is made."""
    asked = []

    def ask(configs, settings):
        asked[:] = configs
        raise Asked

    monkeypatch.setattr(make, "make_runs", ask)

    def execute(name):
        namespace = {}
        with pytest.raises(Asked):
            for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "code":
                    exec("".join(line for line in cell["source"] if not line.startswith("%")), namespace)
                if "parameters" in cell["metadata"].get("tags", ()):
                    namespace |= {"preset": "tiny", "dataset": "digits", "seeds": [0, 1, 2]}
        return list(asked)

    return execute


def test_tables_2_and_3_ask_for_a_search_for_every_row_of_the_papers(searches_of):
    rows = [config.lambda_c if config.method == "da2s" else "baseline" for config in searches_of("table_2_lambda_c")]
    assert rows == [row["lambda_c"] for row in paper.TABLE_2 for _ in range(3)]
    configs = searches_of("table_3_priority")
    pairs = [(row["lambda_1"], row["lambda_2"]) for row in paper.TABLE_3 for _ in range(3)]
    assert [(config.lambda_1, config.lambda_2) for config in configs] == pairs
    # The log-delayed row is the search that the figures share.
    assert Settings(preset="tiny", dataset="digits").search("da2s", 0) in configs


def test_the_study_of_all_searches_has_those_of_every_table_once(searches_of):
    configs = searches_of("supernet_vs_retrained")
    methods = [config.method for config in configs]
    # DA²S: five budgets, five functions of λ_c, ten pairs of λ_1 and λ_2 and three ablations; two of these coincide.
    assert {name: methods.count(name) for name in set(methods)} == {"darts": 3, "da2s": 3 * 22, "da2s_exact": 3 * 5}
    assert len(set(configs)) == len(configs) == 84
    others = {config for name in ("table_2_lambda_c", "table_3_priority", "ablation_losses", "table_1_cifar10")
              for config in searches_of(name)}  # fmt: skip
    others |= set(searches_of("table_4_imbalanced"))
    # Of what Table 1 searches beside, the cut of its budget alone is known.
    assert {config for config in others if config.method in set(methods)} <= set(configs)


def test_published_means_are_those_of_the_single_runs_beside_them():
    settled = (
        "protocol",
        "method",
        "budget",
        "losses",
        "lambda_c",
        "lambda_1",
        "lambda_2",
        "edge_weight",
        "batch_norm",
        "search",
        "cell",
        "dropped",
        "start",
        "epochs",
    )
    checked = 0
    for path in sorted((ROOT / "figures").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for row in document["rows"]:
            for quantity in ("error", "after", "drop"):
                if "method" not in row or row.get(f"{quantity}_mean") is None or not document.get("runs"):
                    continue
                own = [
                    run
                    for run in document["runs"]
                    if quantity in run and all(run.get(key, row[key]) == row[key] for key in settled if key in row)
                ]
                # One of each seed; of the nodes of a cell several.
                seeds = row.get(f"{quantity}_seeds", row["seeds"])
                assert len(own) == len(seeds) or "cell" in row
                assert {run["seed"] for run in own} == set(seeds)
                assert row[f"{quantity}_mean"] == pytest.approx(fmean(run[quantity] for run in own))
                checked += 1
    assert checked > 100
