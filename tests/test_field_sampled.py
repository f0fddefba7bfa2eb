"""Methods that draw, round or sharpen their mixture, against formulas in float64; and the whole way of every method."""

import importlib
import inspect
import math
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from scipy.special import gammainc, log_softmax, softmax

from daas_lab.compose import retrain_config, search_config
from daas_lab.data.batches import plain_batches
from daas_lab.methods.annealing import Annealing
from daas_lab.methods.dr_nas import DrNAS
from daas_lab.methods.gdas import GDAS
from daas_lab.methods.hard_st import HardST
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.methods.method import Architecture, Method, Moment
from daas_lab.methods.proxyless import Proxyless
from daas_lab.methods.pruning import GONE
from daas_lab.methods.sdarts_rs import SDARTSRS
from daas_lab.methods.snas import SNAS
from daas_lab.networks.fast_supernet import FastSuperNetwork
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import epochs_done, read_run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, Space
from daas_lab.train.discretize import accuracy_drops, discrete_weights
from daas_lab.train.evolution import genotype_after, weight_evolution
from daas_lab.train.retrain import retrain
from daas_lab.train.search import build_supernet, load_supernet, make_optimizers, search
from daas_lab.train.search_steps import ArchitectureStep, architecture_step, weight_step
from daas_lab.train.splits import search_splits

SAMPLED = (SNAS, GDAS, DrNAS, Proxyless, SDARTSRS)
E, O = 14, 7  # noqa: E741


def drawing(epoch=3, epochs=10, step=0, part="architecture", seed=0):
    return Moment(epoch, epochs, step, training=True, seed=seed, part=part)


def parameters(seed=0, scale=1.5):
    values = scale * np.random.default_rng(seed).standard_normal((E, O))
    return Architecture(torch.tensor(values, requires_grad=True), torch.zeros(E, dtype=torch.float64))


def numbers(tensor):
    return tensor.detach().numpy()


def noise(at, cell_type="normal", pieces=1):
    """Gumbel noise as −log of exponential draws, one [E, O] for each piece."""
    draws = at.generator(cell_type)
    exponential = [torch.empty(E, O, dtype=torch.float64).exponential_(generator=draws) for _ in range(pieces)]
    return [-np.log(numbers(piece)) for piece in exponential]


def largest(scores):
    return np.eye(O)[scores.argmax(axis=1)]


def gradient(mixture, architecture, weights):
    """Of Σ weights · a by α."""
    return numbers(torch.autograd.grad((torch.tensor(weights) * mixture.operations).sum(), architecture.alphas)[0])


def through_softmax(p, weights, tau):
    """∂/∂α of Σ w softmax(α / τ) = p (w − Σ w p) / τ."""
    return p * (weights - (weights * p).sum(axis=1, keepdims=True)) / tau


