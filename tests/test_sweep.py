"""Sweeps on a real Ray: what a file asks for, processes that die, runs that fail, a cluster that was there before."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from daas_lab import cli
from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.runs.folder import epochs_done, is_finished, read_checkpoint, read_run
from daas_lab.runs.lock import writer
from daas_lab.studies.make import run_folder, run_name
from daas_lab.studies.sweep import _said, planned, rows_of, table
from daas_lab.studies.sweep_file import read_sweep
from daas_lab.studies.sweep_notebooks import execute
from daas_lab.train.retrain import retrain
from daas_lab.train.search import search
from tests.made_runs import write_search
from tests.waiting import PATIENCE, wait_until

EPOCHS = 60  # far more than pass between two looks at them


def write(path, **changes):
    """A sweep file of tiny runs on digits; JSON is YAML."""
    document = {"preset": "tiny", "dataset": "digits", "seeds": [0, 1], "runs": str(path.parent / "runs")}
    path.write_text(json.dumps(document | {"search": {"method": "darts"}} | changes))
    return path


def start(path, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "daas_lab", "sweep", str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- what a file asks for ---------------------------------------------------------------------------------------------


def test_lists_are_combined_groups_united_and_darts_searched_once_for_every_budget(tmp_path):
    groups = [
        {"method": "darts", "budget": ["8/14", "4/14"]},
        {"method": ["da2s", "da2s_exact"], "budget": ["8/14", "4/14"], "lambda_c": ["linear", "step"]},
    ]
    sweep = read_sweep(write(tmp_path / "s.yaml", search=groups, retrain={"epochs": [1, 2], "channels": 4}))
    kinds = [(config.method, config.budget, config.lambda_c, config.seed) for config in sweep.searches]
    regularised = [
        (method, budget, shape, seed)
        for method in ("da2s", "da2s_exact")
        for budget in ("8/14", "4/14")
        for shape in ("linear", "step")
        for seed in (0, 1)
    ]
    assert kinds == [("darts", "8/14", "const", 0), ("darts", "8/14", "const", 1), *regularised]
    assert [cuts for config, cuts in sweep.searches.items() if config.method == "darts"] == 2 * [["8/14", "4/14"]]
    assert all(cuts == [config.budget] for config, cuts in sweep.searches.items() if config.method != "darts")
    assert sweep.retrainings == [{"epochs": 1, "channels": 4}, {"epochs": 2, "channels": 4}]
    assert sweep.named == ("method", "budget", "lambda_c") and (sweep.cpus, sweep.gpus) == (1, 0)


def test_a_search_of_another_space_is_cut_to_its_own_budget_where_none_is_named(tmp_path):
    sweep = read_sweep(write(tmp_path / "s.yaml", search={"method": "darts", "nodes": 5}))
    assert list(sweep.searches.values()) == [[config.budget] for config in sweep.searches]
    assert len({config.budget for config in sweep.searches} - {"8/14"}) == 1


def test_rows_of_single_runs_name_their_search(tmp_path):
    sweep = read_sweep(write(tmp_path / "s.yaml", search={"method": "da2s", "budget": ["8/14", "4/14"]}))
    for config in list(sweep.searches)[:3]:
        folder = run_folder(config, sweep.settings)
        write_search(folder, config.method, "tiny", "digits", budget=config.budget, seed=config.seed)
    rows = rows_of(sweep)
    assert [(row["run"], row["method"], row["budget"], row["seed"]) for row in rows] == [
        (run_name(config), "da2s", config.budget, config.seed) for config in list(sweep.searches)[:3]
    ]
    assert all(row["protocol"] == "authors" and row["params_m"] > 0.3 for row in rows)


def test_the_table_says_whose_seeds_a_mean_is_of_and_gives_no_method_a_setting_that_it_lacks(tmp_path):
    searches = [{"method": "darts"}, {"method": "da2s", "lambda_c": ["linear", "step"]}]
    sweep = read_sweep(write(tmp_path / "s.yaml", search=searches, retrain={"epochs": 1}))
    for config in list(sweep.searches)[:2]:
        write_search(run_folder(config, sweep.settings), config.method, "tiny", "digits", seed=config.seed)
    rows, shown = table(sweep)
    assert [(row["method"], row["lambda_c"], row["error_seeds"]) for row in rows] == [("darts", None, [])]
    header, _, first = shown.splitlines()
    assert header.endswith("| seeds | seeds of the cells |") and "| – |" in first and "const" not in first


def test_a_search_is_the_one_that_a_notebook_asks_for(tmp_path):
    sweep = read_sweep(write(tmp_path / "s.yaml", search={"method": "da2s", "budget": "4/14"}))
    asked = [search_config("tiny", "digits", "da2s", budget="4/14", seed=seed) for seed in (0, 1)]
    assert list(sweep.searches) == asked


def test_the_example_of_the_documentation_can_be_read(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "cluster.md").read_text()
    path = tmp_path / "sweep.yaml"
    path.write_text(text.split('```yaml title="sweep.yaml"\n')[1].split("```")[0])
    sweep = read_sweep(path)
    assert len(sweep.searches) == 3 + 2 * 2 * 3 and len(sweep.retrainings) == 2


def test_cuda_takes_a_gpu_a_run_and_the_file_may_share_it(tmp_path):
    assert read_sweep(write(tmp_path / "s.yaml", device="cuda")).gpus == 1
    assert read_sweep(write(tmp_path / "s.yaml", device="cuda", gpus=0.5)).gpus == 0.5


@pytest.mark.kind("sweep files with other values than texts")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"presett": "mini"}, ["presett", "preset"]),
        ({"preset": "huge"}, ["preset", "huge", "mini"]),
        ({"dataset": "mnist"}, ["dataset", "mnist", "digits"]),
        ({"seeds": [0, 0]}, ["seeds", "[0, 0]", "different"]),
        ({"search": None}, ["search", "None", "fields"]),
        ({"search": []}, ["search", "[]", "fields"]),
        ({"search": {"metod": "darts"}}, ["metod", "method"]),
        ({"search": {"method": "dart"}}, ["method", "dart", "darts"]),
        ({"search": {"budget": ["8/14", "9/14"]}}, ["budget", "9/14"]),
        ({"search": {"method": "darts", "budget": [1, 1, 2, 2]}}, ["budget", "1", "4 intermediate nodes"]),
        ({"search": {"method": "darts", "nodes": 5, "budget": "8/14"}}, ["budget", "8/14", "3 intermediate nodes"]),
        ({"search": {"method": "darts", "budget": "8/14*9"}}, ["operations per edge", "9", "1 to 7"]),
        ({"search": {"method": "darts", "gap_every": [0, 1]}}, ["search", "asked for twice"]),
        *(({"retrain": value}, ["retrain", repr(value), "fields"]) for value in (False, 0, "", [])),
        ({"search": {"epochs": [3, "ten"]}}, ["epochs", "ten", "whole number"]),
        ({"search": {"epochs": []}}, ["search: epochs", "[]", "a list of values"]),
        ({"search": {"seed": 3}}, ["search: seed", "3", "seeds"]),
        ({"search": {"preset": "mini"}}, ["search: preset", "mini", "top of the file"]),
        ({"search": [{"method": "darts"}, 3]}, ["search", "3", "fields"]),
        ({"retrain": {"chanels": 4}}, ["chanels", "channels"]),
        ({"retrain": {"channels": 1}}, ["channels", "1", "at least 2"]),
        ({"retrain": {"genotype": "DARTS_V2"}}, ["retrain: genotype", "search"]),
        *(({"search": {name: 3}}, [name, "3"]) for name in ("method", "budget", "lambda_c", "operations")),
        *(({"search": {name: None}}, [name, "None"]) for name in ("method", "budget", "lambda_c", "epochs")),
        *(({"search": {name: [["3"]]}}, [name, "[['3']]"]) for name in ("method", "budget", "lambda_c", "epochs")),
        ({"search": {"method": ["darts", None]}}, ["search: method", "None"]),
        ({"retrain": {"form": 3}}, ["form", "3", "cifar"]),
        ({"retrain": {"epochs": None}}, ["retrain: epochs", "None"]),
        *(
            ({name: value}, [name, repr(value)])
            for name in ("preset", "dataset", "protocol", "seeds", "runs", "data", "device")
            for value in (None, 3.5, [["3"]], {"a": 1})
        ),
        ({"cpus": 0}, ["cpus", "0", "above 0"]),
        *(({"cpus": value}, ["cpus", "a whole number"]) for value in (None, "1", [1], float("nan"), 10**40)),
        ({"gpus": -1}, ["gpus", "-1", "at least 0"]),
        ({"gpus": 1.5}, ["gpus", "1.5", "a whole number or less than 1"]),
        ({"gpus": "all"}, ["gpus", "all", "number"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named_before_anything_is_made(tmp_path, capsys, changes, words):
    assert cli.main(["sweep", str(write(tmp_path / "s.yaml", **changes))]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_named_when_runs_are_to_be_made(tmp_path, capsys):
    path = write(tmp_path / "s.yaml", dataset="cifar10", data=str(tmp_path / "nowhere"))
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to be made") == 2
    assert cli.main(["sweep", str(path)]) == 2
    assert "dataset = 'cifar10'" in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.kind("sweep files with other values than texts")
@pytest.mark.parametrize("content", ["search: [", "- 1\n- 2\n", None, "seeds: 2020-99-99", "[" * 9999, "a: !!x 1"])
def test_a_file_that_is_none_is_refused(tmp_path, capsys, content):
    path = tmp_path / "s.yaml"
    if content is not None:
        path.write_text(content)
    assert cli.main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "key"),
    [("seeds: [0]\nseeds: [1]", "seeds"), ("search: [{budget: 8/14, method: darts, budget: 4/14}]", "budget")],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, capsys, content, key):
    (tmp_path / "s.yaml").write_text(content)
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--dry-run"]) == 2
    assert f"key {key!r} stands twice" in capsys.readouterr().err


def test_a_part_of_a_file_is_named_and_used_twice(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("search:\n- &own {method: darts, epochs: 2}\n- {<<: *own, method: da2s}\n")
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--dry-run"]) == 0
    assert "2 searches" in capsys.readouterr().out
    (tmp_path / "s.yaml").write_text("search: &own [*own]\n")
    assert cli.main(["sweep", str(tmp_path / "s.yaml"), "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_ray_a_dry_run_works_and_the_rest_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    path = write(tmp_path / "s.yaml", search={"method": ["darts", "da2s"]}, retrain=None)
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("to be made") == 4 and "4 searches, 4 cells, 4 retrainings" in out
    assert not (tmp_path / "runs").exists()
    assert cli.main(["sweep", str(path)]) == 2
    assert "daas-lab[cluster]" in capsys.readouterr().err


# --- on Ray -----------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
def test_killed_workers_and_a_killed_driver_change_nothing(tmp_path):
    groups = [
        {"method": "darts", "budget": ["8/14", "4/14"], "epochs": EPOCHS},
        {"method": "random", "budget": "4/14", "epochs": 1},
    ]
    path = write(tmp_path / "s.yaml", seeds=[0], search=groups, retrain={"epochs": [1, 2]})
    darts = next(iter(read_sweep(path).searches))
    folder = tmp_path / "runs" / planned(read_sweep(path))[0][0]

    driver = start(path)
    for at in (2, 5):
        wait_until(lambda at=at: epochs_done(folder) >= at)
        os.kill(writer(folder)["pid"], signal.SIGKILL)
    wait_until(lambda: epochs_done(folder) >= 8)
    driver.kill()
    driver.communicate()
    wait_until(lambda: writer(folder) is None)  # its workers end with it
    done = epochs_done(folder)
    assert 8 <= done < EPOCHS
    assert planned(read_sweep(path))[0] == (folder.name, f"epoch {done} of {EPOCHS}")

    driver = start(path)
    out, error = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, error
    assert {state for _, state in planned(read_sweep(path))} == {"finished"}
    search(replace(darts, threads=1), tmp_path / "undisturbed", progress=False)
    for name in ("architecture.safetensors", "history.jsonl", "genotype.json"):
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()

    document = json.loads((tmp_path / "runs/sweeps/s.json").read_text())
    rows = document["rows"]
    assert all({"run", "seed", "protocol", "error"} <= row.keys() for row in document["runs"])
    assert len(document["runs"]) == sum(len(row["seeds"]) for row in rows)
    assert [(row["method"], row["budget"], row["retrain_epochs"], row["seeds"]) for row in rows] == [
        (method, budget, epochs, [0])
        for method, budget in (("darts", "8/14"), ("darts", "4/14"), ("random", "4/14"))
        for epochs in (1, 2)
    ]
    assert all(0 <= row["error_mean"] <= 100 and 0.5 < row["params_m_mean"] < 6 for row in rows)
    own = {"stage": "both", "edge_weight": "one", "batch_norm": "as-trained"}
    gaps = [row for row in read_run(folder).gap if own.items() <= row.items()]
    assert {row["budget"]: row["after"] for row in gaps} == {
        row["budget"]: row["after_mean"] for row in rows if row["method"] == "darts"
    }
    assert "| darts | 4/14 |" in out and str(tmp_path / "runs/sweeps/s.md") in out


@pytest.fixture
def cluster(monkeypatch):
    """The address of a Ray that was started before, as on a cluster."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whether this machine has a token from before, or not
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(
        prefix="ray", ignore_cleanup_errors=True
    ) as folder:  # a short path: it holds sockets
        options = [f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", "--num-cpus=2"]
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert any("runtime started" in line for line in head.stdout)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.communicate(timeout=PATIENCE)


def test_what_a_process_says_of_its_failure_has_type_and_place():
    ray = pytest.importorskip("ray")
    where = 'File "own.py", line 7, in optimizer'
    raised = ray.exceptions.RayTaskError("_run", f"Traceback:\n  {where}\nKeyError: 1", KeyError(1))
    assert _said(raised) == f"KeyError: 1 ({where})"
    ours = ray.exceptions.RayTaskError("_run", "Traceback:\n…", LabError("epochs = 0"))
    assert _said(ours) == "epochs = 0"


@pytest.mark.cluster
def test_a_run_that_fails_stops_no_other_and_is_named(tmp_path, cluster):
    path = write(tmp_path / "s.yaml", search={"method": ["darts", "da2s"], "epochs": 2}, seeds=[0], cpus=0.5)
    [darts, da2s] = [tmp_path / "runs" / name for name, _ in planned(read_sweep(path))]
    darts.mkdir(parents=True)
    (darts / "config.json").write_text("{")
    driver = start(path, "--address", cluster)
    out, error = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2
    assert f"{darts.name}: damaged file {darts / 'config.json'}" in error and "runs that failed: 1" in error
    assert is_finished(da2s) and "| da2s |" in out and "| darts |" not in out


@pytest.mark.cluster
def test_a_cluster_that_is_none_is_refused(tmp_path):
    driver = start(write(tmp_path / "s.yaml"), "--address", "127.0.0.1:1")
    _, error = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2 and "address = '127.0.0.1:1'" in error


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_published_sweep_is_what_its_first_lines_say(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    searches, _, retrainings, *notebooks = re.findall(r"\d+", capsys.readouterr().out.splitlines()[-1])
    said = path.read_text()
    assert f"# {searches} searches" in said and f"{retrainings} retrainings" in said
    assert "hours on one core" in said or "not measured" in said
    assert all(f"{count} notebooks" in said for count in notebooks)


# --- notebooks, and several processes ---------------------------------------------------------------------------------

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def write_notebook(path, *cells, parameters="x = 3\nwords = ['c']\n"):
    """A notebook with a `parameters` cell and these cells of code."""
    made = [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    made[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)
    return str(path)


def only_notebooks(path, *entries, **changes):
    """A sweep file without searches."""
    document = json.loads(write(path, notebook=list(entries), **changes).read_text())
    del document["search"]
    path.write_text(json.dumps(document))
    return path


def test_a_notebook_is_given_what_it_has_and_lists_are_combined_where_its_own_value_is_none(tmp_path):
    own = write_notebook(tmp_path / "own.ipynb", "y = x")
    entry = {"path": own, "parameters": {"x": [1, 2], "words": ["a", "b"]}}
    table = {"path": str(NOTEBOOKS / "table_1_cifar10.ipynb"), "parameters": {"epochs": 1, "budget": ["8/14", "4/14"]}}
    sweep = read_sweep(only_notebooks(tmp_path / "s.yaml", entry, table, seeds=[0, 1]))
    first, second, *tables = sweep.notebooks
    assert [json.loads(run.parameters) for run in (first, second)] == [
        {"x": 1, "words": ["a", "b"]},
        {"x": 2, "words": ["a", "b"]},
    ]
    for run, budget in zip(tables, ("8/14", "4/14"), strict=True):
        given = json.loads(run.parameters)
        assert (given["budget"], given["epochs"], given["seeds"], given["preset"]) == (budget, 1, [0, 1], "tiny")
        assert given["runs"] == str(sweep.settings.runs) and given["workers"] == 1
    assert not sweep.searches and len({run.name for run in sweep.notebooks}) == 4


def test_a_notebook_with_other_cells_or_parameters_is_another_one_wherever_it_computes(tmp_path):
    own = write_notebook(tmp_path / "own.ipynb", "y = x", parameters="x = 3\npreset = 'tiny'\nruns = ''\n")

    def name(**changes):
        [run] = read_sweep(only_notebooks(tmp_path / "s.yaml", {"path": own}, **changes)).notebooks
        return run.name

    first = name()
    assert name(runs=str(tmp_path / "elsewhere")) == first == name(cpus=2) and name(preset="quick") != first
    write_notebook(tmp_path / "own.ipynb", "y = x + 1", parameters="x = 3\npreset = 'tiny'\nruns = ''\n")
    assert name() != first


@pytest.mark.kind("sweep files with other values than texts")
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, ["notebook", "None", "path"]),
        ("own.ipynb", ["notebook", "'own.ipynb'", "path"]),
        ({}, ["notebook: path", "None"]),
        ({"path": "nowhere.ipynb"}, ["notebook: path", "nowhere.ipynb", "a notebook's file"]),
        ({"path": 3}, ["notebook: path", "3"]),
        ({"path": [["own.ipynb"]]}, ["notebook: path", "['own.ipynb']"]),
        ({"path": "damaged.ipynb"}, ["damaged.ipynb is no notebook"]),
        ({"path": "list.ipynb"}, ["list.ipynb is no notebook"]),
        ({"path": "other.ipynb"}, ["other.ipynb is no notebook of Python"]),
        ({"path": "own.ipynb", "parameter": {}}, ["parameter", "did you mean parameters"]),
        ({"path": "own.ipynb", "parameters": ["x"]}, ["notebook: parameters", "['x']"]),
        ({"path": "own.ipynb", "parameters": {"xx": 1}}, ["own.ipynb", "'xx'", "did you mean x?"]),
        ({"path": "own.ipynb", "parameters": {"epochs": 1}}, ["own.ipynb", "'epochs'", "known: x, words"]),
        ({"path": "bare.ipynb", "parameters": {"x": 1}}, ["bare.ipynb", "'x'", "no cell tagged parameters"]),
        ({"path": "ours.ipynb", "parameters": {"epoch": 1}}, ["ours.ipynb", "'epoch'", "did you mean epochs"]),
        ({"path": "ours.ipynb", "parameters": {"epochs": "ten"}}, ["epochs", "ten", "whole number"]),
        ({"path": "ours.ipynb", "parameters": {"preset": "minni"}}, ["preset", "minni", "did you mean mini"]),
    ],
)
def test_what_is_wrong_with_a_notebook_is_named_before_anything_is_made(tmp_path, monkeypatch, capsys, entry, words):
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "own.ipynb")
    write_notebook(tmp_path / "ours.ipynb", "read_settings(globals())")
    write_notebook(tmp_path / "other.ipynb", parameters="x = function(y) {y}")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "bare.ipynb")
    for name, content in (("damaged", "{"), ("list", "[]")):
        (tmp_path / f"{name}.ipynb").write_text(content)
    assert cli.main(["sweep", str(only_notebooks(tmp_path / "s.yaml", entry)), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


def test_without_papermill_its_installation_is_named_before_ray_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "papermill", None)
    path = only_notebooks(tmp_path / "s.yaml", {"path": write_notebook(tmp_path / "own.ipynb")})
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    assert "0 searches, 0 cells, 0 retrainings, 1 notebooks" in capsys.readouterr().out
    assert cli.main(["sweep", str(path)]) == 2
    assert (
        capsys.readouterr().err == "daas-lab: papermill is missing, of the extra `lab`: pip install 'daas-lab[lab]'\n"
    )


def test_a_retraining_has_as_many_processes_as_the_file_gives_it(tmp_path):
    shares = {"micro_batches": 4}
    given = read_sweep(write(tmp_path / "s.yaml", retrain=shares, processes=2))
    assert (given.processes, given.cpus, given.gpus) == (2, 1, 0)
    given = read_sweep(write(tmp_path / "s.yaml", retrain=shares, device="cuda", gpus=4, cpus=3))
    assert (given.processes, given.cpus, given.gpus) == (4, 3, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processes": 0}, ["processes", "0", "at least 1"]),
        *(({"processes": value}, ["processes", "whole number"]) for value in (None, 1.5, [2], "two", True)),
        ({"processes": 2, "retrain": {}}, ["retrain: micro_batches", "1", "a multiple of the 2 processes"]),
        ({"processes": 4, "retrain": {"micro_batches": [8, 2]}}, ["retrain: micro_batches", "2", "the 4 processes"]),
        ({"processes": 2, "cpus": 0.5}, ["cpus", "0.5", "a whole number", "2 processes"]),
        ({"processes": 2, "gpus": 0.5}, ["gpus", "0.5", "a whole number", "2 processes"]),
        ({"gpus": 8, "retrain": {}}, ["retrain: micro_batches", "a multiple of the 8 processes"]),
    ],
)
def test_processes_that_cannot_share_a_retraining_are_refused(tmp_path, capsys, changes, words):
    assert cli.main(["sweep", str(write(tmp_path / "s.yaml", **changes)), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and all(word in captured.err for word in words), captured.err


@pytest.mark.cluster
def test_notebooks_and_a_retraining_on_two_processes_are_members_of_a_sweep(tmp_path):
    """Also one notebook whose cell fails and one whose kernel dies; what is finished stays as it is."""
    broken = write_notebook(tmp_path / "broken.ipynb", "y = x", "if x < 2:\n    raise ValueError('x\\nis small')")
    deadly = write_notebook(tmp_path / "deadly.ipynb", "import os\nos.kill(os.getpid(), 9)")
    entries = [
        {"path": str(NOTEBOOKS / "figure_5_control_functions.ipynb")},
        {"path": broken, "parameters": {"x": [1, 2]}},
        {"path": deadly},
    ]
    search = {"method": "random", "epochs": 1}
    path = write(tmp_path / "s.yaml", search=search, seeds=[0], retrain={"epochs": 1, "micro_batches": 2})
    document = json.loads(path.read_text()) | {"processes": 2, "notebook": entries}
    path.write_text(json.dumps(document))

    driver = start(path)
    out, error = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2 and "runs that failed: 2" in error, error
    figure, small, _, dead = read_sweep(path).notebooks
    folder = tmp_path / "runs" / "notebooks"
    for run, line in (
        (small, f"cell 4 of {folder / small.name}/broken.unfinished.ipynb: ValueError: x is small"),
        (dead, f"cell 2 of {folder / dead.name}/deadly.unfinished.ipynb: Kernel died"),
    ):
        assert f"{run.name}: {line}" in error.splitlines(), error
    states = dict(planned(read_sweep(path)))
    assert {name for name, state in states.items() if state != "finished"} == {small.name, dead.name}
    executed = folder / figure.name / "figure_5_control_functions.ipynb"
    assert str(executed) in out and "image/" in executed.read_text()
    assert (tmp_path / "runs/figures/tiny/figure_5_control_functions.svg").is_file()

    [retrained] = [tmp_path / "runs" / name for name in states if name.startswith("retrain-")]
    config = read_run(retrained).config
    retrain(replace(config, threads=1), tmp_path / "alone", progress=False)
    alone, together = (read_run(folder).history[0] for folder in (tmp_path / "alone", retrained))
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    # In two processes each has passed one of a step's two halves, alone both.
    networks = [read_checkpoint(folder)[0]["network"] for folder in (tmp_path / "alone", retrained)]
    passed = [{int(net[name]) for name in net if name.endswith("num_batches_tracked")} for net in networks]
    assert passed == [{2 * config.steps}, {config.steps}]

    made = executed.stat().st_mtime_ns
    execute(figure, read_sweep(path).settings)
    assert executed.stat().st_mtime_ns == made
