"""A run as TensorBoard events, read back by TensorBoard's own reader."""

import sys

import pytest

from daas_lab import cli
from daas_lab.compose import search_config
from daas_lab.runs.folder import read_run
from daas_lab.studies.events import follow
from daas_lab.train.search import search

SIZES = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16, "steps": 1, "threads": 1}


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0})
    return events.Reload()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_hold_what_the_run_has_recorded_also_after_a_resume(tmp_path):
    config = search_config("tiny", "digits", "da2s_exact", epochs=3, **SIZES)

    class Stopped(Exception):
        pass

    def stop_after_two_epochs():
        add()
        if len(read_run(tmp_path).history) == 2:
            raise Stopped

    add = follow(tmp_path)
    with pytest.raises(Stopped):
        search(config, tmp_path, progress=False, on_epoch=stop_after_two_epochs)
    search(config, tmp_path, progress=False, on_epoch=follow(tmp_path))
    events, history = read_events(tmp_path), read_run(tmp_path).history
    for name in ("train_loss", "held_out_accuracy", "operation_entropy", "lambda_c"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(record["epoch"], pytest.approx(record[name], rel=1e-6)) for record in history]
    tags = events.Tags()["images"]
    assert sorted(tags) == [
        "cells",
        *(f"{kind}_weights/{name}" for kind in ("edge", "operation") for name in ("normal", "reduce")),
    ]
    picture = events.Images("cells")[-1]
    assert picture.step == 3 and picture.width > 200 and picture.encoded_image_string.startswith(b"\x89PNG")


def test_without_tensorboard_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    command = ["search", "--preset", "tiny", "--dataset", "digits", "--tensorboard", "--out", str(tmp_path / "x")]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "pip install" in message and not (tmp_path / "x").exists()
