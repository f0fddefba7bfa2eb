"""The field's methods: their losses, relaxations, updates and cuts, each against a formula of its own in float64."""

import math
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from daas_lab import EdgeBudget, LabError
from daas_lab.compose import search_config
from daas_lab.methods.asap import ASAP
from daas_lab.methods.beta_darts import BetaDARTS
from daas_lab.methods.dots import DOTS, phases
from daas_lab.methods.fair_darts import FairDARTS
from daas_lab.methods.gold_nas import GoldNAS
from daas_lab.methods.method import Architecture, Moment
from daas_lab.methods.p_darts import PDARTS
from daas_lab.methods.prox import Prox
from daas_lab.methods.pruning import GONE, alive, node_penalty, prune, prune_smallest
from daas_lab.methods.schedules import stage
from daas_lab.methods.xnas import XNAS
from daas_lab.runs.folder import read_run
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, SKIP, Space, cell_edges
from daas_lab.train.loop import cosine, make_scaler
from daas_lab.train.search import build_supernet, make_optimizers, search
from daas_lab.train.search_steps import ArchitectureStep, architecture_step
from tests.killing import stopped_in_every_epoch

EDGES = cell_edges()
NODE = np.array([node for _, node in EDGES])


def drawn(seed=0, scale=1.0, edges=14):
    """α [14, 7] and β [edges] of both cell types, in float64."""
    draws = np.random.default_rng(seed)
    return {
        name: Architecture(*(torch.tensor(scale * draws.normal(size=shape)) for shape in ((14, 7), (edges,))))
        for name in CELL_TYPES
    }


def numpy_of(architectures):
    return {name: architecture.alphas.numpy() for name, architecture in architectures.items()}


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def term(method, architectures, at):
    mixtures = {name: method.mix(both, name, at) for name, both in architectures.items()}
    (value,) = method.regularise(architectures, mixtures, at).values()
    return value


def tiny(method, **changes):
    return search_config("tiny", "digits", method, **{"threads": 1, "layers": 3, "channels": 2, "steps": 2} | changes)


def after_epoch(config, network, epoch):
    """What a search does between two epochs, but for the images."""
    network.at = config.moment(epoch)
    config.searcher.after_epoch(SimpleNamespace(network=network, config=config, epoch=epoch))


def one_step(config, network, epoch, step=0):
    """One update of α and β on drawn images; returns what was their gradient."""
    draws = torch.Generator().manual_seed(7)
    batches = [(torch.randn(4, 1, 8, 8, generator=draws), torch.randint(10, (4,), generator=draws)) for _ in range(2)]
    network.at = config.moment(epoch, training=True, step=step, part="architecture")
    weights, optimizer = make_optimizers(config, network)
    update = ArchitectureStep(network, config, *batches, weights, make_scaler(config, torch.device("cpu")))
    architecture_step(update, optimizer)
    return [parameter.grad for parameter in network.arch_parameters()], update


# --- candidates that have left ----------------------------------------------------------------------------------------


def test_who_has_left_weighs_nothing_and_has_no_gradient():
    alphas = torch.randn(14, 7, generator=torch.Generator().manual_seed(0))
    alphas[:, 1] = -3.0
    alphas.requires_grad_()
    leaving = torch.zeros(14, 7, dtype=torch.bool)
    leaving[:, 1] = leaving[3] = True
    assert prune(alphas, leaving, Space()) == 13 + 6  # edge 3 keeps its strongest
    assert alive(alphas).sum(dim=1).tolist() == [6, 6, 6, 1] + [6] * 10
    for weights in (alphas.softmax(dim=1), alphas.sigmoid()):
        (gradient,) = torch.autograd.grad((weights * torch.arange(7)).sum(), alphas)
        assert not weights[~alive(alphas)].any() and not gradient[~alive(alphas)].any()
    assert prune(alphas, leaving) == 1  # without a space to heed an edge may lose all


