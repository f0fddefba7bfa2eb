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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from daas_lab.config import EDGE_WEIGHTS, SearchConfig
from daas_lab.data.batches import ImageSet, plain_batches
from daas_lab.errors import LabError, one_of, refuse
from daas_lab.fields import one_or_more
from daas_lab.methods import rules
from daas_lab.methods.masks import cell_mask, split_nodes
from daas_lab.methods.method import Architecture, Mixture, Strengths
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, Space, choices, nodes_of
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


def check_evolves(run: Run) -> None:
    """Raise unless the run is a search with α after each of its epochs."""
    if not run.alphas:
        raise refuse("run", str(run.folder or run.config.dataset), "a search with a super-network, and begun")


def weight_evolution(run: Run) -> dict[str, Evolution]:
    """Cell type → its architecture weights after every epoch of a search."""
    check_evolves(run)
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
    kept_operations = cell_mask(cell, Space(nodes_of(len(edges)), tuple(names)), operations)
    kept_edges = kept_operations.amax(dim=1)
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
    parts = []
    for b, mask in zip(split_nodes(edges), split_nodes(kept), strict=True):
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
    wanted = [str(EdgeBudget.parse(budget)) for budget in one_or_more(budgets)]
    combinations = list(product(*map(one_or_more, (edge_weights, batch_norms, stages))))
    cells = own_cells(network, config, wanted) if cells is None else cells
    for budget in wanted:
        genotype = cells[budget]
        check_remaining(network, genotype, budget)
        for edge_weight, batch_norm, stage in combinations:
            discrete = {
                name: discrete_weights(mixture[name], genotype.cell(name), edge_weight, stage, names)
                for name in CELL_TYPES
            }
            key = (batch_norm, *_numbers(discrete))
            if key not in measured:
                measured[key] = mixed_accuracy(network, held_out, training, discrete, batch_norm)
            named = {"budget": budget, "edge_weight": edge_weight, "batch_norm": batch_norm, "stage": stage}
            rows.append(named | {"before": before, "after": measured[key]})
    return rows


def check_remaining(network: SuperNetwork, genotype: Genotype, budget: str) -> None:
    """Raise if a cut keeps what has left the network."""
    for name in CELL_TYPES:
        for edge in genotype.cell(name).edges:
            if not network.candidates[name][rules.place(edge, network.space)]:
                kept = f"{edge.operation} of the {name} cell's edge {edge.source}→{edge.node}"
                raise refuse("budget", budget, f"one that keeps nothing that has retired, as {kept} has")


def own_cells(network: SuperNetwork, config: SearchConfig, budgets: Iterable[str | EdgeBudget]) -> dict[str, Genotype]:
    """Budget → the cell that the search's method selects."""
    architecture, epoch = architecture_of(network), network.at.epoch
    parsed = map(EdgeBudget.parse, budgets)
    return {str(budget): derive_genotype(config, architecture, budget, epoch) for budget in parsed}


def within_reach(network: SuperNetwork, cells: Mapping[str, Genotype]) -> dict[str, Genotype]:
    """Those of the cells (of `own_cells`, say) that keep nothing that has left the network."""
    found = {}
    for budget, genotype in cells.items():
        with contextlib.suppress(LabError):
            check_remaining(network, genotype, budget)
            found[budget] = genotype
    return found


def _numbers(mixture: Mapping[str, Mixture]) -> tuple[float, ...]:
    """All that a network mixes with: the same numbers, the same function."""
    return tuple(x for w in mixture.values() for part in (w.operations, w.edges) for x in part.flatten().tolist())


def mixed_accuracy(
    network: SuperNetwork, held_out: ImageSet, training: ImageSet, weights: Mapping[str, Mixture], batch_norm: str
) -> float:
    """Accuracy in percent on `held_out` of the network mixed by `weights`; `training` images serve `recalibrated`."""
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
