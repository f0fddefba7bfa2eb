"""Discretization: α, β and a budget → a genotype, and what the cut costs the super-network.

The accuracy drop replaces the architecture weights of the searched super-network by those of the discrete cell, with
all network weights as they are. Three choices are part of its result and are named in every row:

    edge_weight   one: kept edges weigh 1; learned: they keep b; renormalised: their b are scaled up to the sum that all
                  the node's edges had
    batch_norm    as-trained: running statistics kept; recalibrated: estimated again on training images
    stage         operations: only these are made discrete; edges: only these; both. Two more remove nothing. none: the
                  network as it is, so that `none` with statistics recalibrated is the control of all other rows. scale:
                  every edge stays and mixes its operations, but those that a cut would keep have the weight that
                  `edge_weight` says; what the scale of kept edges costs by itself
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from daas_lab.config import EDGE_WEIGHTS, SearchConfig
from daas_lab.data.batches import ImageSet, plain_batches
from daas_lab.errors import LabError, one_of, refuse
from daas_lab.methods import rules
from daas_lab.methods.method import Architecture, Mixture, Strengths, split_nodes
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges, choices, nodes_of
from daas_lab.space.genotype import CellGenotype, Genotype
from daas_lab.train.loop import evaluate

BATCH_NORMS = ("as-trained", "recalibrated")
STAGES = ("none", "scale", "operations", "edges", "both")


# --- the cell ---------------------------------------------------------------------------------------------------------


def architecture_of(network: SuperNetwork) -> dict[str, Tensor]:
    """`alphas_normal` [E, O], …, `betas_reduce` [E] of a super-network, as a run records them."""
    names = [f"{kind}_{cell_type}" for kind in ("alphas", "betas") for cell_type in CELL_TYPES]
    return {name: getattr(network, name).detach() for name in names}


def architectures_of(parameters: Mapping[str, Tensor | np.ndarray]) -> dict[str, Architecture]:
    """Cell type → α and β, from `alphas_normal`, … as a run records them."""
    tensors = {name: torch.as_tensor(value) for name, value in parameters.items()}
    return {name: Architecture(tensors[f"alphas_{name}"], tensors[f"betas_{name}"]) for name in CELL_TYPES}


def mixtures_of(
    config: SearchConfig, parameters: Mapping[str, Tensor | np.ndarray], epoch: int | None = None
) -> dict[str, Mixture]:
    """a and b of both cell types from `alphas_normal`, … as a run records them after `epoch` (default: the last)."""
    method, at = config.searcher, config.moment(epoch)
    return {name: method.mix(both, name, at) for name, both in architectures_of(parameters).items()}


class Evolution(NamedTuple):
    """Architecture weights of one cell type over a run's epochs; the first entry is the start."""

    operations: np.ndarray  # a [T, E, O], T = epochs + 1
    edges: np.ndarray  # b [T, E]


def weight_evolution(run: Run) -> dict[str, Evolution]:
    """Cell type → its architecture weights after every epoch of a search."""
    epochs = range(len(run.alphas["normal"]))
    weights = [mixtures_of(run.search, run.architecture(epoch), max(1, epoch)) for epoch in epochs]
    return {
        name: Evolution(
            np.stack([entry[name].operations.numpy() for entry in weights]),
            np.stack([entry[name].edges.numpy() for entry in weights]),
        )
        for name in CELL_TYPES
    }


def derive_genotype(
    config: SearchConfig,
    parameters: Mapping[str, Tensor | np.ndarray],
    budget: EdgeBudget,
    epoch: int | None = None,
    select: str = rules.OWN,
) -> Genotype:
    """The genotype that `budget` keeps of α and β after `epoch` (default: the last), by a rule of `methods.rules` that
    needs no network."""
    architectures = exact_architectures(parameters) if config.searcher.trains else {}
    return rules.select(select, config.searcher, architectures, budget, config.moment(epoch))


def choice_strengths(
    config: SearchConfig, parameters: Mapping[str, Tensor | np.ndarray], epoch: int | None = None
) -> dict[str, Strengths]:
    """Cell type → what operations [E, O] and edges [E] rank by, in float64."""
    method, at = config.searcher, config.moment(epoch)
    return {name: method.strengths(both, name, at) for name, both in exact_architectures(parameters).items()}