def test_an_edge_keeps_an_operation_that_a_cell_can_have():
    space = Space(operations=("none", "skip_connect", "sep_conv_3x3"))
    alphas = torch.tensor([[9.0, 1.0, 2.0]] * 14)
    prune(alphas, torch.ones(14, 3, dtype=torch.bool), space)
    assert alive(alphas).tolist() == [[False, False, True]] * 14


# --- losses -----------------------------------------------------------------------------------------------------------


def test_fair_darts_zero_one_loss():
    architectures, at = drawn(), Moment(3, 10)
    sigma = 1 / (1 + np.exp(-np.concatenate(list(numpy_of(architectures).values()))))
    assert term(FairDARTS(), architectures, at).item() == pytest.approx(-10 * np.mean((sigma - 0.5) ** 2), rel=1e-12)


def test_fair_darts_keeps_what_passes_the_threshold_and_never_an_empty_node():
    alphas = torch.full((14, 7), -3.0, dtype=torch.float64)
    alphas[0, 3], alphas[1, 4] = 3.0, 1.7  # node 2: σ = 0.953 and 0.846
    alphas[2, 0], alphas[3, 1] = 1.0, 0.5  # node 3: none reaches it
    alphas[5, 2], alphas[6, 3] = 2.0, 1.8  # node 4: 0.881 and 0.858
    both = Architecture(alphas, torch.zeros(14))
    cell = FairDARTS().select(dict.fromkeys(CELL_TYPES, both), EdgeBudget.parse("8/14"), Moment(1, 1)).normal
    named = [(source, node, PRIMITIVES.index(operation)) for source, node, operation in cell.edges]
    assert named[:4] == [(0, 2, 3), (0, 3, 0), (0, 4, 2), (1, 4, 3)] and len(named) == 5  # and one of node 5
    assert cell.concat == (2, 3, 4, 5)


def test_beta_darts_decay_and_that_it_acts_against_who_leads():
    architectures, at = drawn(), Moment(31, 100)
    x = np.concatenate(list(numpy_of(architectures).values()))
    expected = 50 * 30 / 100 * np.mean([math.log(sum(math.exp(value) for value in row)) for row in x])
    alphas = [both.alphas.requires_grad_() for both in architectures.values()]
    value = term(BetaDARTS(), architectures, at)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    gradient = np.concatenate([part.numpy() for part in torch.autograd.grad(value, alphas)])
    np.testing.assert_allclose(gradient, 15 / 28 * softmax(x), rtol=1e-12)
    assert (gradient.argmax(axis=1) == x.argmax(axis=1)).all()  # a step down the loss takes most from the strongest
    assert term(BetaDARTS(), architectures, Moment(1, 100)).item() == 0  # as the source, which counts epochs from 0


@pytest.mark.parametrize(("budget", "keep"), [("8/14", {2: 2, 3: 2, 4: 2, 5: 2}), ("5/14", {2: 1, 3: 1, 4: 1, 5: 2})])
def test_prox_is_the_distance_to_the_cut_of_its_budget(budget, keep):
    architectures, at = drawn(4), Moment(6, 20)
    distance = 0.0
    for alphas in numpy_of(architectures).values():
        a = softmax(alphas)
        cut = np.zeros_like(a)
        for node, k in keep.items():
            entering = [e for e in range(14) if NODE[e] == node]
            for e in sorted(entering, key=lambda e: -a[e].max())[:k]:
                cut[e, a[e].argmax()] = 1
        assert cut.sum() == sum(keep.values())
        distance += np.sqrt(((a - cut) ** 2).sum())
    value = term(Prox(budget=budget), architectures, at)
    assert value.item() == pytest.approx(6 / 20 * 0.1 / 2 * distance, rel=1e-12)


