"""Relaxations: α, β → operation weights a and edge weights b. Pure functions.

Legend: E edges of a cell, O operations, n inputs of a node. α is [E, O] and β is [E], in the order of
`cell_space.cell_edges`. A relaxation is bound to its configuration by `make_relaxation`; the super-network calls it as
`relaxation(alphas, betas, cell_type, epoch)` and mixes with what it returns, without knowing which one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.methods import schedules
from daas_lab.methods.projection import CEILING, project
from daas_lab.space.budget import EdgeBudget, Group
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges, nodes_of

if TYPE_CHECKING:
    from daas_lab.config import SearchConfig


class ArchitectureWeights(NamedTuple):
    """What one cell type mixes with, and the logits that the entropy losses are computed from."""

    operations: Tensor  # a [E, O]
    edges: Tensor  # b [E]
    operation_logits: Tensor  # [E, O], a = softmax of these
    # [E], of softmax (the capped β) or of σ (`exact`); None where edges have no weights of their own.
    edge_logits: Tensor | None


Relaxation = Callable[[Tensor, Tensor, str, int], ArchitectureWeights]


def make_relaxation(config: SearchConfig) -> Relaxation:
    """The relaxation of the configuration's method and protocol."""
    if config.method == "da2s_exact":
        return partial(
            exact,
            budget=config.edge_budget,
            epochs=config.epochs,
            hold=config.hold,
            temperature=config.temperature,
        )
    if config.method == "pc_darts":
        return partial(pc_darts, nodes=config.nodes)
    return partial(_PROTOCOL_RELAXATIONS[config.protocol] if config.method == "da2s" else darts, nodes=config.nodes)


def darts(alphas: Tensor, betas: Tensor, cell_type: str, epoch: int, *, nodes: int) -> ArchitectureWeights:
    """DARTS: a = softmax(α), every edge weighs 1."""
    return ArchitectureWeights(alphas.softmax(dim=1), torch.ones_like(betas), alphas, None)


def pc_darts(alphas: Tensor, betas: Tensor, cell_type: str, epoch: int, *, nodes: int) -> ArchitectureWeights:
    """PC-DARTS (Xu et al., arXiv 1907.05737, edge normalisation): b = softmax of β over a node's inputs."""
    edges = torch.cat([logits.softmax(dim=0) for logits in split_nodes(betas, nodes)])
    return ArchitectureWeights(alphas.softmax(dim=1), edges, alphas, betas)


def paper(alphas: Tensor, betas: Tensor, cell_type: str, epoch: int, *, nodes: int) -> ArchitectureWeights:
    """The paper's text (§3.1, and the cap of Eq. 4): a = softmax(α), b = softmax of min(β, 1) over a node's inputs."""
    capped = cap(betas)
    edges = torch.cat([logits.softmax(dim=0) for logits in split_nodes(capped, nodes)])
    return ArchitectureWeights(alphas.softmax(dim=1), edges, alphas, capped)


def authors(alphas: Tensor, betas: Tensor, cell_type: str, epoch: int, *, nodes: int) -> ArchitectureWeights:
    """The published code: α is steepened, b is the paper's times the number of inputs, node 2's edges weigh 1."""
    logits, capped = steepen(alphas), cap(betas)
    first, *others = split_nodes(capped, nodes)
    edges = [torch.ones_like(first)] + [len(node) * node.softmax(dim=0) for node in others]
    return ArchitectureWeights(logits.softmax(dim=1), torch.cat(edges), logits, capped)


def exact(
    alphas: Tensor,
    betas: Tensor,
    cell_type: str,
    epoch: int,
    *,
    budget: EdgeBudget,
    epochs: int,
    hold: int,
    temperature: float,
) -> ArchitectureWeights:
    """Exact budgets: the edge weights of every group of nodes sum to k, from all its edges down to what it may keep.

    a = softmax(α / T) with T from 1 to `temperature` geometrically; b = σ(y + τ), Σ b = k, of the scores y = β + log of
    the edge's largest a. T and k begin to move after `hold` epochs; k has arrived half-way from there to the end, so
    that what is left can settle.
    """
    progress = schedules.progress(epoch, epochs, hold)
    logits = alphas / temperature**progress
    scores = edge_scores(logits, betas)
    x = exact_edge_logits(scores, budget.groups(cell_type), min(1.0, 2 * progress))
    return ArchitectureWeights(logits.softmax(dim=1), x.sigmoid().to(betas), logits, x.to(betas))


