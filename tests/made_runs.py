"""Run folders of any size without training: α and β that go from noise to a decision, written by the real writer."""

import torch

from daas_lab.compose import search_config
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train.writer import open_run


def write_search(folder, method="da2s", preset="full", dataset="cifar10", finish=True, **changes):
    """A search with `changes` to the preset's configuration in `folder`; by default of the paper's size."""
    config = search_config(preset, dataset, method, **changes)
    torch.manual_seed(config.seed)
    start = {}
    for name in CELL_TYPES:
        drawn = config.searcher.start(config.space, config.edge_budget.only(name))
        start |= {f"{kind}_{name}": value for kind, value in drawn._asdict().items()}
    end = {name: 3 * torch.randn(value.shape) for name, value in start.items()}
    with open_run(folder, config) as writer:
        writer.snapshots.append(start)
        for epoch in range(1, config.epochs + 1):
            writer.snapshots.append({name: start[name] + epoch / config.epochs * end[name] for name in start})
            writer.history.append({"epoch": epoch, "train_loss": 2 / epoch, "held_out_accuracy": 90 - 80 / epoch})
        writer._write_out()
        if finish:
            writer.finish({})
    return folder