WEIGHTS = np.random.default_rng(7).standard_normal((E, O))


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 4, 10])
def test_snas_draws_a_gumbel_softmax_and_is_evaluated_without_noise(epoch):
    method, both, at = SNAS(), parameters(), drawing(epoch)
    tau = 1 - 0.97 * (epoch - 1) / 9
    draw = noise(at._replace(part=""))[0]  # α and weights share it
    expected = softmax((log_softmax(numbers(both.alphas), axis=1) + draw) / tau, axis=1)
    mixture = method.mix(both, "normal", at)
    np.testing.assert_allclose(numbers(mixture.operations), expected, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(
        gradient(mixture, both, WEIGHTS), through_softmax(expected, WEIGHTS, tau), rtol=1e-6, atol=1e-12
    )
    still = method.mix(both, "normal", Moment(epoch, 10))
    np.testing.assert_allclose(numbers(still.operations), softmax(numbers(both.alphas) / tau, axis=1), rtol=1e-9)


@pytest.mark.parametrize("epoch", [1, 4, 10])
def test_gdas_is_one_hot_forward_and_a_gumbel_softmax_backward(epoch):
    both, at = parameters(), drawing(epoch)
    tau = 10 - 9.9 * (epoch - 1) / 9
    scores = log_softmax(numbers(both.alphas), axis=1) + noise(at)[0]
    mixture = GDAS().mix(both, "normal", at)
    assert (numbers(mixture.operations) == largest(scores)).all()
    expected = through_softmax(softmax(scores / tau, axis=1), WEIGHTS, tau)
    np.testing.assert_allclose(gradient(mixture, both, WEIGHTS), expected, rtol=1e-6, atol=1e-12)
    still = GDAS().mix(both, "normal", Moment(epoch, 10))
    assert (numbers(still.operations) == largest(numbers(both.alphas))).all()


@pytest.mark.parametrize("epochs", [2, 20, 50, 250])
def test_temperatures_and_perturbations_arrive_whatever_the_epochs(epochs):
    """Elsewhere GDAS counts 250 epochs always, so that a search of 50 ends at 8.05."""
    first, last = drawing(1, epochs), drawing(epochs, epochs)
    for schedule, start, end in ((GDAS().tau, 10, 0.1), (SNAS().tau, 1, 0.03), (SDARTSRS().epsilon, 0.03, 0.3)):
        assert (schedule(first), schedule(last)) == (pytest.approx(start), pytest.approx(end))
        middle = np.diff([schedule(drawing(epoch, epochs)) for epoch in range(1, epochs + 1)])
        np.testing.assert_allclose(middle, (end - start) / (epochs - 1), rtol=1e-9)
    assert GDAS().tau(drawing(1, 1)) == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_hard_st_is_one_hot_forward_and_a_softmax_backward(temperature):
    method, both = HardST(temperature=temperature), parameters()
    for at in (drawing(), Moment(3, 10)):
        mixture = method.mix(both, "normal", at)
        assert (numbers(mixture.operations) == largest(numbers(both.alphas))).all()
        expected = through_softmax(softmax(numbers(both.alphas) / temperature, axis=1), WEIGHTS, temperature)
        np.testing.assert_allclose(gradient(mixture, both, WEIGHTS), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", [HardST(), GDAS(), Proxyless()])
def test_what_is_evaluated_one_hot_has_no_selection_gap(method):
    architectures = {name: parameters(seed, scale=0.1) for seed, name in enumerate(CELL_TYPES)}
    at = Moment(10, 10)
    for budget in ("8/14", "3/14"):
        cells = method.select(architectures, EdgeBudget.parse(budget), at)
        for name in CELL_TYPES:
            mixture = method.mix(architectures[name], name, at)
            cut = discrete_weights(mixture, cells.cell(name), stage="operations")
            assert (cut.operations == mixture.operations).all()
            # One-hot weights rank no edge: softmax(α) does.
            edges = numbers(method.strengths(architectures[name], name, at).edges)
            expected = softmax(numbers(architectures[name].alphas), axis=1).max(axis=1)
            np.testing.assert_allclose(edges, expected, rtol=1e-12)


def test_dr_nas_draws_from_a_dirichlet_distribution_with_the_pathwise_gradient():
    both, at = parameters(), drawing()
    alphas = numbers(both.alphas)
    c = np.where(alphas > 0, alphas + 1, np.exp(alphas))
    g = numbers(torch._standard_gamma(torch.tensor(c), generator=at.generator("normal")))
    mixture = DrNAS().mix(both, "normal", at)
    np.testing.assert_allclose(numbers(mixture.operations), g / g.sum(axis=1, keepdims=True), rtol=1e-12)
    # F(g; c) stays as c moves, so that dg/dc = −(∂F/∂c) / (∂F/∂g); then through the quotient, and elu.
    h = 1e-5
    density = g ** (c - 1) * np.exp(-g) / np.vectorize(math.gamma)(c)
    moved = -(gammainc(c + h, g) - gammainc(c - h, g)) / (2 * h) / density
    total = g.sum(axis=1, keepdims=True)
    by_gamma = (WEIGHTS - (WEIGHTS * g).sum(axis=1, keepdims=True) / total) / total
    expected = by_gamma * moved * np.where(alphas > 0, 1, np.exp(alphas))
    clear = (gammainc(c, g) > 1e-3) & (gammainc(c, g) < 1 - 1e-3)  # elsewhere the difference is of rounding
    assert clear.mean() > 0.9
    np.testing.assert_allclose(gradient(mixture, both, WEIGHTS)[clear], expected[clear], rtol=2e-3, atol=1e-6)


def test_dr_nas_is_evaluated_at_the_mean_of_its_draws():
    both = parameters()
    alphas = numbers(both.alphas)
    c = np.where(alphas > 0, alphas + 1, np.exp(alphas))
    mean = c / c.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(numbers(DrNAS().mix(both, "normal", Moment(3, 10)).operations), mean, rtol=1e-12)
    draws = [numbers(DrNAS().mix(both, "normal", drawing(step=step)).operations) for step in range(1000)]
    deviation = np.sqrt(mean * (1 - mean) / (c.sum(axis=1, keepdims=True) + 1) / len(draws))
    assert (abs(np.mean(draws, axis=0) - mean) < 5 * deviation).all()


def test_what_has_left_dr_nas_weighs_nothing():
    both = parameters()
    alphas = both.alphas.detach().clone()
    alphas[:, 2] += GONE
    alphas[3] = GONE  # and all of an edge
    for at in (Moment(3, 10), drawing()):
        operations = DrNAS().mix(both._replace(alphas=alphas), "normal", at).operations
        assert not operations[:, 2].any() and not operations[3].any() and operations.isfinite().all()
        torch.testing.assert_close(operations.sum(1), torch.ones(E).to(operations).index_fill(0, torch.tensor(3), 0))


@pytest.mark.parametrize("step", range(3))
def test_proxyless_moves_alpha_by_two_paths_of_which_one_is_computed(step):
    both, at = parameters(), drawing(step=step)
    alphas = numbers(both.alphas)
    mixture = Proxyless().mix(both, "normal", at)
    first, second = noise(at, pieces=2)
    expected = np.zeros((E, O))
    for e in range(E):
        two = np.argsort(-(alphas[e] + first[e]))[:2]
        path = two[np.argmax((alphas + second)[e, two])]
        assert (numbers(mixture.operations)[e] == np.eye(O)[path]).all()
        p = np.exp(alphas[e, two]) / np.exp(alphas[e, two]).sum()
        for i in range(2):
            expected[e, two[i]] = sum(WEIGHTS[e, two[j]] * p[j] * ((i == j) - p[i]) for j in range(2))
    np.testing.assert_allclose(gradient(mixture, both, WEIGHTS), expected, rtol=1e-9, atol=1e-12)


def test_proxyless_draws_paths_as_often_as_they_are_likely():
    row = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 0.3], dtype=torch.float64)
    both = Architecture(row.expand(E, O), torch.zeros(E))
    p, steps = softmax(row.numpy()), 300
    chosen = sum(
        numbers(Proxyless().mix(both, "normal", drawing(step=step, part="weights")).operations).sum(axis=0)
        for step in range(steps)
    )
    assert (abs(chosen / (steps * E) - p) < 5 * np.sqrt(p * (1 - p) / (steps * E))).all()


