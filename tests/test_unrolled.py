"""The second-order gradient against autograd through one explicit step of the weights."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from daas_lab.compose import search_config
from daas_lab.methods.unrolled import unrolled_gradients
from daas_lab.networks.fast_supernet import make_supernet
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.train.search import build_supernet
from tests import reference


def setting(method):
    """Both forms of a tiny super-network in float64, and two batches (training, architecture)."""
    config = search_config("tiny", "digits", method, nodes=4, budget="1,2", layers=3, channels=4)
    oracle, fast = (build_supernet(config, form).double() for form in (SuperNetwork, make_supernet))
    torch.manual_seed(0)
    for parameter in oracle.arch_parameters():
        parameter.data = torch.randn_like(parameter)
    fast.load_state_dict(oracle.state_dict())
    batches = [(torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(10, (8,))) for _ in range(2)]
    return oracle, fast, batches


def explicit_gradients(network, batches, optimizer, velocities):
    """d/dα L_val(w − ξ (∇L_train + decay · w + momentum · velocity), α) with the graph of the step kept."""
    (x, y), (arch_x, arch_y) = batches
    group = optimizer.param_groups[0]
    architecture = network.arch_parameters()
    names = {name: p for name, p in network.named_parameters() if all(p is not a for a in architecture)}
    gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(names.values()), create_graph=True)
    moved = {}
    for (name, weight), gradient in zip(names.items(), gradients, strict=True):
        velocity = velocities[name]
        moved[name] = weight - group["lr"] * (gradient + group["weight_decay"] * weight + group["momentum"] * velocity)
    loss = F.cross_entropy(functional_call(network, moved, (arch_x,)), arch_y)
    return torch.autograd.grad(loss, architecture, allow_unused=True)


@pytest.mark.parametrize("method", ["darts2", "pc_darts"])  # without and with a part for β
def test_unrolled_gradient_is_that_of_autograd_through_the_step(method):
    oracle, fast, batches = setting(method)
    (x, y), (arch_x, arch_y) = batches
    optimizer = torch.optim.SGD(fast.weight_parameters(), lr=0.05, momentum=0.9, weight_decay=3e-2)
    F.cross_entropy(fast(x), y).backward()  # one step, so that there is a velocity
    optimizer.step()
    oracle.load_state_dict(fast.state_dict())
    before = {name: value.clone() for name, value in fast.state_dict().items()}
    gradients = unrolled_gradients(
        fast,
        fast.arch_parameters(),
        fast.weight_parameters(),
        optimizer,
        lambda: F.cross_entropy(fast(x), y),
        lambda: F.cross_entropy(fast(arch_x), arch_y),
        # So small that no ReLU or maximum switches within it, which autograd would not see.
        radius=1e-6,
    )
    assert all((value == before[name]).all() for name, value in fast.state_dict().items()), "it leaves no trace"
    velocities = reference.gradients(fast, lambda parameter: optimizer.state[parameter].get("momentum_buffer"))
    theirs = explicit_gradients(oracle, batches, optimizer, velocities)
    loss = F.cross_entropy(oracle(arch_x), arch_y)
    first_order = torch.autograd.grad(loss, oracle.arch_parameters(), allow_unused=True)
    assert sum(exact is None for exact in theirs) == (2 if method == "darts2" else 0), "β has no part in DARTS"
    for gradient, exact, plain in zip(gradients, theirs, first_order, strict=True):
        assert (gradient is None) == (exact is None)
        if exact is not None:
            assert (gradient - exact).norm() <= 1e-3 * exact.norm()
            assert (plain - exact).norm() > 1e-2 * exact.norm(), "the second-order term matters here"
