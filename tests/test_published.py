"""What is committed under figures/ follows from the committed records alone, and README prints what is there."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from daas_lab.studies import field
from daas_lab.studies.settings import Settings

ROOT = Path(__file__).parent.parent
NOTEBOOKS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
SEARCHING = ("00_quickstart", "discretization_lab", "kept_weights")  # always: they show more than records hold
# Table → its notebook, where it has another name.
OTHERWISE = {"the_field_digits": "the_field", "what_closes_the_gap_digits": "what_closes_the_gap"}
FROM_RECORDS = [
    name for name in [*NOTEBOOKS, *OTHERWISE] if (ROOT / "figures" / f"{name}.json").is_file() and name not in SEARCHING
]


# What is timed, a minute and a half each, is no part of what records say.
TIMED = {
    "the_field": "field.step_costs(searches, settings)",
    "beyond_the_gap": "beyond.search_time(made, settings, **TIMED, full=settings.full_size)",
}


def committed(name):
    return json.loads((ROOT / "figures" / f"{name}.json").read_text())


def redraw(name, root):
    """The notebook's folder of runs, drawn again with the published settings by a user who has no runs."""
    words = shlex.split(committed(name)["provenance"]["command"])
    options = {words[n + 1]: words[n + 2] for n, word in enumerate(words) if word == "-p"}
    left_out = ("publish", "full_size")  # where it goes, and a measurement of minutes that is no row
    options = {key: value for key, value in options.items() if key not in left_out} | {"runs": root / name}
    notebook, stem = root / f"{name}.untimed.ipynb", OTHERWISE.get(name, name)
    source = (ROOT / "notebooks" / f"{stem}.ipynb").read_text()
    assert source.count(TIMED.get(stem, "")) == 1 or stem not in TIMED
    notebook.write_text(source.replace(TIMED[stem], "{}") if stem in TIMED else source)
    command = [sys.executable, "-m", "papermill", notebook, root / f"{name}.ipynb"]
    command += [word for key, value in options.items() for word in ("-p", key, value)]
    with open(root / f"{name}.log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    while process.poll() is None:
        if set(root.glob(f"{name}/*")) - {root / name / "figures"}:  # a record is missing: no need to wait for it
            process.send_signal(signal.SIGINT)
            process.wait()
        time.sleep(0.2)
    return root / name


def test_the_site_has_all_that_is_drawn_from_records():
    """Of the published size and images: where these are not the notebook's own, they are in the Makefile."""
    done = subprocess.run(["make", "-n", "-B", "docs-records"], cwd=ROOT, capture_output=True, text=True, check=True)
    made = {}
    for words in (shlex.split(line) for line in done.stdout.splitlines() if " -m papermill " in line):
        name = Path(words[3]).stem
        given = {words[n + 1]: words[n + 2] for n, word in enumerate(words) if word == "-p"}
        source = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
        [cell] = [cell for cell in source["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        own = {}
        exec("".join(cell["source"]), own)
        made[name] = {key: str(own.get(key)) for key in ("preset", "dataset")} | given
    assert sorted(made) == sorted({OTHERWISE.get(name, name) for name in FROM_RECORDS})
    for name, given in made.items():
        table = name if name in FROM_RECORDS else next(key for key, own in OTHERWISE.items() if own == name)
        published = shlex.split(committed(table)["provenance"]["command"])
        for key in ("preset", "dataset"):
            assert given[key] == published[published.index(key) + 1], (name, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_RECORDS)
def test_a_published_table_is_drawn_again_from_records_without_a_run(name, tmp_path):
    drawn = redraw(name, tmp_path)
    assert [path.name for path in drawn.glob("*")] == ["figures"], drawn.with_suffix(".log").read_text()[-3000:]
    [again] = (drawn / "figures").glob(f"*/{name}.json")
    untimed = [row for row in committed(name)["rows"] if "costs" not in row]
    for row, published in zip(json.loads(again.read_text())["rows"], untimed, strict=True):
        assert row.keys() == published.keys()
        for key, value in published.items():
            # Architecture weights come from α and β to four digits.
            assert row[key] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), key
    assert said(again.with_suffix(".md")) == said(ROOT / "figures" / f"{name}.md")


def said(page):
    """What is concluded below a table: its lines but for those of the table, of times, and of where it comes from."""
    text, _, _ = page.read_text().partition("\n- Data: ")
    lines = [line for line in text.splitlines() if line and not line.startswith("|")]
    return [line for line in lines if "times as long" not in line and "What a search takes is measured" not in line]


def test_the_field_takes_records_that_other_tables_published(tmp_path):
    """Without the control that a gap is taken apart with, and by a user who has no runs."""
    settings = Settings(runs=tmp_path, figures=ROOT / "figures", finished_only=True)
    searches = field.make_searches(settings, ("darts", "da2s", "random"), ("8/14", "4/14"))
    rows = field.field_rows(searches, settings, ("8/14", "4/14"))
    found = {(row["method"], row["budget"]) for row in rows if row.get("after_recalibrated") is not None}
    assert found == {(method, budget) for method in ("darts", "da2s") for budget in ("8/14", "4/14")}
    assert all(("control" in row) == ("selection_part" in row) for row in rows)
    assert not list(tmp_path.iterdir())
    # A search that was published before its drops were measured is not finished.
    record = next(ROOT.glob("figures/records/darts-fashion_mnist-s0-*.json"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / record.name).write_text(json.dumps(json.loads(record.read_text()) | {"gap": []}))
    lone = Settings(runs=tmp_path / "runs", figures=tmp_path, finished_only=True)
    assert len(field.make_searches(replace(lone, figures=ROOT / "figures"), ("darts",), ("8/14",))) == 1
    assert field.make_searches(lone, ("darts",), ("8/14",)) == []


def test_the_miniature_is_complete():
    measured = {
        name: [row for row in committed(name)["rows"] if "seeds" in row and row.get("error_mean") is not None]
        for name in ("table_1_cifar10", "table_2_lambda_c", "table_3_priority", "table_4_imbalanced")
    }
    assert all(len(row["seeds"]) >= 3 and row["error_std"] > 0 for rows in measured.values() for row in rows)
    assert len({(row["lambda_1"], row["lambda_2"]) for row in measured["table_3_priority"]}) == 10
    assert len(measured["table_2_lambda_c"]) == 6 and len(measured["table_1_cifar10"]) == 9
    found = {(row["protocol"], row["method"], row["budget"]) for row in measured["table_4_imbalanced"]}
    assert len(found) == 4 * 4 + 5  # the authors' protocol: four methods at four budgets; the text: DA²S at five
    assert {len(row["seeds"]) for row in measured["table_4_imbalanced"] if row["protocol"] == "paper"} == {5}


def test_a_mean_in_the_readme_is_in_a_published_table():
    rows = [row for path in (ROOT / "figures").glob("*.json") for row in json.loads(path.read_text())["rows"]]
    measured = [(value, row.get(key.removesuffix("_mean") + "_std")) for row in rows for key, value in row.items()]
    measured = [pair for pair in measured if isinstance(pair[1], float)]
    found = re.findall(r"(-?\d+\.(\d+)) ± (\d+\.\d+)", (ROOT / "README.md").read_text())
    assert len(found) == 15  # all of them, and not what a changed pattern leaves
    for mean, decimals, std in found:
        digits = len(decimals)
        assert any((f"{m:.{digits}f}", f"{s:.{digits}f}") == (mean, std) for m, s in measured), f"{mean} ± {std}"