def test_proxyless_leaves_the_probabilities_of_paths_that_it_did_not_draw():
    config = search_config("tiny", "digits", "proxyless", threads=1, layers=3, channels=2, arch_learning_rate=0.3)
    network = build_supernet(config)
    weight_optimizer, arch_optimizer = make_optimizers(config, network)
    batch = next(plain_batches(search_splits(config).architecture, batch_size=8))
    network.train()
    moved = []
    for step in range(4):
        network.at = drawing(step=step)
        before = {name: network.alphas(name).detach().clone() for name in CELL_TYPES}
        scaler = torch.amp.GradScaler(enabled=False)
        architecture_step(ArchitectureStep(network, config, batch, batch, weight_optimizer, scaler), arch_optimizer)
        for name in CELL_TYPES:
            after = network.alphas(name).detach()
            changes = (after != before[name]).sum(dim=1)
            assert (changes <= 2).all()
            p, q = before[name].double().softmax(dim=1), after.double().softmax(dim=1)
            assert (p - q).abs()[after == before[name]].max() < 1e-6
            moved.append((p - q).abs().amax(dim=1))
    assert torch.stack(moved).mean() > 0.01


def test_sdarts_rs_disturbs_the_weights_steps_alone():
    both = parameters()
    a = softmax(numbers(both.alphas), axis=1)
    for at in (drawing(), Moment(3, 10)):
        np.testing.assert_allclose(numbers(SDARTSRS().mix(both, "normal", at).operations), a, rtol=1e-12)
    at = drawing(4, part="weights")
    epsilon = 0.03 + 0.27 * 3 / 9
    moves = torch.empty(E, O, dtype=torch.float64).uniform_(-epsilon, epsilon, generator=at.generator("normal"))
    clipped = np.clip(a + moves.numpy(), 0, 1)
    expected = clipped / clipped.sum(axis=1, keepdims=True)
    mixture = SDARTSRS().mix(both, "normal", at)
    np.testing.assert_allclose(numbers(mixture.operations), expected, rtol=1e-12)
    assert not mixture.operations.requires_grad


