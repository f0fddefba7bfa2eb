"""Rules of selection: on α by hand, and on the weights of a real search."""

import json

import pytest
import torch

from daas_lab.compose import search_config
from daas_lab.errors import LabError
from daas_lab.methods import rules
from daas_lab.methods.lookup import METHODS
from daas_lab.methods.method import Architecture, Method, Moment
from daas_lab.runs.folder import read_run
from daas_lab.runs.records import read_record, write_record
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, SKIP, Space
from daas_lab.studies import make
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import BATCH_NORMS, EDGE_WEIGHTS
from daas_lab.train.evolution import genotype_after
from daas_lab.train.perturbation import perturbed_cells
from daas_lab.train.search import build_supernet, load_supernet, search
from daas_lab.train.splits import search_splits

AT, SPACE = Moment(1, 1), Space()
BUDGETS = list(map(EdgeBudget.parse, NAMED_BUDGETS))


def architectures(seed=0, scale=3.0):
    draws = torch.Generator().manual_seed(seed)
    return {
        name: Architecture(scale * torch.randn(14, 7, generator=draws, dtype=torch.float64), torch.zeros(14))
        for name in CELL_TYPES
    }


@pytest.mark.parametrize(
    "text", ["best", "threshold", "threshold:2", "threshold:x", "skips:-1", "skips:1.5", "own:1", ""]
)
def test_a_rule_that_is_none_is_refused(text):
    with pytest.raises(LabError, match="select"):
        rules.parse_rule(text)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_strongest_is_the_rule_of_darts(budget):
    given = architectures()
    assert rules.select("strongest", Method(), given, budget, AT) == Method().select(given, budget, AT)
    assert rules.select("own", Method(), given, budget, AT) == Method().select(given, budget, AT)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("least", [0.0, 0.5, 0.9, 1.0])
def test_threshold_keeps_what_weighs_enough(budget, least):
    given = architectures()
    whole = Method().select(given, budget, AT)
    cells = rules.select(f"threshold:{least}", Method(), given, budget, AT)
    for name in CELL_TYPES:
        weights = given[name].alphas.softmax(dim=1)

        def weight(edge, weights=weights):
            return weights[SPACE.edges.index(edge[:2]), PRIMITIVES.index(edge.operation)].item()

        heavy = [edge for edge in whole.cell(name).edges if weight(edge) >= least]
        fed = {0, 1}
        for edge in heavy:
            fed |= {edge.node} if edge.source in fed else set()
        expected = tuple(edge for edge in heavy if edge.source in fed)
        if not expected:
            expected = (max((edge for edge in whole.cell(name).edges if edge.source < 2), key=weight),)
        assert cells.cell(name).edges == expected


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("most", [0, 1, 2, 8])
def test_few_skips(budget, most):
    given = architectures()
    for both in given.values():
        both.alphas[::2, PRIMITIVES.index(SKIP)] += 9  # half of the edges would be skips
    whole = Method().select(given, budget, AT)
    cells = rules.select(f"skips:{most}", Method(), given, budget, AT)
    for name in CELL_TYPES:
        skips = [sum(edge.operation == SKIP for edge in one.cell(name).edges) for one in (whole, cells)]
        assert skips[1] == min(skips[0], most)
        assert len(cells.cell(name).edges) == len(whole.cell(name).edges)
    if most == 8:
        assert cells == whole


@pytest.mark.parametrize("method", ["da2s_exact", "xnas", "darts"])
def test_without_its_skip_an_edge_ranks_by_what_is_left(method):
    """0 → 2 is the strongest edge by its skip, and has nothing beside it."""
    config = search_config("tiny", "digits", method, budget="4/14")
    alphas, skip, conv = torch.zeros(14, 7, dtype=torch.float64), PRIMITIVES.index(SKIP), 3
    alphas[:, conv] = 1.0
    alphas[0], alphas[0, skip], alphas[1, conv] = -30.0, 3.0, 2.9
    given = {name: Architecture(alphas, torch.zeros(14, dtype=torch.float64)) for name in CELL_TYPES}
    kept = {
        rule: rules.select(rule, config.searcher, given, config.edge_budget, config.moment(config.epochs))
        for rule in ("own", "skips:0")
    }
    assert {rule: cells.normal.edges[0][:2] for rule, cells in kept.items()} == {"own": (0, 2), "skips:0": (1, 2)}


