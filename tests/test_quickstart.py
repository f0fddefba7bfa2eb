"""What the quickstart says at its end follows from its numbers, whichever way they point."""

import pytest

from daas_lab.runs.provenance import provenance
from daas_lab.studies import quickstart


def document(darts, da2s, errors, seeds=(0,)):
    """A quickstart whose cut costs so much, and whose cells have these test errors."""
    std = None if len(seeds) == 1 else 0.5
    rows = []
    for method, drop in (("darts", darts), ("da2s", da2s)):
        for edge_weight, more in (("one", 0.0 if method == "darts" else 50.0), ("learned", 0.0)):
            for batch_norm, less in (("as-trained", 0.0), ("recalibrated", 9.0)):
                cost = drop + more - less
                row = {"method": method, "budget": "8/14", "edge_weight": edge_weight, "batch_norm": batch_norm}
                row |= {"seeds": list(seeds), "before_mean": 97.0, "after_mean": 97.0 - cost, "drop_mean": cost}
                rows.append(row | dict.fromkeys(("before_std", "after_std", "drop_std"), std))
    rows += [
        {"method": method, "budget": "8/14", "seeds": list(seeds), "test_error_mean": error, "test_error_std": std}
        for method, error in zip(("darts", "da2s"), errors, strict=True)
    ]
    return {"provenance": provenance("digits", "quick", "papermill …", 100.0), "rows": rows}


def test_the_summary_has_table_meaning_pictures_and_what_to_open_next():
    text = quickstart.summary(document(84.0, 0.5, (0.25, 1.01)), "runs/figures/quick")
    lines = [line.split() for line in text.splitlines()]
    assert ["DARTS", "97.00", "13.00", "0.25"] in lines and ["DA²S", "97.00", "96.50", "1.01"] in lines
    assert "Chance is 10 %." in text and "8/14" in text and "digits" in text and "AVX" in text
    assert "runs/figures/quick/00_quickstart_" in text and "make lab" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((84.0, 0.0, (0.25, 1.01)), ["DARTS 84.0 points and DA²S 0.0: DA²S, which", "avoids 100%", "DARTS errs less"]),
        ((80.0, 20.0, (1.0, 0.5)), ["avoids 75%", "the cell of DA²S errs less, by 0.50 points; one seed"]),
        ((50.0, -1.0, (0.5, 0.5)), ["avoids 100%", "err equally often"]),
        ((40.0, 60.0, (0.5, 0.5)), ["does not close the gap"]),
        ((40.0, 40.0, (0.5, 0.5)), ["does not close the gap"]),
        ((-0.5, 0.0, (0.5, 0.5)), ["no gap to close"]),
    ],
)
def test_the_meaning_follows_from_the_numbers(measured, words):
    text = " ".join(quickstart.summary(document(*measured), "there").split())
    assert all(word in text for word in words), text


def test_several_seeds_are_said():
    text = " ".join(quickstart.summary(document(84.0, 0.5, (0.25, 1.01), (0, 1)), "there").split())
    assert "97.00 ± 0.50" in text and "seeds 0, 1" in text and "in the mean of 2 seeds" in text
