"""Eq. (1)–(7) against formulas written here in float64 numpy, and their gradients against finite differences."""

import numpy as np
import pytest
import torch

from daas_lab.config import PROTOCOLS
from daas_lab.methods import losses
from daas_lab.methods.da2s import steepen
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES


def numpy_entropy(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return -(p * np.log(p)).sum(-1)


@pytest.fixture
def parameters():
    rng = np.random.default_rng(0)
    alphas = {name: rng.normal(size=(14, 7)) for name in CELL_TYPES}
    betas = {name: rng.normal(0.5, 0.8, size=14) for name in CELL_TYPES}
    return alphas, betas


def tensors(arrays):
    return {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}


def test_eq_1_is_the_negative_mean_log_probability():
    logits, targets = np.random.default_rng(1).normal(size=(5, 10)), np.arange(5)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(5), targets].mean()
    ours = losses.classification_loss(torch.tensor(logits), torch.tensor(targets))
    assert ours.item() == pytest.approx(expected)


def test_eq_2_and_3_sum_the_entropies_of_28_edges(parameters):
    alphas, _ = parameters
    for name in CELL_TYPES:
        ours = losses.operation_entropy(tensors(alphas)[name])
        np.testing.assert_allclose(ours.numpy(), numpy_entropy(alphas[name]), rtol=1e-12)
    expected = sum(numpy_entropy(alphas[name]).sum() for name in CELL_TYPES)
    assert losses.operation_loss(tensors(alphas)).item() == pytest.approx(expected, rel=1e-12)


def numpy_node_edge_loss(beta, keep, factor):
    capped = np.minimum(beta, 1)
    return numpy_entropy(capped) + factor * (capped[beta > 0].sum() - keep) ** 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("budget", ["8/14", "6/14", "5/14", "4/14", "3/14"])
def test_eq_4_and_5(parameters, protocol, budget):
    _, betas = parameters
    constants = PROTOCOLS[protocol]
    keep = {"8/14": [2, 2, 2, 2], "6/14": [1, 1, 2, 2], "5/14": [1, 1, 1, 2]}.get(budget, [1, 1, 1, 1])
    expected = 0.0
    for name in CELL_TYPES:
        for node, beta in zip(range(2, 6), np.split(betas[name], [2, 5, 9]), strict=True):
            if node >= (3 if protocol == "authors" else 2):
                factor = 0.2 if protocol == "authors" else 1.0
                expected += numpy_node_edge_loss(beta, keep[node - 2], factor)
    targets = {name: EdgeBudget.parse(budget).targets(name) for name in CELL_TYPES}
    ours = losses.edge_loss(tensors(betas), targets, constants.first_edge_node, constants.square_factor)
    assert ours.item() == pytest.approx(expected, rel=1e-12)


def test_eq_5_of_no_node_is_zero():
    betas = {"normal": torch.ones(2, requires_grad=True)}
    loss = losses.edge_loss(betas, {"normal": {2: 1}}, first_node=3)
    assert loss.shape == () and loss.item() == 0


def test_eq_4_does_not_see_betas_below_zero_in_its_square_and_caps_them_at_one():
    def square(beta):
        beta = torch.tensor(beta, dtype=torch.float64)
        return (losses.node_edge_loss(beta, 2, 1.0) - losses.node_edge_loss(beta, 2, 0.0)).item()

    assert square([5.0, 1.0, -3.0]) == pytest.approx(0)
    assert square([0.5, -2.0, -0.1]) == pytest.approx(1.5**2)


def test_eq_4_factor_moves_the_optimum_from_two_edges_to_one():
    two, one = torch.tensor([1.0, 1.0, -5.0]), torch.tensor([1.0, -5.0, -5.0])
    assert losses.node_edge_loss(two, 2, 1.0) < losses.node_edge_loss(one, 2, 1.0)
    assert losses.node_edge_loss(two, 2, 0.2) > losses.node_edge_loss(one, 2, 0.2)
    assert losses.node_edge_loss(one, 2, 0.2).item() == pytest.approx(0.24, abs=0.01)


def test_eq_6_and_7():
    c, o, e = torch.tensor([1.0, 10.0, 100.0])
    assert losses.objective(c, o, e) == 111
    assert losses.prioritised_objective(c, o, e, 0.5, 0.2, 0.1) == pytest.approx(1 + 0.5 * (0.2 * 10 + 4 * 0.1 * 100))


@pytest.mark.parametrize("function", [losses.entropy, lambda x: losses.node_edge_loss(x[0], 2, 0.2), steepen])
def test_gradients_by_finite_differences(function):
    x = torch.tensor([[0.3, -0.4, 0.9, -2.1], [0.2, -0.7, 0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_operation_loss_for_several_operations_is_zero_at_that_many_and_not_at_others(keep):
    for chosen in range(1, 5):
        logits = torch.full((1, 7), -50.0)
        logits[0, :chosen] = 0
        value = losses.operation_entropy(logits, keep).item()
        if chosen == keep:
            assert value == pytest.approx(0, abs=1e-5)
        else:
            assert value > 0.3
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: losses.operation_entropy(logits, keep), x)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_descent_of_the_operation_loss_leaves_as_many_operations_as_are_asked_for(keep):
    generator = torch.Generator().manual_seed(0)
    alphas = (1e-3 * torch.randn(100, 7, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([alphas], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        losses.operation_loss({"normal": alphas}, keep).backward()
        optimizer.step()
    a = alphas.softmax(dim=1).detach()
    decided = (a > 0.9 / keep).sum(dim=1)
    assert set(decided.tolist()) <= {keep, keep - 1}, "a lesser minimum has one operation fewer"
    assert (decided == keep).float().mean() >= 0.75


@pytest.mark.parametrize("scale", [1e4, 1e8, 1e30])
@pytest.mark.parametrize("pattern", [[1, -1, 0, 0.5], [-1, -1, -1, -1], [1, 1, 1, 1], [-1, -1, -0.5, -1]])
def test_values_and_gradients_stay_finite(pattern, scale):
    for function in (
        lambda x: losses.entropy(x),
        lambda x: losses.operation_entropy(x, keep=2),
        lambda x: losses.node_edge_loss(x, 2, 0.2),
        lambda x: losses.entropy(steepen(x)),
    ):
        x = (scale * torch.tensor(pattern)).requires_grad_()
        value = function(x)
        value.backward()
        assert value.isfinite(), (function, value)
        assert x.grad.isfinite().all(), (function, x.grad)
