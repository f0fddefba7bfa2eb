"""Selection by perturbation (DARTS-PT, Wang et al., arXiv 2108.04392): what hurts most when it is removed stays.

Edge after edge, in an order drawn by the search's seed, keeps the operation without which the super-network is worst;
then each node gives up, one by one, the edges that it misses least. Accuracies are those of the batch's statistics, on
architecture images (the source's validation images), so that the held-out images have no part in the choice. The
source trains on between two decisions; here nothing is trained.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from daas_lab.data.batches import ImageSet, plain_batches
from daas_lab.data.sources import Dataset
from daas_lab.errors import LabError
from daas_lab.methods.method import Mixture
from daas_lab.methods.rules import PERTURBATION, check
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import keep_measured, read_run
from daas_lab.runs.lock import locked
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import Genotype
from daas_lab.space.selection import derive_cell
from daas_lab.train.discretize import statistics_kept
from daas_lab.train.loop import prepare
from daas_lab.train.search import supernets_at
from daas_lab.train.splits import search_splits

BATCH = 64  # of the source
IMAGES = 2000  # of the architecture images at most


def keep_perturbed_cells(folder: str | Path, data: str | Path | Dataset, budgets: list[str], threads: int = 0) -> None:
    """Choose the cells of a finished search for `budgets` that it lacks, and keep them in its folder: cells.json."""
    folder, run = Path(folder), read_run(folder)
    if not run.finished:
        raise LabError(f"run = {str(folder)!r}: must be finished before its cells are chosen by {PERTURBATION}")
    for budget in map(EdgeBudget.parse, budgets):
        check(PERTURBATION, run.search.searcher, budget)
    kept = run.cells.get(PERTURBATION, {})
    lacking = [budget for budget in map(EdgeBudget.parse, budgets) if str(budget) not in kept]
    if not lacking:
        return
    images = search_splits(run.search, data).architecture
    images = images.subset(torch.arange(min(IMAGES, len(images))))
    found: dict[str, Genotype] = {}
    with prepare(replace(run.search, device="cpu", threads=threads)):
        for network, own in supernets_at(folder, lacking):
            chosen = perturbed_cells(network, images, own, run.search.seed)
            found |= {str(budget): cells for budget, cells in zip(own, chosen, strict=True)}
    keep_cells(folder, PERTURBATION, found)


def keep_cells(folder: str | Path, rule: str, found: Mapping[str, Genotype]) -> None:
    """Keep cells that a rule has chosen, budget → cells, in a run's folder beside those that are there: cells.json."""
    folder = Path(folder)
    with locked(folder, patience=60):  # another process may have chosen others meanwhile
        cells = read_run(folder).cells
        cells = cells | {rule: cells.get(rule, {}) | {budget: own.to_json() for budget, own in found.items()}}
        keep_measured(folder, "cells.json", json.dumps(cells, indent=1) + "\n")


def perturbed_cells(network: SuperNetwork, images: ImageSet, budgets: list[EdgeBudget], seed: int) -> list[Genotype]:
    """The cell for each budget; of seven operations on 14 edges 240 accuracies for two edges a node, of which 196 serve
    every budget."""
    mixtures, space = network.mixtures(), network.space
    order = [(name, e) for name in CELL_TYPES for e in range(len(space.edges))]
    random.Random(seed).shuffle(order)
    # What has left the search has nothing to lose.
    worth = {name: torch.full_like(mixture.operations, -torch.inf) for name, mixture in mixtures.items()}
    left = {(name, e): [o for o in space.choices if network.candidates[name][e, o]] for name, e in order}
    with statistics_kept(network), torch.no_grad():
        network.train()
        for name, e in order:
            for o in left[name, e]:
                removed = mixtures[name].operations.clone()
                removed[e, o] = 0
                without = mixtures | {name: mixtures[name]._replace(operations=removed)}
                worth[name][e, o] = -_hits(network, images, without)
            chosen = torch.zeros_like(mixtures[name].operations[e])
            if left[name, e]:
                chosen[max(left[name, e], key=worth[name][e].__getitem__)] = 1
            operations = mixtures[name].operations.clone()
            operations[e] = chosen
            mixtures[name] = mixtures[name]._replace(operations=operations)
        return [_pruned(network, images, mixtures, worth, budget) for budget in budgets]


def _pruned(
    network: SuperNetwork,
    images: ImageSet,
    mixtures: dict[str, Mixture],
    worth: dict[str, torch.Tensor],
    budget: EdgeBudget,
) -> Genotype:
    cells, space = [], network.space
    for name in CELL_TYPES:
        groups, ranks = budget.groups(name), torch.zeros(len(space.edges))
        empty = (~network.candidates[name].any(dim=1)).tolist()  # not missed at all: no operation is left
        for group in groups:
            # The last to go are the strongest; what never had to go is stronger still.
            left = [space.edges.index(edge) for edge in group.candidates()]
            ranks[left] = len(left)
            for gone in range(len(left) - group.keep):
                accuracies = {e: _hits(network, images, _without_edge(mixtures, name, e)) for e in left}
                least = max(left, key=lambda e: (empty[e], accuracies[e]))
                ranks[least] = gone
                left.remove(least)
                mixtures = _without_edge(mixtures, name, least)
        cells.append(derive_cell(worth[name].tolist(), ranks.tolist(), groups, budget.operations, space.operations))
    return Genotype(*cells)


def _without_edge(mixtures: dict[str, Mixture], name: str, e: int) -> dict[str, Mixture]:
    edges = mixtures[name].edges.clone()
    edges[e] = 0
    return mixtures | {name: mixtures[name]._replace(edges=edges)}


def _hits(network: SuperNetwork, images: ImageSet, mixtures: dict[str, Mixture]) -> float:
    found = sum((network(x, mixtures).argmax(1) == y).sum() for x, y in plain_batches(images, BATCH) if len(x) > 1)
    return float(found)
