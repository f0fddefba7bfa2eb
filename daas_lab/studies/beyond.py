"""Beyond the paper: cuts that cost nothing, what their cells are worth, and what such searches take.

A *case* is a search as the study names it. Rows of single runs have its name as `search` beside the names of
`make.names_of`; accuracies and drops are in percent of held-out images, errors in percent of test images.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daas_lab.config import SearchConfig
from daas_lab.identity import config_hash
from daas_lab.methods import rules
from daas_lab.methods.lookup import PAPERS
from daas_lab.report import compare
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.space.cell_space import input_edges
from daas_lab.studies import make, table_4
from daas_lab.studies.claims import remarked
from daas_lab.studies.estimate import search_seconds
from daas_lab.studies.paper_tables import budgets_of, retraining_rows
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import Evolution, weight_evolution
from daas_lab.train.evolution import entropy, shares_of_inputs

BUDGETS = tuple(NAMED_BUDGETS)
FEWER = tuple(budget for budget in BUDGETS if budget != "8/14")
# The paper's super-network (preset `full` on CIFAR-10), but for its three colours; at how many stages it is measured.
FULL_SIZE = {"layers": 8, "channels": 16, "side": 32, "batch_size": 64}
FULL_STAGES = 8
Cases = Mapping[str, Mapping[str, Any]]  # name → `method`, and `protocol`, `select`, `seeds`, or fields of the search


# --- which runs -------------------------------------------------------------------------------------------------------


def searches(cases: Cases, settings: Settings) -> dict[str, list[SearchConfig]]:
    """The configurations of every case: for each seed (of the case, or of the settings) a search for each budget,
    unless the case says for which, or its method needs to know none."""
    found = {}
    for name, case in cases.items():
        changes = {key: value for key, value in case.items() if key not in ("method", "select")}
        own = replace(settings, **{key: changes.pop(key) for key in ("protocol", "seeds") if key in changes})
        budgets = [changes.pop("budget")] if "budget" in changes else BUDGETS
        if own.protocol == "paper" and case["method"] == PAPERS:
            budgets = [table_4.searched_for(budget) for budget in budgets]
        configs = [
            own.search(case["method"], seed, budget=budget, **changes) for seed in own.seeds for budget in budgets
        ]
        found[name] = list(dict.fromkeys(configs))
    return found


def make_searches(cases: Cases, settings: Settings) -> dict[str, list[Run]]:
    """The runs that the settings want of every case (`make.wanted`), made side by side; of a case without any, nothing.
    Cells that a rule has to measure need weights: a record without them does not count."""

    def has_cells(run: Run) -> bool:
        return set(BUDGETS) <= run.cells.get(rules.PERTURBATION, {}).keys()

    configs, measured = {}, set()
    for name, own in searches(cases, settings).items():
        of_rule = _select(cases, name) != rules.OWN
        configs[name] = make.wanted(own, settings, has_cells if of_rule else lambda run: True)
        measured |= set(map(config_hash, configs[name] if of_rule else ()))

    def stands(run: Run) -> bool:
        return config_hash(run.config) not in measured or has_cells(run)

    every = list(dict.fromkeys(config for own in configs.values() for config in own))
    made = dict(zip(every, make.make_runs(every, settings, stands), strict=True))
    for name, own in configs.items():
        if _select(cases, name) != rules.OWN:
            make.drops([made[config] for config in own], _budgets, settings, select=_select(cases, name))
            made |= zip(own, make.make_runs(own, settings, stands), strict=True)  # with the cells that were chosen
    return {name: [made[config] for config in own] for name, own in configs.items() if own}


def _select(cases: Cases, name: str) -> str:
    return cases[name].get("select", rules.OWN)


def _budgets(run: Run) -> list[str]:
    of_text = run.search.protocol == "paper" and run.search.label == PAPERS
    return table_4.budgets_served(run) if of_text else budgets_of(run, BUDGETS)


# --- what they give ---------------------------------------------------------------------------------------------------


def gap_rows(made: Mapping[str, Sequence[Run]], cases: Cases, settings: Settings) -> list[Row]:
    """Drops of the whole cut with statistics as trained, kept edges at 1 and as they learned; a row for each search
    with a super-network, budget and edge weight."""
    rows = []
    for name, runs in made.items():
        trained = [run for run in runs if run.search.searcher.trains]
        for row in make.drops(trained, _budgets, settings, select=_select(cases, name)):
            if row["batch_norm"] == "as-trained" and row["edge_weight"] in ("one", "learned"):
                rows.append({"search": name} | row)
    return rows


def cell_rows(made: Mapping[str, Sequence[Run]], cases: Cases, settings: Settings) -> list[Row]:
    """`retraining_rows` of every case at every budget that its searches stand for."""
    return [
        {"search": name} | row
        for name, runs in made.items()
        for row in retraining_rows(runs, settings, _budgets, _select(cases, name))
    ]


def entropy_series(made: Mapping[str, Sequence[Run]], budget: str = "4/14") -> dict[str, dict[str, np.ndarray]]:
    """Case → `operation_entropy` and `edge_entropy` in nats after every epoch [T], means over both cells and those of
    its searches that serve `budget`. Of 4/14, where a node keeps one edge, both end at 0 when all is decided.

    An edge counts by its weight b, a node by the sum of its edges': what is gone has no part in it.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, runs in made.items():
        own = [run for run in runs if run.search.searcher.trains and budget in _budgets(run)]
        each = [_entropies(weights, run.search.nodes) for run in own for weights in weight_evolution(run).values()]
        if each:
            operations, edges = np.mean(each, axis=0)
            found[name] = {"operation_entropy": operations, "edge_entropy": edges}
    return found


