"""Cells, and sets of edges, as tensors of zeros and ones. Legend: E edges of a cell, O operations, S sets of edges."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from daas_lab.space.budget import Group, nodes_in
from daas_lab.space.cell_space import Space, cell_edges
from daas_lab.space.genotype import CellGenotype


def one_hot(cell: CellGenotype, space: Space, like: Tensor) -> Tensor:
    """The operation weights of a discrete cell [E, O], 1 where it has one; type and device are those of `like`."""
    weights = torch.zeros(len(space.edges), len(space.operations), dtype=like.dtype)
    for source, node, operation in cell.edges:
        weights[space.edges.index((source, node)), space.operations.index(operation)] = 1
    return weights.to(like.device)


def edge_sets(groups: Sequence[Group]) -> tuple[list[int], Tensor]:
    """How many sets of edges each group can keep, and which edges they hold [S, E], group after group."""
    sets = [list(combinations(group.candidates(), group.keep)) for group in groups]
    edges = cell_edges(2 + len(nodes_in(groups)))
    held = [[float(edge in chosen) for edge in edges] for part in sets for chosen in part]
    return [len(part) for part in sets], torch.tensor(held)
