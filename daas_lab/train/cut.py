"""A searched super-network as the derived network that it is after the cut, in a file of its own."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from daas_lab.config import EDGE_WEIGHTS, SearchConfig
from daas_lab.data.batches import ImageSet
from daas_lab.data.sources import Dataset, short_name
from daas_lab.errors import LabError, one_of
from daas_lab.identity import config_hash, to_document
from daas_lab.methods import rules
from daas_lab.networks.kept import kept_network, load_network, size_of
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.own_files import is_own, own_name
from daas_lab.runs.files import write_atomically
from daas_lab.runs.folder import read_run
from daas_lab.runs.provenance import versions
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges
from daas_lab.space.genotype import CellGenotype, Genotype
from daas_lab.space.kept_file import Cut, read_cut, sealed
from daas_lab.train.discretize import (
    BATCH_NORMS,
    architecture_of,
    check_remaining,
    derive_genotype,
    discrete_weights,
    statistics_of,
)
from daas_lab.train.evolution import genotype_after
from daas_lab.train.loop import evaluate
from daas_lab.train.perturbation import keep_perturbed_cells
from daas_lab.train.search import load_supernet
from daas_lab.train.splits import search_splits


def cut(
    folder: str | Path,
    budget: str | EdgeBudget,
    out: str | Path,
    data: str | Path | Dataset = "data",
    *,
    edge_weight: str | None = None,
    batch_norm: str = "as-trained",
    select: str = rules.OWN,
) -> dict:
    """Write the network that the search in `folder` is after the cut to the file `out`.

    Returns the row that `accuracy_drops` has of this cut, `after` measured with the network as the file gives it, and
    its size. `edge_weight`: by default the method's own. The words are those of `discretize`; `select` is a rule of
    `methods.rules`.
    """
    one_of("edge_weight", edge_weight or EDGE_WEIGHTS[0], EDGE_WEIGHTS)
    one_of("batch_norm", batch_norm, BATCH_NORMS)
    rule, _ = rules.parse_rule(select)
    budget = EdgeBudget.parse(budget)
    network, config = load_supernet(folder, budget)
    budget.check(config.space)
    edge_weight = edge_weight or config.searcher.edge_weight
    splits = search_splits(config, data)
    if rule == rules.PERTURBATION:
        keep_perturbed_cells(folder, data, [str(budget)])
    if select == rules.OWN:
        genotype = derive_genotype(config, architecture_of(network), budget, network.at.epoch)
    else:
        genotype = genotype_after(read_run(folder), network.at.epoch, budget, select)
    check_remaining(network, genotype, str(budget))
    named = {"budget": str(budget), "edge_weight": edge_weight, "batch_norm": batch_norm}
    kept = describe_cut(network, config, genotype, select=select, **named)
    tensors = kept_weights(network, config, kept, splits.weights)
    source = {"config": to_document(config), "versions": versions()}
    write_atomically(Path(out), sealed(save_safetensors(tensors), kept, source))
    _, before = evaluate(network, splits.held_out)
    _, after = evaluate(load_network(out), splits.held_out)
    return named | {"stage": "both", "before": before, "after": after} | size_of(kept, config.side)


def describe_cut(network: SuperNetwork, config: SearchConfig, genotype: Genotype, **named: str) -> Cut:
    """What the network is after the cut to `genotype`; `named`: `budget`, `select`, `edge_weight`, `batch_norm`."""
    genotype = Genotype(*(_as_computed(genotype.cell(name), config) for name in CELL_TYPES))
    kept = {edge.operation for name in CELL_TYPES for edge in genotype.cell(name).edges}
    own = dict(zip(filter(is_own, config.operations.split(",")), config.operations_digest.split(","), strict=False))
    return Cut(
        genotype=genotype,
        channels=config.channels,
        layers=len(network.cells),
        classes=config.classes,
        image_channels=config.image_channels,
        side=config.side,
        partial_channels=config.partial_channels,
        affine=config.searcher.affine,
        own_operations={own_name(text): digest for text, digest in own.items() if own_name(text) in kept},
        dataset=short_name(config.dataset),
        run=config_hash(config),
        epoch=network.at.epoch,
        **named,
    )


def _as_computed(cell: CellGenotype, config: SearchConfig) -> CellGenotype:
    """The cell with its edges and operations in the super-network's order, and every node with an input in `concat`."""
    pairs, names = cell_edges(config.nodes), config.space.operations
    edges = sorted(cell.edges, key=lambda edge: (pairs.index(edge[:2]), names.index(edge.operation)))
    return CellGenotype.of(edges)


@torch.no_grad()
def kept_weights(network: SuperNetwork, config: SearchConfig, kept: Cut, training: ImageSet) -> dict[str, Tensor]:
    """The `state_dict` of `kept_network(kept)`: weights, statistics and mixture of the super-network after the cut.

    Gains and biases that it has not are 1 and 0. `training` images serve the recalibration, where it is asked for.
    """
    mixtures, names = network.mixtures(), config.space.operations
    discrete = {
        name: discrete_weights(mixtures[name], kept.genotype.cell(name), kept.edge_weight, names=names)
        for name in CELL_TYPES
    }
    with statistics_of(kept.batch_norm, network, training, discrete):
        trained = {name: value.clone() for name, value in network.state_dict().items()}
    pairs, cells = cell_edges(config.nodes), [kept.genotype.cell(cell.cell_type) for cell in network.cells]
    for layer, cell in enumerate(cells):
        operations, edges = discrete[network.cells[layer].cell_type][:2]
        places = [(pairs.index(edge[:2]), names.index(edge.operation)) for edge in cell.edges]
        trained[f"cells.{layer}.operation_weights"] = torch.stack([operations[place] for place in places])
        trained[f"cells.{layer}.edge_weights"] = edges[list(dict.fromkeys(e for e, _ in places))]
    state = kept_network(kept).state_dict()
    for name, value in state.items():
        if name in trained:
            value.copy_(_of_kept_nodes(name, trained[name], value.shape, cells))
    return state


def _of_kept_nodes(name: str, weight: Tensor, shape: torch.Size, cells: Sequence[CellGenotype]) -> Tensor:
    """A weight, without what reads nodes that a cell before it has lost: zeros after the cut."""
    if weight.shape == shape:
        return weight
    reader = re.match(r"cells\.(\d+)\.preprocess_(\d)\.", name)
    concat = cells[int(reader[1]) + int(reader[2]) - 2 if reader else -1].concat
    C = shape[1] // len(concat)
    return weight.unflatten(1, (-1, C))[:, [node - 2 for node in concat]].flatten(1, 2)


def export_network(path: str | Path, out: str | Path) -> None:
    """The network of a file that `cut` wrote as a program of `torch.export`, for any number of images at a time."""
    cut, *_ = read_cut(path)
    x = torch.zeros(2, cut.image_channels, cut.side, cut.side)
    try:
        program = torch.export.export(load_network(path), (x,), dynamic_shapes=({0: torch.export.Dim("images")},))
    except Exception as error:  # whatever an operation of one's own does that torch cannot follow
        raise LabError(f"export = {str(out)!r}: {str(error).splitlines()[0]}") from error
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(Path(out), buffer.getvalue())