def _entropies(weights: Evolution, nodes: int) -> np.ndarray:
    """Of a cell's operation and edge weights after every epoch [2, T]."""
    a, b = weights.operations, weights.edges
    total = b.sum(axis=1)
    of_nodes = [b[:, input_edges(node)].sum(axis=1) * entropy(shares_of_inputs(b, node)) for node in range(2, nodes)]
    return np.stack([(b * entropy(a)).sum(axis=1) / total, np.sum(of_nodes, axis=0) / total])


# --- what a search takes ----------------------------------------------------------------------------------------------


def search_time(
    made: Mapping[str, Sequence[Run]],
    settings: Settings,
    *,
    plain: str,
    retired: str,
    one: str,
    five: str,
    full: bool = False,
) -> dict[str, float]:
    """What searches take of each other's time, measured in one call (`search_seconds`); of the first seed's searches
    in these four cases, and nothing where one of them is missing.

    `retired_over_plain`: a search whose candidates retire, and that for the same budget in which none does.
    `one_over_five`: one search for all budgets, and one for each. `textbook_over_retired`: the readable form without
    retirement, and the fast one with it. `textbook_over_retired_full`, if `full`: the same of a network of the paper's
    size (`FULL_SIZE`) whose candidates retire as the small one's did, from steps at `FULL_STAGES` of its stages; that
    takes minutes, and 12 GB.
    """
    own = {
        name: {run.search.budget: run for run in made.get(name, ()) if run.config.seed == settings.seeds[0]}
        for name in (plain, retired, one, five)
    }
    both = own[plain].keys() & own[retired].keys()
    if not (both and own[one] and own[five].keys() == set(BUDGETS)):
        return {}
    budget = min(both)
    runs = {"plain": own[plain][budget], "textbook": own[plain][budget], "retired": own[retired][budget]}
    runs |= {"one": next(iter(own[one].values()))}
    seconds = search_seconds(runs | own[five], settings, readable={"textbook"})
    took = {
        "retired_over_plain": seconds["retired"] / seconds["plain"],
        "one_over_five": seconds["one"] / sum(seconds[budget] for budget in own[five]),
        "textbook_over_retired": seconds["textbook"] / seconds["retired"],
    }
    if full:
        both_forms = {name: runs[name] for name in ("textbook", "retired")}
        seconds = search_seconds(both_forms, settings, 2, {"textbook"}, FULL_SIZE, FULL_STAGES)
        took["textbook_over_retired_full"] = seconds["textbook"] / seconds["retired"]
    return took


# --- in words ---------------------------------------------------------------------------------------------------------


def drop_sentence(gaps: Sequence[Row]) -> str:
    """What each case loses with kept edges at 1, over its budgets and seeds: the mean, and the worst run."""
    whole = [row for row in gaps if row["edge_weight"] == "one"]
    parts = []
    for name in dict.fromkeys(row["search"] for row in whole):
        own = [row for row in whole if row["search"] == name]
        drops, budgets = [row["drop"] for row in own], {row["budget"] for row in own}
        where = "" if budgets == set(BUDGETS) else f" of {', '.join(sorted(budgets))}"
        cuts = f"{len(drops)} cut{'s' * (len(drops) > 1)}"
        parts.append(f"{name} {np.mean(drops):z.2f} (at worst {max(drops):z.2f}, {cuts}{where})")
    lost = "Points of accuracy lost at the cut, kept edges at 1, in the mean over budgets and seeds"
    return f"{lost}: {'; '.join(parts)}."


