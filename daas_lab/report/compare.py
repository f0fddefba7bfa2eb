"""Statistics in one place: two groups of runs compared, several comparisons corrected, rank correlations; in words.

A group is what runs with several seeds measured, seed → value. Seeds vary the initial weights and the order of the
images on one split of the data: n counts seeds, and nothing here says what another split would give.
Legend: p two-sided; intervals of 95 %; `None` wherever too little was measured to say anything.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from daas_lab.report.tables import Row, mean_std_text

LEVEL = 0.05  # of a test, and what an interval leaves out
POWER = 0.8
FEWEST_RANKS = 10  # below, the approximations behind a rank correlation's p and interval do not hold
GROUND = "the seeds vary initial weights and the order of the images, on one split of the data"

Group = Mapping[int, float]  # seed → value


def mean_text(group: Group) -> str:
    """`"12.56 ± 0.54"`: mean and standard deviation over the seeds."""
    values = list(group.values())
    return mean_std_text(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def ranked(groups: Mapping[str, Group]) -> list[str]:
    """The names of the groups, that of the smallest mean first."""
    return sorted(groups, key=lambda name: np.mean(list(groups[name].values())))


# --- two groups -------------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """Mean of the group `second` − mean of `first`, in the unit of the quantity."""

    quantity: str
    first: str
    second: str
    mean: float
    seeds: tuple[int, int]  # n of either group
    paired: bool  # on the seeds that both groups have
    error: float | None = None  # standard error of the mean
    freedom: float | None = None  # degrees of freedom of Student's t
    low: float | None = None
    high: float | None = None
    p: float | None = None


def by_seed(rows: Iterable[Row], quantity: str) -> dict[int, float]:
    """The group that these rows of single runs are: seed → mean over its runs, so that n stays the number of seeds."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.get(quantity) is not None:
            values.setdefault(row["seed"], []).append(row[quantity])
    return {seed: float(np.mean(own)) for seed, own in values.items()}


def groups_by(rows: Iterable[Row], key: str, quantity: str) -> dict[str, dict[int, float]]:
    """Rows of single runs as groups, one for each value of `key` that was measured, in order of appearance."""
    rows = list(rows)
    names = dict.fromkeys(row[key] for row in rows)
    groups = {name: by_seed([row for row in rows if row[key] == name], quantity) for name in names}
    return {name: group for name, group in groups.items() if group}


def difference(groups: Mapping[str, Group], first: str, second: str, quantity: str = "test error") -> Difference:
    """Compare two of `groups` by Student's t: paired where both have two seeds or more, on these alone, else Welch's.
    Of a group with a single seed, which nothing can be tested on, the difference is that of the seed, if both have it.

    Runs with the same seed begin with the same random numbers and see the images in the same order, so that groups that
    share seeds are not independent. Which of the tests it is follows from the seeds alone, never from what they give.
    """
    one, other = groups[first], groups[second]
    common = one.keys() & other.keys()
    if paired := len(common) > 1 or (len(common) == 1 and min(len(one), len(other)) == 1):
        one, other = ({seed: group[seed] for seed in common} for group in (one, other))
    a, b = (np.array([group[seed] for seed in sorted(group)]) for group in (one, other))
    mean, seeds = float(b.mean() - a.mean()), (len(a), len(b))
    found = Difference(quantity, first, second, mean, seeds, paired)
    if min(seeds) < 2:
        return found
    error = stats.sem(b - a) if paired else np.hypot(stats.sem(a), stats.sem(b))
    if error <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):
        return found  # no spread between the seeds to hold the difference against
    with warnings.catch_warnings():  # where a group is the same at all its seeds
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)
    low, high = map(float, test.confidence_interval(1 - LEVEL))
    return found._replace(error=float(error), freedom=float(test.df), low=low, high=high, p=float(test.pvalue))


