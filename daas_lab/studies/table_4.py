"""Table 4 under the paper's text (protocol `paper`), and what its accuracy drops are made of.

A search under the text asks each node for k edges; a kept edge ends at b = 1/k, and the cut gives it the weight 1.
Rows of single runs have the names of `make.names_of`; accuracies and drops are in percent of the held-out images.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from daas_lab import paper
from daas_lab.config import SearchConfig
from daas_lab.methods.lookup import PAPERS, labelled_class
from daas_lab.report import compare
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, input_edges
from daas_lab.studies import make
from daas_lab.studies.paper_tables import retraining_rows
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import weight_evolution
from daas_lab.train.evolution import decided_edges, genotype_after

STAGES = ("none", "scale", "both")
PRINTED = {row["budget"]: row["before"] - row["after"] for row in paper.TABLE_4 if row["method"] == PAPERS}
THE_TEXT, THE_CODE = "DA²S, the text", "DA²S, the code"


# --- which runs -------------------------------------------------------------------------------------------------------


def searched_for(budget: str) -> str:
    """The budget of the paper that DA²S is searched for so as to serve `budget`: the first that asks the same k of
    every node. For 3/14 that is 4/14, whose nodes 2 and 3 keep an edge each; only the cut joins them."""
    asked = EdgeBudget.parse(budget)
    same = (named for named in NAMED_BUDGETS if _targets(EdgeBudget.parse(named)) == _targets(asked))
    return next(same, str(asked))


def _targets(budget: EdgeBudget) -> list[dict[int, int]]:
    return [budget.targets(cell_type) for cell_type in CELL_TYPES]


def budgets_served(run: Run) -> list[str]:
    """The paper's budgets that a search of `searches` stands for."""
    return [budget for budget in NAMED_BUDGETS if searched_for(budget) == run.search.budget]


def searches(settings: Settings) -> list[SearchConfig]:
    """DA²S for every budget of the paper, 8/14 too, and every seed. Small presets have too few channels for the text's
    K = 4: there all of them pass through the operations."""
    partial_channels = None if settings.preset == "full" else 1
    configs = [
        settings.search(PAPERS, seed, budget=searched_for(budget), partial_channels=partial_channels)
        for budget in NAMED_BUDGETS
        for seed in settings.seeds
    ]
    return list(dict.fromkeys(configs))


def drops(runs: Sequence[Run], settings: Settings) -> list[Row]:
    """Every search at the budgets that it serves: cut, with nothing cut, and with only the scale of the cut."""
    return make.drops(runs, budgets_served, settings, STAGES)


def node_rows(runs: Sequence[Run], settings: Settings) -> list[Row]:
    """What every node carries, and what it costs to drop it alone (`node_costs`), of the searches that serve
    3/14."""
    return make.drops([run for run in runs if "3/14" in budgets_served(run)], ["3/14"], settings, ["node"])


# --- what they give ---------------------------------------------------------------------------------------------------


def pattern_rows(gaps: Iterable[Row]) -> list[Row]:
    """A row for each run and budget of `drops`, all but `before` and `control` in points of accuracy lost.

    `two_edges`: how many nodes of a cell keep two; `dropped`: how many the budget leaves without input. `one`,
    `learned` and `renormalised`: the drop with that weight of kept edges, statistics as trained. `predicted`: what it
    costs to set the edges that would be kept to 1 and remove nothing. `control`: the accuracy with nothing cut and the
    statistics estimated again; `recalibrated`: what the cut with weight 1 costs against it, its own estimated again.
    """
    runs: dict[tuple, tuple[Row, dict]] = {}
    for row in gaps:
        named = {key: row[key] for key in ("run", "protocol", "method", "budget", "seed", "before")}
        runs.setdefault((row["run"], row["budget"]), (named, {}))[1][
            row["stage"], row["edge_weight"], row["batch_norm"]
        ] = row["after"]
    rows = []
    for named, after in runs.values():
        before, control = named["before"], after["none", "one", "recalibrated"]
        groups = EdgeBudget.parse(named["budget"]).groups("normal")
        rows.append(
            named
            | {"two_edges": sum(group.keep > 1 for group in groups)}
            | {"dropped": sum(max(0, len(group.nodes) - group.keep) for group in groups)}
            | {weight: before - after["both", weight, "as-trained"] for weight in ("one", "learned", "renormalised")}
            | {"predicted": before - after["scale", "one", "as-trained"], "control": control}
            | {"recalibrated": control - after["both", "one", "recalibrated"]}
        )
    return rows