def test_sdarts_rs_leaves_who_has_left_where_they_are():
    alphas = torch.zeros(14, 7, dtype=torch.float64)
    alphas[:, 2:] += GONE
    at = Moment(10, 10, training=True, part="weights")
    operations = SDARTSRS().mix(Architecture(alphas, torch.zeros(14)), "normal", at).operations
    assert (operations[:, 2:] == 0).all() and operations[:, 0].unique().numel() > 1
    torch.testing.assert_close(operations.sum(dim=1), torch.ones(14, dtype=torch.float64))


def test_sdarts_rs_leaves_the_largest_where_all_is_clipped_away():
    found, both = 0, parameters(scale=0.0)
    for step in range(40):
        at = drawing(step=step, part="weights")
        moves = torch.empty(E, O, dtype=torch.float64).uniform_(-9, 9, generator=at.generator("normal")).numpy()
        lost = (moves + 1 / O <= 0).all(axis=1)
        operations = numbers(SDARTSRS(epsilon_start=9, epsilon_end=9).mix(both, "normal", at).operations)
        assert (operations[lost] == largest(moves)[lost]).all()
        np.testing.assert_allclose(operations.sum(axis=1), 1, rtol=1e-12)
        found += lost.sum()
    assert found


def test_annealing_is_darts_whose_temperature_falls_after_the_hold():
    config, both = search_config("mini", "fashion_mnist", "annealing"), parameters()
    method, alphas = config.searcher, numbers(both.alphas)
    assert (config.hold, config.epochs) == (10, 20)
    for epoch, T in ((1, 1), (10, 1), (15, 0.1**0.5), (20, 0.1)):
        mixture = method.mix(both, "normal", config.moment(epoch))
        np.testing.assert_allclose(numbers(mixture.operations), softmax(alphas / T, axis=1), rtol=1e-9)
        assert (mixture.edges == 1).all()
    assert isinstance(method, Annealing)
    # Decided edges, whose weights are 1.0 alike, still have an order.
    decided = Architecture(both.alphas.detach() * 8, both.betas)
    assert (method.mix(decided, "normal", config.moment()).operations.amax(dim=1) == 1).sum() > 1
    assert len(set(method.strengths(decided, "normal", config.moment()).edges.tolist())) == E


@pytest.mark.slow
def test_rf_darts_trains_batch_norms_and_the_classifier(tmp_path, capsys):
    config = search_config("tiny", "digits", "rf_darts", threads=1, channels=2, epochs=1, held_out_images=16)
    search(config, tmp_path, progress=False)
    assert "the readable form" in capsys.readouterr().err
    network, _ = load_supernet(tmp_path)
    before = dict(build_supernet(config).named_parameters())
    architecture = {f"{kind}_{name}" for kind in ("alphas", "betas") for name in CELL_TYPES}
    for name, after in network.named_parameters():
        if name in architecture:
            continue
        convolution = after.dim() == 4
        assert (after == before[name]).all() if convolution else (after != before[name]).any(), name


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SAMPLED)
def test_draws_depend_on_seed_epoch_step_part_and_type_of_cell_and_on_nothing_else(cls):
    method, both = cls(), parameters()
    part = "weights" if cls is SDARTSRS else "architecture"

    def draw(cell_type="normal", **where):
        return numbers(method.mix(both, cell_type, drawing(part=part, **where)).operations).tobytes()

    changed = [{}, {"seed": 1}, {"step": 1}, {"epoch": 4}, {"cell_type": "reduce"}]
    assert len({draw(**where) for where in changed}) == len(changed)
    torch.manual_seed(5)
    assert draw() == draw()
    if cls is not SDARTSRS:  # which draws for the weights alone
        weights = numbers(method.mix(both, "normal", drawing(part="weights")).operations).tobytes()
        assert (weights == draw()) == (cls is SNAS)  # one level


