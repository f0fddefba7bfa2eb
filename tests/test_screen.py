"""The screen of constants: which searches it is made of, and what its rows and pictures say."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from daas_lab.compose import values_of
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.report import plots_evolution, plots_field
from daas_lab.report.tables import summarise
from daas_lab.runs.folder import read_run
from daas_lab.studies import make, screen
from daas_lab.studies.settings import Settings
from tests.made_runs import write_search


def settings(root, **changes):
    given = {"preset": "tiny", "dataset": "digits", "seeds": (0, 1), "workers": 2}
    return Settings(**given | {"runs": root / "runs", "figures": root / "figures"} | changes)


def test_every_search_differs_from_its_side_in_one_constant_which_is_the_other_sides(tmp_path):
    found = screen.searches(settings(tmp_path, preset="mini", dataset="fashion_mnist"), ("8/14", "5/14"))
    assert len(found) == 2 * 2 * 2 * (1 + len(screen.CONSTANTS)) and len(screen.CONSTANTS) == 8
    titles = {title: name for name, title in screen.CONSTANTS.items()}
    for config, named in found.items():
        base, other = (
            next(c for c, row in found.items() if (row["side"], row["changed"], c.seed, c.budget)
                 == (side, screen.NOTHING, config.seed, config.budget))
            for side in (named["side"], *(PROTOCOLS.keys() - {named["side"]}))
        )  # fmt: skip
        mine, of_base, of_other = map(values_of, (config, base, other))
        differing = [name for name in mine if mine[name] != of_base[name]]
        if named["changed"] == screen.NOTHING:
            assert not differing and config.partial_channels == 1
        else:
            assert differing == [titles[named["changed"]]]
            assert mine[differing[0]] == of_other[differing[0]] == named["value"]


@pytest.mark.slow
def test_rows_and_series_are_those_of_the_runs(tmp_path):
    own = settings(tmp_path, seeds=(0,), epochs=2)
    named = {
        c: row for c, row in screen.searches(own, ("5/14",)).items() if row["changed"] in ("nothing", "steeper softmax")
    }
    made = dict(zip(named, make.make_runs(list(named), own), strict=True))
    rows = screen.screen_rows(made, named, own)
    assert {(row["side"], row["changed"]) for row in rows} == {
        (side, changed) for side in PROTOCOLS for changed in ("nothing", "steeper softmax")
    }
    for row, run in zip(rows, made.values(), strict=True):
        assert row["before"] == run.history[-1]["held_out_accuracy"]
        for name in ("one", "learned"):
            [lost] = [
                cut["drop"]
                for cut in make.drops([run], ["5/14"], own)
                if (cut["edge_weight"], cut["batch_norm"]) == (name, "as-trained")
            ]
            assert row[f"drop_{name}"] == lost
    series = screen.collapse_series({"all": list(made.values())})["all"]
    assert len(series["parameter_free"]) == 3 and len(series["share"]) == 2


def test_an_epoch_counts_by_how_far_alpha_moves_in_it(tmp_path):
    run = read_run(write_search(tmp_path / "run", "da2s", epochs=4))
    steps = np.array([3.0, 2.0, 1.0, 0.01])  # of one α; of an epoch in which nothing is recorded too
    alphas = {name: np.zeros((5, 14, 7)) for name in ("normal", "reduce")}
    alphas["reduce"][1:, 4, 2] = np.cumsum(steps)
    history = [{}, {"regulariser_share": 0.5}, {"regulariser_share": -1.0}, {"regulariser_share": 90.0}]
    found = screen.entropy_shares(replace(run, alphas=alphas, history=history))
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([50, 100 * (0.5 * 4 - 1) / 5, 100 * (0.5 * 4 - 1 + 90 * 1e-4) / 5.0001])
    assert np.isnan(screen.entropy_shares(replace(run, history=[{}] * 4))).all()


def runs(side, changed, values):
    return [
        {"side": side, "changed": changed, "budget": "8/14", "seed": seed, "error": value, "drop_one": 10 - value}
        for seed, value in enumerate(values)
    ]


ROWS = [
    *runs("paper", "nothing", (5.0, 5.2, 5.1)), *runs("paper", "noise", (4.0, 4.1, 4.15)),
    *runs("authors", "nothing", (3.0, 3.1, 3.3)), *runs("authors", "noise", (3.0, 3.2, 3.1)),
]  # fmt: skip


def test_changes_are_compared_with_their_own_side():
    words = screen.sentences(ROWS, "error", "test error")
    assert words.count("\n- ") + words.startswith("- ") == 2
    assert "noise changed, paper is 1.02 points lower than that of nothing changed, paper" in words
    assert "2 comparisons" in words


def test_a_side_that_has_but_one_of_the_budgets_says_so():
    more = [row | {"budget": "5/14"} for row in ROWS if row["side"] == "authors"]
    words = screen.sentences([*ROWS, *more], "error", "test error")
    assert "The test error (8/14) of noise changed, paper" in words
    assert "The test error of noise changed, authors" in words


def test_a_point_for_every_change_and_side_in_every_panel():
    means = summarise(ROWS, ("side", "changed", "budget"), ("error", "drop_one"))
    figure = plots_field.changes(means, {"error": "error (%)", "drop_one": "points lost"}, base="nothing")
    assert [len(ax.containers) for ax in figure.axes] == [4, 4]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["nothing", "noise"]
    # A side without the search in which nothing is changed has no line.
    figure = plots_field.changes(means[1:], {"error": "error (%)", "drop_one": "lost"}, base="nothing")
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"] == [
        means[2]["error_mean"]
    ]
    series = {"x": {"parameter_free": np.ones(4), "share": np.full(3, np.nan)}}
    assert len(plots_evolution.collapse(series).axes) == 2


def test_the_map_leaves_out_who_has_no_error_yet():
    rows = [{"method": "darts", "drop_mean": 70.0, "error_mean": 12.0}, {"method": "da2s", "drop_mean": 0.0}]
    assert plots_field.gap_map(rows).axes[0].get_legend_handles_labels()[1] == ["darts"]


def test_the_bars_of_a_drop_are_its_parts():
    rows = [
        {"method": method, "budget": budget, "drop_mean": drop, "selection_part_mean": selection,
         "computation_part_mean": drop - selection}
        for budget in ("8/14", "4/14")
        for method, drop, selection in (("darts", 80.0, 70.0), ("da2s", 2.0, -1.0))
    ]  # fmt: skip
    figure = plots_field.gap_parts([*rows, {"method": "random", "budget": "8/14"}])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["da2s", "darts"]
    for ax in figure.axes:
        selection, computation = ax.containers
        assert [bar.get_width() for bar in selection] == [70.0, -1.0]
        # On from the selection part, or from 0 where the two parts have different signs.
        assert [(bar.get_x(), bar.get_width()) for bar in computation] == [(70.0, 10.0), (0.0, 3.0)]
        assert list(ax.lines[0].get_xdata()) == [80.0, 2.0]


@pytest.mark.parametrize("budgets", [("8/14",), ("8/14", "4/14")])
def test_the_legend_of_the_parts_fits_below_them(budgets):
    parts = {"drop_mean": 80.0, "selection_part_mean": 70.0, "computation_part_mean": 10.0}
    figure = plots_field.gap_parts([{"method": "darts", "budget": budget} | parts for budget in budgets])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
