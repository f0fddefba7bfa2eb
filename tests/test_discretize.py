"""Discretization: what it must not cost, what its rows say, and that measuring it leaves everything as it was."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daas_lab.compose import search_config
from daas_lab.config import EDGE_WEIGHTS
from daas_lab.data.batches import plain_batches
from daas_lab.methods.masks import split_nodes
from daas_lab.methods.method import Mixture
from daas_lab.networks.derived import Network
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges
from daas_lab.space.selection import select_edges
from daas_lab.train.attribution import attribution, attribution_values, node_costs
from daas_lab.train.discretize import (
    BATCH_NORMS,
    STAGES,
    accuracy_drops,
    architecture_of,
    derive_genotype,
    discrete_weights,
    recalibration,
)
from daas_lab.train.loop import evaluate
from daas_lab.train.search import build_supernet, load_supernet, search
from daas_lab.train.splits import search_splits


def small_network(method="da2s", protocol="authors", budget="8/14"):
    """A super-network of 3 cells with 4 channels whose norms have statistics as if trained."""
    config = search_config("tiny", "digits", method, protocol, budget=budget, partial_channels=1)
    network = build_supernet(config).eval()
    generator = torch.Generator().manual_seed(1)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.copy_(0.3 * torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))
    return network, config


@pytest.fixture(scope="module")
def splits():
    return search_splits(search_config("tiny", "digits"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory, splits):
    """A network that was trained for a few steps, so that a cut of it changes its accuracy."""
    folder = tmp_path_factory.mktemp("discretize") / "run"
    config = search_config("tiny", "digits", "da2s", epochs=1, steps=12, learning_rate=0.2, arch_learning_rate=0.1)
    search(config, folder, progress=False)
    return folder, *load_supernet(folder)


# --- what costs nothing -----------------------------------------------------------------------------------------------


def decide(network, budget):
    """α one-hot at ±50 (or several operations at 50), β at 1 for a random choice of the budget and at -50 else."""
    generator = torch.Generator().manual_seed(0)
    edges = cell_edges(budget.nodes)
    for cell_type in CELL_TYPES:
        alphas, betas = network.alphas(cell_type).data, network.betas(cell_type).data
        chosen = torch.rand(alphas.shape, generator=generator).topk(budget.operations, dim=1).indices
        alphas.fill_(-50).scatter_(1, chosen, 50)
        kept = select_edges(torch.rand(len(edges), generator=generator).tolist(), budget.groups(cell_type))
        betas.copy_(torch.tensor([1.0 if edge in kept else -50.0 for edge in edges]))


# A softmax over a node's inputs cannot say that a joint group has dropped the node, and under the authors' protocol
# node 2 has no β, so that it loses something where it must drop an edge: these cases are not here.
DECIDED = [
    *(("da2s", "paper", budget) for budget in ("8/14", "6/14", "4/14", "normal=2,1,3,1;reduce=4/14", "5/14*2")),
    *(("da2s", "authors", budget) for budget in ("8/14", "2,1,1,2", "normal=2,3,1,4;reduce=8/14")),
    *(("da2s_exact", "authors", budget) for budget in ("8/14", "3/14", "{2+3+4}:2,5:1")),
]


@pytest.mark.parametrize(("method", "protocol", "budget"), DECIDED)
def test_a_super_network_that_has_decided_loses_nothing(method, protocol, budget):
    network, config = small_network(method, protocol, budget)
    decide(network, config.edge_budget)
    genotype = derive_genotype(config, architecture_of(network), config.edge_budget)
    mixture = network.mixtures()
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    # Exact budgets end at the weight 1 themselves.
    for edge_weight in EDGE_WEIGHTS if method == "da2s_exact" else ("learned", "renormalised"):
        discrete = {name: discrete_weights(mixture[name], genotype.cell(name), edge_weight) for name in CELL_TYPES}
        with torch.no_grad():
            assert (network(x) - network(x, discrete)).abs().max() < 1e-4, edge_weight


def test_the_weight_one_changes_the_scale_of_what_was_kept():
    network, config = small_network()
    decide(network, config.edge_budget)
    weights = network.mixtures()["normal"]
    genotype = derive_genotype(config, architecture_of(network), config.edge_budget)
    kept = {name: discrete_weights(weights, genotype.normal, name).edges for name in EDGE_WEIGHTS}
    # Two kept edges of n weigh n/2 each under the authors' protocol, and node 2's weigh 1.
    for node, inputs in enumerate(split_nodes(kept["learned"]), start=2):
        expected = 1.0 if node == 2 else node / 2
        torch.testing.assert_close(inputs[inputs > 0.1], torch.full((2,), expected))
    torch.testing.assert_close(kept["renormalised"], kept["learned"])
    assert set(kept["one"].tolist()) == {0.0, 1.0} and kept["one"].sum() == 8


# --- the discrete weights ---------------------------------------------------------------------------------------------


@st.composite
def weights_and_budget(draw):
    budget = EdgeBudget.parse(draw(st.sampled_from([*NAMED_BUDGETS, "2,3,4,5", "{2+3+4}:2,5:2", "8/14*2"])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
    alphas, betas = scale * torch.randn(14, 7, generator=generator), scale * torch.randn(14, generator=generator)
    return alphas, betas, budget


@given(weights_and_budget(), st.sampled_from(EDGE_WEIGHTS))
@settings(max_examples=60)
def test_discrete_weights_are_those_of_the_cell(case, edge_weight):
    alphas, betas, budget = case
    config = search_config("tiny", "digits", "da2s", "paper", partial_channels=1)
    parameters = {
        f"{kind}_{name}": value for kind, value in (("alphas", alphas), ("betas", betas)) for name in CELL_TYPES
    }
    genotype = derive_genotype(config, parameters, budget)
    a, b = alphas.softmax(dim=1), torch.cat([x.softmax(dim=0) for x in split_nodes(betas.clamp(max=1))])
    weights = Mixture(a, b, alphas, betas)
    cut = {stage: discrete_weights(weights, genotype.normal, edge_weight, stage) for stage in STAGES}
    assert torch.equal(cut["operations"].edges, b) and torch.equal(cut["edges"].operations, a)
    assert torch.equal(cut["none"].edges, b) and torch.equal(cut["none"].operations, a)
    assert torch.equal(cut["scale"].operations, a)
    chosen_edges = torch.tensor([pair in {edge[:2] for edge in genotype.normal.edges} for pair in cell_edges(6)])
    assert torch.equal(cut["scale"].edges, torch.where(chosen_edges, cut["both"].edges, b))
    if edge_weight == "learned":
        assert torch.equal(cut["scale"].edges, b)
    assert torch.equal(cut["both"].edges, cut["edges"].edges)
    assert torch.equal(cut["both"].operations, cut["operations"].operations)

    pairs = cell_edges(6)
    kept = {(edge.source, edge.node) for edge in genotype.normal.edges}
    for e, pair in enumerate(pairs):
        row = cut["both"].operations[e]
        chosen = {PRIMITIVES[o] for o in row.nonzero().flatten().tolist()}
        if pair in kept and edge_weight == "one":
            assert chosen == {edge.operation for edge in genotype.normal.edges if edge[:2] == pair}
            assert set(row[row > 0].tolist()) == {1.0}
        if edge_weight != "one":
            torch.testing.assert_close(row.sum(), torch.tensor(1.0))
        assert (row > 0).sum() <= budget.operations
        assert pair in kept or cut["both"].edges[e] == 0
    for node, (before, after) in enumerate(zip(split_nodes(b), split_nodes(cut["both"].edges), strict=True), start=2):
        mask = torch.tensor([(source, node) in kept for source in range(node)])
        if edge_weight == "one":
            assert torch.equal(after, mask.float())
        elif edge_weight == "learned":
            assert torch.equal(after, before * mask)
        elif (before * mask).sum() > 1e-6:
            torch.testing.assert_close(after.sum(), before.sum())
        assert after.isfinite().all()


# --- the same function as the derived network -------------------------------------------------------------------------


def derived_from(network, genotype, config):
    """The derived network of `genotype` with the super-network's weights; its affine norms are the identity's."""
    derived = Network(
        genotype, channels=config.channels, layers=config.layers, classes=10, image_channels=1, auxiliary=False
    ).eval()
    pairs = {pair: e for e, pair in enumerate(cell_edges(config.nodes))}
    state = {}
    concat_before = [None, None]  # of the two cells before: None is the stem, of which all channels stay

    def columns(weight, concat, channels):
        """The input channels of a 1 × 1 convolution (or of the classifier) that come from the nodes of `concat`."""
        if concat is None:
            return weight
        chosen = [(node - 2) * channels + c for node in concat for c in range(channels)]
        return weight[:, chosen]

    channels_of, channels = [], config.channels
    for c, cell in enumerate(network.cells):
        channels *= 2 if cell.cell_type == "reduce" else 1
        cell_genotype = genotype.cell(cell.cell_type)
        for which, module in enumerate((cell.preprocess_0, cell.preprocess_1)):
            for name, value in module.state_dict().items():
                if value.dim() == 4:
                    before = c - 2 + which
                    value = columns(value, concat_before[which], channels_of[before] if before >= 0 else 0)
                state[f"cells.{c}.preprocess_{which}.{name}"] = value
        for k, edge in enumerate(cell_genotype.edges):
            prefix = f"edges.{pairs[edge.source, edge.node]}.{edge.operation}."
            if "pool" not in edge.operation:
                own = {name: value for name, value in cell.state_dict().items() if name.startswith(prefix)}
                state |= {f"cells.{c}.operations.{k}.{name.removeprefix(prefix)}": v for name, v in own.items()}
        concat_before = [concat_before[1], cell_genotype.concat]
        channels_of.append(channels)
    state |= {f"stem.{name}": value for name, value in network.stem.state_dict().items()}
    state["classifier.weight"] = columns(network.classifier.weight, concat_before[1], channels)
    state["classifier.bias"] = network.classifier.bias
    own = derived.state_dict()
    missing = set(own) - set(state)
    assert all(".norm" in name and name.endswith(("weight", "bias")) for name in missing), missing
    derived.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    return derived


@pytest.mark.parametrize("budget", ["8/14", "6/14", "4/14", "3/14", "normal=2,3,1,4;reduce=4/14", "5/14*2"])
def test_the_discretized_super_network_is_the_derived_network(budget):
    network, config = small_network(budget=budget)
    generator = torch.Generator().manual_seed(3)
    for parameter in network.arch_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    for name, value in network.state_dict().items():
        if "_pool_3x3.norm.running" in name:  # a derived network's pools have no norm
            value.fill_(0 if name.endswith("mean") else 1 - 1e-5)
    genotype = derive_genotype(config, architecture_of(network), config.edge_budget)
    mixture = network.mixtures()
    discrete = {name: discrete_weights(mixture[name], genotype.cell(name), "one") for name in CELL_TYPES}
    x = torch.randn(5, 1, 8, 8, generator=generator)
    with torch.no_grad():
        ours, derived = network(x, discrete), derived_from(network, genotype, config)(x)
        assert (ours - derived).abs().max() < 1e-4
        assert (ours - network(x)).abs().max() > 1e-2, "before the cut it was another function"


# --- accuracies -------------------------------------------------------------------------------------------------------


def test_one_call_gives_the_whole_table_and_leaves_the_network_as_it_was(searched, splits):
    _, network, config = searched
    before = copy.deepcopy(network.state_dict())
    rows = accuracy_drops(network, config, splits.held_out, splits.weights, ["8/14", "3/14"])
    assert len(rows) == 2 * len(EDGE_WEIGHTS) * len(BATCH_NORMS) * len(STAGES)
    keys = [(row["budget"], row["edge_weight"], row["batch_norm"], row["stage"]) for row in rows]
    assert len(set(keys)) == len(rows)
    assert {row["before"] for row in rows} == {evaluate(network, splits.held_out)[1]}
    by_key = {key: row["after"] for key, row in zip(keys, rows, strict=True)}
    # Nothing, and only the operations: the budget and the weights of kept edges play no part.
    for batch_norm, stage in itertools.product(BATCH_NORMS, ("none", "operations")):
        assert len({after for key, after in by_key.items() if key[2:] == (batch_norm, stage)}) == 1
    assert by_key["8/14", "one", "as-trained", "none"] == rows[0]["before"]
    uncut = network.mixtures()
    with recalibration(network, splits.weights, uncut):
        control = evaluate(network, splits.held_out, mixtures=uncut)[1]
    assert by_key["8/14", "one", "recalibrated", "none"] == control
    # A row is what the network mixed by these weights classifies, recomputed here from the parts.
    genotype, mixture = derive_genotype(config, architecture_of(network), EdgeBudget.parse("3/14")), {}
    for name, weights in network.mixtures().items():
        mixture[name] = discrete_weights(weights, genotype.cell(name), "one", "both")
    assert by_key["3/14", "one", "as-trained", "both"] == evaluate(network, splits.held_out, mixtures=mixture)[1]
    with recalibration(network, splits.weights, mixture):
        assert by_key["3/14", "one", "recalibrated", "both"] == evaluate(network, splits.held_out, mixtures=mixture)[1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_is_the_same_network_is_measured_once(searched, splits, monkeypatch):
    _, network, config = searched
    recalibrated = []

    def spy(*arguments):
        recalibrated.append(arguments)
        return recalibration(*arguments)

    monkeypatch.setattr("daas_lab.train.discretize.recalibration", spy)
    rows = accuracy_drops(
        network, config, splits.held_out, splits.weights, NAMED_BUDGETS, batch_norms=["recalibrated"], stages=["none"]
    )
    assert len(rows) == 5 * 3 and len(recalibrated) == 1


def test_what_a_node_carries_and_costs(searched, splits):
    _, network, config = searched
    before = copy.deepcopy(network.state_dict())
    rows = node_costs(network, config, splits.held_out, splits.weights, "3/14")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [(row["cell"], row["node"]) for row in rows[::2]] == [(c, n) for c in CELL_TYPES for n in range(2, 6)]
    genotype = derive_genotype(config, architecture_of(network), EdgeBudget.parse("3/14"))
    for cell_type in CELL_TYPES:
        dropped = {row["node"] for row in rows if row["cell"] == cell_type and row["dropped"]}
        assert dropped == {2, 3, 4, 5} - set(genotype.cell(cell_type).concat) and len(dropped) == 1
    # Under the authors' protocol the inputs of a node weigh as many as there are.
    assert [row["incoming"] for row in rows[::2]] == pytest.approx(2 * [2, 3, 4, 5])
    # The one reduction cell in the middle and the last one: what they put out, seen from outside.
    seen = {}
    hooks = [cell.register_forward_hook(lambda cell, _, y: seen.update({cell: y[0]})) for cell in network.cells]
    images = torch.cat([x for x, _ in plain_batches(splits.held_out, batch_size=len(splits.held_out))])
    training = network.training
    with torch.no_grad():
        network.eval()(images)
    network.train(training)
    for hook in hooks:
        hook.remove()
    maps = [y.unflatten(1, (4, -1)) for cell, y in seen.items() if cell.cell_type == "reduce"]
    expected = torch.stack([y.square().mean(dim=(0, 2, 3, 4)) for y in maps]).mean(dim=0).sqrt()
    assert [row["rms"] for row in rows if row["cell"] == "reduce"][::2] == pytest.approx(expected.tolist(), rel=1e-4)
    # Without a node nothing enters it and nothing leaves it.
    touched = torch.tensor([3 in edge for edge in cell_edges(6)])
    mixture = network.mixtures()
    mixture["normal"] = mixture["normal"]._replace(edges=mixture["normal"].edges * ~touched)
    row = next(row for row in rows if (row["cell"], row["node"]) == ("normal", 3))
    assert row["batch_norm"] == "as-trained" and row["before"] == evaluate(network, splits.held_out)[1]
    assert row["after"] == evaluate(network, splits.held_out, mixtures=mixture)[1]


def test_decided_choices_rank_by_more_than_their_weight_in_float32():
    config = search_config("tiny", "digits", "darts", nodes=4, budget="1,1")
    alphas = torch.zeros(5, 7)
    alphas[:, 2] = torch.tensor([20.0, 24.0, 20.0, 22.0, 26.0])
    assert (alphas.softmax(dim=1).amax(dim=1) == 1).all(), "in float32 all edges are alike"
    parameters = {f"{kind}_{name}": alphas if kind == "alphas" else torch.zeros(5)
                  for kind in ("alphas", "betas") for name in CELL_TYPES}  # fmt: skip
    genotype = derive_genotype(config, parameters, config.edge_budget)
    assert [edge[:2] for edge in genotype.normal.edges] == [(1, 2), (2, 3)]


def test_recalibration_estimates_statistics_and_leaves_weights_and_checkpoint(searched, splits):
    folder, network, _ = searched
    training = network.training
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    before = copy.deepcopy(network.state_dict())
    buffers = {name for name in before if "running_" in name or name.endswith("num_batches_tracked")}
    norm = network.stem[1]
    with recalibration(network, splits.weights, network.mixtures()):
        inside = network.state_dict()
        changed = {name for name in inside if not torch.equal(inside[name], before[name])}
        assert changed and changed <= buffers, "no weight moves, the statistics do"
        # The stem's statistics are the mean of those of the batches it was shown.
        with torch.no_grad():
            maps = network.stem[0](next(plain_batches(splits.weights, batch_size=100))[0])
        torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert norm.momentum == 0.1 and network.training is training
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_recalibration_that_fails_gives_the_statistics_back(searched, splits):
    _, network, _ = searched
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(KeyboardInterrupt), recalibration(network, splits.weights, network.mixtures()):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_attribution_cuts_one_decision_at_a_time(searched, splits):
    _, network, config = searched
    rows = attribution(network, config, splits.held_out, splits.weights, "4/14", edge_weight="one")
    assert len(rows) == 2 * (14 + 4)
    assert {(row["cell"], row["source"], row["node"]) for row in rows} == {
        (cell_type, *key)
        for cell_type in CELL_TYPES
        for key in [*cell_edges(6), *((None, node) for node in range(2, 6))]
    }
    genotype = derive_genotype(config, architecture_of(network), EdgeBudget.parse("4/14"))
    mixture = network.mixtures()
    cut = discrete_weights(mixture["reduce"], genotype.reduce, "one")
    row = next(row for row in rows if (row["cell"], row["source"], row["node"]) == ("reduce", 1, 3))
    e = cell_edges(6).index((1, 3))
    operations = mixture["reduce"].operations.clone()
    operations[e] = cut.operations[e]
    changed = mixture | {"reduce": mixture["reduce"]._replace(operations=operations)}
    assert row["stage"] == "operations" and row["after"] == evaluate(network, splits.held_out, mixtures=changed)[1]
    row = next(row for row in rows if (row["cell"], row["source"], row["node"]) == ("reduce", None, 5))
    edges = torch.cat([mixture["reduce"].edges[:9], cut.edges[9:]])
    changed = mixture | {"reduce": mixture["reduce"]._replace(edges=edges)}
    assert row["stage"] == "edges" and row["after"] == evaluate(network, splits.held_out, mixtures=changed)[1]
    values = attribution_values(rows)
    assert values["reduce"][5] == row["before"] - row["after"]
    assert len(values["normal"]) == 18
    assert len({row["after"] for row in rows}) > 1
