"""Candidates that retire: out of the computation, the optimizer and the checkpoint, and nothing else changes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.methods.pruning import GONE, alive
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import read_checkpoint
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train.discretize import architecture_of, check_remaining, derive_genotype, own_cells, within_reach
from daas_lab.train.retirement import Retirement, follow, remaining
from daas_lab.train.search import build_supernet, load_supernet, make_optimizers, search
from tests.killing import Stopped, stop, stopped_in_every_epoch
from tests.test_supernet import assert_same, pair

FORMS = {"fast": {}, "readable": {"form": SuperNetwork}}


def leave(network, candidates):
    """The candidates that are not among these leave, by α, and β of the edges that nobody is left on."""
    with torch.no_grad():
        for name, own in candidates.items():
            network.alphas(name)[~own] = GONE
            network.betas(name)[~own.any(dim=1)] = GONE
    network.keep(candidates)


def some(share, seed=0, edges=14):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(edges, 7, generator=generator) < share for name in CELL_TYPES}


def only(operation, edges):
    candidates = torch.zeros(14, 7, dtype=torch.bool)
    candidates[edges, operation] = True
    return dict.fromkeys(CELL_TYPES, candidates)


CASES = {
    "few have left": ({}, some(0.9)),
    "most have left": ({"side": 16}, some(0.4)),
    "partial channels": ({"channels": 8, "partial_channels": 4}, some(0.3)),
    "cells run again": ({"channels": 8, "partial_channels": 2, "checkpointed": True}, some(0.2, seed=1)),
    "skips alone": ({"layers": 3, "side": 12}, only(2, [0, 3, 5, 9])),  # a node gets nothing
    "one dilated convolution": ({"layers": 3, "side": 20}, only(6, [1, 2, 8])),
    "four nodes": ({"nodes": 4, "budget": "1,2", "channels": 5, "side": 16}, some(0.5, seed=2, edges=5)),
}


@pytest.mark.parametrize("case", CASES)
def test_both_forms_are_the_same_function_without_them(case):
    changes, candidates = CASES[case]
    oracle, fast, images, classes = pair(torch.float64, **changes)
    before = {name: oracle.mixtures()[name] for name in CELL_TYPES}
    for network in (oracle, fast):
        leave(network, candidates)
    assert oracle.state_dict().keys() == fast.state_dict().keys()
    assert_same(oracle, fast, images, classes)
    assert_same(oracle.eval(), fast.eval(), images, classes)
    # Even where a mixture gives those that have left a weight.
    for training in (False, True):
        both = (network.train(training)(images, before) for network in (oracle, fast))
        torch.testing.assert_close(*both)


def test_a_network_without_them_computes_what_it_computed_when_they_weighed_nothing():
    whole, fast, images, _ = pair(torch.float64, protocol="paper")
    leave(fast, some(0.5))
    whole.load_state_dict(fast.state_dict(), strict=False)
    torch.testing.assert_close(whole(images), fast(images))


@pytest.mark.parametrize("form", ["fast", pytest.param("readable", marks=pytest.mark.slow)])
def test_the_optimizer_follows(form):
    """The next steps are those of an optimizer that never had the others."""
    config = search_config("tiny", "digits", "da2s")
    network = build_supernet(config, **FORMS[form])
    images, classes = torch.randn(8, 1, 8, 8), torch.arange(8)
    optimizer, _ = make_optimizers(config, network)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(network(images), classes).backward()
        optimizer.step()

    step()
    numbers = {name: momentum_of(network, optimizer, name) for name in network.state_dict() if "weight" in name}
    with torch.no_grad():
        for name, own in some(0.5).items():
            network.alphas(name)[~own] += GONE
    follow(network, optimizer, architecture_of(network))
    trained = network.weight_parameters()
    assert [*map(id, optimizer.param_groups[0]["params"])] == [*map(id, trained)]
    assert set(optimizer.state) == set(trained)
    assert sum(map(torch.numel, trained)) < 0.7 * sum(len(value.flatten()) for value in numbers.values())
    for name in network.state_dict():
        if "weight" in name:
            assert torch.equal(momentum_of(network, optimizer, name), numbers[name]), name
    step()
    follow(network, optimizer, architecture_of(network))  # nobody has left since: nothing is replaced
    assert [*map(id, network.weight_parameters())] == [*map(id, trained)]


def momentum_of(network, optimizer, name):
    """The momentum of a weight, by its name in the readable form."""
    module, _, own = name.partition(".")
    if module == "cells" and not isinstance(dict(network.named_parameters()).get(name), torch.nn.Parameter):
        number, _, own = own.partition(".")
        cell = network.cells[int(number)]
        stack = getattr(cell, cell.layout[own][0])
        return cell.entry(own, optimizer.state[stack]["momentum_buffer"]).clone()
    return optimizer.state[network.get_parameter(name)]["momentum_buffer"].clone()


def small(method="da2s", **changes):
    return search_config("tiny", "digits", method, seed=0, epochs=4, retire=0.01, **changes)


def test_two_epochs_under_the_threshold_and_nobody_whom_the_budget_keeps():
    config = small()
    network, retirement = build_supernet(config), Retirement(config)
    with torch.no_grad():
        network.alphas_normal[0] = torch.tensor([9.0, 8.0, 0.0, -1.0, 0.0, 0.0, 0.0])
        network.betas_normal[11:] = -30.0  # three of node 5's five edges weigh nothing, two of them are not kept
    before = network.alphas_normal.detach().clone()
    retirement.after(network, 1)
    assert torch.equal(network.alphas_normal, before)
    retirement.after(network, 2)
    left = ~alive(network.alphas_normal.detach())
    assert left[0].tolist() == [False, False, True, True, True, True, True]
    assert left[1:9].sum() == 0
    assert left[11:].all(dim=1).tolist() == [True] * 3 and alive(network.betas_normal.detach())[:11].all()
    assert not alive(network.betas_normal.detach())[11:].any()
    # Those that have left still rank as they did.
    ranks = network.alphas_normal[0].detach()
    assert ranks[2] > ranks[3] and ranks[[0, 1]].argmax() == 0


def test_a_beta_that_is_no_edge_s_stays_though_there_are_as_many():
    config = search_config("tiny", "digits", "dots", budget="1,2,3,4", epochs=14, retire=0.01)
    network, retirement = build_supernet(config), Retirement(config)
    with torch.no_grad():
        network.betas_normal.copy_(torch.linspace(1, -1, len(network.betas_normal)))
    before = network.betas_normal.detach().clone()
    assert len(before) == len(config.space.edges)
    for _ in range(2):
        retirement.after(network, config.epochs)
    assert not alive(network.alphas_normal.detach()).all() and torch.equal(network.betas_normal, before)


def test_one_that_recovers_starts_again():
    config = small("darts")
    network, retirement = build_supernet(config), Retirement(config)
    low = torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        network.alphas_reduce[3] = low
        retirement.after(network, 1)
        network.alphas_reduce[3] = 0
        retirement.after(network, 2)
        network.alphas_reduce[3] = low
        retirement.after(network, 3)
        assert alive(network.alphas_reduce).all()
        retirement.after(network, 4)
        assert alive(network.alphas_reduce).sum() == 14 * 7 - 6


def test_an_edge_that_comes_to_be_kept_late_still_has_both_of_its_operations():
    config = small(budget="8/14*2")
    network, retirement = build_supernet(config), Retirement(config)
    late, gone = 13, 12  # edges of node 5, which keeps two others until the last epoch
    with torch.no_grad():
        network.betas_normal[9:] = torch.tensor([3.0, 3.0, 0.0, -30.0, -1.0])
        network.alphas_normal[late] = torch.tensor([9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        for epoch in (1, 2, 3):
            retirement.after(network, epoch)
        left = ~alive(network.alphas_normal)
        assert left[late].tolist() == [False, False, *[True] * 5] and left[gone].all()
        network.keep(remaining(architecture_of(network)))
        network.betas_normal[late] = 5.0
    cells = derive_genotype(config, architecture_of(network), config.edge_budget)
    assert sum(edge[:2] == (4, 5) for edge in cells.normal.edges) == 2
    check_remaining(network, cells, config.edge_budget)


@pytest.mark.parametrize("dropped", [2, 3])
def test_whichever_node_is_dropped_later_nodes_still_have_an_input(dropped):
    config = small("da2s_exact", budget="3/14", hold=0)
    network, retirement = build_supernet(config), Retirement(config)
    with torch.no_grad():
        for name in CELL_TYPES:  # nodes 4 and 5 want what comes from node 2 and node 3
            network.betas(name).fill_(-30.0)
            network.betas(name)[[0, 2, 7, 12]] = 30.0
            network.alphas(name)[:, 4] = 30.0
        for epoch in (3, 4, 4, 4):
            retirement.after(network, epoch)
        assert not all(alive(network.alphas(name)).all() for name in CELL_TYPES)
        network.keep(remaining(architecture_of(network)))
        for name in CELL_TYPES:
            network.betas(name)[0 if dropped == 2 else 2] = -20.0
    cells = derive_genotype(config, architecture_of(network), config.edge_budget)
    assert dropped not in cells.normal.concat
    check_remaining(network, cells, config.edge_budget)


SHARP = {"arch_learning_rate": 0.3, "budget": "4/14"}  # in tiny's few steps candidates retire


def search_sharply(folder, on_epoch=lambda: None):
    config = search_config("tiny", "digits", "da2s", seed=0, threads=1, epochs=8, retire=0.05, **SHARP)
    search(config, folder, progress=False, on_epoch=on_epoch)


@pytest.mark.slow
def test_a_search_whose_candidates_retire_ends_bit_for_bit_alike_when_it_is_stopped_in_every_epoch(tmp_path):
    folder, undisturbed = stopped_in_every_epoch(search_sharply, tmp_path)
    for name in ("architecture.safetensors", "genotype.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    ours, theirs = (read_checkpoint(own)[0]["network"] for own in (folder, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    network, config = load_supernet(folder)
    left = sum(int((~own).sum()) for own in network.candidates.values())
    assert left > 20, left
    assert sum("sep_conv_5x5.depthwise_1" in name for name in theirs) < len(network.cells) * 14
    # The accuracy of the history is that of the network that was kept; the cut to its own budget can be measured.
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(history) == 8 and load_file(folder / "architecture.safetensors")
    assert_cut_refuses(network, config)


def test_a_search_that_unrolls_goes_on_training_what_is_left_after_a_resume(tmp_path):
    sizes = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16, "epochs": 2, "steps": 2}
    leaving = {"retire": 0.1, "retire_after": 1, "arch_learning_rate": 0.3, "alpha_delay": 0, "warmup": 0}
    config = search_config("tiny", "digits", "darts2", threads=1, **sizes, **leaving)
    search(config, tmp_path / "whole", progress=False)
    with pytest.raises(Stopped):
        search(config, tmp_path / "parts", progress=False, on_epoch=stop)
    search(config, tmp_path / "parts", progress=False)
    ours, theirs = (read_checkpoint(tmp_path / name)[0]["network"] for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    network, _ = load_supernet(tmp_path / "parts")
    assert not all(own.all() for own in network.candidates.values())


def test_cells_within_reach_are_those_of_whichever_rule_chose_them():
    config = search_config("tiny", "digits", "da2s")
    network = build_supernet(config)
    cells = own_cells(network, config, ["8/14", "4/14"])
    assert within_reach(network, cells) == cells
    kept = {edge for name in CELL_TYPES for edge in cells["4/14"].cell(name).edges}
    others = {name: torch.ones(14, 7, dtype=torch.bool) for name in CELL_TYPES}
    [lost] = [edge for edge in cells["8/14"].normal.edges if edge not in kept][:1]
    others["normal"][network.space.edges.index(lost[:2]), network.space.operations.index(lost.operation)] = False
    network.keep(others)
    # The network's own cells are others by now; those asked about are not.
    assert within_reach(network, cells) == {"4/14": cells["4/14"]}


def assert_cut_refuses(network, config):
    from daas_lab.train.discretize import accuracy_drops
    from daas_lab.train.splits import search_splits

    splits = search_splits(config, "data")
    rows = accuracy_drops(network, config, splits.held_out, splits.weights, [config.budget], batch_norms=["as-trained"])
    assert {row["budget"] for row in rows} == {"4/14"}
    with pytest.raises(LabError, match=r"budget = '8/14\*2'.*keeps nothing that has retired"):
        accuracy_drops(network, config, splits.held_out, splits.weights, ["8/14*2"])


def test_without_retiring_the_hash_is_as_before():
    plain = search_config("tiny", "digits", "da2s")
    assert config_hash(search_config("tiny", "digits", "da2s", retire=0)) == config_hash(plain)
    assert config_hash(search_config("tiny", "digits", "da2s", retire=1e-3)) != config_hash(plain)
    with pytest.raises(LabError, match="retire = -1"):
        search_config("tiny", "digits", "da2s", retire=-1)
