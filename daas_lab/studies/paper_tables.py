"""The studies behind the figures and tables: which runs each is made of, and the rows that they give."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from daas_lab.config import SearchConfig
from daas_lab.errors import refuse
from daas_lab.methods import rules
from daas_lab.methods.lookup import labelled_class
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import input_edges
from daas_lab.studies import make
from daas_lab.studies.settings import Settings
from daas_lab.studies.sizes import size_of
from daas_lab.train.attribution import attribution
from daas_lab.train.discretize import weight_evolution
from daas_lab.train.evolution import genotype_after, kept_weight, parameter_free
from daas_lab.train.search import load_supernet
from daas_lab.train.splits import search_splits

IMBALANCED_BUDGETS = tuple(budget for budget in NAMED_BUDGETS if budget != "8/14")  # those of Table 4


# --- which runs -------------------------------------------------------------------------------------------------------


def table_4_searches(settings: Settings, methods: Sequence[str], budgets: Sequence[str]) -> list[SearchConfig]:
    """Table 4: a search for every method, budget and seed; those of DARTS are one and the same at every budget."""
    configs = [
        settings.search(method, seed, budget=budget)
        for method in methods
        for budget in budgets
        for seed in settings.seeds
    ]
    return list(dict.fromkeys(configs))


def budgets_of(run: Run, budgets: make.Budgets) -> list[str]:
    """The budgets that a search stands for: those that `budgets` gives for it, if it is a function; else its own where
    it was searched for one, those at which it stopped where it was for several, and all of them where it was for none.
    """
    if callable(budgets):
        return list(budgets(run))
    if not run.search.searcher.asks_for_budget:
        return list(budgets)
    return [budget for budget in run.search.stops if budget in budgets] or [run.search.budget]


def gap_rows(searches: Sequence[Run], settings: Settings, budgets: Sequence[str]) -> list[Row]:
    """Accuracy drops of every search at the budgets that it stands for, all combinations."""
    return make.drops(searches, lambda run: budgets_of(run, budgets), settings)


def with_drops(rows: Sequence[Row], searches: Sequence[Run], settings: Settings) -> list[Row]:
    """`rows` of single cuts, each with what the cut to its budget does to its search: `edge_weight`, `batch_norm`,
    `before`, `after` and `drop`, as `is_main_drop` chooses."""
    budgets: dict[str, list[str]] = {}
    for row in rows:
        budgets.setdefault(row["run"], []).append(row["budget"])
    measured = make.drops(searches, lambda run: budgets.get(make.run_name(run.config), []), settings)
    drops = {(row["run"], row["budget"]): row for row in measured if is_main_drop(row)}
    return [drops[row["run"], str(EdgeBudget.parse(row["budget"]))] | row for row in rows]


def is_main_drop(row: Row) -> bool:
    """Whether a row is the drop of the whole cut, with its method's own edge weight and the statistics of the search.

    What a row does not name it cannot differ in: one without a drop counts. `learned` is that of methods that learn b
    freely, for two kept edges end at 0.5 each; all others' is `one`.
    """
    own = labelled_class(row["method"]).edge_weight
    main = {"stage": "both", "edge_weight": own, "batch_norm": "as-trained", "select": rules.OWN}
    return all(row.get(key, value) == value for key, value in main.items())


# --- what they give ---------------------------------------------------------------------------------------------------


def retraining_rows(
    searches: Sequence[Run], settings: Settings, budgets: make.Budgets | None = None, select: str = rules.OWN
) -> list[Row]:
    """Retrain the cell of every search at the budgets it stands for (default: its own), by the rule `select`, and count
    it.

    A row for each that the settings want (`make.wanted`), with `make.names_of` the search, `budget`, the λ,
    `retraining` (its run's name), `error` (test, percent), `params_m` and `multiply_adds_m` (both of the CIFAR-10 form
    at the paper's size, so that they stand beside the paper's), `parameter_free_normal` and `parameter_free_reduce`,
    `search_cost_s`.
    """
    jobs = []
    for run in searches:
        for budget in [run.search.budget] if budgets is None else budgets_of(run, budgets):
            cells = genotype_after(run, budget=budget, select=select)
            about = size_of(cells) | parameter_free(cells)
            jobs.append((run, budget, about, settings.retraining(cells, run.config.seed)))
    asked = make.wanted(dict.fromkeys(config for *_, config in jobs), settings)
    retrained = {make.run_name(run.config): run for run in make.make_runs(asked, settings)}
    rows = []
    for run, budget, about, config in jobs:
        name = make.run_name(config)
        if name not in retrained:
            continue
        rows.append(
            make.names_of(run)
            | {"budget": budget, "retraining": name}
            | {factor: getattr(run.config, factor) for factor in ("lambda_c", "lambda_1", "lambda_2")}
            | {"error": retrained[name].result["test_error"], "search_cost_s": run.seconds}
            | about
        )
    return rows


def ablation_rows(searches: Sequence[Run], settings: Settings) -> list[Row]:
    """A row for each search: what the cut to the settings' budget does to it (as `is_main_drop` chooses, and
    `after_recalibrated`), `kept_operations` and `kept_edges`, and its retraining."""
    runs = {make.run_name(run.config): run for run in searches}
    recalibrated = {
        row["run"]: row["after"]
        for row in make.drops(searches, [settings.budget], settings)
        if row["batch_norm"] == "recalibrated" and is_main_drop(row | {"batch_norm": "as-trained"})
    }
    return [
        {"after_recalibrated": recalibrated[row["run"]]} | row | kept_weight(runs[row["run"]], settings.budget)
        for row in with_drops(retraining_rows(searches, settings, [settings.budget]), searches, settings)
    ]


def attribution_rows(run: Run, budget: str, settings: Settings) -> list[Row]:
    """What each single decision of the cut to `budget` costs a search's super-network alone (`attribution`).

    The run must have its folder: a record holds no weights.
    """
    if run.folder is None:
        raise refuse("run", make.run_name(run.config), "a run with its folder: a record holds no weights")
    network, config = load_supernet(run.folder, budget)
    splits = search_splits(config, settings.data)
    named = make.names_of(run) | {"budget": budget}
    return [named | row for row in attribution(network, config, splits.held_out, splits.weights, budget)]


def best_by_held_out(searches: Sequence[Run], rows: Sequence[Row]) -> Run:
    """The search whose super-network is most accurate on held-out images after the cut, statistics as trained.

    `rows` are their accuracy drops. Test images have no say.
    """
    after = {row["seed"]: row["after"] for row in rows if is_main_drop(row)}
    return max(searches, key=lambda run: after[run.config.seed])


# --- what one figure draws --------------------------------------------------------------------------------------------


def node_panel(
    run: Run, node: int, budgets: Sequence[str], drops: Sequence[Row], retrained: Sequence[Row] = ()
) -> dict:
    """Fig. 1: what `plots.node_inputs` draws of one search. Its title has the accuracies: of the super-network before
    and after each cut (`drops`), with kept edges at 1 too where its method's own weight is another, and of the cell on
    test images once it is trained again (`retraining_rows`)."""
    weights = weight_evolution(run)["normal"]
    edges, searcher = input_edges(node), run.search.searcher
    kept, parts = {}, []
    for budget in budgets:
        own = {"run": make.run_name(run.config), "budget": budget}
        cell = genotype_after(run, budget=budget).normal
        kept[budget] = sorted({edge.source for edge in cell.edges if edge.node == node})
        cut = own | {"stage": "both", "batch_norm": "as-trained"}
        of_cut = {row["edge_weight"]: row for row in drops if cut.items() <= row.items()}
        drop = of_cut[searcher.edge_weight]
        part = f"cut to {budget}: {drop['before']:.1f} → {drop['after']:.1f} %"
        if searcher.edge_weight != "one":
            part += f"\nwith kept edges at 1: {of_cut['one']['after']:.1f} %"
        again = [f"retrained {100 - row['error']:.1f} %" for row in retrained if own.items() <= row.items()]
        parts.append("; ".join([part, *again]))
    asked = f", protocol {run.search.protocol}, for {run.search.budget}" if searcher.asks_for_budget else ""
    return {
        "operation_weights": weights.operations[-1, edges],
        "edge_weights": weights.edges[-1, edges],
        "kept": kept,
        "title": "\n".join([searcher.title + asked, *parts]),
    }


def busiest_edge(operations: np.ndarray, choices: int = 3) -> tuple[int, list[int]]:
    """Fig. 2: the edge whose weights travel furthest over a run, and the `choices` operations with most weight on it.

    `operations` [T, E, O].
    """
    travelled = np.abs(np.diff(operations, axis=0)).sum(axis=(0, 2))
    edge = int(travelled.argmax())
    heaviest = np.argsort(-operations[:, edge].mean(axis=0))[:choices]
    return edge, sorted(int(o) for o in heaviest)


class BetaPath(NamedTuple):
    """Two β of a node over a run's epochs, the rest held at their last values."""

    sources: tuple[int, int]
    keep: int
    path: np.ndarray  # [T, 2]
    others: tuple[float, ...]


def node_betas(run: Run, node: int = 3) -> BetaPath:
    """Fig. 2: β of the two inputs of a node of the normal cell that end highest and lowest."""
    betas = run.betas["normal"]
    edges = input_edges(node)
    last = betas[-1, edges]
    low, high = sorted((int(last.argmin()), int(last.argmax())))
    others = tuple(float(value) for source, value in enumerate(last) if source not in (low, high))
    keep = run.search.edge_budget.targets("normal")[node]
    return BetaPath((low, high), keep, betas[:, [edges[low], edges[high]]], others)