def test_a_method_without_a_network_has_only_its_own_rule():
    config = search_config("tiny", "digits", "random")
    assert rules.select("own", config.searcher, {}, config.edge_budget, config.moment())
    with pytest.raises(LabError, match="own"):
        rules.select("strongest", config.searcher, {}, config.edge_budget, config.moment())


# --- perturbation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A real search with little to choose from, so that 240 accuracies take a second."""
    settings = Settings(preset="tiny", dataset="digits", runs=tmp_path_factory.mktemp("runs"), workers=1, records=False)
    config = settings.search("darts", 0, nodes=4, operations="skip_connect,max_pool_3x3,sep_conv_3x3")
    search(config, make.run_folder(config, settings), progress=False)
    return config, settings


@pytest.mark.slow
def test_perturbation_keeps_what_is_missed_most(searched):
    config, settings = searched
    network, _ = load_supernet(make.run_folder(config, settings))
    images = search_splits(config, settings.data).architecture
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asked = []

    def accuracy_without(x, mixtures, forward=network.forward):
        asked.append({name: (mixture.operations.clone(), mixture.edges.clone()) for name, mixture in mixtures.items()})
        return forward(x, mixtures)

    network.forward = accuracy_without
    (cells,) = perturbed_cells(network, images, [EdgeBudget.parse("1,1")], seed=0)
    edges, batches = len(config.space.edges), -(-len(images) // 64)
    # Every operation of every edge of both cells once, and of each node's n inputs all that are left until one is.
    assert len(asked) == batches * 2 * (3 * edges + sum(range(2, 3)) + sum(range(2, 4)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # No weight is shared out among those that are left.
    first = asked[0]
    gone = [(name, index) for name in CELL_TYPES for index in (first[name][0] == 0).nonzero().tolist()]
    assert len(gone) == 1
    kept = torch.ones_like(first[gone[0][0]][0])
    kept[tuple(gone[0][1])] = 0
    assert torch.allclose(first[gone[0][0]][0], network.mixtures()[gone[0][0]].operations * kept)
    assert [len(cells.cell(name).edges) for name in CELL_TYPES] == [2, 2]


@pytest.mark.slow
def test_the_chosen_cells_stay_with_the_run_and_its_record(searched, tmp_path):
    config, settings = searched
    run = read_run(make.run_folder(config, settings))
    with pytest.raises(LabError, match="daas-lab genotype"):
        genotype_after(run, budget="1,1", select="perturbation")
    own = make.drops([run], ["1,1"], settings)
    rows = make.drops([run], ["1,1"], settings, select="perturbation")
    assert {row.get("select") for row in rows} == {"perturbation"} and len(rows) == len(EDGE_WEIGHTS) * len(BATCH_NORMS)
    run = read_run(run.folder)
    assert make.drops([run], ["1,1"], settings) == own
    chosen = genotype_after(run, budget="1,1", select="perturbation")
    assert json.loads((run.folder / "cells.json").read_text()) == {"perturbation": {"1,1": chosen.to_json()}}
    write_record(run, tmp_path / "record.json")
    again = read_record(tmp_path / "record.json")
    assert genotype_after(again, budget="1,1", select="perturbation") == chosen
    assert again.gap == run.gap


@pytest.mark.parametrize("method", METHODS)
def test_every_rule_cuts_every_method(method):
    config = search_config("tiny", "digits", method, seed=1)
    given = {}
    if config.searcher.trains:
        given = {
            name: Architecture(*map(torch.detach, both))
            for name, both in build_supernet(config).architectures().items()
        }
    for rule in ("own", "strongest", "threshold:0.1", "skips:1") if given else ("own",):
        cells = rules.select(rule, config.searcher, given, config.edge_budget, config.moment())
        assert all(1 <= len(cells.cell(name).edges) <= 8 for name in CELL_TYPES)