def edge_scores(operation_logits: Tensor, betas: Tensor) -> Tensor:
    """β + log of the edge's largest operation weight, [E]: an edge that has not chosen its operation is worth less."""
    return betas + operation_logits.log_softmax(dim=1).amax(dim=1)


def exact_edge_logits(scores: Tensor, groups: tuple[Group, ...], progress: float) -> Tensor:
    """Scores [E] → x [E] in float64, σ(x) summing to k over the candidates of each group, k from all to `keep`.

    An edge that leaves a node of a joint group is worth what its node is: batch-norm hides how little a node gets, so
    its score carries 3 log of the node's incoming weight. Edges inside a group have the weight 0.
    """
    index = {edge: e for e, edge in enumerate(cell_edges(nodes_of(len(scores))))}
    values = scores.double().unbind()
    logits = [torch.full_like(values[0], -CEILING)] * len(values)
    liveness: dict[int, Tensor] = {}
    # Solved together, unless one group's scores wait for the liveness of another.
    joint = any(len(group.nodes) > 1 for group in groups)
    for part in [[group] for group in groups] if joint else [groups]:
        candidates = [group.candidates() for group in part]
        rows = [
            torch.stack([values[index[source, node]] + 3 * liveness.get(source, 0.0) for source, node in edges])
            for edges in candidates
        ]
        keep = [len(row) + (group.keep - len(row)) * progress for row, group in zip(rows, part, strict=True)]
        for group, edges, x in zip(part, candidates, project(rows, keep), strict=True):
            for edge, value in zip(edges, x.unbind(), strict=True):
                logits[index[edge]] = value
            for node in group.nodes if len(group.nodes) > 1 else ():
                incoming = F.logsigmoid(torch.stack([logits[index[edge]] for edge in edges if edge[1] == node]))
                # A node with several inputs is not worth more than one that is sure to have one.
                liveness[node] = incoming.logsumexp(dim=0).clamp(max=0)
    return torch.stack(logits)


_PROTOCOL_RELAXATIONS = {"paper": paper, "authors": authors}


def cap(betas: Tensor) -> Tensor:
    """min(β, 1) of Eq. (4): forward pass and loss alike."""
    return betas.clamp(max=1)


def steepen(alphas: Tensor) -> Tensor:
    """The published code's logits g(2α): g(x) = x³ where x < -1, else x.

    Below -1e6 the cube is held, so that it stays finite in float32; the weight is zero there all the same.
    """
    x = 2 * alphas
    return torch.where(x < -1, x.clamp(-1e6, -1) ** 3, x)


def split_nodes(edges: Tensor, nodes: int) -> tuple[Tensor, ...]:
    """[E, …] → one tensor [n, …] for each intermediate node, n = 2, 3, …"""
    return edges.split(list(range(2, nodes)))


def initial_architecture(config: SearchConfig) -> dict[str, Tensor]:
    """α and β at the start, drawn from torch's generator: noise, and β of DA²S around k/n (k of n inputs to keep).

    k/n and not 0, because Eq. (4) does not see a β ≤ 0: its squared term could not pull it up.
    """
    noise = config.constants.initial_noise if config.method == "da2s" else 1e-3
    edges = cell_edges(config.nodes)
    values = {}
    for cell_type in CELL_TYPES:
        values[f"alphas_{cell_type}"] = noise * torch.randn(len(edges), len(PRIMITIVES))
        targets = config.edge_budget.targets(cell_type)
        shares = torch.tensor([targets[node] / node if config.method == "da2s" else 0.0 for _, node in edges])
        values[f"betas_{cell_type}"] = shares + noise * torch.randn(len(edges))
    return values
