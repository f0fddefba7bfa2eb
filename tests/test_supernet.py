"""The fast super-network against the readable one: the same function, to rounding."""

import copy

import pytest
import torch
from torch.nn import functional as F

from daas_lab.compose import search_config
from daas_lab.methods.method import Mixture
from daas_lab.networks.fast_supernet import FastSuperNetwork
from daas_lab.networks.supernet import MixedEdge, SuperNetwork
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES
from daas_lab.train.search import build_supernet
from tests.reference import gradients

LOGITS = {torch.float32: 1e-4, torch.float64: 1e-10}
GRADIENTS = {torch.float32: 1e-3, torch.float64: 1e-8}


def pair(dtype=torch.float32, *, side=8, method="da2s", protocol="authors", checkpointed=False, **changes):
    """Both forms with the same weights and an architecture away from its start; images and their classes."""
    changes = {"channels": 4, "partial_channels": 1} | changes
    config = search_config("tiny", changes.pop("dataset", "cifar10"), method, protocol, side=side, **changes)
    oracle = build_supernet(config, SuperNetwork).to(dtype)
    fast = build_supernet(config, FastSuperNetwork, checkpointed=checkpointed).to(dtype)
    torch.manual_seed(1)
    for parameter in oracle.arch_parameters():
        parameter.data = torch.randn_like(parameter)
    fast.load_state_dict(oracle.state_dict())
    images = torch.randn(6, config.image_channels, side, side, dtype=dtype)
    return oracle, fast, images, torch.arange(6)


def assert_same(oracle, fast, images, classes, weights=None):
    """In float32, rounding can carry a number over the kink of a ReLU or of a maximum, and so move every gradient
    before it, one of few numbers by a tenth: in about one draw of images in ten, in other draws on other processors. A
    mistake shows in every draw, so that one of eight without a difference is enough; float64 has to agree at once.
    """
    dtype = images.dtype
    for _ in range(1 if dtype == torch.float64 else 8):
        oracle.zero_grad()
        fast.zero_grad()
        logits, ours = oracle(images, weights), fast(images, weights)
        assert (ours - logits).abs().max() < LOGITS[dtype]
        F.cross_entropy(logits, classes).backward()
        F.cross_entropy(ours, classes).backward()
        assert_same_buffers(oracle, fast, dtype)
        off = gradient_differences(oracle, fast)
        if max(off.values()) < GRADIENTS[dtype]:
            return
        images = torch.randn_like(images)
    raise AssertionError({name: error for name, error in off.items() if error > GRADIENTS[dtype]})


def gradient_differences(oracle, fast):
    """Parameter → relative difference of its gradients; the same parameters have one in both."""
    ours, off = gradients(fast), {}
    assert ours.keys() == {name for name, _ in oracle.named_parameters()}
    for name, parameter in oracle.named_parameters():
        theirs = parameter.grad
        assert (theirs is None) == (ours[name] is None), name
        if theirs is not None:
            off[name] = float((ours[name] - theirs).norm() / (theirs.norm() + 1e-3))
    return off


def assert_same_buffers(oracle, fast, dtype):
    ours = fast.state_dict()
    for name, theirs in oracle.named_buffers():
        torch.testing.assert_close(ours[name], theirs, rtol=LOGITS[dtype], atol=LOGITS[dtype] / 10, msg=name)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"side": 16, "method": "darts"},
        {"side": 32, "channels": 2},
        {"protocol": "paper", "channels": 8, "partial_channels": 4},
        {"channels": 4, "partial_channels": 4, "layers": 3, "side": 12, "checkpointed": True},
        {"channels": 6, "partial_channels": 3, "nodes": 4, "budget": "1,2", "side": 16},
        {"channels": 4, "partial_channels": 2, "nodes": 4, "budget": "1,2", "layers": 4, "side": 32},
        {"protocol": "paper", "checkpointed": True},
        {"channels": 5, "layers": 3, "side": 12},
        {"dataset": "fashion_mnist", "nodes": 3, "budget": "2", "side": 28},
        {"channels": 36, "nodes": 4, "budget": "2,2"},
    ],
    ids=str,
)
def test_training_and_evaluation(dtype, changes):
    oracle, fast, images, classes = pair(dtype, **changes)
    assert_same(oracle, fast, images, classes)
    assert_same(oracle.eval(), fast.eval(), images, classes)


