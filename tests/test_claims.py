"""Checks of the paper's claims, on evolutions whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from daas_lab.compose import search_config
from daas_lab.methods.da2s_exact import DA2SExact
from daas_lab.runs.folder import read_run
from daas_lab.studies import claims, consequences, paper_tables
from daas_lab.studies.settings import Settings
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
    times = mini.arch_learning_rate * mini.steps * 20 / (19_500 * 3e-4)
    assert f"is {times:.1f} times the paper's." in claims.differentiation_sentence(rows, mini)
    some = [{**rows[0], "seeds": [0, 1, 2], "onset_share_seeds": [1]}]
    assert "That is in 1 of 3 searches; in the others they never do." in claims.differentiation_sentence(some, full)
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


def runs(key, errors, **others):
    """Rows of single runs: `errors` name → the test errors of seeds 0, 1, …"""
    return [
        {key: name, "seed": seed, "error": error} | others
        for name, own in errors.items()
        for seed, error in enumerate(own)
    ]


def test_the_papers_method_is_compared_with_every_other():
    errors = {"darts": (12.0, 12.5, 13.0), "da2s": (12.1, 12.4, 12.9), "random": (15.1, 15.4, 16.2)}
    *pairs, _, remark = claims.methods_sentence(runs("method", errors)).splitlines()
    assert [pair.split(" (")[0] for pair in pairs] == [
        "- The test error of da2s is 0.03 points lower than that of darts",
        "- The test error of da2s is 3.10 points lower than that of random",
    ]
    assert [pair.endswith("not significant.") for pair in pairs] == [True, False]
    assert remark.startswith("2 comparisons, Student's t paired by seed") and "da2s_exact" not in remark
    exact = claims.methods_sentence(runs("method", {"da2s": (12.0, 12.5), "da2s_exact": (12.1, 12.7)}))
    assert exact.endswith(DA2SExact.remark)


@pytest.mark.parametrize(("late", "words"), [(1.0, "higher than that of growing fast"),
                                             (-1.0, "lower than that of growing fast")])  # fmt: skip
def test_control_functions_are_held_against_the_papers_best_and_in_halves(late, words):
    errors = {
        "baseline": (12.0, 12.2, 12.5),
        "linear": (12.1, 12.4, 12.3),
        "log": (12.3, 12.4, 12.8),
        "exp": (12.2 + late, 12.3 + late, 12.5 + late),
        "step": (12.2 + late, 12.5 + late, 12.9 + late),
        "const": (20.0, 20.4, 20.1),
    }
    said = claims.speed_sentence(runs("lambda_c", errors))
    head, _, *lines, _, remark = said.splitlines()
    assert head.startswith("By mean test error: ") and "const 20.17 ± 0.21 %. The paper's best, linear, is" in head
    assert f"is number {2 if late > 0 else 4} of 6." in head
    # Seed by seed 12.2, 12.4 and 12.55 where it grows fast: three values, not six.
    assert "growing fast (log, linear) 12.38 ± 0.18 %" in head and head.endswith("2.55 and 2.69 %.")
    assert len(lines) == 6 and remark.startswith("6 comparisons") and "Holm's correction for 6" in remark
    assert all(" that of linear (" in line for line in lines[:5]) and words in lines[5] and "n = 3 pairs" in lines[5]
    [far] = [line for line in lines if "of const is" in line]
    assert far.startswith("- The test error of const is 7.90 points higher") and far.endswith("): significant.")


@pytest.mark.parametrize("edges", [0.5, -0.5])
def test_priorities_are_compared_over_their_functions_seed_by_seed(edges):
    functions = [f"{name}:delayed" for name in ("const", "linear", "exp", "step", "log")]
    seeds = {0: 12.0, 1: 13.0, 2: 12.5}
    rows = [
        {"lambda_1": "const", "lambda_2": function, "seed": seed, "error": base + place / 10}
        for place, function in enumerate(functions)
        for seed, base in seeds.items()
    ]
    rows += [
        {"lambda_1": function, "lambda_2": "const", "seed": seed, "error": base + edges + (0.1 if seed else 0.0)}
        for function in functions
        for seed, base in seeds.items()
    ]
    head, _, *lines, _, remark = claims.priority_sentence(rows).splitlines()
    assert "log:delayed / const" in head and "of 10." in head and head.endswith("2.60 and 2.58 %.")
    assert "operations first (λ_2 delayed) 12.70 ± 0.50 %" in head
    assert len(lines) == 10 and remark.startswith("10 comparisons")
    difference = edges + 0.2 / 3 - 0.2
    side = "higher" if difference > 0 else "lower"
    assert lines[-1].startswith(
        "- The test error (mean over functions) of edges first (λ_1 delayed) is "
        f"{abs(difference):.2f} points {side} than that of operations first (λ_2 delayed) ("
    )
    single = [row for row in rows if row["seed"] == 0]
    assert "n = 1 pair: nothing can be said of chance" in claims.priority_sentence(single)


def test_the_ablation_says_what_each_loss_saves_of_the_drop():
    drops = {"DARTS": 70.0, "neither": 60.0, "operation loss": 15.0, "edge loss": 60.0, "both": -0.6}
    rows = [
        {"losses": losses, "seed": seed, "drop": drop + shift, "error": 12.0 + drop / 100 + shift / 10 * (drop > 50)}
        for losses, drop in drops.items()
        for seed, shift in enumerate((0.0, -1.0, 1.0) if losses != "edge loss" else (0.0, 1.0, -1.0))
    ]
    head, _, *lines, _, remark = claims.ablation_sentence(rows).splitlines()
    assert "the cut costs DARTS 70.00 ± 1.00, neither 60.00 ± 1.00, operation loss 15.00" in head
    assert "they save: operation loss 75%, edge loss 0%, both 101%." in head
    assert "Retrained: " in head and "neither 12.60 ± 0.10 %" in head and "both 11.99 %" not in head
    assert [line.split(" (")[0] for line in lines] == [
        "- The drop of DARTS is 10.00 points higher than that of neither",
        "- The drop of operation loss is 45.00 points lower than that of neither",
        "- The drop of edge loss equals that of neither to two digits",
        "- The drop of both is 60.60 points lower than that of neither",
        "- The test error of both is 0.61 points lower than that of neither",
    ]
    assert remark.startswith("5 comparisons") and lines[2].endswith("not significant.")
    harmless = [row | {"drop": 0.0} for row in rows]
    assert "save" not in claims.ablation_sentence(harmless)


def test_order_names_where_ours_differs_from_the_papers():
    rows = runs("method", {"darts": (13.0, 13.2, 13.1), "da2s": (12.0, 12.3, 12.05)}, budget="4/14")
    rows += runs("method", {"darts": (12.0, 12.3, 12.6), "da2s": (12.2, 12.2, 12.7)}, budget="5/14")
    first, beside, second, other, _, remark = claims.order_sentence(rows).splitlines()
    assert first == "- 4/14: da2s 12.12 ± 0.16 % < darts 13.10 ± 0.10 %."
    assert beside.startswith("  - The test error of da2s is 0.98 points lower than that of darts (")
    assert beside.endswith("): significant; in the paper it is lower too.")
    assert second.startswith("- 5/14: darts 12.30 ± 0.30 % < da2s") and "is 0.07 points higher" in other
    assert other.endswith("): not significant; in the paper it is lower.")
    assert remark.startswith("2 comparisons") and "da2s_exact" not in remark
    exact = runs("method", {"da2s_exact": (12.1, 12.0, 12.3)}, budget="4/14")
    _, _, beside, second, _, _, remark = claims.order_sentence([*rows, *exact]).splitlines()
    assert beside.startswith("  - The test error of da2s_exact is 0.97 points lower than that of darts")
    assert second.startswith("- 5/14") and remark.startswith("3 comparisons") and remark.endswith(DA2SExact.remark)
    # A budget of which the paper prints nothing.
    unprinted = runs("method", {"darts": (1.0, 2.0), "da2s": (1.0, 3.0)}, budget="8/14")
    assert "in the paper" not in claims.order_sentence(unprinted)


def searched(method, budget, before, errors):
    after = [10.0 + accuracy / 2 for accuracy in before]
    return [
        {"method": method, "budget": budget, "seed": seed % 3, "before": one, "after": other, "error": error}
        for seed, (one, other, error) in enumerate(zip(before, after, errors, strict=True))
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_whether_the_supernets_accuracy_predicts_the_error(sign):
    ranks = [3, 1, 2, 5, 4, 7, 6, 8, 10, 9, 12, 11]
    rows = searched("da2s", "8/14", range(60, 72), [12 + sign * rank for rank in ranks])
    rows += searched("darts", "4/14", (80, 81, 82), (12, 13, 11))
    found = claims.prediction_rows(rows)
    assert [(row["searches"], row["accuracy"], row["n"]) for row in found[::2]] == [
        ("all", "before", 15), ("da2s", "before", 12), ("darts", "before", 3), ("all of 8/14", "before", 12),
    ]  # fmt: skip
    da2s = found[2]
    # Without ties ρ = 1 − 6 Σ d² / (n (n² − 1)).
    squares = sum((rank - place) ** 2 for place, rank in enumerate(ranks, start=1))
    assert da2s["rho"] == pytest.approx(sign * (1 - 6 * squares / (12 * 143))) and da2s["seeds"] == [0, 1, 2]
    assert found[4]["rho"] is None and found[4]["p_holm"] is None
    head, _, *lines, _, _ = claims.prediction_sentence(found).splitlines()
    assert head.startswith("Significant after Holm's correction for 6 rank correlations: ")
    assert "da2s, before the cut; da2s, after the cut; all of 8/14, before the cut" in head
    assert lines[1].startswith(f"- da2s: before the cut ρ = {da2s['rho']:.2f} (") and lines[1].endswith("significant.")
    assert lines[2] == "- darts: before the cut n = 3: nothing can be said; after the cut n = 3: nothing can be said."


def test_without_a_correlation_nothing_is_called_significant():
    rows = searched("da2s", "8/14", range(60, 72), (12, 11, 13, 12, 12, 13, 11, 12, 13, 11, 12, 12))
    head, _, *lines, _, mixed = claims.prediction_sentence(claims.prediction_rows(rows)).splitlines()
    assert head.startswith("Significant after Holm's correction for 6 rank correlations: none.")
    assert len(lines) == 3 and all(line.endswith("not significant.") for line in lines)
    assert mixed.startswith("`all` mixes methods") and mixed.endswith("on one split of the data.")
    exact = claims.prediction_sentence(claims.prediction_rows([row | {"method": "da2s_exact"} for row in rows]))
    assert exact.endswith(DA2SExact.remark)
    few = claims.prediction_sentence(claims.prediction_rows(rows[:3]))
    assert "for 0 rank correlations: none." in few and "nothing can be said" in few


def test_searches_that_are_the_same_for_two_budgets_are_named(tmp_path):
    made = {budget: read_run(write_search(tmp_path / budget[0], "da2s", budget=budget)) for budget in ("4/14", "3/14")}
    one, other = made.values()
    same = [one, replace(other, alphas=one.alphas, betas=one.betas)]
    assert "da2s for 3/14 and 4/14 are one and the same (seeds 0:" in claims.same_search_sentence(same)
    assert claims.same_search_sentence([one, one]) == ""  # of one budget nothing but the cut would have to differ
    moved = {name: betas + 1e-3 for name, betas in one.betas.items()}
    assert claims.same_search_sentence([one, replace(other, alphas=one.alphas, betas=moved)]) == ""


def test_consequences_of_the_formulas():
    minima = consequences.edge_loss_minima()
    factor_1, factor_02 = ([row[f"loss, factor {name}"] for row in minima] for name in ("1 (paper)", "0.2 (authors)"))
    assert factor_1.index(min(factor_1)) == 1 and factor_02.index(min(factor_02)) == 0
    assert factor_1[1] == pytest.approx(0.69, abs=0.02) and factor_02[0] == pytest.approx(0.24, abs=0.02)
    gradients = {row["β"]: row for row in consequences.edge_loss_gradients()}
    assert gradients[-1.0]["of its square"] == 0 and gradients[1.5]["gradient of Eq. (4)"] == 0
    assert gradients[0.5]["of its square"] == pytest.approx(-1.0)
    shares = {row["node"]: row for row in consequences.kept_edge_weights()}
    assert [shares[node]["b of a kept edge, authors"] for node in (3, 4, 5)] == pytest.approx([1.5, 2.0, 2.5], abs=1e-3)
    assert shares[5]["b of a kept edge, paper"] == pytest.approx(0.5, abs=1e-3)


def test_table_4_as_printed():
    pattern = {row["budget"]: row for row in consequences.printed_drop_pattern()}
    assert [pattern[budget]["nodes that keep two edges"] for budget in ("4/14", "5/14", "6/14")] == [0, 1, 2]
    assert pattern["3/14"]["nodes dropped"] == 1
    gains = {row["budget"]: row for row in consequences.printed_gains()}
    assert gains["4/14"]["printed gain"] == 1.75 and gains["4/14"]["from the rows"] == pytest.approx(1.85)


def test_table_4_asks_for_each_search_once():
    settings = Settings(preset="tiny", dataset="digits", seeds=(0, 1))
    configs = paper_tables.table_4_searches(settings, ("darts", "da2s"), ("3/14", "4/14"))
    assert [config.method for config in configs].count("darts") == 2  # one a seed serves every budget
    assert [config.method for config in configs].count("da2s") == 4 and len(set(configs)) == len(configs)


def test_the_sentence_on_the_gap_names_every_cut_and_how_decided_each_method_was():
    drops = [
        {"method": method, "budget": budget, "seed": seed, "drop": drop + shift}
        for method, budget, drop in (("darts", "8/14", 70.0), ("da2s", "8/14", -0.5), ("darts", "6/14", 72.5))
        for seed, shift in enumerate((-2.0, 2.0, 0.0) if method == "darts" else (0.0, 0.0, 0.0))
    ]
    sharpness = [{"method": "darts", "largest_weight_mean": 0.314}, {"method": "da2s", "largest_weight_mean": 0.998}]
    head, _, line, _, remark = claims.gap_sentence(drops, sharpness).splitlines()
    assert "the cut to 8/14 costs darts 70.00 ± 2.00, da2s -0.50 ± 0.00; the cut to 6/14 costs darts 72.50" in head
    assert head.endswith("darts 0.31, da2s 1.00.")
    assert line.startswith(
        "- The drop of da2s at 8/14 is 70.50 points lower than that of darts at 8/14 (-75.47 to -65.53"
    )
    assert line.endswith("n = 3 pairs): significant.") and remark.startswith("1 comparison, ")
