"""What can be checked: claims of the paper on our own runs, and consequences of its formulas and of its code.

Functions return rows for `tables.to_markdown`, or a sentence that follows from the rows whichever way they point.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from daas_lab import paper
from daas_lab.config import SearchConfig
from daas_lab.methods import losses
from daas_lab.methods.da2s import DA2S
from daas_lab.methods.method import Architecture, Moment
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.report.plots_losses import simplex_entropy
from daas_lab.report.tables import Row, mean_std_text
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges, input_edges
from daas_lab.train.discretize import Evolution, derive_genotype, weight_evolution
from daas_lab.train.evolution import settled_edges

# --- Fig. 1 to 4, on runs ---------------------------------------------------------------------------------------------


def gap_sentence(drops: Sequence[Row], sharpness: Sequence[Row]) -> str:
    """Fig. 1: what the cut to each budget costs each method, and how far its operations had decided before it.

    `drops`: means over seeds (`tables.drop_rows`), one edge weight a method; `sharpness`: of `differentiation_rows`.
    """
    budgets = {row["budget"]: [other for other in drops if other["budget"] == row["budget"]] for row in drops}
    costs = [
        f"the cut to {budget} costs " + ", ".join(f"{row['method']} {_points(row)}" for row in members)
        for budget, members in budgets.items()
    ]
    weights = [f"{row['method']} {row['largest_weight_mean']:.2f}" for row in sharpness]
    return (
        f"In points of accuracy, {'; '.join(costs)}. Before it the largest operation weight of an edge is in the mean: "
        f"{', '.join(weights)}."
    )


def _points(row: Row) -> str:
    return mean_std_text(row["drop_mean"], row["drop_std"])


def entropy_rows(run: Run) -> list[Row]:
    """Entropy in nats of operations (mean over edges) and edges (mean over nodes with a learned β), start and end."""
    rows = []
    for cell_type, weights in weight_evolution(run).items():
        operations = simplex_entropy(weights.operations).mean(axis=1)
        nodes = [_node_entropy(weights, node) for node in range(run.config.searcher.first_edge_node, run.config.nodes)]
        edges = np.mean(nodes, axis=0)
        for what, values in (("operations", operations), ("edges", edges)):
            row = {"cell": cell_type, "entropy of": what, "seed": run.config.seed}
            rows.append(row | {"at the start": float(values[0]), "at the end": float(values[-1])})
    return rows


def _node_entropy(weights: Evolution, node: int) -> np.ndarray:
    b = weights.edges[:, input_edges(node)]
    return simplex_entropy(b / b.sum(axis=1, keepdims=True))


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
            {
                "method": run.config.method,
                "seed": run.config.seed,
                "onset_epoch": epoch,
                "onset_share": None if epoch is None else epoch / run.config.epochs,
                "largest_weight": float(operations[-1].max(axis=1).mean()),
                "entropy": float(simplex_entropy(operations[-1]).mean()),
            }
        )
    return rows


def differentiation_sentence(rows: Sequence[Row], config: SearchConfig) -> str:
    """Ours beside the paper's 40 %, for `rows` of means over seeds, and what in `config` (DA²S's) brings it forward."""
    claimed = paper.DIFFERENTIATION_EPOCH / paper.SEARCH_EPOCHS
    [row] = [row for row in rows if row["method"] == "da2s"]
    if row.get("onset_share_mean") is None:
        return "In no DA²S search here did the weights come a tenth of their way."
    ours = mean_std_text(100 * row["onset_share_mean"], row["onset_share_std"] and 100 * row["onset_share_std"], 0)
    difference = row["onset_share_mean"] - claimed
    place = "about where" if abs(difference) <= 0.1 else ("earlier than" if difference < 0 else "later than")
    text = f"DA²S's weights begin to differ after {ours} % of the search: {place} the paper sees it ({claimed:.0%})."
    if config.alpha_delay:
        text += f" α rests for the first {config.alpha_delay} of {config.epochs} epochs."
    faster = config.arch_learning_rate / paper.ARCH_LEARNING_RATE
    if faster > 1:
        text += f" Its learning rate is {faster:.0f} times the paper's, for the search is shorter: that alone moves it."
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
            for node in range(run.config.searcher.first_edge_node, run.config.nodes):
                kept = [edge for edge in settled if (edge["cell"], edge["node"]) == (cell_type, node) and edge["kept"]]
                selected = [edge["kept_epoch"] for edge in kept]
                row = {"seed": run.config.seed, "cell": cell_type, "node": node}
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


# --- Tables 2 to 4: order and noise -----------------------------------------------------------------------------------


def ranking_sentence(rows: Sequence[Row], key: str, reported: str) -> str:
    """Which `key` has the lowest mean error, whether that exceeds the noise between seeds, and the paper's choice."""
    rows = sorted((row for row in rows if row.get("error_mean") is not None), key=lambda row: row["error_mean"])
    if len(rows) < 2:
        return "Fewer than two results: nothing to compare."
    best, second = rows[:2]
    text = f"Lowest mean error: {best[key]} ({_error(best)}), then {second[key]} ({_error(second)})"
    text += f"; {_beside_noise(best, second)}."
    place = [row[key] for row in rows].index(reported) + 1 if reported in [row[key] for row in rows] else None
    return text + (f" The paper's best, {reported}, is number {place} of {len(rows)} here." if place else "")


