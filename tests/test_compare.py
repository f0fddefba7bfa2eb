"""Statistics against formulas written out by hand, scipy's own tests, and examples whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from daas_lab.report import compare

GROUPS = {
    "darts": {0: 12.0, 1: 13.0, 2: 12.5},
    "da2s": {0: 11.9, 1: 12.4, 2: 12.3},
    "more": {10: 9.8, 11: 10.0, 12: 9.9, 13: 10.1},
    "alone": {0: 12.0},
    "again": {2: 12.5, 0: 12.0, 1: 13.0},
    "above": {0: 12.1, 1: 13.1, 2: 12.6},
}


def test_groups_with_the_same_seeds_are_paired():
    found = compare.difference(GROUPS, "darts", "da2s")
    # By hand: differences −0.1, −0.6, −0.2; mean −0.3, deviation √0.07, two degrees of freedom.
    error = math.sqrt(0.07 / 3)
    assert found.mean == pytest.approx(-0.3) and found.error == pytest.approx(error) and found.freedom == 2
    t = -0.3 / error
    assert found.p == pytest.approx(1 - abs(t) / math.sqrt(t * t + 2))  # Student's t with two degrees, in closed form
    assert (found.low, found.high) == pytest.approx((-0.3 - 4.302653 * error, -0.3 + 4.302653 * error))
    assert found.paired and found.seeds == (3, 3)
    values = [list(GROUPS[name].values()) for name in ("da2s", "darts")]
    assert found.p == pytest.approx(stats.ttest_rel(*values).pvalue)
    back = compare.difference(GROUPS, "da2s", "darts")
    assert (back.mean, back.low, back.high, back.p) == pytest.approx((-found.mean, -found.high, -found.low, found.p))


def test_pairs_are_of_the_same_seed_whatever_their_order():
    shuffled = GROUPS | {"da2s": dict(reversed(GROUPS["da2s"].items()))}
    assert compare.difference(shuffled, "darts", "da2s") == compare.difference(GROUPS, "darts", "da2s")


def test_groups_with_other_seeds_are_compared_by_welch():
    found = compare.difference(GROUPS, "darts", "more")
    a, b = (np.array(list(GROUPS[name].values())) for name in ("darts", "more"))
    parts = 0.25 / 3, sum((b - b.mean()) ** 2) / 3 / 4
    assert found.error == pytest.approx(math.sqrt(sum(parts)))
    assert found.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    interval = theirs.confidence_interval()
    assert (found.p, found.low, found.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))
    assert not found.paired and found.seeds == (3, 4)


def test_a_group_that_is_the_same_at_all_its_seeds_has_no_spread_of_its_own():
    found = compare.difference({"a": {0: 10.0, 1: 10.0, 2: 10.0}, "b": {3: 9.0, 4: 9.9, 5: 9.4}}, "a", "b")
    b = np.array([9.0, 9.9, 9.4])
    assert found.freedom == pytest.approx(2) and found.error == pytest.approx(b.std(ddof=1) / math.sqrt(3))
    assert found.p == pytest.approx(stats.ttest_1samp(b, 10).pvalue)


def test_groups_that_share_seeds_are_paired_on_these():
    longer = GROUPS["da2s"] | {3: 20.0, 4: 30.0}
    for groups in ({"a": GROUPS["darts"], "b": longer}, {"a": GROUPS["darts"] | {9: 1.0}, "b": longer}):
        found = compare.difference(groups, "a", "b")
        assert found._replace(first="darts", second="da2s") == compare.difference(GROUPS, "darts", "da2s")
    one_in_common = compare.difference({"a": GROUPS["darts"], "b": {2: 1.0, 3: 2.0}}, "a", "b")
    assert not one_in_common.paired and one_in_common.seeds == (3, 2)


@pytest.mark.parametrize(("other", "words"), [("alone", "nothing can be said"), ("above", "no spread"),
                                              ("again", "equals that of darts to two digits")])  # fmt: skip
def test_where_there_is_no_spread_nothing_is_tested(other, words):
    found = compare.difference(GROUPS, "darts", other)
    assert found.p is found.low is found.error is None
    assert words in compare.describe(found) and "significant" not in compare.describe(found)
    assert "nothing can be said of chance" in compare.remark([found])


def test_one_seed_each_is_a_pair_of_which_nothing_can_be_said():
    found = compare.difference({"a": {0: 1.0}, "b": {0: 3.0}}, "a", "b")
    assert (
        compare.describe(found)
        == "the test error of b is 2.00 points higher than that of a (n = 1 pair: nothing can be said of chance)"
    )


def test_of_a_single_seed_the_difference_is_that_seeds_own():
    found = compare.difference({"a": {0: 1.0, 1: 9.0, 2: 9.0}, "b": {0: 3.0}}, "a", "b")
    assert (found.mean, found.seeds) == (2.0, (1, 1)) and "n = 1 pair: nothing can be said" in compare.describe(found)
    apart = compare.difference({"a": {1: 8.0, 2: 9.0}, "b": {0: 3.0}}, "a", "b")
    assert apart.mean == -5.5 and "n = 2 and 1" in compare.describe(apart)


def test_means_over_budgets_are_those_that_both_were_measured_at():
    table = {("one", 0): {"8/14": 10, "5/14": 20}, ("one", 1): {"8/14": 11, "5/14": 22}, ("one", 2): {"8/14": 99},
             ("two", 0): {"8/14": 12, "5/14": 21, "4/14": 50}, ("two", 1): {"8/14": 12, "5/14": 26, "4/14": 50},
             ("three", 0): {"4/14": 1}, ("three", 1): {"4/14": 2}}  # fmt: skip
    rows = [
        {"name": name, "seed": seed, "budget": budget, "error": error}
        for (name, seed), errors in table.items()
        for budget, error in errors.items()
    ]
    one, other = compare.differences(
        rows, "name", [("one", "two"), ("one", "three"), ("two", "three"), ("one", "four")], "error"
    )
    assert (one.first, one.second, one.mean, one.seeds) == ("one", "two", (1.5 + 2.5) / 2, (2, 2))
    assert (other.first, other.second, other.mean) == ("two", "three", 1.5 - 50)
    assert (one.quantity, other.quantity) == ("test error (8/14, 5/14)", "test error (4/14)")


def test_holm_steps_down():
    # Four p values: 0.005 · 4, 0.01 · 3, 0.03 · 2 and 0.04, which may not fall below the one before it.
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.9, None, 0.6]) == [1.0, None, 1.0]
    assert compare.holm([]) == []


@pytest.mark.parametrize("freedom", [1, 2, 4, 14.3, 1000])
def test_what_can_be_detected_is_found_four_times_in_five(freedom):
    shift = compare.detectable(1.0, freedom)
    rng = np.random.default_rng(0)
    t = (rng.standard_normal(400_000) + shift) / np.sqrt(rng.chisquare(freedom, 400_000) / freedom)
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, freedom)) == pytest.approx(0.8, abs=0.005)
    assert compare.detectable(3.0, freedom) == pytest.approx(3 * shift)
    assert compare.detectable(1.0, freedom, 0.01) > shift


def test_rows_of_single_runs_become_groups_of_seeds():
    rows = [{"method": "a", "seed": seed, "error": error} for seed, error in ((1, 3.0), (0, 1.0), (1, 5.0))]
    rows += [{"method": "b", "seed": 0, "error": None}, {"method": "c", "seed": 0, "error": 7.0}]
    assert compare.groups_by(rows, "method", "error") == {"a": {1: 4.0, 0: 1.0}, "c": {0: 7.0}}


def test_rank_correlation():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 6, 30)  # many ties
    y = x + rng.integers(0, 9, 30)
    found = compare.rank_correlation(x, y)
    ranks = [stats.rankdata(values) for values in (x, y)]
    rho = np.corrcoef(*ranks)[0, 1]
    assert found.n == 30 and found.rho == pytest.approx(rho)
    t = rho * math.sqrt(28 / (1 - rho**2))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 28))
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 27)
    z = math.atanh(rho)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)))
    turned = compare.rank_correlation(x, -y)
    assert (turned.rho, turned.low, turned.high) == pytest.approx((-found.rho, -found.high, -found.low))


def test_rank_correlation_of_too_little_says_nothing():
    assert compare.rank_correlation(range(9), range(9)) == compare.RankCorrelation(9)
    assert compare.rank_correlation(range(12), [5.0] * 12).rho is None
    perfect = compare.rank_correlation(range(12), range(12))
    assert perfect.rho == pytest.approx(1) and 0.99 < perfect.low <= perfect.high <= 1


def test_words_say_direction_interval_and_verdict():
    near, far = compare.describe_all(
        [compare.difference(GROUPS, "darts", "da2s"), compare.difference(GROUPS, "darts", "more")]
    )
    numbers = "(-0.96 to 0.36; p 0.19, by Holm 0.19; n = 3 pairs)"
    assert near == f"the test error of da2s is 0.30 points lower than that of darts {numbers}: not significant"
    assert far.startswith("the test error of more is 2.55 points lower than that of darts (")
    assert far.endswith("n = 3 and 4): significant")
    back = compare.describe(compare.difference(GROUPS, "da2s", "darts", "drop"))
    assert back.startswith("the drop of darts is 0.30 points higher than that of da2s (-0.36 to 0.96; p 0.19; n = 3")


def test_the_comparisons_of_a_table_are_a_list_with_a_remark():
    lines = compare.listed([compare.difference(GROUPS, "darts", name) for name in ("da2s", "more")]).splitlines()
    assert [line[:25] for line in lines[:2]] == ["- The test error of da2s ", "- The test error of more "]
    assert lines[2] == "" and lines[3].startswith("2 comparisons, ") and len(lines) == 4


def test_the_verdict_is_that_of_the_corrected_p():
    found = compare.difference(GROUPS, "darts", "more")
    assert found.p < 0.05
    assert compare.describe(found).endswith(": significant")
    assert compare.describe(found, 0.2).endswith(": not significant")


def test_the_remark_counts_and_states_what_could_be_found():
    found = [compare.difference(GROUPS, "darts", "da2s"), compare.difference(GROUPS, "darts", "more", "drop")]
    said = compare.remark(found)
    assert said.startswith("2 comparisons, Student's t paired by seed or Welch's") and "correction for 2" in said
    assert "on one split of the data" in said
    finds, by_holm = (
        ", ".join(f"{compare.detectable(one.error, one.freedom, p):.1f} points of {one.quantity}" for one in found)
        for p in (0.05, 0.025)
    )
    assert said.endswith(f"in 80% of cases such a comparison by itself, two-sided at 5%, finds {finds}; as the first "
                         f"of 2 by Holm, {by_holm}.")  # fmt: skip
    alike = [one._replace(quantity="drop") for one in found]
    sizes = sorted(compare.detectable(one.error, one.freedom) for one in found)
    assert f"finds {sizes[0]:.1f} to {sizes[1]:.1f} points of drop;" in compare.remark(alike)
    assert "Holm" not in compare.remark(found[:1]) and compare.remark(found[:1]).startswith("1 comparison,")


def test_rank_correlations_in_words():
    found = compare.RankCorrelation(84, -0.12, -0.33, 0.1, 0.27)
    assert compare.describe_ranks(found) == "ρ = -0.12 (-0.33 to 0.10; p 0.27; n = 84), not significant"
    sure = compare.RankCorrelation(20, 0.9, 0.7, 0.96, 0.00001)
    assert compare.describe_ranks(sure, 0.0004).endswith("p below 0.001, by Holm below 0.001; n = 20), significant")
    assert compare.describe_ranks(compare.RankCorrelation(3)) == "n = 3: nothing can be said"
