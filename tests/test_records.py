"""Records stand for their runs; without one, just that run is made again."""

import json
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from daas_lab.config import SearchConfig
from daas_lab.data import batches
from daas_lab.errors import LabError
from daas_lab.runs.folder import read_run
from daas_lab.runs.lock import locked
from daas_lab.runs.records import read_record, write_record
from daas_lab.studies import make
from daas_lab.studies.settings import Settings, parse_settings, read_settings
from daas_lab.train.evolution import genotype_after, genotype_evolution
from tests.made_runs import write_search


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    settings = Settings(preset="tiny", dataset="digits", runs=root / "runs", figures=root / "figures", publish=True)
    searches = make.make_runs([settings.search(method, 0) for method in ("darts", "da2s")], settings)
    make.drops(searches, ["8/14", "4/14"], settings)
    retrained = make.make_runs([settings.retraining(searches[0].genotype, 0)], settings)
    return settings, [*searches, *retrained]


def elsewhere(settings, tmp_path):
    """The same study on a machine that has the records and no runs."""
    return Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=settings.figures)


def test_a_record_gives_back_what_its_run_recorded(published):
    settings, runs = published
    for run in runs:
        path = settings.figures / "records" / f"{make.run_name(run.config)}.json"
        again = read_record(path)
        assert path.stat().st_size < 150_000
        assert again.folder is None and again.config == run.config and again.history == run.history
        assert again.genotype == run.genotype and again.result == run.result
        assert again.origin["machine"]["cores"] >= 1 and "torch" in again.origin["versions"]
        for kind in ("alphas", "betas"):
            for cell_type, array in getattr(run, kind).items():
                np.testing.assert_allclose(getattr(again, kind)[cell_type], array, atol=5.1e-5)
    assert read_record(path).result["test_error"] == runs[-1].history[-1]["test_error"]


def test_of_candidates_that_have_left_a_record_keeps_whole_numbers(tmp_path):
    run = read_run(write_search(tmp_path / "run", preset="tiny", dataset="digits"))
    left = {name: array - 1e4 * (np.arange(array.size).reshape(array.shape) % 2) for name, array in run.alphas.items()}
    write_record(replace(run, alphas=left), tmp_path / "run.json")
    for name, array in read_record(tmp_path / "run.json").alphas.items():
        np.testing.assert_array_equal(array[left[name] < -1e3], left[name][left[name] < -1e3].round())
        np.testing.assert_allclose(array[left[name] > -1e3], left[name][left[name] > -1e3], atol=5.1e-5)


def test_before_alpha_moves_a_record_knows_who_leads(tmp_path):
    run = read_run(write_search(tmp_path / "run", preset="tiny", dataset="digits"))
    noise = {name: 1e-4 * np.random.default_rng(0).standard_normal(array.shape) for name, array in run.alphas.items()}
    run = replace(run, alphas=noise, betas={name: 1e-4 * array[..., 0] for name, array in noise.items()})
    write_record(run, tmp_path / "run.json")
    again = read_record(tmp_path / "run.json")
    for name, array in again.alphas.items():
        np.testing.assert_allclose(array, noise[name], rtol=5.1e-4)
    assert genotype_evolution(again) == genotype_evolution(run)


def test_a_record_under_another_runs_name_is_not_taken_for_it(published, tmp_path):
    settings, runs = published
    there = replace(elsewhere(settings, tmp_path), figures=tmp_path)
    asked = replace(runs[0].config, seed=7)
    record = tmp_path / "records" / f"{make.run_name(asked)}.json"
    write_record(runs[0], record)
    with pytest.raises(LabError, match=f"{record} holds another run, {make.run_name(runs[0].config)}"):
        make.find_run(asked, there)


def test_every_published_search_still_derives_the_cell_that_it_recorded():
    folder = Path(__file__).parent.parent / "figures" / "records"
    runs = {path.name: read_record(path) for path in sorted(folder.glob("*.json"))}
    searches = {name: run for name, run in runs.items() if isinstance(run.config, SearchConfig)}
    assert len(searches) >= 99
    assert [name for name, run in searches.items() if genotype_after(run) != run.genotype] == []


def test_records_are_enough_for_runs_and_drops(published, tmp_path):
    settings, runs = published
    there = elsewhere(settings, tmp_path)
    found = make.make_runs([run.config for run in runs], there)
    assert [run.folder for run in found] == [None, None, None] and not there.runs.exists()
    rows = make.drops(found[:2], ["4/14"], there)
    assert rows == make.drops(make.make_runs([run.config for run in runs[:2]], settings), ["4/14"], settings)
    assert {row["method"] for row in rows} == {"darts", "da2s"} and len(rows) == 2 * 6
    with pytest.raises(LabError, match=r"no drops at 5/14 \(both\)"):
        make.drops(found[:2], ["5/14"], there)