@pytest.mark.parametrize("cls", [GDAS, Proxyless])
def test_the_fast_network_agrees_where_most_candidates_weigh_nothing(cls):
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for form in (SuperNetwork, FastSuperNetwork):
        torch.manual_seed(0)
        network = form(Space(), cls(), channels=4, layers=3, classes=10, image_channels=1)
        network.at = drawing()
        logits = network(images)
        gradients = torch.autograd.grad(logits.square().sum(), [network.alphas(name) for name in CELL_TYPES])
        found.append((logits, *gradients))
    for readable, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, readable, rtol=1e-3, atol=1e-4 * readable.abs().max().item())


@pytest.mark.parametrize("partial_channels", [1, 2])
@pytest.mark.parametrize("form", [SuperNetwork, FastSuperNetwork])
@pytest.mark.parametrize("cls", [GDAS, HardST, Proxyless])
def test_a_step_of_the_weights_computes_nobody_who_weighs_nothing(cls, form, partial_channels):
    """Against the network that computes all: the same outputs and gradients, and statistics of those that it needs."""
    images, found = torch.randn(6, 1, 8, 8, dtype=torch.float64), []
    for method in (cls(every_path=True), cls()):
        torch.manual_seed(0)
        sizes = {"channels": 4, "layers": 3, "classes": 10, "image_channels": 1, "partial_channels": partial_channels}
        network = form(Space(), method, **sizes).double()
        network.keep({name: torch.rand(E, O, generator=torch.Generator().manual_seed(1)) < 0.9 for name in CELL_TYPES})
        network.at = drawing(part="weights")
        logits = network(images)
        logits.square().sum().backward()
        found.append((network, logits))
    (whole, expected), (network, logits) = found
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for own, wanted in zip(network.weight_parameters(), whole.weight_parameters(), strict=True):
        gradient = torch.zeros_like(own) if own.grad is None else own.grad
        torch.testing.assert_close(gradient, wanted.grad, rtol=1e-7, atol=1e-9)
    chosen = {name: mixture.operations > 0 for name, mixture in network.mixtures().items()}
    moved, all_moved = network.state_dict(), whole.state_dict()
    for name, value in moved.items():
        if name.endswith(("running_mean", "running_var")):
            _, cell, *rest = name.split(".")
            of_candidate = "edges" in rest
            k, operation = (int(rest[1]), PRIMITIVES.index(rest[2])) if of_candidate else (0, 0)
            computed = not of_candidate or chosen[network.cells[int(cell)].cell_type][k, operation]
            fresh = torch.full_like(value, float(name.endswith("running_var")))
            torch.testing.assert_close(value, all_moved[name] if computed else fresh, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("cls", ["gdas", "hard_st", "proxyless"])
def test_both_forms_train_the_same_weights_where_few_are_computed(cls):
    config, states = search_config("tiny", "digits", cls, threads=1, layers=3, channels=4), []
    images = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for form in (SuperNetwork, FastSuperNetwork):
        network = build_supernet(config, form).double()
        optimizer, scaler = make_optimizers(config, network)[0], torch.amp.GradScaler(enabled=False)
        for step, x in enumerate(images):
            network.at = drawing(step=step, part="weights")
            weight_step(network, optimizer, x, torch.arange(6), config, scaler)
        states.append(network.state_dict())
    for name, readable in states[0].items():
        if not name.endswith("num_batches_tracked"):  # of which a stack of batch-norms has one
            torch.testing.assert_close(states[1][name], readable, rtol=1e-7, atol=1e-9, msg=name)


def test_a_cut_to_two_operations_an_edge_is_finite_where_the_strongest_is_none():
    space = Space(operations=(*PRIMITIVES, "none"))
    alphas = torch.zeros(E, O + 1)
    alphas[:, -1], alphas[:, 0], alphas[:, 1] = 3.0, 2.0, 1.0
    at = Moment(1, 1, space=space)
    both = Architecture(alphas, torch.zeros(E))
    cells = HardST().select(dict.fromkeys(CELL_TYPES, both), EdgeBudget.parse("8/14*2"), at)
    mixture = HardST().mix(both, "normal", at)
    cut = discrete_weights(mixture, cells.normal, "learned", names=space.operations)
    assert (cut.operations == torch.tensor([0.5, 0.5] + 6 * [0.0])).all()


# --- every method -----------------------------------------------------------------------------------------------------

TRAINED = [name for name in METHODS if method_class(name).trains]


def test_methods_are_told_apart_by_title_and_colour():
    for constant in ("title", "colour"):
        values = [getattr(method_class(name), constant) for name in METHODS]
        assert len(set(values)) == len(values), constant


def test_a_method_of_the_field_is_a_file_that_a_reader_takes_in_at_a_glance():
    for name in set(METHODS) - {"darts", "da2s", "da2s_exact", "da2s_descent"}:
        cls = method_class(name)
        source = inspect.getsource(importlib.import_module(cls.__module__))
        assert len(source.splitlines()) <= 80, name
        assert cls.__doc__ and issubclass(cls, Method)


# Every method can be searched so: four channels, for a quarter of them may pass, and cells of two nodes.
SHORT = {"threads": 1, "layers": 3, "channels": 4, "steps": 1, "epochs": 3, "nodes": 4, "held_out_images": 32}
BUDGETS = ("1,2", "1,1")


def search_in_a_process(method, folder, dies_after):
    """A short search that measures the gap, in a process of its own; killed when `dies_after` epochs are on disk."""
    gap = {"gap_every": 2, "gap_budgets": " ".join(BUDGETS)}
    config = search_config("tiny", "digits", method, budget=BUDGETS[0], **gap, **SHORT)

    def die():
        if epochs_done(folder) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    search(config, folder, progress=False, on_epoch=die)


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_every_method_is_killed_resumed_cut_measured_and_retrained(method, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "sklearn.datasets"])
    folder = tmp_path / "run"
    for dies_after, exit_code in ((2, -signal.SIGKILL), (None, 0)):
        process = context.Process(target=search_in_a_process, args=(method, folder, dies_after))
        process.start()
        process.join()
        assert process.exitcode == exit_code
    search_in_a_process(method, tmp_path / "undisturbed", None)
    for name in ("architecture.safetensors", "genotype.json", "history.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name

    run, (network, config) = read_run(folder), load_supernet(folder)
    splits = search_splits(config)
    cut = {"edge_weights": ["learned"], "batch_norms": ["as-trained"], "stages": ["both"]}
    rows = accuracy_drops(network, config, splits.held_out, splits.weights, BUDGETS, **cut)
    assert run.history[-1]["gap"] == rows  # measured while searching, of the network that was kept
    assert len(rows) == len(BUDGETS) and "gap" in run.history[1]
    assert all(np.isfinite(part.operations).all() for part in weight_evolution(run).values())
    for budget, kept in zip(BUDGETS, (3, 2), strict=True):
        cells = genotype_after(run, budget=budget)
        assert len(cells.normal.edges) <= kept and len(cells.reduce.edges) <= kept
    sizes = {"layers": 3, "channels": 4, "epochs": 1, "steps": 1, "threads": 1}
    retrain(retrain_config(run.genotype, "tiny", "digits", **sizes), tmp_path / "retrained", progress=False)
    assert 0 <= read_run(tmp_path / "retrained").result["test_error"] <= 100