def exact_architectures(parameters: Mapping[str, Tensor | np.ndarray]) -> dict[str, Architecture]:
    """`architectures_of` in float64: in float32 the largest a of several decided edges is 1.0, and the first of equals
    would be kept."""
    return architectures_of({name: torch.as_tensor(value).double() for name, value in parameters.items()})


def discrete_weights(
    weights: Mixture,
    cell: CellGenotype,
    edge_weight: str = "one",
    stage: str = "both",
    names: Sequence[str] = PRIMITIVES,
) -> Mixture:
    """The architecture weights of one cell type after the cut to `cell`; `names`: those of the O candidates.

    A kept operation weighs 1; several on one edge share 1 as their a do, or weigh 1 each under `one`. An edge that is
    not kept still decides for its strongest operation: with `stage` operations it stays in the network. With `scale` it
    stays too, at its own b.
    """
    one_of("edge_weight", edge_weight, EDGE_WEIGHTS)
    one_of("stage", stage, STAGES)
    operations, edges = weights.operations.detach(), weights.edges.detach()
    pairs = {pair: e for e, pair in enumerate(cell_edges(nodes_of(len(edges))))}
    kept_edges = torch.zeros_like(edges)
    kept_operations = torch.zeros_like(operations)
    for edge in cell.edges:
        e = pairs[edge.source, edge.node]
        kept_edges[e] = 1
        kept_operations[e, names.index(edge.operation)] = 1
    keep = max(1, int(kept_operations.sum(dim=1).max()))
    ranks = weights.ranks.detach()
    allowed = torch.full_like(ranks, -torch.inf)
    allowed[:, choices(names)] = 0
    # Equals in order, as in `derive_cell`.
    ranking = (ranks + allowed).sort(dim=1, descending=True, stable=True).indices
    strongest = torch.zeros_like(operations).scatter(1, ranking[:, :keep], 1)
    kept_operations = torch.where(kept_edges[:, None] > 0, kept_operations, strongest)

    if stage in ("operations", "both"):
        shared = operations * kept_operations
        total = shared.sum(dim=1, keepdim=True)
        # One-hot weights may have chosen `none`: then those that are kept have nothing to share by.
        shared = torch.where(total > 0, shared / total, kept_operations / keep)
        operations = kept_operations if edge_weight == "one" or keep == 1 else shared
    if stage in ("scale", "edges", "both"):
        if edge_weight == "one":
            cut = kept_edges
        elif edge_weight == "learned":
            cut = edges * kept_edges
        else:
            cut = _renormalise(edges, kept_edges)
        edges = torch.where(kept_edges > 0, cut, edges) if stage == "scale" else cut
    return weights._replace(operations=operations, edges=edges)


def _renormalise(edges: Tensor, kept: Tensor) -> Tensor:
    nodes = nodes_of(len(edges))
    parts = []
    for b, mask in zip(split_nodes(edges, nodes), split_nodes(kept, nodes), strict=True):
        remaining = (b * mask).sum()
        # A node that lost all its edges has nothing to scale.
        parts.append(b * mask * torch.where(remaining > 0, b.sum() / remaining, 0.0))
    return torch.cat(parts)