def test_only_the_run_without_a_record_is_made_again(published, tmp_path):
    settings, runs = published
    there = elsewhere(settings, tmp_path)
    path = settings.figures / "records" / f"{make.run_name(runs[1].config)}.json"
    content = path.read_text()
    path.unlink()
    try:
        first, second = make.make_runs([run.config for run in runs[:2]], there)
    finally:
        path.write_text(content)
    assert first.folder is None and second.folder.parent == there.runs
    # Not the history: alone it had both cores, and bits are only promised for one number of threads.
    assert make.run_name(second.config) == make.run_name(runs[1].config)
    assert len(second.history) == len(runs[1].history)


def test_a_damaged_finished_run_gives_way_to_its_record_and_is_written_again_without_one(published, tmp_path):
    settings, runs = published
    there = elsewhere(settings, tmp_path)
    folder = make.run_folder(runs[1].config, there)
    shutil.copytree(runs[1].folder, folder)
    (folder / "genotype.json").write_text("{")
    [found] = make.make_runs([runs[1].config], there)
    assert found.folder is None and (folder / "genotype.json").read_text() == "{"
    [repaired] = make.make_runs([runs[1].config], replace(there, records=False))
    assert repaired.folder == folder and repaired.genotype == runs[1].genotype and repaired.history == runs[1].history


def test_what_a_record_has_measured_outlives_a_run_that_lacks_it(published, tmp_path):
    settings, runs = published
    own = replace(settings, figures=tmp_path)
    record = tmp_path / "records" / f"{make.run_name(runs[0].config)}.json"
    cells = {"perturbation": {"8/14": runs[0].genotype.to_json()}}
    full = read_run(runs[0].folder)
    write_record(replace(full, cells=cells), record)
    (full.folder / "gap.json").rename(tmp_path / "gap.json")
    try:
        make.make_runs([full.config], own)
    finally:
        (tmp_path / "gap.json").rename(full.folder / "gap.json")
    again = read_record(record)
    assert len(again.gap) == len(full.gap) > 0 and again.cells == cells
    rows = make.drops([again], ["4/14"], own)
    assert rows == make.drops([full], ["4/14"], own)


def test_what_a_record_measured_of_another_training_is_not_this_run_s(published, tmp_path):
    """The hash leaves the machine out: the same configuration may have been trained elsewhere, to other weights."""
    settings, runs = published
    own = replace(settings, figures=tmp_path)
    record = tmp_path / "records" / f"{make.run_name(runs[0].config)}.json"
    full = read_run(runs[0].folder)
    history = [entry | {"classification_loss": 1.0} for entry in full.history]
    write_record(replace(full, history=history, gap=[row | {"budget": "2,2,1,1"} for row in full.gap]), record)
    make.make_runs([full.config], own)
    again = read_record(record)
    assert again.history == full.history and again.gap == full.gap


def test_a_study_of_what_is_finished_begins_nothing(published, tmp_path):
    settings, runs = published
    there = replace(elsewhere(settings, tmp_path), finished_only=True)
    configs = [runs[0].config, replace(runs[0].config, seed=9)]
    assert make.wanted(configs, there) == configs[:1] and make.wanted(configs, settings) == configs
    assert [run.config for run in make.make_runs(make.wanted(configs, there), there)] == configs[:1]
    with pytest.raises(LabError, match=r"finished_only = True: must be False to begin 1 runs .*darts-digits-s9"):
        make.make_runs(configs, there)
    assert not there.runs.exists()


def test_a_run_that_another_process_begins_meanwhile_is_waited_for(published, tmp_path, monkeypatch):
    settings, runs = published
    own = replace(settings, runs=tmp_path, publish=False)
    folder = make.run_folder(runs[0].config, own)
    held, refused = threading.Event(), threading.Event()

    def other():
        with locked(folder):
            held.set()
            refused.wait()
        shutil.copytree(runs[0].folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock"))

    thread = threading.Thread(target=other)
    launch, calls = make.launch, []

    def late(*arguments):  # between the look at the lock and the trainer's own
        if not calls:
            thread.start()
            held.wait()
        calls.append(arguments)
        try:
            launch(*arguments)
        finally:
            refused.set()

    monkeypatch.setattr(make, "launch", late)
    make.make_run(runs[0].config, own, 1)
    thread.join()
    assert len(calls) == 2 and read_run(folder).history == runs[0].history


def test_drops_that_another_process_measures_meanwhile_are_there_once(published, tmp_path, monkeypatch):
    settings, runs = published
    own = replace(settings, runs=tmp_path, publish=False)
    folder = shutil.copytree(runs[0].folder, make.run_folder(runs[0].config, own))
    before, measure = read_run(folder).gap, make.accuracy_drops

    def meanwhile(*given, **named):
        rows = measure(*given, **named)
        theirs = [row | {"after": row["after"] + 1e-9} for row in rows]
        make.keep_measured(folder, "gap.json", json.dumps(before + theirs))
        return rows

    monkeypatch.setattr(make, "accuracy_drops", meanwhile)
    make.measure_drops(folder, runs[0].config, [("2,2,1,1", "both")], own.data, "own", 1)
    found = read_run(folder).gap[len(before) :]
    assert len(found) == len({(row["edge_weight"], row["batch_norm"]) for row in found}) > 1
    assert {row["budget"] for row in found} == {"2,2,1,1"}


def test_a_damaged_record_is_named(published, tmp_path):
    settings, runs = published
    path = settings.figures / "records" / f"{make.run_name(runs[0].config)}.json"
    cut = tmp_path / "cut.json"
    cut.write_text(path.read_text()[:500])
    with pytest.raises(LabError, match=r"damaged record .*cut\.json"):
        read_record(cut)
    document = json.loads(path.read_text())
    document["config"]["seed"] = 7
    cut.write_text(json.dumps(document))
    with pytest.raises(LabError, match="hash"):
        read_record(cut)


@pytest.mark.parametrize(
    "alphas", [{"normal": [[[1.0]]]}, {"normal": [[[1], []]], "reduce": [[[1]]]}, {"normal": 1}, 1]
)
def test_a_record_whose_alphas_are_none_is_named(published, tmp_path, alphas):
    settings, runs = published
    path = settings.figures / "records" / f"{make.run_name(runs[0].config)}.json"
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(json.loads(path.read_text()) | {"alphas": alphas}))
    with pytest.raises(LabError, match=r"damaged record .*cut\.json"):
        read_record(cut)


