"""Detached searches: real processes that are started, found by their folder, stopped, resumed and refused."""

import os

import pytest

from daas_lab.cli import main
from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.lab import live
from daas_lab.runs.folder import read_config, read_run
from daas_lab.runs.lock import writer
from tests.made_runs import write_search
from tests.waiting import wait_until


@pytest.mark.slow
def test_a_search_is_started_stopped_and_resumed(tmp_path):
    folder, config = tmp_path / "live", search_config("tiny", "digits", "da2s", epochs=400, threads=1)
    assert live.status(folder).state == "absent"
    live.start(config, folder)
    assert live.status(folder).state in ("starting", "running")
    with pytest.raises(LabError, match=r"(starting|running).*process \d+"):
        live.start(config, folder)
    wait_until(lambda: live.status(folder).epochs >= 1)
    now = live.status(folder)
    assert now.state == "running" and now.pid == writer(folder)["pid"]
    assert os.getsid(now.pid) == now.pid  # a session of its own, which outlives the kernel
    assert config_hash(read_config(folder)) == config_hash(config)
    # A kernel that was restarted knows nothing but the folder.
    handle = live._started.pop(folder)
    assert live.current(tmp_path) == "live" and live.status(folder).pid == now.pid
    live.stop(folder)
    handle.wait()
    stopped = live.status(folder)
    assert stopped.state == "stopped" and stopped.pid is None and 1 <= stopped.epochs < 400
    with pytest.raises(LabError, match="nothing to stop, stopped, epoch"):
        live.stop(folder)
    live.start(read_config(folder), folder)
    wait_until(lambda: live.status(folder).epochs > stopped.epochs)
    live.stop(folder)
    epochs = [record["epoch"] for record in read_run(folder).history]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 7, "seed": 3},
        {"epochs": 7, "arch_learning_rate": search_config("tiny", "digits").arch_learning_rate, "side": 12},
        {"budget": "1,2,1,2", "protocol": "paper", "lambda_1": "step", "threads": 1},
    ],
)
def test_the_command_line_makes_the_same_search(changes, monkeypatch, tmp_path):
    config = search_config("tiny", "digits", **changes)
    made = []
    monkeypatch.setattr("daas_lab.commands.search", lambda config, out, data: made.append((config, out)))
    assert main(live.search_command(config, tmp_path / "x")[3:]) == 0
    assert made == [(config, str(tmp_path / "x"))]


@pytest.mark.slow
def test_a_search_that_fails_says_why(tmp_path):
    folder, config = tmp_path / "live", search_config("tiny", "digits", device="nowhere")
    live.start(config, folder)
    wait_until(lambda: live.status(folder).state != "starting")
    failed = live.status(folder)
    assert failed.state == "failed" and "device = 'nowhere': must be a device of this machine" in failed.message


def test_a_search_that_went_on_elsewhere_has_not_failed(tmp_path):
    folder = write_search(tmp_path / "live", preset="tiny", dataset="digits", finish=False)
    log, history = folder / live.LOG, folder / "history.jsonl"
    log.write_text("daas-lab: no disk\n")
    os.utime(history, (1000, 1000))
    assert live.status(folder).state == "failed"
    os.utime(log, (999, 999))
    assert live.status(folder).state == "stopped"


def test_what_cannot_be_started_is_refused_at_once(tmp_path):
    config = search_config("tiny", "digits")
    write_search(tmp_path / "done", preset="tiny", dataset="digits")
    with pytest.raises(LabError, match="done: finished, epoch 3 of 3"):
        live.start(config, tmp_path / "done")
    write_search(tmp_path / "other", preset="tiny", dataset="digits", seed=1, finish=False)
    with pytest.raises(LabError, match="other holds another configuration"):
        live.start(config, tmp_path / "other")
    with pytest.raises(LabError, match="cifar10"):
        live.start(search_config("tiny", "cifar10"), tmp_path / "new", tmp_path / "no data")
    assert not (tmp_path / "new").exists()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    assert live.known(tmp_path) == ["done", "other"]
    assert live.current(tmp_path) == "other"
    assert live.current(tmp_path / "nothing here") is None
