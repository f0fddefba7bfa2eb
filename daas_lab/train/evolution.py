"""How a search came to its cell: what its α and β, epoch after epoch, say about the cell and each of its edges.

Pure functions of a run (or a record of one). Legend: T = epochs + 1 entries, index 0 = the start; E edges of a cell.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from daas_lab.config import SearchConfig
from daas_lab.errors import LabError, refuse
from daas_lab.methods import rules
from daas_lab.methods.method import Method
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, SKIP, cell_edges, input_edges
from daas_lab.space.cost import meets
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.operations import OPERATIONS, named_operations
from daas_lab.train.discretize import (
    check_evolves,
    choice_strengths,
    derive_genotype,
    exact_architectures,
    weight_evolution,
)

COIN_TOSS = 0.01  # a choice whose two competitors' shares differ by less is no choice


def genotype_after(
    run: Run, epoch: int = -1, budget: str | EdgeBudget | None = None, select: str = rules.OWN
) -> Genotype:
    """The cell that `budget` (default: the run's) keeps after `epoch`: 0 is the start, -1 the last one, or that at
    which the search stopped for this budget.

    `select`: a rule of `methods.rules`. What `perturbation` chose, at the end of a search, is kept in the run.
    """
    budget, config = EdgeBudget.parse(budget or run.search.budget), run.search
    # What the cell's names stand for from here on: another run may have a function of the same name.
    named_operations(config.operations, config.operations_digest)
    rule, _ = rules.parse_rule(select)
    if rule == rules.PERTURBATION:
        if found := run.cells.get(rule, {}).get(str(budget)):
            return Genotype.from_json(found)
        command = f"daas-lab genotype RUN --budget '{budget}' --select {select}"
        raise refuse("select", select, f"measured before for budget {budget}: {command}")
    if not config.searcher.trains:
        return derive_genotype(config, {}, budget, select=select)
    epoch = _epoch(run, epoch, budget)
    return derive_genotype(config, run.architecture(epoch), budget, max(1, epoch), select)


def _epoch(run: Run, epoch: int, budget: str | EdgeBudget | None) -> int:
    """The index of an epoch that may be counted from the last one of `budget` (default: the run's), as far as the
    search has come."""
    done = len(run.alphas["normal"])
    known = range(min(done, run.search.epoch_of(budget or run.search.budget) + 1) if epoch < 0 else done)
    if not -len(known) <= epoch < len(known):
        raise refuse("epoch", epoch, f"a whole number of at most {done - 1}, or counted from the last one, which is -1")
    return known[epoch]


def genotype_evolution(run: Run, budget: str | EdgeBudget | None = None) -> list[Genotype]:
    """The cell after every epoch, T of them."""
    check_evolves(run)
    return [genotype_after(run, epoch, budget) for epoch in range(len(run.alphas["normal"]))]


def epoch_summaries(run: Run, budget: str | EdgeBudget | None = None) -> list[dict]:
    """A row for every epoch and cell type.

    `epoch`, `cell`; `skip_connections` among the operations that `budget` keeps, and how many these are
    (`operations`); over all edges the means of `largest_operation_weight` and of `operation_entropy` in nats; over the
    nodes the mean of `edge_entropy`, that of the shares in which a node's inputs are weighted.
    """
    weights, rows = weight_evolution(run), []
    for epoch, genotype in enumerate(genotype_evolution(run, budget)):
        for name in CELL_TYPES:
            a, b = weights[name].operations[epoch], weights[name].edges[epoch]
            kept = [edge.operation for edge in genotype.cell(name).edges]
            shares = (shares_of_inputs(b, node) for node in range(2, run.search.nodes))
            rows.append(
                {
                    "epoch": epoch,
                    "cell": name,
                    "skip_connections": kept.count(SKIP),
                    "operations": len(kept),
                    "largest_operation_weight": float(a.max(axis=1).mean()),
                    "operation_entropy": float(entropy(a).mean()),
                    "edge_entropy": float(np.mean([entropy(share) for share in shares])),
                }
            )
    return rows


def entropy(shares: np.ndarray) -> np.ndarray:
    """−Σ p log p over the last axis, in nats, as in Eq. (2); 0 log 0 = 0."""
    return torch.special.entr(torch.as_tensor(shares)).sum(dim=-1).numpy()


def shares_of_inputs(edges: np.ndarray, node: int) -> np.ndarray:
    """Edge weights b [..., E] of a cell → in what shares they weight a node's inputs [..., n]; 0 where none has any."""
    own = edges[..., input_edges(node)]
    return own / np.maximum(own.sum(axis=-1, keepdims=True), 1e-30)


def settled_edges(run: Run, budget: str | EdgeBudget | None = None) -> list[dict]:
    """A row for every edge of both cells: what it ended as (at the stop for `budget`, where the search has one), and
    the epoch from which that did not change again.

    `cell`, `source`, `node`; `operation`, the strongest at the end, and `operation_epoch`; `kept`, whether `budget`
    keeps the edge, and `kept_epoch`. Epoch 0 is the start: an edge that was so from the beginning.
    """
    weights, rows = weight_evolution(run), []
    end = 1 + _epoch(run, -1, budget)
    cells = [genotype_after(run, epoch, budget) for epoch in range(end)]
    for name in CELL_TYPES:
        strongest = weights[name].operations[:end].argmax(axis=2)  # [T, E]
        pairs = [{edge[:2] for edge in genotype.cell(name).edges} for genotype in cells]
        for e, edge in enumerate(cell_edges(run.search.nodes)):
            kept = [edge in kept_pairs for kept_pairs in pairs]
            rows.append(
                {
                    "cell": name,
                    "source": edge[0],
                    "node": edge[1],
                    "operation": run.search.space.operations[strongest[-1, e]],
                    "operation_epoch": _settled(strongest[:, e]),
                    "kept": kept[-1],
                    "kept_epoch": _settled(kept),
                }
            )
    return rows


def _settled(choices: Sequence) -> int:
    """Index of the first entry from which all are equal to the last."""
    return max((t for t in range(1, len(choices)) if choices[t] != choices[t - 1]), default=0)


def kept_weight(run: Run, budget: str | EdgeBudget | None = None) -> dict[str, float]:
    """What the cut to `budget` leaves of the weights that a search ended with, as shares of 1, means over both cells.

    `kept_operations`: of an edge's operation weights, over the kept edges; `kept_edges`: of the edge weights that enter
    a node, over the nodes.
    """
    genotype, weights = genotype_after(run, budget=budget), weight_evolution(run)
    epoch = _epoch(run, -1, budget)
    space, operations, edges = run.search.space, [], []
    for name in CELL_TYPES:
        a, b = weights[name].operations[epoch], weights[name].edges[epoch]
        kept: dict[int, list[int]] = {}
        for source, node, operation in genotype.cell(name).edges:
            kept.setdefault(space.edges.index((source, node)), []).append(space.operations.index(operation))
        operations += [a[e, chosen].sum() for e, chosen in kept.items()]
        for node in range(2, run.search.nodes):
            inputs = input_edges(node)
            edges.append(sum(b[e] for e in inputs if e in kept) / max(b[inputs].sum(), 1e-30))
    return {"kept_operations": float(np.mean(operations)), "kept_edges": float(np.mean(edges))}


def parameter_free(cells: Genotype) -> dict[str, float]:
    """`parameter_free_normal` and `parameter_free_reduce`: pools and skips among a cell's operations, in percent.

    (A skip of stride 2, from an input of a reduction cell, is counted too, though it has a small convolution.)
    """
    kept = {name: [edge.operation for edge in cells.cell(name).edges] for name in CELL_TYPES}
    return {
        f"parameter_free_{name}": 100 * np.mean([OPERATIONS[operation].free for operation in operations]).item()
        for name, operations in kept.items()
    }


def close_choices(run: Run, epoch: int = -1, budget: str | EdgeBudget | None = None) -> list[dict]:
    """The choices of `genotype_after` that are close to a coin toss: a row each, the closest first.

    A choice is between the weakest that is kept and the strongest that is not: of the operations of a kept edge, or of
    the edges that may enter a node (or group of nodes). It is close where the two's shares of what both have together
    differ by less than 0.01, `margin`. Two operation weights a and a' have the shares a / (a + a') and a' / (a + a');
    so have edges that rank by weights, and those that rank by a learned β have the shares of its softmax. Under a limit
    of cost the choice is between a kept edge with its operation and the best one that could take its place.
    `cell`, `node`, `kept` and `next`, as texts. Of a method of one's own that selects in its own way there are none.
    """
    if not run.search.searcher.trains or _selects_in_its_own_way(run.search):
        return []
    budget = EdgeBudget.parse(budget or run.search.budget)
    epoch = _epoch(run, epoch, budget)
    if budget.limits:
        return _close_under_limits(run, epoch, budget, genotype_after(run, epoch, budget))
    cells, rows = genotype_after(run, epoch, budget), []
    for name, node, logits, _ in _choices(run.search, run.architecture(epoch), epoch, budget, cells):
        edges = cells.cell(name).edges
        kept = {*edges, *(edge[:2] for edge in edges)}
        weakest = min((which for which in logits if which in kept), key=logits.__getitem__, default=None)
        strongest = max((which for which in logits if which not in kept), key=logits.__getitem__, default=None)
        if weakest is None or strongest is None:
            continue
        # Below 0 the method's own rule has left out what is stronger: there was no choice between these.
        if 0 <= (margin := _margin(logits[weakest], logits[strongest])) < COIN_TOSS:
            named = {"kept": _named(weakest), "next": _named(strongest), "margin": margin}
            rows.append({"cell": name, "node": node} | named)
    return sorted(rows, key=lambda row: row["margin"])


def decided_edges(config: SearchConfig, parameters: Mapping[str, torch.Tensor | np.ndarray], epoch: int) -> int:
    """How many edges of both cells, 28 of the paper's, α and β have decided after `epoch`.

    An edge is decided where no choice that it is in is open: that the search's budget keeps it or cuts it off, against
    the edge that would change places with it; and of a kept edge the operation. A choice is open while its `margin` (as
    in `close_choices`, where 0 is a coin toss) is not within 0.01 of 1: the loser still has more than half a percent of
    what both have. The edges that leave a node without input are decided where all that could enter it are.
    A limit of cost is left aside.
    """
    space, budget = config.space, config.edge_budget.unlimited
    undecided: set[tuple] = set()
    cells = derive_genotype(config, parameters, budget, max(1, epoch))
    for name, _, logits, keep in _choices(config, parameters, epoch, budget, cells):
        ranked = sorted(logits, key=lambda which: -logits[which])
        for place, which in enumerate(ranked if keep < len(ranked) else ()):
            other = ranked[keep if place < keep else keep - 1]
            if abs(_margin(logits[which], logits[other])) < 1 - COIN_TOSS:
                undecided.add((name, *which[:2]))
    for name in CELL_TYPES:
        for source, node in (edge for group in budget.groups(name) for edge in group.candidates()):
            dropped = source not in (0, 1, *cells.cell(name).concat)
            if dropped and any((name, *edge) in undecided for edge in space.edges if edge[1] == source):
                undecided.add((name, source, node))
    return len(CELL_TYPES) * len(space.edges) - len(undecided)


def _choices(
    config: SearchConfig,
    parameters: Mapping[str, torch.Tensor | np.ndarray],
    epoch: int,
    budget: EdgeBudget,
    cells: Genotype,
) -> Iterator[tuple[str, int, dict[tuple, float], int]]:
    """What the cut to `budget`, which keeps `cells`, chooses between after `epoch`: cell type, node, the logit of every
    candidate, and how many are kept. Candidates are (source, node) of the edges that may enter a node, or a group of
    nodes, and (source, node, operation) of a kept edge."""
    space = config.space
    for name, (operations, edges) in choice_strengths(config, parameters, max(1, epoch)).items():
        cell = cells.cell(name)
        for edge in dict.fromkeys(edge[:2] for edge in cell.edges):
            logits = operations[space.edges.index(edge)].tolist()
            yield name, edge[1], {(*edge, space.operations[o]): logits[o] for o in space.choices}, budget.operations
        for group in budget.groups(name):
            ranked = zip(group.candidates(), config.searcher.group_logits(edges, group, space).tolist(), strict=True)
            live = {edge: logit for edge, logit in ranked if edge[0] in (0, 1, *cell.concat)}
            yield name, group.nodes[-1], live, group.keep


def _margin(logit: float, other: float) -> float:
    """What two have together is shared by their softmax: the difference of the shares."""
    return math.tanh((logit - other) / 2)


def _named(which: tuple) -> str:
    source, node, *operation = which
    return " ".join([f"{source}→{node}", *operation])


def _close_under_limits(run: Run, epoch: int, budget: EdgeBudget, cells: Genotype) -> list[dict]:
    """The rows of `close_choices` under a limit: for each kept edge and operation the best that could stand in its
    place with the limit met, another operation of the edge or (one operation an edge) another edge of the group."""
    method, at, rows = run.search.searcher, run.search.moment(max(1, epoch)), []
    for name, both in exact_architectures(run.architecture(epoch)).items():
        worth, cell = method.worth(both, name, budget, at).clamp(min=0), cells.cell(name)
        choices = [Edge(*edge, at.space.operations[o]) for edge in at.space.edges for o in at.space.choices]
        value = rules.edge_values(choices, worth, at.space)
        pairs, group_of = {edge[:2] for edge in cell.edges}, {n: g for g in budget.groups(name) for n in g.nodes}
        for kept in cell.edges:
            others = [
                edge
                for edge in set(choices) - set(cell.edges)
                if edge[:2] == kept[:2]
                or (budget.operations == 1 and edge[:2] in set(group_of[kept.node].candidates()) - pairs)
            ]
            for other in sorted(others, key=lambda edge: (-value[edge], choices.index(edge))):
                total = value[kept] + value[other]
                margin = (value[kept] - value[other]) / total if total else 0.0
                if margin >= COIN_TOSS:
                    break
                if margin >= 0 and _meets_with(cells, name, kept, other, budget):
                    named = {"kept": _named(kept), "next": _named(other)}
                    rows.append({"cell": name, "node": kept.node} | named | {"margin": margin})
                    break
    return sorted(rows, key=lambda row: row["margin"])


def _meets_with(cells: Genotype, cell_type: str, kept: Edge, other: Edge, budget: EdgeBudget) -> bool:
    """Whether there are such cells with `other` in the place of `kept`, and they meet the limits."""
    edges = [other if edge == kept else edge for edge in cells.cell(cell_type).edges]
    edges.sort(key=lambda edge: (edge.node, edge.source))
    try:
        changed = CellGenotype.of(edges)
    except LabError:  # a later edge comes from a node that is fed no more
        return False
    return meets(replace(cells, **{cell_type: changed}), budget)


def _selects_in_its_own_way(config: SearchConfig) -> bool:
    """Whether strengths may say nothing of how close a choice is."""
    return bool(config.method_digest) and config.method_class.select is not Method.select


def close_choices_sentence(config: SearchConfig, rows: Sequence[dict]) -> str:
    """What `close_choices` found in a search, in one line."""
    if _selects_in_its_own_way(config):
        return f"{config.label} selects cells in its own way: how close its choices are is not known."
    within = f"within {100 * COIN_TOSS:g} % of a coin toss"
    if not rows:
        return f"No choice of this cell is {within}."
    named = [f"{row['cell']} {row['kept']} before {row['next']} ({100 * row['margin']:.2f} %)" for row in rows]
    many = "1 choice of this cell is" if len(rows) == 1 else f"{len(rows)} choices of this cell are"
    return f"{many} {within}: {'; '.join(named)}."


def gap_evolution(run: Run) -> list[dict]:
    """Rows of `discretize.accuracy_drops` with their `epoch`, from a search that measured the gap (`gap_every`)."""
    rows = [{"epoch": record["epoch"]} | row for record in run.history for row in record.get("gap", [])]
    if not rows:
        where = run.folder or run.search.method
        raise LabError(f"run = {str(where)!r}: must be a search made with gap_every of at least 1")
    return rows