def test_a_record_of_too_many_brackets_is_named(tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_text("[" * 100_000)
    with pytest.raises(LabError, match=r"damaged record .*cut\.json"):
        read_record(cut)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Settings of a notebook on a machine without Fashion-MNIST; the records are those that are committed."""
    monkeypatch.setattr(batches, "SYSTEM_FOLDERS", {"fashion_mnist": tmp_path / "system"})
    return read_settings({"seeds": [0, 1], "data": str(tmp_path / "data"), "runs": str(tmp_path / "runs")})


def test_what_comes_from_records_asks_for_no_data(nowhere):
    searches = make.make_runs([nowhere.search("da2s", seed) for seed in nowhere.seeds], nowhere)
    assert len(make.drops(searches, ["8/14"], nowhere)) == 2 * 6
    assert len(make.make_runs([nowhere.retraining(run.genotype, run.config.seed) for run in searches], nowhere)) == 2
    assert not nowhere.runs.exists()


def test_missing_data_is_named_before_any_run_is_started(nowhere):
    drawn = nowhere.search("random", 99)
    for asked in (nowhere.search("darts", 99), nowhere.retraining("DARTS_V2", 99)):
        with pytest.raises(LabError, match=r"dataset = 'fashion_mnist': .*`apt-get install dataset-fashion-mnist`"):
            make.make_runs([drawn, nowhere.search("da2s", 0), asked], nowhere)
        assert not nowhere.runs.exists()
    [run] = make.make_runs([drawn], nowhere)  # which takes no images
    assert run.finished


def test_missing_data_is_named_before_drops_are_measured(nowhere):
    config = replace(nowhere, preset="tiny").search("darts", 0)
    folder = write_search(make.run_folder(config, nowhere), "darts", "tiny", "fashion_mnist")
    with pytest.raises(LabError, match="dataset = 'fashion_mnist'"):
        make.drops([read_run(folder)], ["4/14"], nowhere)


def test_an_unfinished_run_leaves_no_record(published, tmp_path):
    run = published[1][0]
    unfinished = type(run)(**{**vars(run), "finished": False})
    with pytest.raises(LabError, match="must be finished"):
        write_record(unfinished, tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()


def test_a_finished_run_is_published_though_a_later_one_fails(tmp_path):
    settings = Settings(
        preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path / "figures", publish=True, workers=1
    )
    first, second = (settings.search("random", seed) for seed in (0, 1))
    settings.runs.mkdir()
    (settings.runs / make.run_name(second)).write_text("in the way of the folder")
    with pytest.raises(OSError):
        make.make_runs([first, second], settings)
    records = [path.stem for path in (settings.figures / "records").iterdir()]
    assert records == [make.run_name(first)]


def test_settings_reach_every_configuration():
    settings = Settings(preset="tiny", dataset="digits", protocol="paper", device="meta")
    for method in ("darts", "da2s"):
        config = settings.search(method, 0)
        assert (config.protocol, config.device) == ("paper", "meta")
    assert settings.retraining("DARTS_V2", 0).device == "meta"
    with pytest.raises(LabError, match="device = 'gpu'"):
        read_settings({"preset": "tiny", "dataset": "digits", "device": "gpu"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("runs", 3), ("figures", ""), ("seeds", "[0, 0]"), ("seeds", []), ("workers", -1), ("publish", "yes")],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(LabError, match=f"{name} = {re.escape(repr(value))}: must be "):
        parse_settings({name: value})
