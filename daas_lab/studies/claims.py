"""Claims of the paper on our own runs: rows for `tables.to_markdown`, or a sentence that follows from the rows,
whichever way they point.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from daas_lab import paper
from daas_lab.compose import ARCH_TRAVEL
from daas_lab.config import SearchConfig
from daas_lab.methods.lookup import BASELINE, EXACT, METHODS, PAPERS, method_class
from daas_lab.report import compare
from daas_lab.report.tables import Row, mean_std_text
from daas_lab.runs.folder import Run
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.studies.make import names_of
from daas_lab.train.discretize import weight_evolution
from daas_lab.train.evolution import entropy, settled_edges, shares_of_inputs

# --- Fig. 1 to 4, on runs ---------------------------------------------------------------------------------------------


def gap_sentence(drops: Sequence[Row], sharpness: Sequence[Row]) -> str:
    """Fig. 1: what the cut to each budget costs each method, beside DARTS; how far its operations had decided before.

    `drops`: a row for each search and budget (`make.drops`), one edge weight a method; `sharpness`: means over seeds of
    `differentiation_rows`.
    """
    costs, found = [], []
    for budget, rows in _by(drops, "budget").items():
        groups = compare.groups_by(rows, "method", "drop")
        costs.append(f"the cut to {budget} costs " + ", ".join(_means(groups)))
        named = {method: f"{method} at {budget}" for method in groups}
        groups = {named[method]: group for method, group in groups.items()}
        found += [compare.difference(groups, named[BASELINE], named[m], "drop") for m in named if m != BASELINE]
    weights = [f"{row['method']} {row['largest_weight_mean']:.2f}" for row in sharpness]
    return (
        f"In points of accuracy, {'; '.join(costs)}. Before it the largest operation weight of an edge is in the mean: "
        f"{', '.join(weights)}.\n\n{compare.listed(found)}"
    )


def _by(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """Rows by what they have under `key`, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _means(groups: Mapping[str, compare.Group], unit: str = "") -> list[str]:
    """`"darts 12.56 ± 0.54"` for each group."""
    return [f"{name} {compare.mean_text(group)}{unit}" for name, group in groups.items()]


def entropy_rows(run: Run) -> list[Row]:
    """Entropy in nats of operations (mean over edges) and edges (mean over nodes with a learned β), start and end."""
    rows = []
    for cell_type, weights in weight_evolution(run).items():
        operations = entropy(weights.operations).mean(axis=1)
        learned = range(run.search.searcher.first_edge_node, run.search.nodes)
        edges = np.mean([entropy(shares_of_inputs(weights.edges, node)) for node in learned], axis=0)
        for what, values in (("operations", operations), ("edges", edges)):
            row = names_of(run) | {"cell": cell_type, "entropy of": what}
            rows.append(row | {"at the start": float(values[0]), "at the end": float(values[-1])})
    return rows


def differentiation_epoch(operations: np.ndarray, share: float = 0.1) -> int | None:
    """Fig. 3: the first epoch in which the mean largest operation weight has come `share` of its way to 1.

    `operations` [T, E, O]: weights over the epochs, the start first. None: it never came that far.
    """
    largest = operations.max(axis=2).mean(axis=1)
    there = np.flatnonzero(largest >= largest[0] + share * (1 - largest[0]))
    return int(there[0]) if len(there) else None


def differentiation_rows(searches: Sequence[Run]) -> list[Row]:
    """Fig. 3: for each search the epoch in which its operation weights begin to differ, and how far they came."""
    rows = []
    for run in searches:
        operations = np.concatenate([weights.operations for weights in weight_evolution(run).values()], axis=1)
        epoch = differentiation_epoch(operations)
        rows.append(
            names_of(run)
            | {
                "onset_epoch": epoch,
                "onset_share": None if epoch is None else epoch / run.config.epochs,
                "largest_weight": float(operations[-1].max(axis=1).mean()),
                "entropy": float(entropy(operations[-1]).mean()),
            }
        )
    return rows


