"""Cells, and sets of edges, as tensors of zeros and ones. Legend: E edges of a cell, O operations, S sets of edges."""

from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from daas_lab.errors import refuse
from daas_lab.space.budget import Group, nodes_in
from daas_lab.space.cell_space import Space, cell_edges, nodes_of
from daas_lab.space.genotype import CellGenotype

MOST_SETS = 10_000  # of a group of nodes


def split_nodes(edges: Tensor) -> tuple[Tensor, ...]:
    """[E, …] → one tensor [n, …] for each intermediate node, n = 2, 3, …"""
    return edges.split(list(range(2, nodes_of(len(edges)))))


def cell_mask(cell: CellGenotype, space: Space, like: Tensor) -> Tensor:
    """The operation weights of a discrete cell [E, O], 1 where it has one; type and device are those of `like`."""
    weights = torch.zeros(len(space.edges), len(space.operations), dtype=like.dtype)
    for source, node, operation in cell.edges:
        weights[space.edges.index((source, node)), space.operations.index(operation)] = 1
    return weights.to(like.device)


@lru_cache(maxsize=64)
def edge_sets(groups: tuple[Group, ...]) -> tuple[list[int], Tensor]:
    """How many sets of edges each group can keep, and which edges they hold [S, E], group after group."""
    for group in groups:
        if comb(len(group.candidates()), group.keep) > MOST_SETS:
            nodes = "+".join(map(str, group.nodes))
            raise refuse(f"budget of node {nodes}", group.keep, f"one with at most {MOST_SETS} sets of edges to keep")
    sets = [list(combinations(group.candidates(), group.keep)) for group in groups]
    edges = cell_edges(2 + len(nodes_in(groups)))
    held = [[float(edge in chosen) for edge in edges] for part in sets for chosen in part]
    return [len(part) for part in sets], torch.tensor(held)
