"""Rules of selection: which cell a budget keeps, as a choice apart from the method that searched.

own              the method's own rule (`Method.select`)
strongest        DARTS's: the strongest edges, on each the strongest operation
threshold:0.85   of these only edges whose operation weighs at least 0.85 (FairDARTS, arXiv 1911.12126)
skips:2          with at most two skip connections a cell: the lightest leaves the choice, and all edges are chosen anew
                 (P-DARTS, arXiv 1904.12760)
perturbation     what hurts most when it is removed (DARTS-PT, arXiv 2108.04392); measured with a run's weights
                 (train/perturbation.py) and kept in the run

Under a budget with a limit of cost, "strongest" are the cells with the largest sum of `Method.worth` that keep to it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from daas_lab.errors import one_of, refuse
from daas_lab.methods.method import Architecture, Method, Moment, Strengths, strongest
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, SKIP, Space
from daas_lab.space.cost import meets
from daas_lab.space.genotype import CellGenotype, Edge, Genotype

OWN, STRONGEST, THRESHOLD, SKIPS, PERTURBATION = RULES = ("own", "strongest", "threshold", "skips", "perturbation")


def parse_rule(text: str) -> tuple[str, float]:
    """`"threshold:0.85"` → `("threshold", 0.85)`; rules without a number have 0."""
    name, colon, number = str(text).partition(":")
    one_of("select", name, RULES)
    if name in (THRESHOLD, SKIPS):
        try:
            value = float(number) if name == THRESHOLD else int(number)
        except ValueError:
            value = -1
        if name == THRESHOLD and not 0 <= value <= 1:
            raise refuse("select", text, f"{THRESHOLD}: and a weight from 0 to 1, as {THRESHOLD}:0.85")
        if value < 0:
            raise refuse("select", text, f"{SKIPS}: and a number of skip connections, as {SKIPS}:2")
        return name, value
    if colon:
        raise refuse("select", text, name)
    return name, 0


def check(rule: str, method: Method, budget: EdgeBudget) -> tuple[str, float]:
    """`parse_rule`, of a rule that can choose the cell of this method's search for this budget."""
    name, number = parse_rule(rule)
    if name != OWN and not method.trains:
        raise refuse("select", rule, f"{OWN} for {method.title}, which have no strengths")
    if name == PERTURBATION and budget.limits:
        raise refuse("budget", str(budget), f"without a limit for {PERTURBATION}, whose measurements are no sum")
    return name, number


def select(
    rule: str, method: Method, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment
) -> Genotype:
    """The cell that `budget` keeps of α and β by a rule that needs no network. A limit that the cell meets anyway
    changes nothing."""
    name, number = check(rule, method, budget.unlimited)
    if name == PERTURBATION:
        raise refuse("select", rule, "a rule that needs no network")
    by_name: dict[str, Callable[..., Genotype]] = {
        OWN: method.select,
        STRONGEST: partial(Method.select, method),
        THRESHOLD: partial(above, number, method),
        SKIPS: partial(few_skips, number, method),
    }
    choose = by_name[name]
    cells = choose(architectures, budget.unlimited, at)
    if not meets(cells, budget):
        cells = choose(architectures, budget, at)
    if not meets(cells, budget):
        named = vars(type(method)).get("title", type(method).__name__)  # not that of a method which this one is made of
        raise refuse("budget", str(budget), f"without a limit for {named}: its way to select keeps to none")
    if name == SKIPS and budget.limits and budget.operations < len(at.space.choices):
        most = max(sum(edge.operation == SKIP for edge in cells.cell(each).edges) for each in CELL_TYPES)
        if most > number:
            raise refuse("budget", str(budget), f"one that cells of at most {number:g} skip connections meet")
    return cells


def above(
    least: float, method: Method, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment
) -> Genotype:
    """The strongest edges without those whose operation weighs less than `least`, and without what they fed. Where none
    is left in a cell, the heaviest edge from an input of the cell stays."""
    strongest, cells = Method.select(method, architectures, budget, at), []
    for name in CELL_TYPES:
        cell = strongest.cell(name)
        weight = edge_values(cell.edges, method.mix(architectures[name], name, at).shares, at.space)
        live, edges = {0, 1}, []
        for edge in cell.edges:
            if weight[edge] >= least and edge.source in live:
                edges.append(edge)
                live.add(edge.node)
        edges = edges or [max((edge for edge in cell.edges if edge.source < 2), key=weight.__getitem__)]
        cells.append(CellGenotype.of(edges))
    return Genotype(*cells)


def edge_values(edges: Iterable[Edge], values: Tensor, space: Space) -> dict[Edge, float]:
    """Edge of a cell → what `values` [E, O] has for it."""
    return {edge: values[place(edge, space)].item() for edge in edges}


def place(edge: Edge, space: Space) -> tuple[int, int]:
    """Where in [E, O] an edge of a cell with its operation is."""
    return space.edges.index(edge[:2]), space.operations.index(edge.operation)


def few_skips(
    most: float,
    method: Method,
    architectures: Mapping[str, Architecture],
    budget: EdgeBudget,
    at: Moment,
    cell_types: Sequence[str] = CELL_TYPES,
) -> Genotype:
    """The cells with at most `most` skip connections in each of `cell_types`: while one has more, its lightest is no
    choice any more, and the edges are chosen anew by what the others weigh, which stays as it is
    (`chenxin061/pdarts:train_search.py`). A budget that asks an edge for all its operations leaves no choice."""
    strengths = {name: method.strengths(architectures[name], name, at) for name in CELL_TYPES}
    shares = {name: method.mix(architectures[name], name, at).shares for name in CELL_TYPES}
    taken = {name: torch.zeros_like(shares[name], dtype=torch.bool) for name in CELL_TYPES}

    def left(name: str) -> Strengths:
        operations, edges = strengths[name]
        whole, rest = (x[:, at.space.choices].amax(dim=1) for x in (shares[name], shares[name] * ~taken[name]))
        weighed = len(edges) if method.edges_rank_by_weights else sum(range(2, method.first_edge_node))
        logits = edges[weighed:] + ((rest / whole)[weighed:].log() if method.operations_rank_edges else 0)
        edges = torch.cat([edges[:weighed] * (rest / whole)[:weighed], logits])
        return Strengths(operations.masked_fill(taken[name], -torch.inf), edges)

    def worth(name: str) -> Tensor:
        return method.worth(architectures[name], name, budget, at).masked_fill(taken[name], -torch.inf)

    while True:
        cells, chosen = strongest({name: left(name) for name in CELL_TYPES}, worth, budget, at.space), False
        for name in cell_types:
            skips = [place(edge, at.space) for edge in cells.cell(name).edges if edge.operation == SKIP]
            if free := [where for where in skips if len(skips) > most and not taken[name][where]]:
                taken[name][min(free, key=lambda where: shares[name][where].item())] = chosen = True
        if not chosen:
            return cells