def differentiation_sentence(rows: Sequence[Row], config: SearchConfig) -> str:
    """Ours beside the paper's 40 %, for `rows` of means over seeds, and what in `config` (DA²S's) brings it forward."""
    claimed = paper.DIFFERENTIATION_EPOCH / paper.SEARCH_EPOCHS
    [row] = [row for row in rows if row["method"] == PAPERS]
    if row.get("onset_share_mean") is None:
        return "In no DA²S search here did the weights come a tenth of their way."
    ours = mean_std_text(100 * row["onset_share_mean"], row["onset_share_std"] and 100 * row["onset_share_std"], 0)
    difference = row["onset_share_mean"] - claimed
    place = "about where" if abs(difference) <= 0.1 else ("earlier than" if difference < 0 else "later than")
    text = f"DA²S's weights begin to differ after {ours} % of the search: {place} the paper sees it ({claimed:.0%})."
    if "onset_share_seeds" in row:
        begun, searches = len(row["onset_share_seeds"]), len(row["seeds"])
        text += f" That is in {begun} of {searches} searches; in the others they never do."
    if config.alpha_delay:
        text += f" α rests for the first {config.alpha_delay} of {config.epochs} epochs."
    travel = config.arch_learning_rate * config.steps * config.epochs / ARCH_TRAVEL
    if abs(travel - 1) > 0.05:
        text += f" Learning rate × steps, about how far α can move, is {travel:.1f} times the paper's."
    return text


def selection_rows(searches: Sequence[Run], budget: str) -> list[Row]:
    """Fig. 4: for each node with a learned β, the epochs in which its kept edges were selected.

    An edge is selected in the epoch from which on `budget` would always have kept it. (Where two weights settle says
    nothing: they share a sum, so that one mirrors the other.) `apart`: epochs between the first and the last.
    """
    rows = []
    for run in searches:
        settled = settled_edges(run, budget)
        for cell_type in CELL_TYPES:
            for node in range(run.search.searcher.first_edge_node, run.search.nodes):
                kept = [edge for edge in settled if (edge["cell"], edge["node"]) == (cell_type, node) and edge["kept"]]
                selected = [edge["kept_epoch"] for edge in kept]
                row = names_of(run) | {"cell": cell_type, "node": node}
                row |= {"kept": [edge["source"] for edge in kept], "selected": selected}
                rows.append(row | {"apart": max(selected) - min(selected) if selected else None})
    return rows


def selection_sentence(rows: Sequence[Row], epochs: int, within: float = 0.05) -> str:
    """Of how many nodes with several kept edges these were selected within 5 % of the search's epochs; beside it how
    often that is so for kept edges of different nodes, which nothing ties to each other."""
    pairs = [row["apart"] for row in rows if len(row["kept"]) > 1]
    if not pairs:
        return "No node keeps more than one edge."
    text = (
        f"Of {len(pairs)} nodes with several kept edges, {_within(pairs, within * epochs)} selected them within "
        f"{within:.0%} of the search's {epochs} epochs of each other; the median distance is {np.median(pairs):g}."
    )
    strangers = [
        abs(first - second)
        for row, other in itertools.combinations(rows, 2)
        if row["seed"] == other["seed"]
        for first, second in itertools.product(row["selected"], other["selected"])
    ]
    if not strangers:
        return text
    return (
        f"{text} Of pairs of kept edges of different nodes in the same search, {_within(strangers, within * epochs)} "
        f"were; their median distance is {np.median(strangers):g}."
    )


def _within(distances: Sequence[int], limit: float) -> str:
    together = sum(distance <= limit for distance in distances)
    return f"{together} ({together / len(distances):.0%})"


# --- Tables 1 to 4 and the ablation: what differs by more than chance -------------------------------------------------


def methods_sentence(rows: Sequence[Row]) -> str:
    """Table 1: the paper's method, which is its best, beside each of the others by their test errors. `rows`: a
    retraining each, with `method` and `error`."""
    errors = compare.groups_by(rows, "method", "error")
    found = [compare.difference(errors, name, PAPERS) for name in errors if name != PAPERS]
    return remarked(compare.listed(found), errors)


def speed_sentence(rows: Sequence[Row]) -> str:
    """Table 2: the functions of λ_c by their mean error, the paper's best (linear) beside each of the others; and
    whether λ_c that grows fast does better than one that grows late, as the paper sees it.

    `rows`: a retraining each, with `lambda_c` (`baseline`: DARTS) and `error`.
    """
    halves = {"growing fast (log, linear)": ("log", "linear"), "growing late (exp, step)": ("exp", "step")}
    return _settings_sentence(
        compare.groups_by(rows, "lambda_c", "error"),
        "linear",
        {name: [row for row in rows if row["lambda_c"] in own] for name, own in halves.items()},
        {name: [row for row in paper.TABLE_2 if row["lambda_c"] in own] for name, own in halves.items()},
    )


