"""Strengths and a budget → a genotype. Nothing here needs torch: strengths are sequences of floats."""

import random
from collections.abc import Callable, Sequence
from itertools import combinations

from daas_lab.errors import refuse
from daas_lab.space.budget import EdgeBudget, Group, nodes_in
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges, choices
from daas_lab.space.genotype import CellGenotype, Edge, Genotype


def select_edges(strengths: Sequence[float], groups: Sequence[Group]) -> list[tuple[int, int]]:
    """The edges that a cell keeps: in each group the `keep` strongest of its candidates that come from a live node.

    `strengths` [E] in the order of `cell_edges`. A node of a group may be left without input; it is then no source for
    later nodes. Equal strengths keep the edge that is listed first.
    """
    index = {edge: e for e, edge in enumerate(cell_edges(2 + len(nodes_in(groups))))}
    if len(strengths) != len(index):
        raise refuse("number of edge strengths", len(strengths), str(len(index)))
    live, kept = {0, 1}, []
    for group in groups:
        candidates = [edge for edge in group.candidates() if edge[0] in live]
        strongest = sorted(candidates, key=lambda edge: -strengths[index[edge]])[: group.keep]
        kept += strongest
        live |= {node for _, node in strongest}
    return sorted(kept, key=index.__getitem__)


def derive_cell(
    operation_strengths: Sequence[Sequence[float]],
    edge_strengths: Sequence[float],
    groups: Sequence[Group],
    operations: int = 1,
    names: Sequence[str] = PRIMITIVES,
) -> CellGenotype:
    """Operation strengths [E, O] and edge strengths [E] → the cell that keeps the strongest under `groups`.

    `operations`: how many a kept edge keeps; `names`: those of the O candidates. `none` is passed over, as in DARTS.
    """
    candidates = _candidates(names, operations)
    index = {edge: e for e, edge in enumerate(cell_edges(2 + len(nodes_in(groups))))}
    edges = []
    for source, node in select_edges(edge_strengths, groups):
        strengths = operation_strengths[index[source, node]]
        strongest = sorted(candidates, key=lambda o: -strengths[o])[:operations]
        edges += [Edge(source, node, names[o]) for o in sorted(strongest)]
    return CellGenotype.of(edges)


def _candidates(names: Sequence[str], operations: int) -> list[int]:
    """Places of the names that a cell can have, of which each kept edge keeps `operations`."""
    candidates = choices(names)
    if operations > len(candidates):
        raise refuse("operations per edge", operations, f"1 to {len(candidates)}")
    return candidates


def random_genotype(
    budget: EdgeBudget,
    seed: int,
    names: Sequence[str] = PRIMITIVES,
    fits: Callable[[Genotype], bool] = lambda cells: True,
) -> Genotype:
    """A pair of cells drawn uniformly from those that `budget` allows, by rejection of cells that leave it unmet, and
    of pairs that do not fit."""
    rng = random.Random(seed)
    for _ in range(MOST_DRAWS):
        cells = Genotype(*(_random_cell(budget.groups(name), budget.operations, rng, names) for name in CELL_TYPES))
        if fits(cells):
            return cells
    raise refuse("budget", str(budget), f"limited to what chance finds: none of {MOST_DRAWS} random cells keeps to it")


MOST_DRAWS = 5000


def _random_cell(groups: Sequence[Group], operations: int, rng: random.Random, names: Sequence[str]) -> CellGenotype:
    candidates = _candidates(names, operations)
    # The group choices multiply to all edge sets; a set with an edge from a dropped node is not a cell, so draw again.
    edge_sets = [list(combinations(group.candidates(), group.keep)) for group in groups]
    while True:
        kept = sorted((edge for group in edge_sets for edge in rng.choice(group)), key=lambda edge: edge[::-1])
        live = {0, 1} | {node for _, node in kept}
        if all(source in live for source, _ in kept):
            break
    edges = [Edge(source, node, names[o]) for source, node in kept for o in sorted(rng.sample(candidates, operations))]
    return CellGenotype.of(edges)
