"""A run's folder: what is written stays whole, whatever happens to the process, the file or the disk."""

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from daas_lab.compose import retrain_config, search_config
from daas_lab.errors import LabError, NewerVersion
from daas_lab.runs import folder as folder_module
from daas_lab.runs.epoch_log import LOGS, read_entries
from daas_lab.runs.files import write_atomically, write_keeping
from daas_lab.runs.folder import (
    is_finished,
    is_whole,
    keep_measured,
    read_checkpoint,
    read_finished,
    read_run,
)
from daas_lab.runs.lock import writer
from daas_lab.runs.provenance import origin_text
from daas_lab.space.text_forms import PUBLISHED
from daas_lab.train.search import search
from daas_lab.train.writer import RunWriter, open_run


def saved_run(folder, epochs=3):
    """A run of which `epochs` epochs were saved, each with a state that names it."""
    with open_run(folder, search_config("tiny", "digits")) as run:
        run.snapshot = {"alphas_normal": torch.zeros(14, 7)}
        run.begin()
        for epoch in range(1, epochs + 1):
            run.snapshot = {"alphas_normal": torch.full((14, 7), float(epoch))}
            run.save_epoch(
                {"epoch": epoch, "train_loss": 1 / epoch}, {"weights": torch.full((300,), float(epoch))}, 0.5
            )
    return folder


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = b""
    else:
        content[int(how * len(content))] ^= 1
    path.write_bytes(content)


def test_a_run_holds_its_history_snapshots_and_the_last_two_states(tmp_path):
    folder = saved_run(tmp_path / "run")
    run = read_run(folder)
    assert [record["epoch"] for record in run.history] == [1, 2, 3] and run.seconds == 1.5
    assert run.alphas["normal"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert (read_checkpoint(folder)[0]["weights"] == 3).all()
    assert not is_finished(folder) and not run.finished
    with open_run(folder, search_config("tiny", "digits")) as again:
        assert (again.resume()["weights"] == 3).all() and again.epoch == again.record["epoch"] == 3
        again.finish({"genotype.json": "null"})
    assert is_finished(folder)


@pytest.mark.parametrize("how", ["cut", "emptied", 0.0, 0.3, 0.7, 0.9999])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_the_log_says_so(tmp_path, capfd, how):
    folder = saved_run(tmp_path / "run")
    damage(folder / "checkpoint.pt", how)
    run = RunWriter(folder)
    assert (run.resume()["weights"] == 2).all() and run.epoch == 2
    messages = capfd.readouterr().err
    assert "checkpoint.pt is damaged" in messages and "checkpoint.previous.pt" in messages
    assert [record["epoch"] for record in read_run(folder).history] == [1, 2]
    # The next checkpoint keeps the whole one, and does not keep the damaged one in its place.
    run.save_epoch({"epoch": 3}, {"weights": torch.full((300,), 33.0)}, 0.5)
    assert read_run(folder).seconds == 1.5  # an epoch that was made twice took its time once
    damage(folder / "checkpoint.pt", 0.5)
    assert (RunWriter(folder).resume()["weights"] == 2).all()
    # Weights and epoch are of the same checkpoint.
    state, epoch = read_checkpoint(folder)
    assert (state["weights"] == 2).all() and epoch == 2
    assert read_run(folder).seconds == 1.0


def test_without_a_whole_checkpoint_the_run_begins_again_and_says_so(tmp_path, capfd):
    folder = saved_run(tmp_path / "run")
    for name in folder_module.CHECKPOINTS:
        damage(folder / name, "cut")
    assert RunWriter(folder).resume() is None
    assert "begins again" in capfd.readouterr().err
    with pytest.raises(LabError, match=r"must hold a checkpoint, and .* is missing or damaged"):
        read_checkpoint(folder)


def test_what_was_measured_of_a_network_that_is_lost_is_not_said_of_the_one_that_is_trained_again(tmp_path):
    folder = finished_run(tmp_path / "run")
    folder_module.keep_measured(folder, "gap.json", "[]\n")
    (folder / folder_module.stop_name(1)).write_bytes(b"weights")
    for name in folder_module.CHECKPOINTS:
        damage(folder / name, "cut")
    with open_run(folder, search_config("tiny", "digits")) as run:
        assert run.resume() is None
        run.snapshot = {name: torch.zeros(2) for name in ("alphas_normal", "betas_normal")}
        run.begin()
    assert not is_finished(folder)
    assert not any((folder / name).exists() for name in ("gap.json", folder_module.stop_name(1), "genotype.json"))


@pytest.mark.parametrize("name", ["genotype.json", "gap.json"])
def test_a_new_run_replaces_no_file_of_a_folder_that_is_no_run_s(tmp_path, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / ".draft.tmp").write_text("mine")
    said = pytest.raises(LabError, match=rf"holds .*{name} and no run: .* choose another --out")
    with said, open_run(tmp_path, search_config("tiny", "digits")):
        pass
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "config.json").exists()
    (tmp_path / name).unlink()
    with open_run(tmp_path, search_config("tiny", "digits")):
        pass
    assert (tmp_path / ".draft.tmp").read_text() == "mine"


