"""The derived network's fast layers against torch's own."""

import copy

import pytest
import torch
from torch.nn import functional as F

from daas_lab.networks.derived import Network, WholeMap
from daas_lab.networks.fast_layers import Depthwise, speed_up
from daas_lab.space.operations import FactorizedReduce
from daas_lab.space.text_forms import PUBLISHED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("side", "k", "stride", "dilation"), [
    (16, 3, 1, 1), (16, 5, 1, 1), (16, 5, 2, 1), (8, 3, 2, 2), (8, 5, 1, 2), (16, 5, 2, 2), (7, 5, 1, 2), (4, 5, 1, 1),
    (2, 5, 1, 1), (9, 7, 1, 1), (1, 3, 1, 1), (1, 5, 1, 1), (2, 3, 1, 1), (2, 5, 2, 1), (2, 3, 2, 1),
    (2, 5, 1, 2), (3, 5, 1, 2),
])  # fmt: skip
def test_output_and_gradients_are_those_of_torch(dtype, side, k, stride, dilation):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(6, 6, k, stride, dilation * (k // 2), dilation, groups=6, bias=False).to(dtype)
    fast = speed_up(torch.nn.Sequential(copy.deepcopy(plain)))
    assert type(fast[0]) is Depthwise
    x = torch.randn(3, 6, side, side, dtype=dtype, requires_grad=True)
    y, ours = plain(x), fast(x)
    g = torch.randn_like(y)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(ours, y, **tolerance)
    pairs = zip(
        torch.autograd.grad(ours, (x, fast[0].weight), g), torch.autograd.grad(y, (x, plain.weight), g), strict=True
    )
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected, **tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1, "stride": (2, 1)},
        {"padding": 2, "stride": 4, "dilation": 2},
        {"padding": (1, 2), "dilation": (1, 2)},
        {"padding": 1, "bias": True},
        {"padding": 1, "groups": 3},
        {"padding": "same"},
        {"padding": 1, "kernel_size": 2},
    ],
    ids=str,
)
def test_convolutions_of_other_forms_are_left_alone(options):
    plain = torch.nn.Conv2d(6, 6, **{"kernel_size": 3, "groups": 6, "bias": False} | options)
    assert type(speed_up(torch.nn.Sequential(plain))[0]) is torch.nn.Conv2d


@pytest.mark.parametrize("name", ["DARTS_V2", "NASNet"])
def test_a_network_computes_the_same_and_keeps_its_names(name):
    torch.manual_seed(0)
    plain = Network(PUBLISHED[name], channels=4, layers=4).double()
    fast = speed_up(copy.deepcopy(plain))
    assert any(isinstance(module, Depthwise) for module in fast.modules())
    assert list(fast.state_dict()) == list(plain.state_dict())
    x, classes = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    for mode in (True, False):
        losses = []
        for network in (plain.train(mode), fast.train(mode)):
            network.zero_grad()
            outputs = network(x)
            logits, auxiliary = outputs if mode else (outputs, outputs)
            losses.append(F.cross_entropy(logits, classes) + F.cross_entropy(auxiliary, classes))
            losses[-1].backward()
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
        for (key, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10, msg=key)
    for (key, theirs), ours in zip(plain.named_buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=key)


def test_gradients_keep_their_maps_memory_format():
    torch.manual_seed(0)
    network = speed_up(Network(PUBLISHED["DARTS_V2"], channels=4, layers=3, auxiliary=False))
    formats = []

    def check(module, gradients, outputs):
        formats.append(outputs[0].is_contiguous(memory_format=torch.channels_last))

    met = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    met += [module.relu for module in network.modules() if isinstance(module, FactorizedReduce)]
    for module in met:
        module.register_full_backward_hook(check)
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    assert formats == [True] * len(met)


def test_a_convolution_of_the_whole_map_is_one():
    torch.manual_seed(0)
    ours = WholeMap(3, 5, 2, bias=False).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, ours.weight)
    torch.testing.assert_close(ours(x), expected)
    g = torch.randn_like(expected)
    inputs = x, ours.weight
    torch.testing.assert_close(torch.autograd.grad(ours(x), inputs, g), torch.autograd.grad(expected, inputs, g))
