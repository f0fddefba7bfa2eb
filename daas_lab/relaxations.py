"""Relaxations: α, β → operation weights a and edge weights b. Pure functions.

Legend: E edges of a cell, O operations, n inputs of a node. α is [E, O] and β is [E], in the order of
`genotype.cell_edges`. A relaxation is bound to its configuration by `make_relaxation`; the super-network calls it as
`relaxation(alphas, betas, cell_type, epoch)` and mixes with what it returns, without knowing which one it is.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from daas_lab.config import SearchConfig
from daas_lab.genotype import CELL_TYPES, PRIMITIVES, cell_edges


class ArchitectureWeights(NamedTuple):
    """What one cell type mixes with, and the logits that the entropy losses are computed from."""

    operations: Tensor  # a [E, O]
    edges: Tensor  # b [E]
    operation_logits: Tensor  # [E, O], a = softmax of these
    edge_logits: Tensor | None  # [E], capped β; None where edges have no weights of their own


Relaxation = Callable[[Tensor, Tensor, str, int], ArchitectureWeights]


def make_relaxation(config: SearchConfig) -> Relaxation:
    """The relaxation of the configuration's method and protocol."""
    return partial(darts if config.method == "darts" else _PROTOCOL_RELAXATIONS[config.protocol], nodes=config.nodes)


def darts(alphas: Tensor, betas: Tensor, cell_type: str, epoch: int, *, nodes: int) -> ArchitectureWeights:
    """DARTS: a = softmax(α), every edge weighs 1."""
    return ArchitectureWeights(alphas.softmax(dim=1), torch.ones_like(betas), alphas, None)


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
    """α and β at the start, drawn from torch's generator: noise, and β around k/n (k of n inputs to keep).

    k/n and not 0, because Eq. (4) does not see a β ≤ 0: its squared term could not pull it up.
    """
    noise = config.constants.initial_noise if config.method != "darts" else 1e-3
    edges = cell_edges(config.nodes)
    values = {}
    for cell_type in CELL_TYPES:
        values[f"alphas_{cell_type}"] = noise * torch.randn(len(edges), len(PRIMITIVES))
        targets = config.edge_budget.targets(cell_type)
        shares = torch.tensor([targets[node] / node for _, node in edges])
        values[f"betas_{cell_type}"] = shares + noise * torch.randn(len(edges))
    return values
