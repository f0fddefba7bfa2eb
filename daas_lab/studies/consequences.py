"""What the paper's formulas and its published code imply, computed: rows for `tables.to_markdown`."""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from daas_lab import paper
from daas_lab.methods import losses
from daas_lab.methods.da2s import DA2S
from daas_lab.methods.lookup import BASELINE, PAPERS
from daas_lab.methods.method import Architecture, Moment
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges, input_edges
from daas_lab.studies.make import names_of
from daas_lab.train.discretize import derive_genotype

# Of the constants that the two relaxations do not show.
TITLES = {
    "first_edge_node": "first node with β in L^E",
    "square_factor": "factor of the square in Eq. (4)",
    "regulariser_factor": "factor of the regulariser",
    "delay_alphas": "α rests for the first epochs",
    "initial_noise": "initial noise",
    "learning_rate_min": "last learning rate",
    "partial_channels": "K of the partial channels",
    "authors_log": "slip of the delayed logarithm",
}


def protocol_rows() -> list[Row]:
    """The constants of both protocols, side by side."""
    values = {name: asdict(protocol) for name, protocol in PROTOCOLS.items()}
    relaxations = [
        {"constant": "operation weights a", "paper": "softmax(α)", "authors": "softmax(g(2α))"},
        {
            "constant": "edge weights b of a node",
            "paper": "softmax(min(β, 1))",
            "authors": "inputs · softmax(min(β, 1)), node 2: 1",
        },
    ]
    return relaxations + [
        {"constant": title} | {name: _word(constants[field]) for name, constants in values.items()}
        for field, title in TITLES.items()
    ]


def _word(value: float | bool) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}"


def edge_loss_minima(inputs: int = 3, keep: int = 2, low: float = -5.0) -> list[Row]:
    """Eq. (4) where some of a node's edges are at β = 1 and the others at `low`, for both factors of the square."""
    rows = []
    for kept in range(1, inputs + 1):
        betas = torch.full((inputs,), low, dtype=torch.float64)
        betas[:kept] = 1
        row: Row = {"edges kept": kept, "asked for": keep}
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
        if row["method"] == PAPERS:
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
    ours, theirs = (derive_genotype(run.search, given, EdgeBudget.parse(budget)) for given in (parameters, exchanged))
    rows = []
    for cell_type in CELL_TYPES:
        edges, others = ({(edge.source, edge.node) for edge in cells.cell(cell_type).edges} for cells in (ours, theirs))
        rows.append(names_of(run) | {"cell": cell_type, "edges": len(edges), "other edges": len(others - edges)})
    return rows


def printed_gains() -> list[Row]:
    """Gains of DA²S over DARTS in test error (Table 4): as its text prints them, and as its rows give them."""
    errors = {(row["method"], row["budget"]): row["error_mean"] for row in paper.TABLE_4}
    return [
        {"budget": budget, "printed gain": printed, "from the rows": errors[BASELINE, budget] - errors[PAPERS, budget]}
        for budget, printed in paper.PRINTED_GAINS.items()
    ]
