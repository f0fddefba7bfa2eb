"""The strongest cells of a budget whose network keeps to a limit of cost, exactly.

Dynamic programming over the edges in their groups. What was chosen so far is remembered by which nodes are fed, how
many edges the group has, and its front: of two choices the one that costs no less and is worth no more is forgotten,
for whatever can follow the one can follow the other. A cell's cost is a sum over its edges, and the rest of the network
(`Sizes.around`) depends on how many nodes the cells put out. Nothing here needs torch.
"""

import math
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from operator import itemgetter
from typing import Any, NamedTuple

from daas_lab.errors import refuse
from daas_lab.space.budget import QUANTITIES, EdgeBudget, amount
from daas_lab.space.cell_space import CELL_TYPES, cell_edges, choices
from daas_lab.space.genotype import CellGenotype, Edge, Genotype

Cost = tuple[int, ...]  # one for each of QUANTITIES, 0 where that has no limit
Entry = tuple[int, int, int, Any]  # a Cost, a worth, and what was chosen
Front = list[Entry]


class Sizes(NamedTuple):
    """What a network costs."""

    edges: Mapping[tuple[str, str, bool], Cost]  # of (cell type, operation, whether it comes from an input of the cell)
    around: Callable[[int, int], Cost]  # of all else, by the number of nodes that are the cells' outputs


def strongest_within(
    budget: EdgeBudget, names: Sequence[str], worth: Mapping[str, Sequence[Sequence[float]]], sizes: Sizes
) -> Genotype:
    """Of the cells that `budget` allows and that meet its limits, those with the largest sum of `worth`.

    `worth` [E, O] by cell type; `names`: those of the O candidates. Sums are exact, so that what is worth little counts
    beside what is worth much. Of equal sums the cheapest is kept, of these the one with the edges and operations that
    are listed first. What is worth −∞ is kept, and worth nothing, only if no cell without it meets the limits.
    """
    check(budget, names, sizes)
    best: tuple[float, int, int, Any] = (-math.inf, 0, 0, None)  # worth, and what is left of the limits
    for around, normal, reduce in _pairs(budget, names, worth, sizes):
        rooms = [most - size for most, size in zip(_limits(budget), around, strict=True)]
        normal, reduce = (sorted(front, key=lambda entry: -entry[2]) for front in (normal, reduce))
        for p, m, w, chosen in normal:
            if w + reduce[0][2] < best[0]:
                break
            # The first that fits is worth most.
            for p_2, m_2, w_2, chosen_2 in reduce:
                left = rooms[0] - p - p_2, rooms[1] - m - m_2
                if min(left) >= 0:
                    best = max(best, (w + w_2, *left, (chosen, chosen_2)), key=itemgetter(0, 1, 2))
                    break
    if best[3] is None:
        every = {name: [[max(0.0, value) for value in row] for row in rows] for name, rows in worth.items()}
        return strongest_within(budget, names, every, sizes)
    return Genotype(*map(_cell, best[3]))


def check(budget: EdgeBudget, names: Sequence[str], sizes: Sizes) -> None:
    """Raise unless a cell that `budget` allows meets its limits, with the smallest that one can meet."""
    same = {name: [[0.0] * len(names)] * len(cell_edges(budget.nodes)) for name in CELL_TYPES}
    any_cost = replace(budget, limits=tuple((name, sys.maxsize) for name, _ in budget.limits))
    costs = [
        tuple(map(sum, zip(around, one[:2], other[:2], strict=True)))
        for around, normal, reduce in _pairs(any_cost, names, same, sizes)
        for one, other in product(normal, reduce)
    ]
    beside = ""
    for name, most in budget.limits:
        place = QUANTITIES.index(name)
        least = min(cost[place] for cost in costs)
        if least > most:
            why = f"no cell{beside} has less in the paper's CIFAR-10 network (36 channels, 20 cells)"
            raise refuse("budget", str(budget), f"{name}<={amount(least)} at least: {why}")
        costs, beside = [cost for cost in costs if cost[place] <= most], f" with {name}<={amount(most)}"


