"""The field on one scale: what the cut costs each method, what its cells are worth, how far seeds agree, what a step
costs. Rows of single runs have the names of `make.names_of`; accuracies and drops are in percent of held-out images."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from daas_lab.methods.lookup import BASELINE, CHANCE, PAPERS
from daas_lab.report import compare
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, SKIP
from daas_lab.space.genotype import Genotype
from daas_lab.space.text_forms import PUBLISHED
from daas_lab.studies import make
from daas_lab.studies.claims import remarked
from daas_lab.studies.estimate import search_seconds
from daas_lab.studies.paper_tables import budgets_of, is_main_drop, retraining_rows, table_4_searches, with_drops
from daas_lab.studies.settings import Settings
from daas_lab.studies.sizes import size_of
from daas_lab.train.evolution import genotype_after


def make_searches(settings: Settings, methods: Sequence[str], budgets: Sequence[str]) -> list[Run]:
    """The searches of the methods, one for every seed and, where a method asks for its budget, each budget. A record
    whose drops were not measured does not stand for one."""

    def stands(run: Run) -> bool:
        return not run.search.searcher.trains or not make.lacking_drops(run, _keys(run, budgets, "both"))

    configs = table_4_searches(settings, methods, budgets)
    return make.make_runs(make.wanted(configs, settings, stands), settings, stands)


def _keys(run: Run, budgets: Sequence[str], stage: str) -> list[tuple[str, str]]:
    return [(str(EdgeBudget.parse(budget)), stage) for budget in budgets_of(run, budgets)]


def field_rows(searches: Sequence[Run], settings: Settings, budgets: Sequence[str]) -> list[Row]:
    """A row for every search at each budget it stands for: `retraining_rows`, and of a search with a super-network the
    drop that `is_main_drop` chooses, taken apart.

    `after_recalibrated`, and `control`: nothing cut, statistics estimated again. `selection_part` = control −
    after_recalibrated: what is lost because the network of the cell is another function; `computation_part`, the rest
    of the drop: statistics (and so scales) that are not that network's. A record that has no control has no parts
    either. `largest_weight`, the mean over edges of the largest operation weight at the end; `skips`, skip connections
    in both cells.
    """
    rows = retraining_rows(searches, settings, lambda run: budgets_of(run, budgets))
    runs = {make.run_name(run.config): run for run in searches}
    trained = [run for run in searches if run.search.searcher.trains]
    measured = []
    for stages, controlled in ((("none", "both"), True), (("both",), False)):
        own = [run for run in trained if _has_control(run, budgets) == controlled]
        measured += make.drops(own, lambda run: budgets_of(run, budgets), settings, stages)
    recalibrated = {
        (row["run"], row["budget"], row["stage"]): row["after"]
        for row in measured
        if row["batch_norm"] == "recalibrated" and is_main_drop(row | {"batch_norm": "as-trained", "stage": "both"})
    }
    of_trained = [row for row in rows if runs[row["run"]].search.searcher.trains]
    drops = {(row["run"], row["budget"]): row for row in with_drops(of_trained, trained, settings)}
    found = []
    for row in rows:
        run, key = runs[row["run"]], (row["run"], row["budget"])
        cells = genotype_after(run, budget=row["budget"])
        row = row | {"skips": _skips(cells)}
        if key in drops:
            after, control = (recalibrated.get((*key, stage)) for stage in ("both", "none"))
            row |= drops[key] | {"after_recalibrated": after}
            row["largest_weight"] = run.history[-1].get("largest_operation_weight")
            if control is not None:
                row |= {"control": control, "selection_part": control - after}
                row["computation_part"] = row["drop"] - row["selection_part"]
        found.append(row)
    return found


def _skips(cells: Genotype) -> int:
    return sum(edge.operation == SKIP for name in CELL_TYPES for edge in cells.cell(name).edges)


def _has_control(run: Run, budgets: Sequence[str]) -> bool:
    """Whether the accuracy with nothing cut and statistics estimated again is known, or can be measured: not of a
    record that was published for other tables."""
    return run.folder is not None or not make.lacking_drops(run, _keys(run, budgets, "none"))


def published_rows(settings: Settings, names: Sequence[str]) -> list[Row]:
    """Published cells of two edges a node retrained as all others, a row for each and seed: `method` is the cell's
    name."""
    configs: dict[Any, Row] = {
        settings.retraining(cells, seed): {"method": name, "seed": seed, "budget": "8/14", "skips": _skips(cells)}
        | size_of(cells)
        for name, cells in ((name, PUBLISHED[name]) for name in names)
        for seed in settings.seeds
    }
    wanted = make.wanted(configs, settings)
    return [
        {"run": make.run_name(config), "protocol": None} | configs[config] | {"error": run.result["test_error"]}
        for config, run in zip(wanted, make.make_runs(wanted, settings), strict=True)
    ]


# --- the same cell from every seed? -----------------------------------------------------------------------------------


def agreement_rows(searches: Sequence[Run], budgets: Sequence[str]) -> list[Row]:
    """How far the seeds of a method agree, a row for each method and budget: over all pairs of seeds and both cells the
    mean share of kept edges that both keep (`same_edges`, of those that either keeps), and among these of edges with
    the same operation (`same_operations`), in percent."""
    cells: dict[tuple[str, str], list[Genotype]] = {}
    for run in searches:
        for budget in budgets_of(run, budgets):
            cells.setdefault((run.search.label, budget), []).append(genotype_after(run, budget=budget))
    return [
        {"method": method, "budget": budget, "pairs": len(own) * (len(own) - 1) // 2} | _agreement(own)
        for (method, budget), own in cells.items()
        if len(own) > 1
    ]


def _agreement(cells: Sequence[Genotype]) -> Row:
    edges, operations = [], []
    for one, other in itertools.combinations(cells, 2):
        for name in CELL_TYPES:
            first, second = ({edge[:2]: edge.operation for edge in own.cell(name).edges} for own in (one, other))
            both = first.keys() & second.keys()
            edges.append(len(both) / len(first.keys() | second.keys()))
            if both:
                operations.append(float(np.mean([first[edge] == second[edge] for edge in both])))
    shares = {"same_edges": edges, "same_operations": operations}
    return {name: 100 * float(np.mean(values)) if values else None for name, values in shares.items()}


# --- what a step costs ------------------------------------------------------------------------------------------------


def step_costs(searches: Iterable[Run], settings: Settings) -> dict[str, float]:
    """Method → seconds of a search step (α and β, then the weights), the mean over its first search with the cells and
    candidates that this had epoch by epoch (`estimate.search_seconds`)."""
    first: dict[str, Run] = {}
    for run in searches:
        if run.search.searcher.trains:
            first.setdefault(run.search.label, run)
    seconds = search_seconds(first, settings)
    return {name: seconds[name] / (run.search.epochs * run.search.steps) for name, run in first.items()}


# --- in words ---------------------------------------------------------------------------------------------------------


def sentences(rows: Sequence[Row], budget: str) -> str:
    """At one budget: what the cut costs, and what its selection part alone, least first; drop and error of every method
    against DARTS, and the errors of DARTS, DA²S and chance against each other, by `compare`."""
    own = [row for row in rows if row["budget"] == budget]
    drops, errors = (compare.groups_by(own, "method", quantity) for quantity in ("drop", "error"))
    ranked, best = compare.ranked(drops), compare.ranked(errors)
    selected = compare.groups_by(own, "method", "selection_part")
    found = []
    if BASELINE in drops:
        found += [compare.difference(drops, BASELINE, name, "drop") for name in ranked if name != BASELINE]
        found += [compare.difference(errors, BASELINE, name) for name in best if name != BASELINE]
    found += [compare.difference(errors, CHANCE, PAPERS)] if {CHANCE, PAPERS} <= errors.keys() else []
    said = f"Points of accuracy that the cut to {budget} costs: {_listed(drops)}."
    if selected:
        said += f" Its selection part, with statistics of the network that is left: {_listed(selected)}."
    return remarked(f"{said}\n\n{compare.listed(found)}", errors)


def gap_and_error(rows: Sequence[Row], budgets: Sequence[str]) -> str:
    """Whether methods that lose less at the cut find better cells: at each budget the rank correlation of their mean
    drops and mean errors, a point a method; p by Holm over the budgets."""
    found = []
    for budget in budgets:
        own = [row for row in rows if row["budget"] == budget and row.get("drop") is not None]
        drops, errors = (compare.groups_by(own, "method", quantity) for quantity in ("drop", "error"))
        means = [[float(np.mean(list(groups[name].values()))) for name in drops] for groups in (drops, errors)]
        found.append(compare.rank_correlation(*means))
    corrected = compare.holm([one.p for one in found])
    said = [
        f"at {budget} {compare.describe_ranks(one, p)}"
        for budget, one, p in zip(budgets, found, corrected, strict=True)
    ]
    return f"Over the methods, drop and retrained error: {'; '.join(said)}."


def _listed(groups: Mapping[str, compare.Group]) -> str:
    """Means and deviations of the groups, the smallest first."""
    return ", ".join(f"{name} {compare.mean_text(groups[name])}" for name in compare.ranked(groups))