def test_prox_has_a_gradient_where_there_is_no_distance():
    alphas = torch.zeros(14, 7).index_fill_(1, torch.tensor([3]), 1e4).requires_grad_()
    value = term(Prox(budget="2,3,4,5"), dict.fromkeys(CELL_TYPES, Architecture(alphas, torch.zeros(14))), Moment(1, 1))
    assert value.item() == 0 and torch.autograd.grad(value, alphas)[0].isfinite().all()


# --- ASAP -------------------------------------------------------------------------------------------------------------


def test_asap_anneals_as_published_in_shares_of_the_epochs():
    method, x = ASAP(), drawn()["normal"]
    for e in (0, 7, 49):
        tau = 1.6 * 0.95**e
        for at in (Moment(e + 1, 50), Moment(2 * e + 1, 100)):
            np.testing.assert_allclose(method.mix(x, "normal", at).operations, softmax(x.alphas.numpy() / tau))
    # 1.6 · 0.95^e < 1 from e = 10 on: α learns from the eleventh epoch.
    assert ASAP.settings("authors", 50)["warmup"] == 10 and ASAP.settings("authors", 1)["warmup"] == 0
    assert ASAP(first_temperature=3.0).rest(50) == 22  # 3 · 0.95^e < 1 from e = 22 on


def test_asap_divides_its_threshold_once_and_not_once_an_edge():
    config = tiny("asap", epochs=50)
    network = build_supernet(config)
    tau = 1.6 * 0.95**29
    shares = np.array([0.05, 0.06, 0.15, 0.15, 0.15, 0.2, 0.24])  # 0.4 / 7 = 0.0571 lies between the first two
    with torch.no_grad():
        for name in CELL_TYPES:
            network.alphas(name).copy_(torch.tensor(tau * np.log(shares)).expand(14, 7))
    after_epoch(config, network, 10)  # τ = 1.008: nothing leaves yet
    assert alive(network.alphas_normal).all()
    after_epoch(config, network, 30)
    for name in CELL_TYPES:
        # Divided once an edge it would be 0.0082 for the second edge, and 6e-13 for the last.
        assert alive(network.alphas(name)).tolist() == [[False] + [True] * 6] * 14


def test_asap_ranks_edges_that_are_down_to_one_operation_by_what_it_had_beside_the_last_rivals():
    config = tiny("asap", epochs=50)
    network = build_supernet(config)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in CELL_TYPES:  # sure, and some surer than others
            network.alphas(name).copy_(torch.randn(14, 7, generator=draws) * torch.linspace(2, 4, 14)[:, None])
    before = {name: softmax(network.alphas(name).detach().double().numpy()).max(axis=1) for name in CELL_TYPES}
    for epoch in (48, 49, 50):  # what a later epoch finds alone is not asked again
        after_epoch(config, network, epoch)
    alone = {name: alive(network.alphas(name)).sum(dim=1) == 1 for name in CELL_TYPES}
    assert all(own.sum() > 3 for own in alone.values())
    for name, both in network.architectures().items():
        strengths = config.searcher.strengths(both, name, config.moment(50)).edges.detach()
        np.testing.assert_allclose(strengths[alone[name]], before[name][alone[name]], rtol=1e-5)
        assert len(set(strengths.tolist())) == 14


# --- XNAS -------------------------------------------------------------------------------------------------------------