def _limits(budget: EdgeBudget) -> list[int]:
    """One for each of `QUANTITIES`: of what has none nothing is counted."""
    return [dict(budget.limits).get(name, 0) for name in QUANTITIES]


def _pairs(
    budget: EdgeBudget, names: Sequence[str], worth: Mapping, sizes: Sizes
) -> Iterator[tuple[Cost, Front, Front]]:
    """For every number of nodes that the cells can put out: the cost around them, and the fronts of both types."""
    fronts = [_fronts(budget, cell_type, names, worth[cell_type], sizes) for cell_type in CELL_TYPES]
    for (n, normal), (r, reduce) in product(*(by_nodes.items() for by_nodes in fronts)):
        yield sizes.around(n, r), normal, reduce


def _fronts(
    budget: EdgeBudget, cell_type: str, names: Sequence[str], worth: Sequence[Sequence[float]], sizes: Sizes
) -> dict[int, Front]:
    """Number of nodes with input → the front of the cells that have so many, none of which is over a limit alone."""
    limits = _limits(budget)
    index = {edge: e for e, edge in enumerate(cell_edges(budget.nodes))}
    states: dict[frozenset, Front] = {frozenset((0, 1)): [(0, 0, 0, None)]}
    for group in budget.groups(cell_type):
        kept = {(live, 0): front for live, front in states.items()}
        for edge in group.candidates():
            options = _options(edge, budget.operations, cell_type, names, worth[index[edge]], sizes)
            grown = defaultdict(list, {state: list(front) for state, front in kept.items()})
            for (live, many), front in kept.items():
                if edge[0] in live and many < group.keep:
                    grown[live | {edge[1]}, many + 1] += [
                        (p + p_2, m + m_2, w + w_2, (chosen, option))
                        for p, m, w, chosen in front
                        for p_2, m_2, w_2, option in options
                        if p + p_2 <= limits[0] and m + m_2 <= limits[1]
                    ]
            kept = {state: _front(entries) for state, entries in grown.items()}
        states = {live: front for (live, many), front in kept.items() if many == group.keep}
    found: dict[int, Front] = defaultdict(list)
    for live, front in states.items():
        found[len(live) - 2] += front
    return {nodes: front for nodes, entries in found.items() if (front := _front(entries))}


def _options(
    edge: tuple[int, int], many: int, cell_type: str, names: Sequence[str], worth: Sequence[float], sizes: Sizes
) -> Front:
    """The front of what an edge can keep: `many` operations."""
    entries = []
    for chosen in combinations([o for o in choices(names) if worth[o] > -math.inf], many):
        costs = [sizes.edges[cell_type, names[o], edge[0] < 2] for o in chosen]
        exact = sum(int(Fraction(worth[o]) * SCALE) for o in chosen)
        parameters, multiply_adds = map(sum, zip(*costs, strict=True))
        entries.append((parameters, multiply_adds, exact, [Edge(*edge, names[o]) for o in chosen]))
    return _front(entries)


SCALE = 2**1000  # a worth as a whole number: sums of these are not rounded


def _front(entries: Front) -> Front:
    """The entries than which no other costs as little and is worth as much; of equals the first."""
    front: Front = []
    costs: list[int] = []  # the second ones, ascending
    worths: list[int] = []  # of each the largest so far
    for entry in sorted(entries, key=lambda entry: (entry[0], entry[1], -entry[2])):
        _, m, w, _ = entry
        place = bisect_right(costs, m)
        if place and worths[place - 1] >= w:
            continue
        end = place
        while end < len(worths) and worths[end] <= w:
            end += 1
        costs[place:end], worths[place:end] = [m], [w]
        front.append(entry)
    return front


def _cell(chosen: tuple | None) -> CellGenotype:
    """The cell of what was chosen edge by edge, the last one first."""
    edges = []
    while chosen:
        chosen, option = chosen
        edges += option
    edges.sort(key=lambda edge: (edge.node, edge.source))  # as `cell_edges`; operations of one edge stay in their order
    return CellGenotype.of(edges)
