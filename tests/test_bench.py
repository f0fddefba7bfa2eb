"""The benchmark's figures and table."""

import json

from daas_lab import bench


def test_tiny_has_every_figure():
    result = bench.run(["tiny"], repeats=1)
    json.dumps(result)
    tiny = result["sizes"]["tiny"]
    assert set(tiny) == {*bench.FORMS, "convolutions_s"}
    keys = {"step_s", "forward_s", "architecture_s", "weights_s", "peak_bytes", "dispatched_ops"}
    for form in bench.FORMS:
        assert set(tiny[form]) == keys
        assert all(value > 0 for value in tiny[form].values())
        assert tiny[form]["forward_s"] < tiny[form]["architecture_s"] < tiny[form]["step_s"]
    table = bench.format_table(result)
    assert "step / floor" in table
    assert all(form in table for form in bench.FORMS)