def speed_sentence(rows: Sequence[Row]) -> str:
    """Table 2: whether λ_c that grows fast does better than one that grows late, as the paper sees it.

    `rows`: a retraining each, with `lambda_c` and `error`.
    """
    groups = {"growing fast (log, linear)": ("log", "linear"), "growing late (exp, step)": ("exp", "step")}
    return _groups_sentence(
        {name: [row["error"] for row in rows if row["lambda_c"] in values] for name, values in groups.items()},
        {
            name: [row["error_mean"] for row in paper.TABLE_2 if row["lambda_c"] in values]
            for name, values in groups.items()
        },
    )


def priority_sentence(rows: Sequence[Row]) -> str:
    """Table 3: whether to decide operations first or edges first makes a difference. `rows`: a retraining each, with
    `lambda_1`, `lambda_2` and `error`."""
    groups = {"operations first (λ_2 delayed)": "lambda_2", "edges first (λ_1 delayed)": "lambda_1"}

    def errors(of: Sequence[Row], delayed: str, quantity: str) -> list[float]:
        return [row[quantity] for row in of if row[delayed].endswith(":delayed")]

    return _groups_sentence(
        {name: errors(rows, delayed, "error") for name, delayed in groups.items()},
        {name: errors(paper.TABLE_3, delayed, "error_mean") for name, delayed in groups.items()},
    )


def ablation_sentence(rows: Sequence[Row]) -> str:
    """What the cut costs with neither, one and both of DA²S's losses, which of it each loss saves, and whether the
    losses change the retrained error. `rows`: means over seeds, with `losses` as `paper_tables.losses_of` says it."""
    named = {row["losses"]: row for row in rows}
    neither, both = named["neither"], named["both"]
    text = f"In points of accuracy, the cut costs {', '.join(f'{name} {_points(row)}' for name, row in named.items())}."
    if neither["drop_mean"] > 0:
        shares = {
            name: 1 - named[name]["drop_mean"] / neither["drop_mean"]
            for name in ("operation loss", "edge loss", "both")
        }
        saved = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        text += f" Of what it costs with neither, they save: {saved}."
    lower, higher = sorted((neither, both), key=lambda row: row["error_mean"])
    return (
        f"{text} Retrained: {lower['losses']} {_error(lower)}, {higher['losses']} {_error(higher)}; "
        f"{_beside_noise(lower, higher)}."
    )


