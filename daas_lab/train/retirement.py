"""Candidates that retire: what has weighed next to nothing for a while leaves the network for good, and a step gets
cheaper. Off unless `retire` says from which weight on.

Legend: E edges of a cell, O candidate operations.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from daas_lab.config import SearchConfig
from daas_lab.methods.masks import cell_mask
from daas_lab.methods.method import Strengths
from daas_lab.methods.pruning import GONE, alive
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import CellGenotype
from daas_lab.space.selection import derive_cell
from daas_lab.train.discretize import architecture_of, choice_strengths, derive_genotype


class Retirement(nn.Module):
    """For how many epochs in a row each candidate has been under the threshold; part of a checkpoint."""

    def __init__(self, config: SearchConfig):
        super().__init__()
        self.config = config
        for name in CELL_TYPES:
            self.register_buffer(name, torch.zeros(len(config.space.edges), len(config.space.operations)))

    @torch.no_grad()
    def after(self, network: SuperNetwork, epoch: int) -> None:
        """Those leave whose weight b · a is under `retire` for `retire_after` epochs by the end of `epoch`, unless the
        budget would keep them, or might once a node without input takes its edges with it, or an edge keeps several
        operations. α says who has left (methods/pruning.py); β as well, of an edge that nobody is left on.

        A method that mixes with one operation an edge is asked for the softmax behind it (`Mixture.shares`).
        """
        config, network.at = self.config, self.config.moment(epoch)
        cells = derive_genotype(config, architecture_of(network), config.edge_budget, epoch)
        fallback = _without_joined_nodes(config, choice_strengths(config, architecture_of(network), epoch))
        for name, mixture in network.mixtures().items():
            alphas, betas = network.architectures()[name]
            counts = getattr(self, name)
            weights = mixture.shares * mixture.edges.unsqueeze(1)
            chosen, other = (cell_mask(cell, config.space, alphas) for cell in (cells.cell(name), fallback[name]))
            kept = chosen + other > 0
            of_edges = config.searcher.betas_of_edges and betas.shape == mixture.edges.shape
            if not of_edges:  # nothing says that an edge has left as a whole
                kept = kept.scatter(1, weights.argmax(dim=1, keepdim=True), True)
            elif config.edge_budget.operations > 1:  # an edge that stays may yet be kept, with so many of them
                kept |= _strongest(weights, config) & (weights >= config.retire).any(dim=1, keepdim=True)
            under = (weights < config.retire) & ~kept
            counts.copy_((counts + 1) * under)
            # Lower by as much as who left before: α still ranks those that have left.
            alphas[(counts >= config.retire_after) & alive(alphas)] += GONE
            if of_edges:
                betas[~alive(alphas).any(dim=1) & alive(betas)] += GONE


def _strongest(weights: Tensor, config: SearchConfig) -> Tensor:
    """Where `weights` [E, O] are those of the operations that each edge would keep."""
    allowed = torch.full_like(weights, -1.0)
    allowed[:, config.space.choices] = 0
    strongest = (weights + allowed).topk(config.edge_budget.operations, dim=1).indices
    return torch.zeros_like(weights, dtype=torch.bool).scatter(1, strongest, True)


def _without_joined_nodes(config: SearchConfig, strengths: Mapping[str, Strengths]) -> dict[str, CellGenotype]:
    """Cell type → the cell of the budget if no edge might leave a node that its group may drop: until the end any of
    them may be the one."""
    cells, space = {}, config.space
    for name, (operations, edges) in strengths.items():
        groups, edges = config.edge_budget.groups(name), edges.clone()
        joined = {node for group in groups if group.keep < len(group.nodes) for node in group.nodes}
        edges[[source in joined for source, _ in space.edges]] = -torch.inf
        given = operations.tolist(), edges.tolist(), groups, config.edge_budget.operations, space.operations
        cells[name] = derive_cell(*given)
    return cells


def remaining(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cell type → who is still searched [E, O], from `alphas_normal`, … of a run or a checkpoint."""
    return {name: alive(parameters[f"alphas_{name}"]).cpu() for name in CELL_TYPES}


def follow(network: SuperNetwork, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """Takes those that have left, by the α of `parameters`, out of the network, and out of what `optimizer` trains and
    remembers."""
    candidates = remaining(parameters)
    if all(torch.equal(candidates[name], network.candidates[name]) for name in CELL_TYPES):
        return
    moved = network.keep(candidates)
    for old, (new, rows) in moved.items():
        state = optimizer.state.pop(old, {})
        if state:
            optimizer.state[new] = {key: value[rows] for key, value in state.items()}
    trained = network.weight_parameters()
    optimizer.param_groups[0]["params"] = trained
    for parameter in set(optimizer.state) - set(trained):
        del optimizer.state[parameter]