@pytest.mark.parametrize("partial_channels", [1, 2])
@pytest.mark.parametrize(
    "operations",
    ["no_skip", ",".join(("none", *PRIMITIVES)), "dil_conv_5x5,none,skip_connect", "avg_pool_3x3,none,max_pool_3x3"],
)
def test_some_of_the_seven_operations_in_any_order_and_none(operations, partial_channels):
    """All of them, what is left when many have retired (of some edges nobody but `none`), and who is computed alone."""
    changes = {"operations": operations, "partial_channels": partial_channels, "side": 12}
    oracle, fast, images, classes = pair(torch.float64, **changes)
    assert type(build_supernet(search_config("tiny", "cifar10", **changes, channels=4))) is FastSuperNetwork
    generator = torch.Generator().manual_seed(0)

    def some(share):
        return {name: torch.rand(oracle.alphas(name).shape, generator=generator) < share for name in CELL_TYPES}

    for candidates in (some(1), some(0.4)):
        oracle.train().keep(candidates)
        fast.train().keep(candidates)
        assert_same(oracle, fast, images, classes)
        assert_same(oracle.eval(), fast.eval(), images, classes)
    oracle.train(), fast.train()
    drawn = some(0.5)
    weights = {
        name: Mixture(drawn[name] * mixture.operations, mixture.edges, computed=drawn[name])
        for name, mixture in oracle.mixtures().items()
    }
    logits = [network(images, weights) for network in (oracle, fast)]
    torch.testing.assert_close(*logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_partial_channels_by_a_plain_formula(stride):
    """PC-DARTS: the first C/K channels are mixed, the others pass or are halved, and the channels are interleaved."""
    torch.manual_seed(0)
    B, C, K, side = 2, 12, 3, 8
    edge = MixedEdge(PRIMITIVES, C, stride, K).double()
    x, weights = torch.randn(B, C, side, side, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
    out = edge(x, dict(zip(PRIMITIVES, weights, strict=True)))
    mixed = torch.zeros(B, C // K, side // stride, side // stride, dtype=torch.float64)
    for weight, operation in zip(weights, edge.values(), strict=True):
        mixed += weight * operation(x[:, : C // K])
    for channel in range(C):
        # Channel c of the result is, in K blocks of C/K, number c // K of block c % K.
        source = channel % K * (C // K) + channel // K
        if source < C // K:
            expected = mixed[:, source]
        elif stride == 1:
            expected = x[:, source]
        else:
            corners = [x[:, source, row::2, column::2] for row in (0, 1) for column in (0, 1)]
            expected = torch.stack(corners).amax(dim=0)
        torch.testing.assert_close(out[:, channel], expected, rtol=1e-12, atol=1e-12)


def test_discretized_weights_and_recalibration():
    oracle, fast, images, classes = pair()
    edges = len(oracle.alphas("normal"))
    one_hot = F.one_hot(torch.arange(edges) % 7, 7).float()
    kept = (torch.arange(edges) % 3 > 0).float()
    weights = {name: Mixture(one_hot, kept) for name in ("normal", "reduce")}
    for network in (oracle, fast):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
    with torch.no_grad():
        for batch in (images, images.flip(3) * 0.5):
            assert (oracle(batch, weights) - fast(batch, weights)).abs().max() < 1e-4
    assert_same_buffers(oracle, fast, torch.float32)
    assert_same(oracle.eval(), fast.eval(), images, classes, weights)


def test_each_step_computes_only_its_own_gradients():
    oracle, fast, images, classes = pair(torch.float64)
    for name in ("weight_parameters", "arch_parameters"):
        for network in (oracle, fast):
            network.zero_grad()
            network.requires_grad_(True)
            for parameter in getattr(network, name)():
                parameter.requires_grad_(False)
            F.cross_entropy(network(images), classes).backward()
        assert max(gradient_differences(oracle, fast).values()) < GRADIENTS[torch.float64]


def test_states_load_both_ways_and_copies_are_independent():
    oracle, fast, images, _ = pair()
    fast(images)
    oracle.load_state_dict(fast.state_dict())
    twin = copy.deepcopy(fast)
    fast.eval(), oracle.eval()
    assert (oracle(images) - fast(images)).abs().max() < 1e-4
    twin(images)
    assert_same_buffers(oracle, fast, torch.float32)


def test_autocast_stays_close_to_float32():
    oracle, fast, images, classes = pair()
    exact = oracle(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast(images)
    assert (logits.float() - exact).norm() < 0.1 * exact.norm()
    F.cross_entropy(logits.float(), classes).backward()
    assert all(parameter.grad.isfinite().all() for parameter in fast.weight_parameters())
    ours = fast.state_dict()
    means = [(a, ours[name]) for name, a in oracle.named_buffers() if "var" in name]
    assert all(b.dtype == torch.float32 and (a - b).norm() < 0.1 * a.norm() for a, b in means)
