"""Checks of the paper's claims, on evolutions whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from daas_lab import paper
from daas_lab.config import search_config
from daas_lab.runs.folder import read_run
from daas_lab.studies import claims, paper_tables
from daas_lab.studies.make import Settings
from tests.made_runs import write_search


def test_differentiation_begins_where_the_largest_weights_leave_the_start():
    largest = np.array([1 / 7, 1 / 7, 0.2, 0.25, 0.6, 1.0])
    operations = np.repeat(((1 - largest) / 6)[:, None, None], 7, axis=2).repeat(14, axis=1)
    operations[:, :, 3] = largest[:, None]
    assert claims.differentiation_epoch(operations) == 3  # 1/7 + 0.1 · 6/7 = 0.229
    assert claims.differentiation_epoch(operations, share=0.5) == 4
    assert claims.differentiation_epoch(operations[:3]) is None


@pytest.mark.parametrize(("share", "words"), [(0.4, "about where"), (0.1, "earlier than"), (0.8, "later than")])
def test_the_sentence_on_differentiation_follows_the_rows(share, words):
    rows = [{"method": "da2s", "onset_share_mean": share, "onset_share_std": 0.02}]
    full, mini = (search_config(preset, "cifar10") for preset in ("full", "mini"))
    sentence = claims.differentiation_sentence(rows, full)
    assert words in sentence and f"{share:.0%}"[:-1] in sentence
    assert "rests for the first 8 of 50 epochs" in sentence and "times the paper's" not in sentence
    assert "rests for the first 3 of 20 epochs" in claims.differentiation_sentence(rows, mini)
    assert "167 times the paper's" in claims.differentiation_sentence(rows, mini)
    undecided = [{"method": "da2s", "onset_share_mean": None, "onset_share_std": None}]
    assert "no DA²S search" in claims.differentiation_sentence(undecided, full)


def test_selection_counts_nodes_whose_edges_settle_together():
    rows = [
        {"seed": 0, "kept": [0, 1], "selected": [3, 4], "apart": 1},
        {"seed": 0, "kept": [0, 2], "selected": [1, 10], "apart": 9},
        {"seed": 1, "kept": [1], "selected": [4], "apart": 0},
    ]
    said = claims.selection_sentence(rows, epochs=50)
    assert said.startswith("Of 2 nodes with several kept edges, 1 (50%) selected")
    # 3 and 4 against 1 and 10: distances 2, 7, 3, 6.
    assert said.endswith("in the same search, 1 (25%) were; their median distance is 4.5.")
    assert claims.selection_sentence(rows[2:], epochs=50) == "No node keeps more than one edge."


def test_an_edge_is_selected_when_the_budget_begins_to_keep_it_not_when_its_weight_settles(tmp_path):
    run = read_run(write_search(tmp_path, "da2s", nodes=4, budget="2,2", epochs=4))
    alphas = {name: np.zeros((5, 5, 7)) for name in ("normal", "reduce")}
    # Node 3's inputs: 0 is ahead from the start, 2 passes 1 in epoch 3, and both still move after that.
    node_3 = [[0.5, 0.4, 0.3], [0.6, 0.4, 0.3], [0.7, 0.4, 0.3], [0.9, 0.2, 0.4], [0.8, 0.1, 0.8]]
    betas = {name: np.array([[1.0, 1.0, *values] for values in node_3]) for name in alphas}
    rows = claims.selection_rows([replace(run, alphas=alphas, betas=betas)], "2,2")
    assert [(row["node"], row["kept"], row["selected"], row["apart"]) for row in rows] == 2 * [(3, [0, 2], [0, 3], 3)]


def test_ranking_says_whether_a_difference_exceeds_the_noise():
    def row(name, mean, std):
        return {"lambda_c": name, "error_mean": mean, "error_std": std}

    close = claims.ranking_sentence([row("linear", 2.6, 0.1), row("exp", 2.5, 0.1)], "lambda_c", "linear")
    assert (
        close.startswith("Lowest mean error: exp") and "not larger than the noise" in close and "number 2 of 2" in close
    )
    far = claims.ranking_sentence([row("linear", 2.5, 0.1), row("exp", 9.0, 0.1)], "lambda_c", "linear")
    assert "is larger than the noise" in far and "number 1 of 2" in far
    assert "single seed" in claims.ranking_sentence([row("log", 1, None), row("exp", 2, None)], "lambda_c", "linear")


def test_groups_of_settings_are_compared_over_all_their_runs():
    errors = {"log": (2.0, 3.0), "linear": (3.0, 4.0), "exp": (5.0, 5.0), "step": (5.0, 5.0), "const": (9.0, 9.0)}
    rows = [{"lambda_c": name, "error": error} for name, both in errors.items() for error in both]
    said = claims.speed_sentence(rows)
    assert "(log, linear) 3.00 %" in said and "(exp, step) 5.00 % (4 and 4 runs)" in said
    assert "the latter is 2.00 points higher, with a standard error of 0.41" in said  # sqrt(2/3 / 4)
    assert said.endswith("2.55 and 2.69 %.")  # means of Table 2's rows
    rows = [
        {"lambda_1": "const", "lambda_2": "exp:delayed", "error": 3.0},
        {"lambda_1": "log:delayed", "lambda_2": "const", "error": 2.0},
    ]
    said = claims.priority_sentence(rows)
    assert "operations first (λ_2 delayed) 3.00 %, edges first (λ_1 delayed) 2.00 % (1 and 1 runs). In" in said
    assert said.endswith("2.60 and 2.58 %.")  # of Table 3's


def test_the_ablation_says_what_each_loss_saves_of_the_drop():
    drops = {"DARTS": 70.0, "neither": 60.0, "operation loss": 15.0, "edge loss": 60.0, "both": -0.6}
    rows = [
        {"losses": losses, "drop_mean": drop, "drop_std": 1.0, "error_mean": 12.0 + drop / 100, "error_std": 0.2}
        for losses, drop in drops.items()
    ]
    said = claims.ablation_sentence(rows)
    assert "the cut costs DARTS 70.00 ± 1.00, neither 60.00 ± 1.00, operation loss 15.00" in said
    assert "they save: operation loss 75%, edge loss 0%, both 101%." in said
    assert said.endswith("both 11.99 ± 0.20 %, neither 12.60 ± 0.20 %; "
                         "the difference is larger than the noise between seeds.")  # fmt: skip
    harmless = [row | {"drop_mean": 0.0} for row in rows]
    assert "save" not in claims.ablation_sentence(harmless)


def test_order_names_where_ours_differs_from_the_papers():
    rows = [
        {"budget": budget, "method": method, "error_mean": error, "error_std": 0.1}
        for budget, errors in (("4/14", (3.0, 2.0)), ("5/14", (2.0, 2.1)))
        for method, error in zip(("darts", "da2s"), errors, strict=True)
    ]
    first, second = claims.order_sentence(rows).splitlines()
    assert first.startswith("- 4/14: da2s 2.00 ± 0.10 % < darts") and "da2s ahead of darts as in the paper;" in first
    assert second.startswith("- 5/14: darts") and "darts ahead of da2s, unlike in the paper;" in second
    assert "is larger than the noise" in first and "is not larger than the noise" in second
    exact = {"budget": "4/14", "method": "da2s_exact", "error_mean": 2.9, "error_std": 0.1}
    first, second = claims.order_sentence([*rows, exact]).splitlines()
    assert first.endswith("da2s_exact ahead of darts; the difference is not larger than the noise between seeds.")
    assert "da2s_exact" not in second


def test_searches_that_are_the_same_for_two_budgets_are_named(tmp_path):
    made = {budget: read_run(write_search(tmp_path / budget[0], "da2s", budget=budget)) for budget in ("4/14", "3/14")}
    one, other = made.values()
    same = [one, replace(other, alphas=one.alphas, betas=one.betas)]
    assert "da2s for 3/14 and 4/14 are one and the same (seeds 0:" in claims.same_search_sentence(same)
    moved = {name: betas + 1e-3 for name, betas in one.betas.items()}
    assert claims.same_search_sentence([one, replace(other, alphas=one.alphas, betas=moved)]) == ""


def test_consequences_of_the_formulas():
    minima = claims.edge_loss_minima()
    factor_1, factor_02 = ([row[f"loss, factor {name}"] for row in minima] for name in ("1 (paper)", "0.2 (authors)"))
    assert factor_1.index(min(factor_1)) == 1 and factor_02.index(min(factor_02)) == 0
    assert factor_1[1] == pytest.approx(0.69, abs=0.02) and factor_02[0] == pytest.approx(0.24, abs=0.02)
    gradients = {row["β"]: row for row in claims.edge_loss_gradients()}
    assert gradients[-1.0]["of its square"] == 0 and gradients[1.5]["gradient of Eq. (4)"] == 0
    assert gradients[0.5]["of its square"] == pytest.approx(-1.0)
    shares = {row["node"]: row for row in claims.kept_edge_weights()}
    assert [shares[node]["b of a kept edge, authors"] for node in (3, 4, 5)] == pytest.approx([1.5, 2.0, 2.5], abs=1e-3)
    assert shares[5]["b of a kept edge, paper"] == pytest.approx(0.5, abs=1e-3)


def test_table_4_as_printed():
    pattern = {row["budget"]: row for row in claims.printed_drop_pattern()}
    assert [pattern[budget]["nodes that keep two edges"] for budget in ("4/14", "5/14", "6/14")] == [0, 1, 2]
    assert pattern["3/14"]["nodes dropped"] == 1
    gains = {row["budget"]: row for row in claims.printed_gains()}
    assert gains["4/14"]["printed gain"] == 1.75 and gains["4/14"]["from the rows"] == pytest.approx(1.85)


def test_the_studies_ask_for_each_search_once():
    settings = Settings(preset="tiny", dataset="digits", seeds=(0, 1))
    assert len(paper_tables.table_2_searches(settings)) == 2 * len(paper.TABLE_2)
    assert len(paper_tables.table_3_searches(settings)) == 2 * len(paper.TABLE_3)
    configs = paper_tables.table_4_searches(settings, ("darts", "da2s"), ("3/14", "4/14"))
    assert [config.method for config in configs].count("darts") == 2  # one a seed serves every budget
    assert [config.method for config in configs].count("da2s") == 4 and len(set(configs)) == len(configs)
    default = settings.search("da2s", 0)
    assert default in paper_tables.table_3_searches(
        settings
    )  # the log-delayed row is the search that the figures share


def test_the_sentence_on_the_gap_names_every_cut_and_how_decided_each_method_was():
    drops = [
        {"method": method, "budget": budget, "drop_mean": drop, "drop_std": std}
        for method, budget, drop, std in (
            ("darts", "8/14", 70.0, 2.0),
            ("da2s", "8/14", -0.5, None),
            ("darts", "6/14", 72.5, 1.0),
        )
    ]
    sharpness = [{"method": "darts", "largest_weight_mean": 0.314}, {"method": "da2s", "largest_weight_mean": 0.998}]
    sentence = claims.gap_sentence(drops, sharpness)
    assert "the cut to 8/14 costs darts 70.00 ± 2.00, da2s -0.50; the cut to 6/14 costs darts 72.50 ± 1.00" in sentence
    assert sentence.endswith("darts 0.31, da2s 1.00.")