def priority_sentence(rows: Sequence[Row]) -> str:
    """Table 3: the pairs of functions by their mean error, the paper's best (log:delayed / const) beside each of the
    others; and whether to decide operations first or edges first makes a difference.

    `rows`: a retraining each, with `lambda_1`, `lambda_2` and `error`.
    """
    halves = {"operations first (λ_2 delayed)": "lambda_2", "edges first (λ_1 delayed)": "lambda_1"}
    named = [row | {"priority": f"{row['lambda_1']} / {row['lambda_2']}"} for row in rows]
    return _settings_sentence(
        compare.groups_by(named, "priority", "error"),
        "log:delayed / const",
        {name: [row for row in rows if row[own].endswith(":delayed")] for name, own in halves.items()},
        {name: [row for row in paper.TABLE_3 if row[own].endswith(":delayed")] for name, own in halves.items()},
    )


def _settings_sentence(
    errors: Mapping[str, compare.Group],
    best: str,
    halves: Mapping[str, Sequence[Row]],
    printed: Mapping[str, Sequence[Row]],
) -> str:
    """Settings by their mean error; `best`, the paper's, beside each of the others, and one half of the settings beside
    the other: which is best here was known only afterwards, and is compared with nothing.

    A half is the mean over its settings, seed by seed: so many runs are not so many seeds.
    """
    ranked = compare.ranked(errors)
    order = ", ".join(_means({name: errors[name] for name in ranked}, " %"))
    text = (
        f"By mean test error: {order}. The paper's best, {best}, is number {ranked.index(best) + 1} of {len(ranked)}."
    )
    means = {name: compare.by_seed(rows, "error") for name, rows in halves.items()}
    text += f" Over several functions: {', '.join(_means(means, ' %'))}; in the paper's rows "
    text += " and ".join(f"{np.mean([row['error_mean'] for row in rows]):.2f}" for rows in printed.values()) + " %."
    found = [compare.difference(errors, best, other) for other in ranked if other != best]
    one, other = means
    found.append(compare.difference(means, one, other, "test error (mean over functions)"))
    return f"{text}\n\n{compare.listed(found)}"


def ablation_sentence(rows: Sequence[Row]) -> str:
    """What the cut costs with neither, one and both of DA²S's losses, which of it each loss saves, and whether the
    losses change the retrained error. `rows`: a search each, with `losses` (`DARTS`, `neither`, …), `drop` and
    `error`."""
    drops, errors = (compare.groups_by(rows, "losses", quantity) for quantity in ("drop", "error"))
    costs = {name: np.mean(list(group.values())) for name, group in drops.items()}
    text = f"In points of accuracy, the cut costs {', '.join(_means(drops))}."
    if costs["neither"] > 0:
        saved = [f"{name} {1 - costs[name] / costs['neither']:.0%}" for name in ("operation loss", "edge loss", "both")]
        text += f" Of what it costs with neither, they save: {', '.join(saved)}."
    text += f" Retrained: {', '.join(_means(errors, ' %'))}."
    found = [compare.difference(drops, "neither", other, "drop") for other in drops if other != "neither"]
    found.append(compare.difference(errors, "neither", "both"))
    return f"{text}\n\n{compare.listed(found)}"


def order_sentence(rows: Sequence[Row]) -> str:
    """Table 4: for every budget the methods by their mean error, lowest first; DA²S beside DARTS, and whether it is
    ahead as in print, and exact budgets (which the paper has not) beside DARTS.

    `rows`: a retraining each, with `budget`, `method` and `error`. A Markdown list, an item a budget, and a remark.
    """
    errors = {budget: compare.groups_by(own, "method", "error") for budget, own in sorted(_by(rows, "budget").items())}
    found = {
        (budget, other): compare.difference(groups, BASELINE, other)
        for budget, groups in errors.items()
        for other in (PAPERS, EXACT)
        if {BASELINE, other} <= groups.keys()
    }
    said = dict(zip(found, compare.describe_all(list(found.values())), strict=True))
    lines = []
    for budget, groups in errors.items():
        ranked = compare.ranked(groups)
        lines.append(f"- {budget}: {' < '.join(_means({name: groups[name] for name in ranked}, ' %'))}.")
        for pair, words in said.items():
            if pair[0] == budget:
                lines.append(f"  - {words[0].upper()}{words[1:]}{_in_print(*pair, found[pair].mean)}.")
    return remarked("\n".join([*lines, "", compare.remark(list(found.values()))]), {row["method"] for row in rows})


