"""The projection onto weights of an exact sum: sums, gradients, extremes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from daas_lab.methods.projection import project


@st.composite
def problems(draw):
    """Scores of n edges of one of several magnitudes, ties among them, and a real number to keep."""
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    scores = draw(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
    keep = draw(st.one_of(st.integers(1, len(scores)), st.floats(0.05, len(scores) + 1)))
    return [scale * score for score in scores], float(keep)


@settings(max_examples=300)
@given(problems())
def test_weights_sum_exactly_and_gradients_stay_finite(problem):
    scores, keep = problem
    for dtype in (torch.float32, torch.float64):
        beta = torch.tensor(scores, dtype=dtype, requires_grad=True)
        (x,) = project([beta], [keep])
        weights = x.sigmoid()
        assert abs(weights.sum().item() - min(keep, len(scores))) < 1e-6
        # As the super-network gets them.
        assert abs(weights.to(dtype).double().sum().item() - min(keep, len(scores))) < 1e-6
        # A larger score has no smaller weight, up to the last places of float64: equal scores are rounded apart.
        assert (weights.detach()[beta.argsort()].diff() >= -4 * torch.finfo(torch.float64).eps).all()
        if keep < len(scores):
            (weights * torch.arange(1.0, len(scores) + 1)).sum().backward()
            assert beta.grad.isfinite().all()
            # Raising all scores together changes nothing.
            assert abs(beta.grad.double().sum().item()) < 1e-5


@pytest.mark.parametrize("scores", [[1e4, -1e4], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0], [-1e4, 1e4, 0.0, 3.0]])
def test_extremes_decide_for_the_largest_or_share_between_equals(scores):
    weights = project([torch.tensor(scores)], [1])[0].sigmoid()
    largest = torch.tensor(scores) == max(scores)
    torch.testing.assert_close(weights, largest.double() / largest.sum(), rtol=0, atol=1e-12)


def test_rows_are_solved_together_as_alone_and_by_an_independent_root_finder():
    rng = np.random.default_rng(0)
    rows, keep = [rng.normal(0, 4, size=n) for n in (2, 5, 3, 4, 2)], [1, 1.7, 2, 3.25, 2]
    together = project([torch.tensor(row) for row in rows], keep)
    for row, k, x in zip(rows, keep, together, strict=True):
        if k == len(row):
            assert (x.sigmoid() == 1).all()
            continue
        tau = brentq(lambda t, row=row, k=k: expit(row + t).sum() - k, -100, 100, xtol=1e-14)
        np.testing.assert_allclose(x.sigmoid().numpy(), expit(row + tau), atol=1e-12)
        torch.testing.assert_close(project([torch.tensor(row)], [k])[0], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep", [1, 2, 2.6, 0.3])
def test_gradients_by_finite_differences(keep):
    beta = torch.tensor([0.4, -1.3, 2.2, 0.1, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda beta: project([beta, beta[:3]], [keep, 1.5])[0], beta)
    assert torch.autograd.gradcheck(lambda beta: torch.cat(project([beta, 2 * beta[1:]], [keep, keep])).sigmoid(), beta)


def test_the_gradient_is_that_of_the_implicit_function():
    beta = torch.tensor([0.4, -1.3, 2.2], dtype=torch.float64, requires_grad=True)
    b = project([beta], [1.2])[0].sigmoid()
    (gradient,) = torch.autograd.grad(b[0], beta)
    s = (b * (1 - b)).detach()
    expected = -s[0] * s / s.sum()
    expected[0] += s[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert math.isclose(b.sum().item(), 1.2, abs_tol=1e-12)
