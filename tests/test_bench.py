"""The benchmark's figures and table."""

import json

import pytest

from daas_lab import cli
from daas_lab.errors import LabError
from daas_lab.studies import bench


@pytest.mark.slow
def test_tiny_has_every_figure(capsys):
    assert cli.main(["bench", "--sizes", "tiny", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"sizes", "machine"} and set(result["sizes"]) == {"tiny"}
    tiny = result["sizes"]["tiny"]
    assert set(tiny) == {*bench.FORMS, "convolutions_s", "batches_s", "gap_s", "derived"}
    assert min(tiny["batches_s"], tiny["gap_s"], tiny["convolutions_s"]) > 0
    assert set(tiny["derived"]) == {"textbook_s", "fast_s"} and min(tiny["derived"].values()) > 0
    # The whole step, as it is counted: the fast form must not drift back to an operation for every edge.
    assert tiny["fast"]["dispatched_ops"] < 0.75 * tiny["textbook"]["dispatched_ops"]
    keys = {"step_s", "forward_s", "architecture_s", "weights_s", "peak_bytes", "dispatched_ops"}
    for form in bench.FORMS:
        assert set(tiny[form]) == keys
        assert all(value > 0 for value in tiny[form].values())
        assert tiny[form]["forward_s"] < tiny[form]["architecture_s"] < tiny[form]["step_s"]
    table = bench.format_table(result)
    assert "step / floor" in table
    assert all(form in table for form in bench.FORMS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sizes", "tiny", "huge"], ["size", "huge", "half"]),
        (["--device", "abacus"], ["device", "abacus"]),
        (["--repeats", "0"], ["repeats", "0", "at least 1"]),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(capsys, arguments, words):
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


@pytest.mark.parametrize(
    ("line", "words"), [("kill -9 $$", "killed by signal 9"), ("echo no room >&2; exit 1", "no room")]
)
def test_a_process_that_dies_while_its_memory_is_measured_is_said_in_a_line(line, words, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setattr(bench.sys, "executable", str(program))
    with pytest.raises(LabError, match=f"^size = 'tiny': the memory of its fast form cannot be measured: {words}"):
        bench.peak_bytes("tiny", "fast", "cpu")


def test_the_table_of_what_took_no_time_has_no_ratios():
    keys = ("step_s", "forward_s", "architecture_s", "weights_s", "peak_bytes", "dispatched_ops")
    figures = {form: dict.fromkeys(keys, 0) for form in bench.FORMS} | {"derived": {"textbook_s": 0, "fast_s": 0}}
    figures |= dict.fromkeys(("convolutions_s", "batches_s", "gap_s"), 0)
    table = bench.format_table({"sizes": {"tiny": figures}, "machine": {"cpu": "any"}})
    assert table.count("–") == 4 * len(bench.FORMS) + 1