def differences(
    rows: Iterable[Row], key: str, pairs: Iterable[tuple[str, str]], quantity: str, title: str = "test error"
) -> list[Difference]:
    """`difference` for each of `pairs`, two values of `key` in rows of single runs, of the means over the budgets that
    both were measured at; which, where these are not all. A seed that lacks one of these does not count: its mean is of
    something else."""
    values: dict[str, dict[int, dict[str, list[float]]]] = {}
    for row in rows:
        if row.get(quantity) is not None:
            at = values.setdefault(row[key], {}).setdefault(row["seed"], {})
            at.setdefault(row["budget"], []).append(row[quantity])
    every = {budget for own in values.values() for at in own.values() for budget in at}
    found = []
    for pair in pairs:
        seeds = {name: values.get(name, {}) for name in pair}
        budgets = set.intersection(*(set().union(*own.values()) for own in seeds.values()))
        groups = {
            name: {
                seed: float(np.mean([np.mean(measured[budget]) for budget in sorted(budgets)]))
                for seed, measured in own.items()
                if budgets and budgets <= measured.keys()
            }
            for name, own in seeds.items()
        }
        if all(groups.values()):
            of = "" if budgets == every else f" ({', '.join(sorted(budgets, reverse=True))})"
            found.append(difference(groups, *pair, title + of))
    return found


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: p values that hold for all comparisons together, in the order given."""
    corrected: list[float | None] = [None] * len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for done, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - done)))
        corrected[place] = largest
    return corrected


def detectable(error: float, freedom: float, level: float = LEVEL) -> float:
    """The difference that Student's t finds with a probability of 80 %, two-sided at `level`, given its standard
    error."""
    critical = stats.t.isf(level / 2, freedom)

    def lacking(shift: float) -> float:
        return stats.nct.sf(critical, freedom, shift) + stats.nct.sf(critical, freedom, -shift) - POWER

    return float(error * optimize.brentq(lacking, 0, 2 * critical + 1))


# --- ranks ------------------------------------------------------------------------------------------------------------


class RankCorrelation(NamedTuple):
    """Spearman's ρ of n pairs."""

    n: int
    rho: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> RankCorrelation:
    """Spearman's ρ of x and y [n], ties at their mean rank; nothing for n < 10 or a constant.

    Its p is Student's t, its interval Fisher's with Bonett and Wright's (2000) standard error of artanh ρ,
    √((1 + ρ²/2) / (n − 3)).
    """
    n = len(x)
    if n < FEWEST_RANKS or min(np.ptp(x), np.ptp(y)) == 0:
        return RankCorrelation(n)
    rho, p = (float(value) for value in stats.spearmanr(x, y))
    z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = stats.norm.isf(LEVEL / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return RankCorrelation(n, rho, float(np.tanh(z - half)), float(np.tanh(z + half)), p)


# --- words ------------------------------------------------------------------------------------------------------------


def describe(found: Difference, corrected: float | None = None) -> str:
    """A difference in points of percent as words that can follow a semicolon; `corrected`: its p by Holm."""
    text = f"the {found.quantity} of {found.second} "
    if round(found.mean, 2) == 0:
        text += f"equals that of {found.first} to two digits"
    else:
        text += f"is {abs(found.mean):.2f} points {'lower' if found.mean < 0 else 'higher'} than that of {found.first}"
    if min(found.seeds) < 2:
        return f"{text} (n = {_n(found)}: nothing can be said of chance)"
    if found.p is None:
        return f"{text} (n = {_n(found)}, no spread between the seeds: nothing can be tested)"
    held = found.p if corrected is None else corrected
    return f"{text} ({_evidence(found, found.p, corrected)}; n = {_n(found)}): {_verdict(held)}"


def describe_all(found: Sequence[Difference]) -> list[str]:
    """`describe` each of the comparisons of one table, corrected by Holm where they are several."""
    several = sum(one.p is not None for one in found) > 1
    corrected = holm([one.p for one in found]) if several else [None] * len(found)
    return [describe(one, p) for one, p in zip(found, corrected, strict=True)]


def listed(found: Sequence[Difference]) -> str:
    """The comparisons of one table as a Markdown list, and the remark that belongs below it."""
    lines = (f"- {text[0].upper()}{text[1:]}." for text in describe_all(found))
    return "\n".join([*lines, "", remark(found)])


def remark(found: Sequence[Difference]) -> str:
    """What stands below the comparisons of a table: how many they are, what their seeds vary, what they could find."""
    count = f"{len(found)} comparison{'s' if len(found) != 1 else ''}"
    tested = [one for one in found if one.p is not None]
    if not tested:
        return f"{count}; {GROUND}. Too few seeds, or no spread between them: nothing can be said of chance."
    kinds = dict.fromkeys("paired by seed" if one.paired else "Welch's" for one in tested)
    text = f"{count}, Student's t {' or '.join(kinds)}, in brackets the 95 % interval"
    if len(tested) > 1:
        text += f"; significant is a p below {LEVEL} after Holm's correction for {len(tested)}"
    text += f"; {GROUND}. Power: in {POWER:.0%} of cases such a comparison by itself, two-sided at {LEVEL:.0%}, finds "
    text += _powers(tested, LEVEL)
    if len(tested) > 1:
        text += f"; as the first of {len(tested)} by Holm, {_powers(tested, LEVEL / len(tested))}"
    return f"{text}."


def _powers(tested: Sequence[Difference], level: float) -> str:
    """What comparisons of each quantity can detect: each has a standard error of its own."""
    finds: dict[str, list[float]] = {}
    for one in tested:
        if one.error is not None and one.freedom is not None:
            finds.setdefault(one.quantity, []).append(detectable(one.error, one.freedom, level))
    return ", ".join(
        f"{' to '.join(dict.fromkeys(f'{size:.1f}' for size in (min(sizes), max(sizes))))} points of {quantity}"
        for quantity, sizes in finds.items()
    )


def describe_ranks(found: RankCorrelation, corrected: float | None = None) -> str:
    """A rank correlation in words; `corrected`: its p by Holm."""
    if found.p is None:
        return f"n = {found.n}: nothing can be said"
    held = found.p if corrected is None else corrected
    return f"ρ = {found.rho:z.2f} ({_evidence(found, found.p, corrected)}; n = {found.n}), {_verdict(held)}"


def _evidence(found: Difference | RankCorrelation, p: float, corrected: float | None) -> str:
    by_holm = "" if corrected is None else f", by Holm {_p(corrected)}"
    return f"{found.low:z.2f} to {found.high:z.2f}; p {_p(p)}{by_holm}"


def _verdict(p: float) -> str:
    return "significant" if p < LEVEL else "not significant"


def _n(found: Difference) -> str:
    if found.paired:
        return f"{found.seeds[0]} pair{'s' if found.seeds[0] != 1 else ''}"
    return "{} and {}".format(*found.seeds)


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.2g}"
