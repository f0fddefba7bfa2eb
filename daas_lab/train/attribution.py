"""What parts of a cut cost alone: every edge's choice, every node's edges, every node."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from daas_lab.config import SearchConfig
from daas_lab.data.batches import ImageSet
from daas_lab.methods.method import Mixture
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges
from daas_lab.train.discretize import (
    BATCH_NORMS,
    architecture_of,
    check_remaining,
    derive_genotype,
    discrete_weights,
    mixed_accuracy,
)
from daas_lab.train.loop import evaluate


@torch.no_grad()
def attribution(
    network: SuperNetwork,
    config: SearchConfig,
    held_out: ImageSet,
    training: ImageSet,
    budget: str | EdgeBudget,
    *,
    edge_weight: str = "learned",
    batch_norm: str = "as-trained",
) -> list[dict]:
    """What each decision costs alone: a row for every edge's choice of operation, and for every node's of edges.

    `cell`, `stage` (operations or edges), `source` (None for all edges of the node), `node`, `edge_weight`,
    `batch_norm`, and the accuracy in percent before and after. All else stays as the search left it, so the costs do
    not add up to the whole drop.
    """
    budget = EdgeBudget.parse(budget)
    mixture = network.mixtures()
    genotype = derive_genotype(config, architecture_of(network), budget, network.at.epoch)
    check_remaining(network, genotype, str(budget))
    _, before = evaluate(network, held_out)
    rows = []
    for cell_type, weights in mixture.items():
        cut = discrete_weights(weights, genotype.cell(cell_type), edge_weight, names=config.space.operations)
        pairs = cell_edges(config.nodes)
        alone: list[tuple[dict, Mixture]] = []
        for e, (source, node) in enumerate(pairs):
            operations = weights.operations.clone()
            operations[e] = cut.operations[e]
            decision = {"stage": "operations", "source": source, "node": node}
            alone.append((decision, weights._replace(operations=operations)))
        for node in range(2, config.nodes):
            own = torch.tensor([target == node for _, target in pairs], device=weights.edges.device)
            decision = {"stage": "edges", "source": None, "node": node}
            alone.append((decision, weights._replace(edges=torch.where(own, cut.edges, weights.edges))))
        for decision, changed in alone:
            after = mixed_accuracy(network, held_out, training, mixture | {cell_type: changed}, batch_norm)
            named = {"cell": cell_type, **decision, "edge_weight": edge_weight, "batch_norm": batch_norm}
            rows.append(named | {"before": before, "after": after})
    return rows


@torch.no_grad()
def node_costs(
    network: SuperNetwork,
    config: SearchConfig,
    held_out: ImageSet,
    training: ImageSet,
    budget: str | EdgeBudget,
) -> list[dict]:
    """What each intermediate node carries, and what it costs to drop that node alone, with every edge that enters or
    leaves it: a row for every node of both cells and either kind of batch-norm, `stage` node.

    `cell`, `node`, `dropped` (whether the cut to `budget` drops it), `incoming` (the sum of its edge weights b), `rms`
    (the root mean square of its output on `held_out`, over all cells of the type) and the accuracy in percent before
    and after. All else stays as the search left it.
    """
    budget = EdgeBudget.parse(budget)
    mixture, pairs = network.mixtures(), cell_edges(config.nodes)
    genotype = derive_genotype(config, architecture_of(network), budget, network.at.epoch)
    rms, (_, before) = _node_rms(network, held_out), evaluate(network, held_out)
    rows = []
    for cell_type, weights in mixture.items():
        for node in range(2, config.nodes):
            enters, touches = (
                torch.tensor(where, device=weights.edges.device)
                for where in ([edge[1] == node for edge in pairs], [node in edge for edge in pairs])
            )
            named = {"budget": str(budget), "edge_weight": "learned", "stage": "node", "cell": cell_type, "node": node}
            named["dropped"] = node not in genotype.cell(cell_type).concat
            named |= {"incoming": weights.edges[enters].sum().item(), "rms": rms[cell_type][node - 2]}
            without = mixture | {cell_type: weights._replace(edges=weights.edges.masked_fill(touches, 0))}
            for batch_norm in BATCH_NORMS:
                after = mixed_accuracy(network, held_out, training, without, batch_norm)
                rows.append(named | {"batch_norm": batch_norm, "before": before, "after": after})
    return rows


def _node_rms(network: SuperNetwork, images: ImageSet) -> dict[str, list[float]]:
    """Cell type → root mean square of what nodes 2, 3, … put out, over images, channels, pixels and cells."""
    squares: dict[str, list[Tensor]] = {name: [] for name in CELL_TYPES}

    def note(cell: Any, _, output: Tensor | tuple[Tensor, ...]) -> None:
        x = output[0] if isinstance(output, tuple) else output  # [B, nodes · C, H, W]
        nodes = network.space.nodes - 2
        squares[cell.cell_type].append(x.float().unflatten(1, (nodes, -1)).square().mean(dim=(2, 3, 4)))

    hooks = [cell.register_forward_hook(note) for cell in network.cells]
    try:
        evaluate(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(values).mean(dim=0).sqrt().tolist() for name, values in squares.items()}


def attribution_values(rows: Iterable[Mapping]) -> dict[str, dict[tuple[int, int] | int, float]]:
    """Rows of `attribution` → cell type → (source, node) or node → points of accuracy lost, for the cell diagrams."""
    values: dict[str, dict] = {name: {} for name in CELL_TYPES}
    for row in rows:
        key = row["node"] if row["source"] is None else (row["source"], row["node"])
        values[row["cell"]][key] = row["before"] - row["after"]
    return values