def finished_run(folder):
    """`saved_run`, ended; what its trainer would write last is made up."""
    saved_run(folder)
    with open_run(folder, search_config("tiny", "digits")) as run:
        run.resume()
        run.finish({"genotype.json": json.dumps(PUBLISHED["DARTS_V2"].to_json())})
    return folder


@pytest.mark.parametrize("name", ["architecture.safetensors", "history.jsonl", "genotype.json", "config.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"format": 2}\n{'])
def test_a_damaged_file_of_a_finished_run_is_named(tmp_path, capfd, name, content):
    folder = finished_run(tmp_path / "run")
    assert is_whole(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(LabError, match=f"damaged file .*{name}"):
        read_run(folder)
    assert not is_whole(folder) and name in capfd.readouterr().err


def test_what_no_result_depends_on_may_be_damaged(tmp_path):
    folder = finished_run(tmp_path / "run")
    (folder / "timing.jsonl").write_text('{"epoch": 1, "sec')
    (folder / "gap.json").write_text("[{")
    run = read_run(folder)
    assert run.seconds == 0 and run.gap == [] and is_whole(folder)


def test_a_run_says_which_machines_made_its_epochs(tmp_path, monkeypatch):
    def at(name):
        for module in ("runs.provenance", "train.writer"):
            monkeypatch.setattr(f"daas_lab.{module}.machine", lambda: {"processor": name})

    def origin():
        return origin_text(read_run(tmp_path / "run").origin).split(", torch")[0], "resumed" in read_run(
            tmp_path / "run"
        ).origin

    at("A")
    with open_run(tmp_path / "run", search_config("tiny", "digits")):
        pass  # stopped before its first epoch
    at("B")
    with open_run(tmp_path / "run", search_config("tiny", "digits")) as run:
        assert run.resume() is None
    assert origin() == ("B", False)
    saved_run(tmp_path / "run", epochs=2)
    at("C")
    with open_run(tmp_path / "run", search_config("tiny", "digits")) as run:
        run.resume()
    assert origin() == ("B", True)
    assert "from epoch 3 on C" in origin_text(read_run(tmp_path / "run").origin)
    saved_run(tmp_path / "run")
    at("D")  # where nothing but its end is missing
    with open_run(tmp_path / "run", search_config("tiny", "digits")) as run:
        run.resume()
    assert "D" not in origin_text(read_run(tmp_path / "run").origin)


def test_what_was_measured_outlives_a_death_while_more_is_kept(tmp_path, monkeypatch):
    folder, rows = finished_run(tmp_path / "run"), [{"budget": "8/14"}, {"budget": "4/14"}]
    keep_measured(folder, "gap.json", json.dumps(rows[:1]))
    assert read_run(folder).gap == rows[:1]

    def fails_at(name):
        def write(path, content):
            if path.name == name:
                raise LabError("the disk is full")
            write_atomically(path, content)

        monkeypatch.setattr("daas_lab.runs.folder.write_atomically", write)

    for name in ("gap.json", "DONE"):
        fails_at(name)
        with pytest.raises(LabError, match="full"):
            keep_measured(folder, "gap.json", json.dumps(rows))
        assert read_run(folder).gap == rows[:1]
    fails_at("none")
    keep_measured(folder, "gap.json", json.dumps(rows))
    assert read_run(folder).gap == rows and is_whole(folder)
    (folder / "gap.json").write_text("[]")
    assert read_run(folder).gap == []  # damaged, and the next measurement does not pass it for what was measured
    fails_at("gap.json")
    with pytest.raises(LabError, match="full"):
        keep_measured(folder, "gap.json", json.dumps(rows))
    (folder / "gap.json").write_text(json.dumps(rows[1:]))
    assert read_run(folder).gap == []


def test_a_new_checkpoint_leaves_no_moment_without_one(tmp_path, monkeypatch):
    current, previous = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt"
    for content in (b"1", b"2"):
        write_keeping(current, content, previous)
    seen, replace = [], os.replace

    def killed(source, target):
        if Path(target) == current:
            seen.append((current.read_bytes(), previous.read_bytes()))
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    write_keeping(current, b"3", previous)
    assert seen == [(b"2", b"2")] and (current.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    monkeypatch.setattr("os.replace", replace)
    previous.unlink()
    os.link(current, previous)  # as a kill in that moment leaves them
    write_keeping(current, b"3", previous)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    monkeypatch.setattr("os.link", lambda *paths: (tmp_path / "none").stat())  # no hard links there
    write_keeping(current, b"4", previous)
    assert (current.read_bytes(), previous.read_bytes()) == (b"4", b"3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_the_weights_of_an_earlier_epoch_do_not_pass_for_those_of_a_finished_run(tmp_path):
    folder = finished_run(tmp_path / "run")
    assert read_checkpoint(folder)[1] == 3
    damage(folder / "checkpoint.pt", "cut")
    with pytest.raises(LabError, match=r"damaged file .*checkpoint.pt: .* only the weights of epoch 2"):
        read_checkpoint(folder)


def test_a_folder_in_which_nothing_was_computed_takes_another_configuration(tmp_path):
    with open_run(tmp_path, search_config("tiny", "digits", learning_rate=99)):
        pass
    with open_run(tmp_path, search_config("tiny", "digits")):
        assert folder_module.read_config(tmp_path).learning_rate == 0.025


@pytest.mark.parametrize(("limit", "file"), [(1000, "epochs.log"), (5000, "checkpoint.pt")])
def test_a_full_disk_is_a_clear_error_and_both_checkpoints_stay(tmp_path, limit, file):
    """The system refuses to write more than the limit to any file, as it does on a full disk."""
    folder = saved_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run = RunWriter(folder)
    run.resume()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(LabError) as error:
            run.save_epoch({"epoch": 4}, {"weights": torch.zeros(100_000)}, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(folder / file) in str(error.value) and "File too large" in str(error.value)
    assert not list(folder.glob(".*.tmp")), "nothing half-written is left"
    run = RunWriter(folder)
    assert (run.resume()["weights"] == 3).all() and run.epoch == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_last_line_that_is_half_written_is_dropped(tmp_path):
    """As a kill in the middle of a line leaves the files to which one is added."""
    folder = saved_run(tmp_path / "run")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("epochs.log", "epochs.copy.log", "history.jsonl", "timing.jsonl"):
        (folder / name).write_bytes(whole[name] + whole[name].splitlines()[-1][:-9])
    assert len(read_run(folder).history) == 3 and read_run(folder).seconds == 1.5
    assert (RunWriter(folder).resume()["weights"] == 3).all()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_an_epoch_costs_the_same_however_many_came_before(tmp_path):
    """Counted in bytes that the system is asked to write."""
    folder = saved_run(tmp_path / "run", epochs=1)
    run = RunWriter(folder)
    run.resume()

    def written(epoch):
        before = Path("/proc/self/io").read_text()
        run.save_epoch({"epoch": epoch, "train_loss": 0.5}, {"weights": torch.zeros(300)}, 0.5)
        asked = (line.split() for text in (before, Path("/proc/self/io").read_text()) for line in text.splitlines())
        return -int.__sub__(*(int(value) for name, value in asked if name == "wchar:"))

    cost = [written(epoch) for epoch in range(2, 60)]
    assert max(cost) < 1.02 * cost[0]
    assert len(read_run(folder).history) == 59


def test_a_run_that_an_older_version_began_goes_on(tmp_path):
    """Its checkpoint held history, α and β itself, and there was no log."""
    folder = saved_run(tmp_path / "run")
    saved = folder_module.load_checkpoint(folder)
    entries = read_entries(folder)
    old = {"state": saved["state"], "history": [entry.record for entry in entries[1:]]}
    buffer = io.BytesIO()
    torch.save(old | {"snapshots": [entry.snapshot for entry in entries]}, buffer)
    content = buffer.getvalue()
    (folder / "checkpoint.pt").write_bytes(content + hashlib.sha256(content).digest())
    logs = {name: (folder / name).read_bytes() for name in LOGS}
    for name in LOGS:
        (folder / name).unlink()
    assert read_checkpoint(folder)[1] == 3
    run = RunWriter(folder)
    assert (run.resume()["weights"] == 3).all() and run.epoch == 3
    assert {name: (folder / name).read_bytes() for name in LOGS} == logs
    (folder / "DONE").touch()  # and what it had finished is read
    assert [record["epoch"] for record in read_run(folder).history] == [1, 2, 3]


def test_a_process_killed_while_it_writes_leaves_the_old_or_the_new(tmp_path):
    """A child writes two contents in turn as fast as it can; after each kill the file is one of them, whole."""
    path = tmp_path / "file"
    program = (
        "import sys, pathlib\n"
        "from daas_lab.runs.files import write_atomically\n"
        "while True:\n"
        "    for letter in 'ab':\n"
        "        write_atomically(pathlib.Path(sys.argv[1]), letter * 2_000_000)\n"
    )
    write_atomically(path, "a" * 2_000_000)
    child = subprocess.Popen([sys.executable, "-c", program, str(path)])
    first = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == first:
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.037)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert path.read_text() in ("a" * 2_000_000, "b" * 2_000_000)


def opened(folder, config):
    with open_run(folder, config):
        pass


def test_a_folder_of_another_run_is_refused_field_by_field(tmp_path):
    folder = saved_run(tmp_path / "run")
    with pytest.raises(LabError) as error:
        opened(folder, search_config("tiny", "digits", seed=1, epochs=5))
    assert "seed = 0 there, 1 here" in str(error.value) and "epochs = 3 there, 5 here" in str(error.value)
    with pytest.raises(LabError, match="holds another kind of run: SearchConfig"):
        opened(folder, retrain_config("NASNet", "tiny", "digits"))


def test_one_process_writes_and_the_lock_names_it(tmp_path):
    config = search_config("tiny", "digits")
    with open_run(tmp_path, config):
        assert writer(tmp_path)["pid"] == os.getpid()
        with pytest.raises(LabError, match=rf"being written by another process.*{os.getpid()}"):
            opened(tmp_path, config)
    assert writer(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", '{"kind": "search"}', '{"kind": "other", "config": {}}'])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LabError) as error:
        read_run(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_a_configuration_is_complete_and_names_versions_and_machine(tmp_path):
    saved_run(tmp_path / "run")
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert torch.__version__.startswith(header["versions"]["torch"]) and header["machine"]
    assert folder_module.read_config(tmp_path / "run") == search_config("tiny", "digits")


def test_a_finished_run_of_a_newer_version_is_neither_damaged_nor_written_again(tmp_path, capsys):
    config = search_config("tiny", "digits", "random", threads=1)
    search(config, tmp_path, progress=False)
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    document["config"]["new_field"] = 0
    path.write_text(json.dumps(document))

    def content():  # whoever looks takes the lock, and leaves the time in it
        return {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "lock"}

    before = content()
    for read in (read_finished, lambda folder: search(config, folder, progress=False)):
        with pytest.raises(NewerVersion, match=r"config\.json: made by a newer version .* knows no field 'new_field'"):
            read(tmp_path)
    assert content() == before
    assert "damaged" not in (said := capsys.readouterr().err) and "written again" not in said