def _groups_sentence(ours: Mapping[str, Sequence[float]], reported: Mapping[str, Sequence[float]]) -> str:
    """Mean errors of two groups of runs, their difference with its standard error, and the means of the paper."""
    parts = [f"{name} {np.mean(errors):.2f} %" for name, errors in ours.items()]
    (_, first), (_, second) = ours.items()
    text = f"Mean error: {parts[0]}, {parts[1]} ({len(first)} and {len(second)} runs)"
    if len(first) > 1 and len(second) > 1:
        error = np.sqrt(np.var(first, ddof=1) / len(first) + np.var(second, ddof=1) / len(second))
        difference = np.mean(second) - np.mean(first)
        side = "higher" if difference > 0 else "lower"
        text += f"; the latter is {abs(difference):.2f} points {side}, with a standard error of {error:.2f}"
    return f"{text}. In the paper's rows: {' and '.join(f'{np.mean(errors):.2f}' for errors in reported.values())} %."


def order_sentence(rows: Sequence[Row]) -> str:
    """Table 4: for every budget the methods by their mean error, lowest first; whether DA²S is ahead of DARTS as in
    print, and exact budgets (which the paper has not), each time by more than the noise between seeds or not.

    A Markdown list, a budget a line.
    """
    parts = []
    for budget, group in itertools.groupby(sorted(rows, key=lambda row: row["budget"]), key=lambda row: row["budget"]):
        ranked = sorted((row for row in group if row["error_mean"] is not None), key=lambda row: row["error_mean"])
        order = " < ".join(f"{row['method']} {_error(row)}" for row in ranked)
        for other in ("da2s", "da2s_exact"):
            pair = [row for row in ranked if row["method"] in ("darts", other)]
            if len(pair) == 2:
                ahead, behind = (row["method"] for row in pair)
                in_print = ""
                if other == "da2s":
                    in_print = " as in the paper" if ahead == "da2s" else ", unlike in the paper"
                order += f". {ahead} ahead of {behind}{in_print}; {_beside_noise(*pair)}"
        parts.append(f"- {budget}: {order}.")
    return "\n".join(parts)


def same_search_sentence(searches: Sequence[Run]) -> str:
    """Table 4: which budgets of a method had searches with the same α and β in every epoch; empty where none had."""
    same: dict[tuple[str, str, str], list[int]] = {}
    for one, other in itertools.combinations(searches, 2):
        if (one.config.method, one.config.seed) == (other.config.method, other.config.seed):
            arrays = [(one.alphas[name], other.alphas[name]) for name in CELL_TYPES]
            arrays += [(one.betas[name], other.betas[name]) for name in CELL_TYPES]
            if all(np.array_equal(*pair) for pair in arrays):
                budgets = (one.config.method, *sorted((one.config.budget, other.config.budget)))
                same.setdefault(budgets, []).append(one.config.seed)
    return " ".join(
        f"The searches of {method} for {first} and {second} are one and the same (seeds {', '.join(map(str, seeds))}: "
        "equal α and β in every epoch), for their losses ask the same of each node; only the cut differs."
        for (method, first, second), seeds in same.items()
    )


def _beside_noise(lower: Row, higher: Row) -> str:
    """Whether two mean errors differ by more than the deviation of their difference."""
    if lower["error_std"] is None or higher["error_std"] is None:
        return "with a single seed nothing can be said of noise"
    noise = float(np.hypot(lower["error_std"], higher["error_std"]))
    larger = higher["error_mean"] - lower["error_mean"] > noise
    return f"the difference is {'larger' if larger else 'not larger'} than the noise between seeds"


def _error(row: Row) -> str:
    return mean_std_text(row["error_mean"], row["error_std"]) + " %"


# --- what the formulas and the published code imply -------------------------------------------------------------------


def protocol_rows() -> list[Row]:
    """The constants of both protocols, side by side."""
    values = {name: asdict(protocol) for name, protocol in PROTOCOLS.items()}
    relaxations = [
        {"constant": "operation weights a", "paper": "softmax(α)", "authors": "softmax(g(2α))"},
        {"constant": "edge weights b of a node", "paper": "softmax(β)", "authors": "inputs · softmax(β), node 2: 1"},
    ]
    return relaxations + [
        {"constant": field.replace("_", " ")} | {name: str(constants[field]) for name, constants in values.items()}
        for field in values["paper"]
    ]


