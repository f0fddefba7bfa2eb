"""The search methods: their relaxations, their short real searches on digits, and what sets them apart."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from daas_lab.compose import search_config
from daas_lab.config import LAMBDAS
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.methods import losses, schedules
from daas_lab.methods.da2s_exact import exact_edge_logits
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.methods.method import Architecture, Method
from daas_lab.methods.projection import project
from daas_lab.runs.folder import is_finished, read_run
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, cell_edges
from daas_lab.space.selection import random_genotype
from daas_lab.train.discretize import EDGE_WEIGHTS, derive_genotype, discrete_weights
from daas_lab.train.search import build_supernet, search

BUDGETS = [*NAMED_BUDGETS, "{2+3}:2,{4+5}:3", "normal=4/14;reduce=1,2,3,4"]


def tiny(method, protocol="authors", **changes):
    return search_config("tiny", "digits", method, protocol, **{"threads": 1, "layers": 3, "steps": 1} | changes)


def mixed(config):
    """α, β, cell type, epoch → the mixture of the configuration's method."""
    return lambda alphas, betas, name, epoch: config.searcher.mix(
        Architecture(alphas, betas), name, config.moment(epoch)
    )


def lambda_values(config, epoch):
    return config.searcher.lambdas(config.moment(epoch))


# --- short real searches ----------------------------------------------------------------------------------------------


# The others take the whole way in test_field_sampled.py.
SHORT = [("darts", "authors"), ("darts2", "authors"), ("pc_darts", "authors"), ("da2s", "authors"), ("da2s", "paper")]
SHORT += [("da2s_exact", "authors"), ("random", "authors")]


@pytest.mark.parametrize(("method", "protocol"), SHORT)
def test_short_search(method, protocol, tmp_path):
    config = tiny(method, protocol, budget="3/14", epochs=3)
    search(config, tmp_path, progress=False)
    assert is_finished(tmp_path)
    run = read_run(tmp_path)
    for name in CELL_TYPES:
        edges = run.genotype.cell(name).edges
        assert len(edges) == 3 and len({node for _, node, _ in edges} & {2, 3}) == 1
    if method == "random":
        assert not run.history and run.genotype == random_genotype(config.edge_budget, config.seed)
        return
    assert len(run.history) == 3
    assert all(np.isfinite(value) for record in run.history for value in record.values())
    assert config.partial_channels == (4 if method == "pc_darts" or (method, protocol) == ("da2s", "paper") else 1)
    for kind, moves in (("alphas", True), ("betas", method_class(method).learns_edges)):
        first, *_, last = getattr(run, kind)["reduce"]
        assert (first != last).any() == moves, kind


def test_alphas_and_betas_rest_while_warming_up(tmp_path):
    search(tiny("da2s", alpha_delay=0, warmup=2), tmp_path, progress=False)
    run = read_run(tmp_path)
    for snapshots in (run.alphas["reduce"], run.betas["reduce"]):
        assert (snapshots[2] == snapshots[0]).all() and (snapshots[3] != snapshots[0]).any()
    assert ["edge_term" in record for record in run.history] == [False, False, True]


@pytest.mark.parametrize("budget", [*NAMED_BUDGETS, "normal=4/14;reduce=1,2,3,4", "3/14*2"])
def test_random_leaves_a_finished_run_under_every_budget(budget, tmp_path):
    found = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        search(tiny("random", budget=budget, seed=seed), folder, progress=False)
        assert is_finished(folder)
        found.append(json.loads((folder / "genotype.json").read_text()))
        parsed = EdgeBudget.parse(budget)
        for name in CELL_TYPES:
            kept = sum(group.keep for group in parsed.groups(name)) * parsed.operations
            assert len(found[-1][name]["edges"]) == kept
    assert found[0] != found[1]


# --- control functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ":delayed"])
@pytest.mark.parametrize("function", schedules.FUNCTIONS)
def test_every_lambda_takes_every_control_function(function, suffix):
    for k, name in enumerate(LAMBDAS):
        config = tiny("da2s", epochs=50, **{name: function + suffix})
        values = [lambda_values(config, epoch)[k] for epoch in range(1, 51)]
        assert values == [schedules.coefficient(function + suffix, epoch, 50) for epoch in range(1, 51)]
        held = tiny("da2s_exact", epochs=20, hold=8, **{name: function + suffix})
        values = [lambda_values(held, epoch)[k] for epoch in range(1, 21)]
        assert values == [0.0] * 8 + [schedules.coefficient(function + suffix, epoch, 12) for epoch in range(1, 13)]