def replaced_edges(runs: Iterable[Run], budget: str = "3/14") -> list[Row]:
    """Kept edges that the cut for a search's own budget takes and the cut to `budget` cannot, for their source is
    dropped: a row for each, with the `b` of the edge that takes its place.

    `cell`, `node` (which gets the edge), `dropped` (the source) and `source` (the one that takes its place).
    """
    rows = []
    for run in runs:
        weights = weight_evolution(run)
        own, smaller = genotype_after(run), genotype_after(run, budget=budget)
        for name in CELL_TYPES:
            concat, kept = smaller.cell(name).concat, {edge[:2] for edge in smaller.cell(name).edges}
            for source, node in sorted({edge[:2] for edge in own.cell(name).edges} - kept):
                if node not in concat or source in (0, 1, *concat):
                    continue  # the node itself is dropped
                [instead] = [other for other, target in kept if target == node]
                b = weights[name].edges[-1][input_edges(node)[instead]]
                row = {"cell": name, "node": node, "dropped": source, "source": instead, "b": float(b)}
                rows.append(make.names_of(run) | row)
    return rows


def price_rows(runs: Sequence[Run], settings: Settings, budgets: make.Budgets) -> list[Row]:
    """`paper_tables.retraining_rows` with `search`, what these searches are called beside each other."""
    ours = {"paper": THE_TEXT, "authors": THE_CODE}
    return [
        row | {"search": ours[row["protocol"]] if row["method"] == PAPERS else labelled_class(row["method"]).title}
        for row in retraining_rows(runs, settings, budgets)
    ]


# --- what they say ----------------------------------------------------------------------------------------------------


def decided_sentence(runs: Sequence[Run]) -> str:
    """How many of the searches have decided every edge by their end."""
    decided = [decided_edges(run.search, run.architecture(), run.search.epochs) for run in runs]
    every = len(CELL_TYPES) * len(runs[0].search.space.edges)
    others = [str(count) for count in sorted(decided) if count < every]
    rest = f", the other{'s' * (len(others) > 1)} {' and '.join(others)}" if others else ""
    return f"{len(decided) - len(others)} of {len(decided)} searches end with all {every} edges decided{rest}."


def pattern_sentence(rows: Sequence[Row]) -> str:
    """What the cut with weight 1 costs by the number of nodes that keep two edges, ours and printed. `rows`: those of
    `pattern_rows`."""
    groups = _by_budget(rows)
    parts = [f"{_mean(own, 'one')} at {budget} ({_nodes(own[0])})" for budget, own in groups.items()]
    printed = [f"{PRINTED[budget]:.2f} at {budget}" for budget in groups if budget in PRINTED]
    means = [np.mean([row["one"] for row in own]) for own in groups.values()]
    grows = all(later > earlier for earlier, later in itertools.pairwise(means))
    return (
        f"Points lost with kept edges at 1, by the nodes that keep two: {', '.join(parts)}. The mean "
        f"{'grows with every such node' if grows else 'does not grow with every such node'}. "
        f"The paper prints {', '.join(printed)}."
    )


def prediction_sentence(rows: Sequence[Row]) -> str:
    """How far the drop is that of setting kept edges to 1, with nothing removed."""
    parts = [
        f"{_mean(own, 'predicted')} of {_mean(own, 'one')} at {budget}" for budget, own in _by_budget(rows).items()
    ]
    rest = [row["one"] - row["predicted"] for row in rows if not row["dropped"]]
    return (
        f"Setting them to 1 and removing nothing costs {', '.join(parts)}. What the cut then removes adds "
        f"{np.mean(rest):z.2f} points in the mean of {len(rest)} cuts, between {min(rest):z.2f} and {max(rest):z.2f}."
    )


def learned_sentence(rows: Sequence[Row]) -> str:
    """What the same cuts cost where kept edges keep the weights that the search gave them."""
    cuts = [row for row in rows if not row["dropped"]]
    worst = max(cuts, key=lambda row: row["learned"])
    return (
        f"With the weights that the search learned the same {len(cuts)} cuts cost {_mean(cuts, 'learned')} points, "
        f"at the worst {worst['learned']:z.2f} ({worst['budget']}, seed {worst['seed']})."
    )


def recalibration_sentence(rows: Sequence[Row]) -> str:
    """What is left of the drop once the statistics fit, against the network that was not cut and had its own estimated
    again."""
    parts = [f"{_mean(own, 'recalibrated')} at {budget}" for budget, own in _by_budget(rows).items()]
    moved = np.mean(list({row["run"]: row["control"] - row["before"] for row in rows}.values()))  # a network once
    return (
        f"With statistics estimated again the cut with weight 1 costs {', '.join(parts)}. "
        f"With nothing cut, estimating them again moves the accuracy by {moved:+.2f} points in the mean."
    )