def edge_loss_minima(inputs: int = 3, keep: int = 2, low: float = -5.0) -> list[Row]:
    """Eq. (4) where some of a node's edges are at β = 1 and the others at `low`, for both factors of the square."""
    rows = []
    for kept in range(1, inputs + 1):
        betas = torch.full((inputs,), low, dtype=torch.float64)
        betas[:kept] = 1
        row = {"edges kept": kept, "asked for": keep}
        for name, protocol in PROTOCOLS.items():
            factor = protocol.square_factor
            row[f"loss, factor {factor:g} ({name})"] = losses.node_edge_loss(betas, keep, factor).item()
        rows.append(row)
    return rows


def edge_loss_gradients(values: Sequence[float] = (-1.0, -0.1, 0.5, 0.9, 1.0, 1.5)) -> list[Row]:
    """Gradient of Eq. (4) to one β, and its squared term's: factor 1, two of three edges to keep, the others at 0.5."""
    rows = []
    for value in values:
        beta = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        betas = torch.stack([beta, *2 * [torch.tensor(0.5, dtype=torch.float64)]])
        whole, entropy_only = losses.node_edge_loss(betas, 2, 1.0), losses.node_edge_loss(betas, 2, 0.0)
        [slope] = torch.autograd.grad(whole, beta, retain_graph=True)
        [entropy_slope] = torch.autograd.grad(entropy_only, beta)
        rows.append({"β": value, "gradient of Eq. (4)": slope.item(), "of its square": (slope - entropy_slope).item()})
    return rows


def kept_edge_weights(nodes: int = 6, keep: int = 2) -> list[Row]:
    """Edge weights b of a decided node, `keep` β at 1 and the others far below, under both protocols."""
    pairs = cell_edges(nodes)
    betas = torch.tensor([1.0 if source < keep else -20.0 for source, _ in pairs])
    alphas = torch.zeros(len(pairs), 7)
    weights = {
        name: DA2S(**DA2S.numbers(name)).mix(Architecture(alphas, betas), "normal", Moment(1, 1)).edges
        for name in PROTOCOLS
    }
    return [
        {"node": node, "inputs": node, "kept": keep}
        | {f"b of a kept edge, {name}": edges[input_edges(node)[0]].item() for name, edges in weights.items()}
        | {"weight in the discrete cell": 1.0}
        for node in range(2, nodes)
    ]


def printed_drop_pattern() -> list[Row]:
    """DA²S's drops of Table 4 beside the number of nodes that keep two edges."""
    rows = []
    for row in paper.TABLE_4:
        if row["method"] == "da2s":
            budget = EdgeBudget.parse(row["budget"])
            groups = budget.groups("normal")
            rows.append(
                {
                    "budget": row["budget"],
                    "nodes that keep two edges": sum(group.keep > 1 for group in groups),
                    "nodes dropped": sum(len(group.nodes) - group.keep for group in groups if len(group.nodes) > 1),
                    "printed drop (points)": row["before"] - row["after"],
                }
            )
    return rows


def exchanged_beta_rows(run: Run, budget: str) -> list[Row]:
    """How many edges of each cell change when β is read under the other cell type's name."""
    parameters = run.architecture()
    exchanged = parameters | {
        f"betas_{a}": parameters[f"betas_{b}"] for a, b in zip(CELL_TYPES, CELL_TYPES[::-1], strict=True)
    }
    ours, theirs = (derive_genotype(run.config, given, EdgeBudget.parse(budget)) for given in (parameters, exchanged))
    rows = []
    for cell_type in CELL_TYPES:
        edges, others = ({(edge.source, edge.node) for edge in cells.cell(cell_type).edges} for cells in (ours, theirs))
        rows.append(
            {"cell": cell_type, "seed": run.config.seed, "edges": len(edges), "other edges": len(others - edges)}
        )
    return rows


def printed_gains() -> list[Row]:
    """Gains of DA²S over DARTS in test error (Table 4): as its text prints them, and as its rows give them."""
    errors = {(row["method"], row["budget"]): row["error_mean"] for row in paper.TABLE_4}
    return [
        {"budget": budget, "printed gain": printed, "from the rows": errors["darts", budget] - errors["da2s", budget]}
        for budget, printed in paper.PRINTED_GAINS.items()
    ]
