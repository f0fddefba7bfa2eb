import json

import pytest

from daas_lab.errors import LabError
from daas_lab.methods import schedules
from tests.reference import DATA

REFERENCE = json.loads((DATA / "schedules.json").read_text())


@pytest.mark.parametrize("start", ["from_start", "delayed"])
@pytest.mark.parametrize("function", schedules.FUNCTIONS)
def test_figure_5_values(function, start):
    text = function if start == "from_start" else f"{function}:delayed"
    ours = [schedules.coefficient(text, epoch, 50) for epoch in REFERENCE["epochs"]]
    assert ours == pytest.approx(REFERENCE[start][function], abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 20, 100])
@pytest.mark.parametrize("text", [f + d for f in schedules.FUNCTIONS for d in ("", ":delayed")])
def test_every_schedule_grows_to_one(text, epochs):
    values = [schedules.coefficient(text, epoch, epochs, authors_log=False) for epoch in range(1, epochs + 1)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1)
    delay = schedules.delay_epochs(epochs) if text.endswith("delayed") and epochs > 1 else 0
    assert all(value == 0 for value in values[:delay])


def test_zero_is_zero_even_in_a_single_epoch():
    assert [schedules.coefficient("zero", epoch, epochs) for epochs in (1, 50) for epoch in (1, epochs)] == 4 * [0]


def test_the_authors_delayed_logarithm_ends_above_one():
    assert schedules.coefficient("log:delayed", 50, 50) == pytest.approx(1.0063, abs=1e-4)


def test_exp_doubles_every_tenth_of_the_search():
    assert schedules.coefficient("exp", 18, 20) == pytest.approx(schedules.coefficient("exp", 20, 20) / 2)


@pytest.mark.parametrize("text", ["cubic", "linear:late", "log:soon", "", "zero:delayed"])
def test_bad_schedules_are_refused_by_field_name(text):
    with pytest.raises(LabError, match="lambda_1"):
        schedules.parse(text, "lambda_1")