def _in_print(budget: str, method: str, difference: float) -> str:
    """Which way the paper's Table 4 has it, for a `difference` in test error from DARTS; nothing where it has not."""
    printed = {(row["budget"], row["method"]): row["error_mean"] for row in paper.TABLE_4}
    if not {(budget, method), (budget, BASELINE)} <= printed.keys():
        return ""
    lower = printed[budget, method] < printed[budget, BASELINE]
    return f"; in the paper it is {'lower' if lower else 'higher'}{' too' if lower == (difference < 0) else ''}"


def remarked(text: str, methods: Iterable[str]) -> str:
    """What has to be said of the methods stands beside what is said of their differences."""
    remarks = dict.fromkeys(method_class(method).remark for method in sorted(methods) if method in METHODS)
    return " ".join([text, *filter(None, remarks)])


def same_search_sentence(searches: Sequence[Run]) -> str:
    """Table 4: which budgets of a method had searches with the same α and β in every epoch; empty where none had."""
    same: dict[tuple[str, str, str], set[int]] = {}
    for one, other in itertools.combinations(searches, 2):
        alike = (one.search.method, one.config.seed) == (other.search.method, other.config.seed)
        if alike and one.search.budget != other.search.budget:
            arrays = [(one.alphas[name], other.alphas[name]) for name in CELL_TYPES]
            arrays += [(one.betas[name], other.betas[name]) for name in CELL_TYPES]
            if all(np.array_equal(*pair) for pair in arrays):
                first, second = sorted((one.search.budget, other.search.budget))
                same.setdefault((one.search.method, first, second), set()).add(one.config.seed)
    return " ".join(
        f"The searches of {method} for {first} and {second} are one and the same "
        f"(seeds {', '.join(map(str, sorted(seeds)))}: equal α and β in every epoch), for their losses ask the same of "
        "each node; only the cut differs."
        for (method, first, second), seeds in same.items()
    )


# --- does the super-network's accuracy predict the retrained error? ---------------------------------------------------


def prediction_rows(rows: Sequence[Row]) -> list[Row]:
    """Rank correlations of the super-network's accuracy, before and after the cut, with the test error of its cell
    trained again: over all searches, over those of one method, and over those of the budget that most have.

    `rows`: a search each, with `method`, `budget`, `seed`, `before`, `after` and `error`. `p_holm` is corrected for all
    the correlations together.
    """
    budgets = [row["budget"] for row in rows]
    common = max(dict.fromkeys(budgets), key=budgets.count)
    groups = {"all": list(rows)} | _by(rows, "method")
    groups[f"all of {common}"] = [row for row in rows if row["budget"] == common]
    found: list[Row] = [
        {"searches": name, "accuracy": accuracy, "seeds": sorted({row["seed"] for row in own})}
        | compare.rank_correlation([row[accuracy] for row in own], [row["error"] for row in own])._asdict()
        for name, own in groups.items()
        for accuracy in ("before", "after")
    ]
    return [row | {"p_holm": p} for row, p in zip(found, compare.holm([row["p"] for row in found]), strict=True)]


def prediction_sentence(rows: Sequence[Row]) -> str:
    """Whether the more accurate super-network has the better cell, for `rows` of `prediction_rows`."""
    lines = []
    for name, own in _by(rows, "searches").items():
        found = [compare.RankCorrelation(*(row[field] for field in compare.RankCorrelation._fields)) for row in own]
        words = [
            f"{row['accuracy']} the cut {compare.describe_ranks(one, row['p_holm'])}"
            for row, one in zip(own, found, strict=True)
        ]
        lines.append(f"- {name}: {'; '.join(words)}.")
    tested = [row for row in rows if row["p"] is not None]
    sure = [f"{row['searches']}, {row['accuracy']} the cut" for row in tested if row["p_holm"] < compare.LEVEL]
    text = f"Significant after Holm's correction for {len(tested)} rank correlations: {'; '.join(sure) or 'none'}."
    text += " Below 0 the more accurate super-network has the better cell; in brackets the 95 % interval."
    mixed = (
        "`all` mixes methods, budgets and settings, a method its budgets and settings, and searches of one budget are "
        f"of several methods: each moves both numbers. Searches count as independent; {compare.GROUND}."
    )
    return remarked("\n".join([text, "", *lines, "", mixed]), {row["searches"] for row in rows})