@pytest.mark.parametrize("method", ["darts", "darts2", "pc_darts"])
def test_lambdas_without_effect_do_not_make_another_search(method):
    assert config_hash(tiny(method, lambda_c="exp")) == config_hash(tiny(method))
    assert config_hash(tiny("da2s", lambda_c="exp")) != config_hash(tiny("da2s"))
    with pytest.raises(LabError, match="lambda_c = 'cubic'"):
        tiny(method, lambda_c="cubic")


def test_zero_switches_a_loss_off_from_the_first_to_the_last_epoch():
    for name, off in (("lambda_c", 0), ("lambda_1", 1), ("lambda_2", 2)):
        config = tiny("da2s", **{name: "zero"})
        values = [lambda_values(config, epoch) for epoch in range(1, config.epochs + 1)]
        assert all(value[off] == 0 for value in values) and values[-1].count(0) == 1
    assert tiny("da2s", lambda_c="zero", lambda_1="exp") == tiny("da2s", lambda_c="zero", lambda_2="step")
    with pytest.raises(LabError, match="lambda_2 = 'zero:delayed'"):
        tiny("da2s", lambda_2="zero:delayed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hold": 1}, "hold = 1: must be 0 for method da2s"),
        ({"temperature": 0.5}, "temperature = 0.5: must be 1.0 for method da2s"),
        ({"warmup": 4}, "warmup = 4: must be less than epochs = 3"),
        ({"warmup": -1}, "warmup = -1: must be a whole number of at least 0"),
        ({"partial_channels": 3}, "channels = 4: must be divisible by partial_channels = 3"),
    ],
)
def test_fields_that_cannot_work_are_refused(changes, message):
    with pytest.raises(LabError, match=message):
        tiny("da2s", **changes)


def test_an_exact_search_has_the_steps_to_decide_after_its_hold():
    for preset, dataset in (("tiny", "digits"), ("quick", "digits"), ("mini", "fashion_mnist"), ("full", "cifar10")):
        config = search_config(preset, dataset, "da2s_exact")
        assert config.arch_learning_rate * (config.epochs - config.hold) * config.steps >= 8.9
    assert search_config("full", "cifar10", "da2s").arch_learning_rate == 3e-4
    assert search_config("full", "cifar10", "da2s_exact", arch_learning_rate="3e-4").arch_learning_rate == 3e-4


def test_what_changes_the_result_changes_the_hash():
    hashes = {config_hash(tiny(method)) for method in METHODS}
    hashes |= {config_hash(tiny("da2s_exact", **{name: value})) for name, value in (("hold", 0), ("temperature", 0.5))}
    hashes |= {config_hash(tiny("darts", warmup=1)), config_hash(tiny("da2s", partial_channels=2))}
    assert len(hashes) == len(METHODS) + 4


# --- relaxations ------------------------------------------------------------------------------------------------------


def parameters(seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(14, 7, generator=generator), scale * torch.randn(14, generator=generator)


def test_pc_darts_weighs_a_nodes_edges_by_softmax_and_ranks_them_by_both_weights():
    alphas, betas = parameters()
    config = tiny("pc_darts", budget="1,1,1,1")
    weights = mixed(config)(alphas, betas, "normal", 1)
    start, strengths = 0, []
    for n in (2, 3, 4, 5):
        exponentials = betas[start : start + n].double().exp()
        expected = exponentials / exponentials.sum()
        torch.testing.assert_close(weights.edges[start : start + n].double(), expected, rtol=1e-5, atol=1e-7)
        strengths.append((expected * alphas[start : start + n].double().softmax(1).amax(1)).argmax().item())
        start += n
    names = {f"{kind}_{name}": value for name in CELL_TYPES for kind, value in (("alphas", alphas), ("betas", betas))}
    genotype = derive_genotype(config, names, config.edge_budget)
    assert [edge.source for edge in genotype.normal.edges] == strengths


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(3))
def test_exact_budget_is_met_by_every_group_and_falls_from_all_edges(budget, seed):
    alphas, betas = parameters(seed, scale=10.0**seed)
    config = tiny("da2s_exact", budget=budget, epochs=41, hold=21)
    relaxation = mixed(config)
    index = {edge: e for e, edge in enumerate(cell_edges(6))}
    for name in CELL_TYPES:
        for epoch, share in ((1, 0.0), (21, 0.0), (26, 0.5), (31, 1.0), (41, 1.0)):
            weights = relaxation(alphas, betas, name, epoch)
            inside = set(index.values())
            for group in config.edge_budget.groups(name):
                chosen = [index[edge] for edge in group.candidates()]
                inside -= set(chosen)
                k = len(chosen) + (group.keep - len(chosen)) * share
                assert weights.edges[chosen].double().sum().item() == pytest.approx(k, abs=1e-6)
            assert (weights.edges[sorted(inside)] < 1e-20).all()
            torch.testing.assert_close(weights.operations.sum(1), torch.ones(14))
        temperature = 0.1 ** ((26 - 21) / 20)
        weights = relaxation(alphas, betas, name, 26)
        torch.testing.assert_close(weights.operations, (alphas / temperature).softmax(1), rtol=1e-4, atol=1e-6)