def test_xnas_multiplies_its_experts_by_the_exponent_of_their_reward():
    config = tiny("xnas", epochs=5, steps=4)
    network = build_supernet(config).double()
    with torch.no_grad():
        for seed, name in enumerate(CELL_TYPES):
            network.alphas(name).copy_(drawn(seed, 0.3)["normal"].alphas)
    before = {name: network.alphas(name).detach().clone() for name in CELL_TYPES}
    # ∂L/∂a by the mixture itself, on the same images and in the same network.
    draws = torch.Generator().manual_seed(7)
    images, labels = torch.randn(4, 1, 8, 8, generator=draws), torch.randint(10, (4,), generator=draws)
    gradients = {}
    mixtures = {name: network.mixtures()[name] for name in CELL_TYPES}
    leaves = {name: softmax(before[name].numpy()) for name in CELL_TYPES}
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in leaves.items()}
    network.train()
    logits = network(images.double(), {name: mixtures[name]._replace(operations=leaves[name]) for name in CELL_TYPES})
    loss = torch.nn.functional.cross_entropy(logits, labels)
    gradients = dict(zip(CELL_TYPES, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    draws.manual_seed(7)
    network.at = config.moment(1, training=True, part="architecture")
    batch = (images.double(), labels)
    weights, optimizer = make_optimizers(config, network)
    update = ArchitectureStep(network, config, batch, batch, weights, make_scaler(config, torch.device("cpu")))
    architecture_step(update, optimizer)
    bound = XNAS().bound
    eta = math.sqrt(2 * math.log(7) / 20) / bound
    for name in CELL_TYPES:
        rewards = -np.clip(gradients[name].numpy(), -bound, bound)
        assert abs(rewards).max() > 0
        v = np.exp(before[name].numpy()) * np.exp(eta * rewards)
        np.testing.assert_allclose(
            network.alphas(name).detach().softmax(dim=1), v / v.sum(axis=1, keepdims=True), rtol=1e-6
        )


def test_xnas_leaves_an_overflow_for_the_scaler_to_see():
    network = build_supernet(tiny("xnas"))
    alphas = [network.alphas(name) for name in CELL_TYPES]
    step = SimpleNamespace(network=network, config=tiny("xnas"), scaler=make_scaler(tiny("xnas"), torch.device("cpu")))
    step.average = lambda: None

    def backward():
        for a in alphas:
            a.grad = torch.full_like(a, 9.0)
            a.grad[3, 2] = -torch.inf

    step.backward = backward
    network.method.architecture_gradients(step)
    for a in alphas:
        assert a.grad[3, 2].isinf() and a.grad.isfinite().sum() == a.numel() - 1
        assert (a.grad[a.grad.isfinite()] == a.grad[0, 0]).all() and a.grad[0, 0] < 9


@pytest.mark.parametrize("method", ["xnas", "gold_nas"])
def test_the_gradient_that_is_clipped_is_the_mean_over_the_processes(method, monkeypatch):
    config = tiny(method)
    network, device = build_supernet(config), torch.device("cpu")
    network.at = config.moment(1, training=True, part="architecture")
    batch = torch.randn(4, 1, 8, 8), torch.arange(4)
    weights, optimizer = make_optimizers(config, network)
    monkeypatch.setattr(optimizer, "step", lambda: None)
    asked = []

    def as_of_processes(tensors):  # whose mean is large
        asked.append([tensor.fill_(1e3) for tensor in tensors if tensor is not None])

    monkeypatch.setattr("daas_lab.train.distributed.average", as_of_processes)
    architecture_step(ArchitectureStep(network, config, batch, batch, weights, make_scaler(config, device)), optimizer)
    assert len(asked) == 1, "and it is averaged once"
    gradients = [network.alphas(name).grad for name in CELL_TYPES]
    if method == "xnas":
        largest = config.searcher.rate(config) * config.searcher.bound / config.arch_learning_rate
        assert all(torch.allclose(gradient, torch.tensor(largest)) for gradient in gradients)
    else:
        assert torch.cat(gradients).norm().item() == pytest.approx(config.gradient_clip, rel=1e-4)


def test_xnas_wipes_out_who_can_no_longer_win():
    config = tiny("xnas", epochs=5, steps=4)
    network, method = build_supernet(config), config.searcher
    reach = 2 * math.sqrt(2 * math.log(7) / 20)  # 2 η 𝓛, what a step can change between two experts
    v = torch.tensor([0.0, 2.9, 3.1, 7.0, 7.5, 9.9, 10.0]) * reach
    with torch.no_grad():
        for name in CELL_TYPES:
            network.alphas(name).copy_(v.expand(14, 7))
    step = SimpleNamespace(network=network, config=config)
    for epoch, index, left in ((3, 1, 7), (4, 0, 6), (4, 1, 6), (5, 0, 4), (5, 2, 2), (5, 3, 1)):
        network.at = config.moment(epoch, training=True, step=index)
        method.after_step(step)
        remaining = 20 - ((epoch - 1) * 4 + index + 1)
        expected = (v >= v.max() - reach * remaining).tolist()
        assert sum(expected) <= left + 3
        for name in CELL_TYPES:
            assert alive(network.alphas(name)).tolist() == [expected] * 14
    assert alive(network.alphas_normal).sum() == 14


def test_xnas_ranks_edges_with_one_expert_each_by_its_reward():
    reward = np.random.default_rng(4).normal(size=14)
    alphas = np.full((14, 7), float(GONE))
    alphas[np.arange(14), np.arange(14) % 7] = reward
    both = Architecture(torch.tensor(alphas), torch.zeros(14))
    cell = XNAS().select(dict.fromkeys(CELL_TYPES, both), EdgeBudget.parse("8/14"), Moment(50, 50)).normal
    expected = [e for node in range(2, 6) for e in sorted(np.flatnonzero(node == NODE), key=lambda e: -reward[e])[:2]]
    assert [edge[:2] for edge in cell.edges] == [EDGES[e] for e in sorted(expected)]
    assert [edge[:2] for edge in cell.edges] != [(s, node) for node in range(2, 6) for s in (0, 1)]
    assert [edge.operation for edge in cell.edges] == [PRIMITIVES[e % 7] for e in sorted(expected)]


# --- GOLD-NAS ---------------------------------------------------------------------------------------------------------


def shares_by_hand(alphas):
    weights = 1 / (1 + np.exp(np.minimum(-alphas, 700)))
    return np.array([weights[e] / weights[NODE[e] == NODE].sum() for e in range(14)])


def test_gold_nas_penalty():
    alphas = drawn(2, 2.0)["normal"].alphas
    p, least, expected = shares_by_hand(alphas.numpy()), 0.02, 0.0
    assert (p <= least).any() and (p > least).any()
    for e, o in np.ndindex(14, 7):
        n = (p[NODE[e] == NODE] > least).sum()
        expected += math.log(1 + n * p[e, o]) if p[e, o] > least else 0.0
    assert node_penalty(alphas, least).item() == pytest.approx(expected, rel=1e-12)
    method, at = GoldNAS(), Moment(1, 10)
    state = torch.tensor([0.25, 1.0])
    value = term(method, dict.fromkeys(CELL_TYPES, Architecture(alphas, state)), at)
    assert value.item() == pytest.approx(2 * 0.25 * node_penalty(alphas, 0.01 * 2 / 7).item(), rel=1e-12)
    mixture = method.mix(Architecture(alphas, state), "normal", at)
    np.testing.assert_allclose(mixture.operations * mixture.edges[:, None], 1 / (1 + np.exp(-alphas.numpy())))


def test_gold_nas_prunes_as_a_loop_over_all_candidates_does():
    alphas = torch.stack([both.alphas for both in drawn(5, 2.0).values()])
    free = torch.tensor(np.random.default_rng(0).random((2, 14, 7)) < 0.9)
    expected, low, high, count = alphas.numpy().copy(), 0.004, 0.03, 0
    open_ = free.numpy().copy()
    for _ in range(6):
        p = np.stack([shares_by_hand(part) for part in expected])
        places = sorted((p[place], place) for place in np.ndindex(2, 14, 7) if open_[place])
        out = [place for value, place in places if value <= low]
        value, place = next(entry for entry in places if entry[0] > low)
        for gone in out + [place] * int(value <= high):
            expected[gone], open_[gone], count = GONE, False, count + 1
    assert sum(prune_smallest(alphas, free, low, high) for _ in range(6)) == count > 12
    np.testing.assert_array_equal(alphas.numpy(), expected)
    np.testing.assert_array_equal(free.numpy(), open_)


def test_gold_nas_lambda_grows_until_enough_leave_and_is_zero_when_the_budget_is_reached():
    config = tiny("gold_nas", epochs=20, budget="4/14", lambda_0=1e-4)
    network = build_supernet(config)
    states = []
    for epoch in range(1, 4):  # w = ½ for all: no share is small enough, nothing leaves
        after_epoch(config, network, epoch)
        states.append(network.betas_normal.tolist())
    assert alive(network.alphas_normal).all()
    np.testing.assert_allclose(states, [[2e-4, 2e-4], [6e-4, 4e-4], [14e-4, 8e-4]], rtol=1e-6)
    with torch.no_grad():
        for name in CELL_TYPES:
            network.alphas(name)[:, 1:] = -9.0  # 84 of 98 in each cell type: more than n0 = 1 + 188 / 10
    after_epoch(config, network, 4)
    np.testing.assert_allclose(network.betas_reduce.tolist(), [7e-4, 1e-4], rtol=1e-6)
    assert alive(network.alphas_normal).sum() == 14
    with torch.no_grad():
        for name in CELL_TYPES:
            network.alphas(name)[1::2, 0] = -9.0
    after_epoch(config, network, 5)
    left = sum(alive(network.alphas(name)).sum().item() for name in CELL_TYPES)
    assert left == 2 * 7 and network.betas_normal[0] > 0
    with torch.no_grad():
        for name in CELL_TYPES:
            network.alphas(name)[[4, 8, 12], 0] = -9.0
    for epoch in (6, 7):
        after_epoch(config, network, epoch)
    cells = config.searcher.select(network.architectures(), config.edge_budget, config.moment())
    for name in CELL_TYPES:  # what the budget keeps never leaves, and nothing else is left
        kept = {(EDGES.index(edge[:2]), PRIMITIVES.index(edge.operation)) for edge in cells.cell(name).edges}
        assert {tuple(place) for place in alive(network.alphas(name)).nonzero().tolist()} == kept
    assert network.betas_normal[0] == 0


def test_one_level_methods_learn_from_the_images_of_the_weights():
    for method, epoch, learns in (("gold_nas", 1, 0), ("dots", 70, 2), ("snas", 1, 0)):
        config = tiny(method, epochs=70)
        gradients, update = one_step(config, build_supernet(config), epoch)
        assert update.batch is update.next_batch and gradients[learns].any()


# --- DOTS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["2,2,2,2", "1,1,1,2", "1,2,3,4"])
def test_dots_weighs_an_edge_by_the_sets_that_hold_it(budget):
    method, keep = DOTS(budget=budget), tuple(map(int, budget.split(",")))
    betas = method.start(Space(), EdgeBudget.parse(budget)).betas
    assert not betas.any()
    betas = torch.tensor(np.random.default_rng(1).normal(size=len(betas)))
    for epoch, temperature in ((51, 10.0), (60, 10 * 0.002 ** (9 / 19)), (70, 0.02)):
        expected, start = np.zeros(14), 0
        for node, k in zip(range(2, 6), keep, strict=True):
            sets = list(combinations([e for e in range(14) if NODE[e] == node], k))
            for chance, held in zip(softmax(betas[start : start + len(sets)].numpy() / temperature), sets, strict=True):
                expected[list(held)] += chance
            start += len(sets)
        edges = method.mix(Architecture(torch.zeros(14, 7), betas), "normal", Moment(epoch, 70)).edges
        np.testing.assert_allclose(edges, expected, rtol=1e-9, atol=1e-12)
        assert [edges[node == NODE].sum().item() for node in range(2, 6)] == pytest.approx(keep)


def test_dots_phases():
    assert phases(70) == (15, 30, 50) and phases(20) == (4, 9, 14)
    for epochs in range(1, 200):
        warm, operations, rest = phases(epochs)
        assert 0 <= warm < operations <= rest <= epochs
    config = tiny("dots", epochs=70)
    network = build_supernet(config)
    assert config.warmup == 15 and network.betas_normal.shape == (1 + 3 + 6 + 10,)
    for epoch, learns in ((30, [True, False]), (40, [False, False]), (60, [True, True])):
        gradients, _ = one_step(config, network, epoch)
        assert [gradients[k] is not None for k in (0, 2)] == learns
        if epoch == 30:
            assert (network.mixtures()["normal"].edges == 1).all()
            strongest = network.alphas_normal.argmax(dim=1)
            after_epoch(config, network, epoch)
        weights = network.mixtures()["normal"].operations
        assert (weights == torch.nn.functional.one_hot(strongest, 7)).all()
    assert not gradients[0].any()  # α is decided: nothing moves it


def test_dots_refuses_a_budget_with_too_many_sets():
    with pytest.raises(LabError, match=r"budget of node 2\+3.* = 10: must be one with at most 10000 sets"):
        tiny("dots", nodes=12, budget="{2+3+4+5+6+7+8+9+10+11}:10")


# --- P-DARTS ----------------------------------------------------------------------------------------------------------


def test_p_darts_stages_are_the_sources():
    assert [stage(epoch, 75, 3) for epoch in (1, 25, 26, 75)] == [(0, 0, 25), (0, 24, 25), (1, 0, 25), (2, 24, 25)]
    for epochs in range(1, 40):
        seen = [stage(epoch, epochs, 3) for epoch in range(1, epochs + 1)]
        assert all(k < n and seen.count((s, k, n)) == 1 for s, k, n in seen)
        assert all(sum(s == number for s, _, _ in seen) == n for number, _, n in seen)
    method = PDARTS()
    assert [method.depth(8, Moment(epoch, 75)) for epoch in (25, 26, 51)] == [5, 11, 17]
    assert method.depth(3, Moment(1, 75)) == 3
    for stage_number, first in enumerate((0.0, 0.4, 0.7)):
        for k in range(25):
            p = first * (25 - k - 1) / 25 if k < 10 else first * math.exp(-0.2 * (k - 10))
            assert method.dropout(Moment(25 * stage_number + k + 1, 75)) == pytest.approx(p)


def test_p_darts_drops_skips_in_training_only_and_leaves_their_mean():
    method, both, skip = PDARTS(), drawn()["normal"], PRIMITIVES.index(SKIP)
    a = softmax(both.alphas.numpy())
    at = Moment(26, 75, part="weights")
    np.testing.assert_allclose(method.mix(both, "normal", at).operations, a)
    p, total = method.dropout(at), np.zeros((14, 7))
    for step in range(400):
        weights = method.mix(both, "normal", at._replace(training=True, step=step)).operations.numpy()
        scale = weights[:, skip] / a[:, skip]
        assert ((scale == 0) | (abs(scale - 1 / (1 - p)) < 1e-9)).all()
        total += weights / 400
    np.testing.assert_allclose(np.delete(total, skip, 1), np.delete(a, skip, 1))
    assert abs(total[:, skip] / a[:, skip] - 1).max() < 0.2  # three deviations of 400 draws are 0.12


def test_p_darts_keeps_five_then_three_operations_and_begins_anew():
    config = tiny("p_darts", epochs=6)
    network = build_supernet(config)
    before = network.alphas_reduce.detach().clone()
    for epoch, left in ((1, 7), (2, 5), (3, 5), (4, 3), (6, 3)):
        strongest = network.alphas_reduce.detach().clone()
        after_epoch(config, network, epoch)
        alphas = network.alphas_reduce
        assert alive(alphas).sum(dim=1).tolist() == [left] * 14
        if epoch in (2, 4):
            chosen = strongest.topk(left, dim=1).indices
            assert alive(alphas).gather(1, chosen).all() and alphas[alive(alphas)].abs().max() < 0.01
            assert not (alphas == before)[alive(alphas)].any()
            before = alphas.detach().clone()


def test_p_darts_anneals_the_weights_of_every_stage():
    config = tiny("p_darts", epochs=6)
    ends = config.learning_rate, config.learning_rate_min
    rates = [cosine(*ends, *config.searcher.annealing(config.moment(epoch))) for epoch in range(1, 7)]
    assert rates == 3 * rates[:2] and rates[0] == config.learning_rate > rates[1]


def test_p_darts_takes_the_lightest_skip_of_normal_cells_away_until_two_are_left():
    skip, conv = PRIMITIVES.index(SKIP), PRIMITIVES.index("sep_conv_3x3")
    weights = np.full((14, 7), 0.01)
    weights[:, skip] = 0.9 - 0.01 * np.arange(14)
    weights[:, conv] = 0.05 - 0.001 * np.arange(14)
    weights[:, 0] = 1 - weights.sum(axis=1) + 0.01
    both = Architecture(torch.tensor(np.log(weights)), torch.zeros(14))
    at, budget = Moment(75, 75), EdgeBudget.parse("8/14")
    cell = PDARTS().select(dict.fromkeys(CELL_TYPES, both), budget, at).normal
    kept = [edge for edge in cell.edges if edge.operation == SKIP]
    assert [edge[:2] for edge in kept] == [(0, 2), (1, 2)]  # the strongest two of all
    assert len(cell.edges) == 8 and cell.concat == (2, 3, 4, 5)
    reduction = PDARTS().select(dict.fromkeys(CELL_TYPES, both), budget, at).reduce
    assert [edge.operation for edge in reduction.edges] == [SKIP] * 8
    free = PDARTS(skips=8).select(dict.fromkeys(CELL_TYPES, both), budget, at).normal
    assert [edge.operation for edge in free.edges] == [SKIP] * 8
    every = PDARTS(skips=0).select(dict.fromkeys(CELL_TYPES, both), EdgeBudget.parse("8/14*7"), at).normal
    assert sum(edge.operation == SKIP for edge in every.edges) == 8  # no other choice


def test_p_darts_leaves_the_weights_beside_a_skip_that_was_taken_as_they_are():
    skip, sep, dil = (PRIMITIVES.index(name) for name in (SKIP, "sep_conv_3x3", "dil_conv_3x3"))
    weights = np.full((14, 7), 1e-3)
    weights[:, skip] = 0.95  # of node 2, whose two are kept anyway
    for e, values in {2: (0.9, 0.09, 0.006), 3: (0.89, 0.08, 0.026), 4: (0.02, 0.5, 0.47)}.items():
        weights[e, [skip, sep, dil]] = values
    both = Architecture(torch.tensor(np.log(weights)), torch.zeros(14))
    cells = PDARTS(skips=0).select(dict.fromkeys(CELL_TYPES, both), EdgeBudget.parse("8/14"), Moment(75, 75))
    # Renormalised, (0, 3) and (1, 3) would be sep_conv_3x3 at 0.9 and 0.75, and (2, 3) with 0.5 would go.
    assert [edge for edge in cells.normal.edges if edge.node == 3] == [(0, 3, "sep_conv_3x3"), (2, 3, "sep_conv_3x3")]


# --- what a resume finds ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gold_nas", "p_darts", "dots"])
def test_a_search_that_is_stopped_in_every_epoch_ends_in_the_same_bytes(method, tmp_path):
    config = tiny(method, epochs=4, weight_images=32, architecture_images=32, held_out_images=16, steps=1)

    def train(folder, on_epoch):
        search(config, folder, progress=False, on_epoch=on_epoch)

    folder, undisturbed = stopped_in_every_epoch(train, tmp_path)
    for name in ("architecture.safetensors", "genotype.json", "history.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    if method == "p_darts":
        alphas = read_run(undisturbed).alphas["reduce"]
        assert [int((part > GONE / 2).sum()) for part in alphas] == [98, 98, 70, 42, 42]