def dropped_node_sentence(rows: Sequence[Row], nodes: Sequence[Row], replaced: Sequence[Row]) -> str:
    """3/14: what it costs, what the dropped nodes carry beside the others, and what dropping one alone costs.

    `rows`: those of `pattern_rows`; `nodes`: of `node_rows`; `replaced`: of `replaced_edges`.
    """
    cuts = [row for row in rows if row["budget"] == "3/14"]
    trained, again = (
        [row for row in nodes if row["batch_norm"] == statistics] for statistics in ("as-trained", "recalibrated")
    )
    joined = next(group.nodes for group in EdgeBudget.parse("3/14").groups("normal") if group.keep < len(group.nodes))
    candidates = [row for row in trained if row["node"] in joined]
    gone, others = ([row for row in candidates if row["dropped"] is dropped] for dropped in (True, False))
    text = (
        f"The cut to 3/14 costs {_mean(cuts, 'one')} points with weight 1, {_mean(cuts, 'learned')} with what was "
        f"learned (the paper: {PRINTED['3/14']:.2f}); to set the edges that it keeps to 1 and remove nothing costs "
        f"{_mean(cuts, 'predicted')}. Of nodes {' and '.join(map(str, joined))} one is dropped. Its edges weigh "
        f"{_mean(gone, 'incoming')} together, the other's {_mean(others, 'incoming')}; the root mean square of what it "
        f"puts out is {_mean(gone, 'rms')}, of the other's {_mean(others, 'rms')}. To drop it alone costs "
        f"{_mean(gone, 'drop')} points ({_mean([row for row in again if row['dropped']], 'drop')} with statistics "
        f"estimated again), the other {_mean(others, 'drop')}."
    )
    weights = [row["b"] for row in replaced]
    if not weights:
        return f"{text} No edge that 4/14 keeps leaves a dropped node."
    return (
        f"{text} Of the edges that 4/14 keeps, all searches together, {len(weights)} leave a dropped node; what takes "
        f"their place had b = {np.mean(weights):.3f} in the mean, {max(weights):.3f} at most."
    )


def protocols_sentence(rows: Sequence[Row]) -> str:
    """The retrained cells of DA²S under the text beside those under the published code, budget by budget. `rows`: those
    of `retraining_rows` of both."""
    found = []
    for budget in NAMED_BUDGETS:
        own = [row for row in rows if (row["method"], row["budget"]) == (PAPERS, budget)]
        groups = {
            f"{name} at {budget}": compare.by_seed([row for row in own if row["protocol"] == protocol], "error")
            for protocol, name in (("authors", THE_CODE), ("paper", THE_TEXT))
        }
        if all(groups.values()):
            found.append(compare.difference(groups, *groups))
    return compare.listed(found)


def price_sentence(rows: Sequence[Row]) -> str:
    """How many of the kept operations have no weights to learn, by search, and the test errors of the cells beside
    those of the text's. `rows`: those of `price_rows`."""
    shares = {name: [row for row in rows if row["search"] == name] for name in dict.fromkeys(r["search"] for r in rows)}
    shares = [f"{name} {_mean(own, 'parameter_free_normal')} %" for name, own in shares.items()]
    groups = compare.groups_by(rows, "search", "error")
    pairs = [(THE_TEXT, name) for name in groups if name != THE_TEXT]
    errors = [f"{name} {np.mean(list(group.values())):.2f} % ({len(group)} seeds)" for name, group in groups.items()]
    found = compare.differences(rows, "search", pairs, "error", "test error (mean over budgets)")
    return (
        f"Pools and skips among the operations of the normal cells: {', '.join(shares)}. Test errors in the mean over "
        f"the budgets: {', '.join(errors)}.\n\n{compare.listed(found)}"
    )


def _by_budget(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each budget that drops no node, in the order of how many nodes keep two edges."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["two_edges"]):
        if not row["dropped"]:
            groups.setdefault(row["budget"], []).append(row)
    return groups


def _nodes(row: Row) -> str:
    count = row["two_edges"]
    return f"{count or 'no'} node{'' if count == 1 else 's'}"


def _mean(rows: Sequence[Row], quantity: str) -> str:
    """The mean, and its deviation over the seeds."""
    return compare.mean_text(compare.by_seed(rows, quantity))
