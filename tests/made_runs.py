"""Run folders of any size without training: α and β that go from noise to a decision, written by the real writer."""

import torch

from daas_lab.compose import search_config
from daas_lab.runs.epoch_log import Entry, write_entries
from daas_lab.runs.files import write_atomically
from daas_lab.runs.folder import as_lines
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
    entries = [Entry(0, None, start)]
    for epoch in range(1, config.epochs + 1):
        record = {"epoch": epoch, "train_loss": 2 / epoch, "held_out_accuracy": 90 - 80 / epoch}
        snapshot = {name: start[name] + epoch / config.epochs * end[name] for name in start}
        entries.append(Entry(epoch, record, snapshot))
    with open_run(folder, config) as writer:
        write_entries(folder, entries)
        write_atomically(folder / "history.jsonl", as_lines(entry.record for entry in entries[1:]))
        if finish:
            writer.finish({})
    return folder