def network_sentence(gaps: Sequence[Row], baseline: str) -> str:
    """The accuracies before the cut, in the mean over the budgets, against those of `baseline`. Of searches for one
    budget each, 3/14's network is 4/14's again where the losses ask the same, by the same run or by one as accurate
    with every seed: it counts once."""
    own = [row for row in gaps if row["edge_weight"] == "one"]
    for name in dict.fromkeys(row["search"] for row in own):
        runs = {at: {row["run"] for row in own if (row["search"], row["budget"]) == (name, at)} for at in BUDGETS}
        accuracies = [_befores(own, name, at) for at in ("3/14", "4/14")]
        if accuracies[0] == accuracies[1] and runs["4/14"] != runs["8/14"]:
            own = [row for row in own if (row["search"], row["budget"]) != (name, "3/14")]
    pairs = [(baseline, name) for name in dict.fromkeys(row["search"] for row in own) if name != baseline]
    return compare.listed(compare.differences(own, "search", pairs, "before", "accuracy before the cut"))


def furthest_sentence(gaps: Sequence[Row], baseline: str, ours: str) -> str:
    """At which budget the networks of `ours` are furthest below those of `baseline` before the cut, by the mean over
    the seeds that both have; nothing where they have none together."""
    own = [row for row in gaps if row["edge_weight"] == "one"]
    found = []
    for budget in BUDGETS:
        groups = {name: _befores(own, name, budget) for name in (baseline, ours)}
        if groups[baseline].keys() & groups[ours].keys():
            one = compare.difference(groups, baseline, ours)
            found += [(one.mean, budget, one.seeds[0])] if one.paired else []
    if not found:
        return ""
    mean, budget, seeds = min(found)
    where = "is nowhere below" if mean >= 0 else f"is furthest below at {budget}, by {-mean:.2f} points in the mean"
    return f"Beside {baseline}'s super-network that of {ours} {where} ({seeds} seeds)."


def _befores(rows: Sequence[Row], search: str, budget: str) -> dict[int, float]:
    return compare.by_seed([row for row in rows if (row["search"], row["budget"]) == (search, budget)], "before")


def time_sentence(took: Mapping[str, float]) -> str:
    """What `search_time` found."""
    if not took:
        return "What a search takes is measured when one of each kind is finished."
    said = (
        "Search times in the table are of whole runs, with whatever ran beside them. By steps of the first seed's "
        f"searches DA²S with retired candidates takes {took['retired_over_plain']:.2f} of the time without, one search "
        f"for all budgets {took['one_over_five']:.2f} of five exact ones; the readable form without retirement takes "
        f"{took['textbook_over_retired']:.1f} times as long as the fast one with it."
    )
    if "textbook_over_retired_full" in took:
        size = (
            f"of {FULL_SIZE['layers']} cells of {FULL_SIZE['channels']} channels, images of {FULL_SIZE['side']} pixels "
            f"and batches of {FULL_SIZE['batch_size']}"
        )
        said += (
            f" In a network of the paper's size ({size}) it is {took['textbook_over_retired_full']:.1f} times, "
            f"extrapolated from steps at {FULL_STAGES} stages of a search that loses its candidates as this one did."
        )
    return said


def retired_sentence(gaps: Sequence[Row], cells: Sequence[Row], plain: str, retired: str) -> str:
    """What retirement changes beside the time, at the budgets that both have: accuracy before the cut, drop with kept
    edges at 1, test error. Nothing where one of the two is missing."""
    whole = [row for row in gaps if row["edge_weight"] == "one"]
    told = ((whole, "before", "accuracy before the cut"), (whole, "drop", "drop"), (cells, "error", "test error"))
    found = [
        one
        for rows, quantity, title in told
        for one in compare.differences(rows, "search", [(plain, retired)], quantity, title)
    ]
    return f"What else retirement changes:\n\n{compare.listed(found)}" if found else ""


def error_sentence(cells: Sequence[Row], ours: str, others: Collection[str] | None = None) -> str:
    """Test errors of retrained cells: of `ours` against every other case, or these, pooled over the budgets below 8/14
    that both have, and at 8/14."""
    found: list[compare.Difference] = []
    had: dict[str, set[str]] = {}
    for row in cells:
        had.setdefault(row["search"], set()).add(row["budget"])
    for budgets, where in ((FEWER, "below 8/14"), (("8/14",), "at 8/14")):
        for name in had:
            both = [budget for budget in budgets if budget in had[name] & had.get(ours, set())]
            if name != ours and both and (others is None or name in others):
                own = [row for row in cells if row["budget"] in both]
                place = where if len(both) == len(budgets) else f"at {', '.join(both)}"
                found += compare.differences(own, "search", [(name, ours)], "error", f"test error {place}")
    return remarked(compare.listed(found), {row["method"] for row in cells})