# --- its cost ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy_drops(
    network: SuperNetwork,
    config: SearchConfig,
    held_out: ImageSet,
    training: ImageSet,
    budgets: Iterable[str | EdgeBudget],
    *,
    cells: Mapping[str, Genotype] | None = None,
    edge_weights: Sequence[str] = EDGE_WEIGHTS,
    batch_norms: Sequence[str] = BATCH_NORMS,
    stages: Sequence[str] = STAGES,
    before: float | None = None,
) -> list[dict]:
    """A row for every combination: `budget`, `edge_weight`, `batch_norm`, `stage`, and the accuracy in percent on
    `held_out` before and after. `training` images serve the recalibration. The network is left as it was.

    `before`: the accuracy before, where it is known already. `cells`: budget → the cell to cut to, by default the one
    that the method selects.
    """
    mixture = network.mixtures()
    before = evaluate(network, held_out)[1] if before is None else before
    names = config.space.operations
    # Many combinations are the same network, e.g. every budget with only its operations made discrete.
    rows, measured = [], {("as-trained", *_numbers(mixture)): before}
    for budget in map(EdgeBudget.parse, budgets):
        chosen = (cells or {}).get(str(budget))
        genotype = chosen or derive_genotype(config, architecture_of(network), budget, network.at.epoch)
        check_remaining(network, genotype, budget)
        for edge_weight, batch_norm, stage in product(edge_weights, batch_norms, stages):
            discrete = {
                name: discrete_weights(mixture[name], genotype.cell(name), edge_weight, stage, names)
                for name in CELL_TYPES
            }
            key = (batch_norm, *_numbers(discrete))
            if key not in measured:
                measured[key] = _accuracy(network, held_out, training, discrete, batch_norm)
            named = {"budget": str(budget), "edge_weight": edge_weight, "batch_norm": batch_norm, "stage": stage}
            rows.append(named | {"before": before, "after": measured[key]})
    return rows


def check_remaining(network: SuperNetwork, genotype: Genotype, budget: EdgeBudget) -> None:
    """Raise if a cut keeps what has left the network."""
    for name in CELL_TYPES:
        for source, node, operation in genotype.cell(name).edges:
            place = network.space.edges.index((source, node)), network.space.operations.index(operation)
            if not network.candidates[name][place]:
                kept = f"{operation} of the {name} cell's edge {source}→{node}"
                raise refuse("budget", str(budget), f"one that keeps nothing that has retired, as {kept} has")


def cells_within_reach(
    network: SuperNetwork, config: SearchConfig, budgets: Iterable[str | EdgeBudget]
) -> dict[str, Genotype]:
    """Budget → its cell, of those whose cells keep nothing that has left the network."""
    found = {}
    for budget in map(EdgeBudget.parse, budgets):
        cells = derive_genotype(config, architecture_of(network), budget, network.at.epoch)
        with contextlib.suppress(LabError):
            check_remaining(network, cells, budget)
            found[str(budget)] = cells
    return found


def _numbers(mixture: Mapping[str, Mixture]) -> tuple[float, ...]:
    """All that a network mixes with: the same numbers, the same function."""
    return tuple(x for w in mixture.values() for part in (w.operations, w.edges) for x in part.flatten().tolist())


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
    check_remaining(network, genotype, budget)
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
            after = _accuracy(network, held_out, training, mixture | {cell_type: changed}, batch_norm)
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
                after = _accuracy(network, held_out, training, without, batch_norm)
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


def _accuracy(network, held_out, training, weights: Mapping[str, Mixture], batch_norm: str) -> float:
    with statistics_of(batch_norm, network, training, weights):
        return evaluate(network, held_out, mixtures=weights)[1]


def statistics_of(
    batch_norm: str, network: SuperNetwork, images: ImageSet, weights: Mapping[str, Mixture]
) -> contextlib.AbstractContextManager[None]:
    """Inside, batch-norm's running statistics are those that `batch_norm` says: as trained, or recalibrated."""
    one_of("batch_norm", batch_norm, BATCH_NORMS)
    return recalibration(network, images, weights) if batch_norm == "recalibrated" else contextlib.nullcontext()


@contextlib.contextmanager
def recalibration(
    network: SuperNetwork, images: ImageSet, weights: Mapping[str, Mixture], limit: int = 2000
) -> Iterator[None]:
    """Inside, batch-norm's running statistics are those of the network mixed by `weights` on the first `limit`
    images; afterwards they are what they were. No weight changes.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, training = [norm.momentum for norm in norms], network.training
    with statistics_kept(network):
        network.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
        try:
            with torch.no_grad():
                few = images.subset(torch.arange(min(limit, len(images)), device=images.targets.device))
                for x, _ in plain_batches(few, batch_size=100):
                    if len(x) > 1:
                        network(x, weights)
            network.train(training)
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@contextlib.contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards batch-norm's running statistics, and whether the network trains or evaluates, are as before."""
    saved, training = {name: value.clone() for name, value in network.named_buffers()}, network.training
    try:
        yield
    finally:
        network.train(training)
        with torch.no_grad():
            for name, value in network.named_buffers():
                value.copy_(saved[name])
