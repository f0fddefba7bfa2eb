"""The studies behind the figures and tables: which runs each is made of, and the rows that they give."""

from collections.abc import Sequence

import numpy as np

from daas_lab import experiments, paper
from daas_lab.config import SearchConfig
from daas_lab.discretize import Evolution
from daas_lab.experiments import Settings
from daas_lab.genotype import NAMED_BUDGETS, CellGenotype, Genotype, cell_edges, nodes_of
from daas_lab.network import count
from daas_lab.runs import Run
from daas_lab.tables import Row

IMBALANCED_BUDGETS = tuple(budget for budget in NAMED_BUDGETS if budget != "8/14")  # those of Table 4


# --- which runs -------------------------------------------------------------------------------------------------------


def table_2_searches(settings: Settings) -> list[SearchConfig]:
    """Table 2: DARTS as the baseline, and λ_c in each control function with λ_1 = λ_2 = const; every seed."""
    return [
        settings.search("darts", seed)
        if row["lambda_c"] == "baseline"
        else settings.search("da2s", seed, lambda_c=row["lambda_c"], lambda_1="const", lambda_2="const")
        for row in paper.TABLE_2
        for seed in settings.seeds
    ]


def table_3_searches(settings: Settings) -> list[SearchConfig]:
    """Table 3: λ_c linear, one of λ_1 and λ_2 const and the other in each function, delayed; every seed."""
    return [
        settings.search("da2s", seed, lambda_c="linear", lambda_1=row["lambda_1"], lambda_2=row["lambda_2"])
        for row in paper.TABLE_3
        for seed in settings.seeds
    ]


def table_4_searches(settings: Settings, methods: Sequence[str], budgets: Sequence[str]) -> list[SearchConfig]:
    """Table 4: a search for every method, budget and seed; those of DARTS are one and the same at every budget."""
    configs = [
        settings.search(method, seed, budget=budget)
        for method in methods
        for budget in budgets
        for seed in settings.seeds
    ]
    return list(dict.fromkeys(configs))


def budgets_of(run: Run, budgets: Sequence[str]) -> list[str]:
    """The budgets that a search stands for: all of them where it was searched for none, else its own."""
    return list(budgets) if run.config.method == "darts" else [run.config.budget]


# --- what they give ---------------------------------------------------------------------------------------------------


def retraining_rows(searches: Sequence[Run], settings: Settings, budgets: Sequence[str] | None = None) -> list[Row]:
    """Retrain the cell of every search at the budgets it stands for (default: its own) and count it.

    Rows with `method`, `budget`, `seed`, the λ, `error` (test, percent), `params_m` and `multiply_adds_m` (both of the
    CIFAR-10 form at the paper's size, so that they stand beside the paper's), `search_cost_s`.
    """
    jobs = []
    for run in searches:
        for budget in [run.config.budget] if budgets is None else budgets_of(run, budgets):
            jobs.append((run, budget, experiments.genotype_of(run, budget)))
    configs = [settings.retraining(cells, run.config.seed) for run, _, cells in jobs]
    rows = []
    for (run, budget, cells), retrained in zip(jobs, experiments.make_runs(configs, settings), strict=True):
        config = run.config
        rows.append(
            {"method": config.method, "budget": budget, "seed": config.seed}
            | {name: getattr(config, name) for name in ("lambda_c", "lambda_1", "lambda_2")}
            | {"error": retrained.result["test_error"], "search_cost_s": run.seconds}
            | size_of(cells)
        )
    return rows


def size_of(cells: Genotype, form: str = "cifar") -> dict[str, float]:
    """`params_m` and `multiply_adds_m`, both in millions, of the paper's network with these cells."""
    size = count(cells, form)
    return {"params_m": size["parameters"] / 1e6, "multiply_adds_m": size["multiply_adds"] / 1e6}


def best_by_held_out(searches: Sequence[Run], rows: Sequence[Row], edge_weight: str = "learned") -> Run:
    """The search whose super-network is most accurate on held-out images after the cut, statistics as trained.

    `rows` are their accuracy drops. Test images have no say.
    """
    after = {
        row["seed"]: row["after"]
        for row in rows
        if (row["stage"], row["batch_norm"], row["edge_weight"]) == ("both", "as-trained", edge_weight)
    }
    return max(searches, key=lambda run: after[run.config.seed])


# --- claims of the paper that a run can check -------------------------------------------------------------------------


def differentiation_epoch(operations: np.ndarray, share: float = 0.1) -> int | None:
    """Fig. 3: the first epoch in which the mean largest operation weight has come `share` of its way.

    `operations` [T, E, O]: weights over the epochs, the start first. The way is from the start to a weight of 1;
    None: it never came that far.
    """
    largest = operations.max(axis=2).mean(axis=1)
    there = np.flatnonzero(largest >= largest[0] + share * (1 - largest[0]))
    return int(there[0]) if len(there) else None


def selection_rows(evolution: Evolution, cell: CellGenotype, first_node: int = 3, tolerance: float = 0.1) -> list[Row]:
    """Fig. 4: for each node from `first_node`, the epochs at which the weights of its kept edges settle.

    An edge has settled in the first epoch from which on its b stays within `tolerance` of its last value, relative to
    the node's largest. `apart` is the difference between the first and the last of them, in epochs.
    """
    nodes = nodes_of(evolution.edges.shape[1])
    rows = []
    for node in range(first_node, nodes):
        edges = [e for e, pair in enumerate(cell_edges(nodes)) if pair[1] == node]
        kept = sorted({edge.source for edge in cell.edges if edge.node == node})
        scale = tolerance * evolution.edges[-1, edges].max()
        settled = [_settle_epoch(evolution.edges[:, edges[source]], scale) for source in kept]
        row = {"node": node, "kept": kept, "settled": settled}
        rows.append(row | {"apart": max(settled) - min(settled) if settled else None})
    return rows


def _settle_epoch(values: np.ndarray, tolerance: float) -> int:
    away = np.flatnonzero(np.abs(values - values[-1]) > tolerance)
    return int(away[-1]) + 1 if len(away) else 0


def busiest_edge(operations: np.ndarray, choices: int = 3) -> tuple[int, list[int]]:
    """Fig. 2: the edge whose weights travel furthest over a run, and the `choices` operations with most weight on it.

    `operations` [T, E, O].
    """
    travelled = np.abs(np.diff(operations, axis=0)).sum(axis=(0, 2))
    edge = int(travelled.argmax())
    heaviest = np.argsort(-operations[:, edge].mean(axis=0))[:choices]
    return edge, sorted(int(o) for o in heaviest)