def test_exact_edges_that_leave_a_dropped_node_weigh_nothing():
    groups = EdgeBudget.parse("3/14").normal
    scores = torch.zeros(14)
    scores[0] = 20.0  # (0, 2): node 2 gets the edge that it shares with node 3
    scores[8] = 12.0  # (3, 4): by its own score the strongest input of node 4
    weights = exact_edge_logits(scores, groups, 1.0).sigmoid()
    assert weights[0] > 0.99 and weights[8] < 1e-6
    # The formula: node 4's scores with 3 log of what enters the edge's source, where that is a node of the group.
    incoming = {2: weights[0] + weights[1], 3: weights[2] + weights[3]}
    node_4 = scores[5:9].double()
    expected = node_4 + torch.stack([torch.zeros(()), torch.zeros(()), *(3 * incoming[i].log() for i in (2, 3))])
    torch.testing.assert_close(weights[5:9], project([expected], [1])[0].sigmoid(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("budget", ["8/14", "3/14"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_exact_gradients_are_finite_and_those_of_finite_differences(budget, scale):
    alphas, betas = (scale * tensor.double() for tensor in parameters(1, 0.7))
    config = tiny("da2s_exact", budget=budget, epochs=40, hold=20)
    relaxation, mask = mixed(config), torch.linspace(-1, 1, 14, dtype=torch.float64)

    def objective(alphas, betas):
        weights = relaxation(alphas, betas, "normal", 28)
        return (mask * weights.edges).sum() + losses.exact_edge_loss({"normal": weights.edge_logits})

    inputs = alphas.requires_grad_(), betas.requires_grad_()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(objective(*inputs), inputs))
    if scale == 1:
        assert torch.autograd.gradcheck(objective, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_decided_exact_search_loses_nothing_by_the_cut(budget):
    config = tiny("da2s_exact", budget=budget, epochs=4)
    network = build_supernet(config)
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for seed, parameter in enumerate(network.arch_parameters()):
            order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(seed))
            parameter.copy_(50.0 * order.view_as(parameter))
        network(images)  # so that the running statistics are of this mixture
        genotype = derive_genotype(config, dict(network.named_parameters()), config.edge_budget)
        mixture, logits = network.eval().mixtures(), network(images)
        for edge_weight in EDGE_WEIGHTS:
            cut = {name: discrete_weights(mixture[name], genotype.cell(name), edge_weight) for name in CELL_TYPES}
            assert (network(images, cut) - logits).abs().max() < 1e-5, edge_weight


def test_exact_edge_loss_is_the_binary_entropy():
    b = np.array([0.2, 0.5, 0.999])
    x = torch.tensor(np.log(b / (1 - b)))
    expected = -(b * np.log(b) + (1 - b) * np.log(1 - b)).sum()
    assert losses.exact_edge_loss({"normal": x, "reduce": x}).item() == pytest.approx(2 * expected)
    assert losses.exact_edge_loss({"normal": torch.tensor([1e4, -1e4])}).item() == 0


def test_exact_relaxation_reads_no_value_on_the_host():
    relaxation = mixed(tiny("da2s_exact", budget="3/14"))
    alphas, betas = (tensor.to("meta").requires_grad_() for tensor in parameters())
    weights = relaxation(alphas, betas, "normal", 3)  # reading a value of a tensor without values would raise
    (weights.edges.sum() + losses.exact_edge_loss({"normal": weights.edge_logits})).backward()
    assert betas.grad.shape == (14,)


def test_until_the_hold_ends_exact_search_is_darts():
    network = build_supernet(tiny("da2s_exact", epochs=10))
    network.at = network.at._replace(epoch=5)
    weights = network.mixtures()["normal"]
    assert (weights.edges == 1).all() and not weights.edges.requires_grad
    assert (weights.operations == network.alphas_normal.softmax(1)).all()


def test_a_method_with_a_field_for_it_is_asked_for_every_budget():
    @dataclass(frozen=True, kw_only=True)
    class Aware(Method):
        budget: str = "8/14"

    class Heir(Aware):
        pass

    assert [cls.asks_for_budget for cls in (Aware, Heir, Method)] == [True, True, False]
