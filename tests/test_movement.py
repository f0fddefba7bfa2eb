"""Which part of α's movement the regulariser makes."""

import pytest
import torch

from daas_lab.compose import search_config
from daas_lab.methods.pruning import GONE
from daas_lab.runs.folder import read_run
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train.movement import RegulariserShare
from daas_lab.train.search import build_supernet, search


def begun(method="da2s"):
    """A network in an epoch in which its regulariser acts, and its α, drawn."""
    network = build_supernet(search_config("tiny", "digits", method, "paper", epochs=4, threads=1))
    network.at = network.at._replace(epoch=3)
    alphas = [network.alphas(name) for name in CELL_TYPES]
    with torch.no_grad():
        for a in alphas:
            a.copy_(torch.randn(a.shape, generator=torch.Generator().manual_seed(1)))
    return network, alphas


def moved_by(pull, momentum, steps=12, method="da2s", rate=0.05):
    """The share after `steps` of Adam on the regulariser and, beside it, `pull` times a fixed direction; and the share
    of that direction, summed up here."""
    network, alphas = begun(method)
    directions = [torch.randn(a.shape, generator=torch.Generator().manual_seed(2)) for a in alphas]
    optimizer = torch.optim.Adam([{"params": alphas}], lr=rate, betas=(momentum, 0.999))
    share, starts = RegulariserShare(network, optimizer), [a.detach().clone() for a in alphas]
    others = [torch.zeros_like(a) for a in alphas]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        share.before_step()
        terms = network.method.regularise(network.architectures(), network.mixtures(), network.at)
        (sum(terms.values()) + sum(pull * (a * d).sum() for a, d in zip(alphas, directions, strict=True))).backward()
        optimizer.step()
        share.after_step()
        for a, d, other in zip(alphas, directions, others, strict=True):
            variance = optimizer.state[a]["exp_avg_sq"] / (1 - 0.999**step)
            other -= rate * pull * d / (variance.sqrt() + 1e-8)
    whole = [a.detach() - start for a, start in zip(alphas, starts, strict=True)]
    along = sum((other * way).sum() for other, way in zip(others, whole, strict=True))
    return share.share(), (along / sum(way.square().sum() for way in whole)).item()


def test_alone_the_regulariser_makes_all_of_the_movement():
    share, others = moved_by(pull=0, momentum=0.0)
    assert share == pytest.approx(1, abs=1e-5) and others == 0


@pytest.mark.parametrize("pull", [0.1, 1.0, 5.0])
def test_its_share_and_the_share_of_all_else_are_the_whole(pull):
    share, others = moved_by(pull, momentum=0.0)
    assert share + others == pytest.approx(1, abs=1e-5) and others > 0.01
    smooth, _ = moved_by(pull, momentum=0.5)  # the searches' own
    assert smooth == pytest.approx(share, abs=0.1)


def test_the_stronger_the_loss_the_smaller_the_share():
    shares = [moved_by(pull, momentum=0.5)[0] for pull in (0, 0.1, 0.3, 3)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 and shares[-1] < 0.2


@pytest.mark.slow
def test_a_search_records_it_while_a_regulariser_moves_alpha(tmp_path):
    for method, epochs in (("da2s", [2, 3]), ("darts", [])):  # λ_c is 0 in epoch 1
        config = search_config("tiny", "digits", method, epochs=3, steps=2, threads=1, alpha_delay=0, lambda_1="const")
        search(config, tmp_path / method, progress=False)
        history = read_run(tmp_path / method).history
        moved = [record["epoch"] for record in history if record.get("regulariser_share")]
        assert moved == epochs


def test_a_step_that_was_not_made_is_no_movement():
    """In float16 the scaler leaves out a step of which a gradient is not finite; the first ones most often."""
    network, alphas = begun()
    optimizer = torch.optim.Adam([{"params": alphas}], lr=0.05, betas=(0.0, 0.999))
    share = RegulariserShare(network, optimizer)
    for made in (False, True, False, True):
        optimizer.zero_grad()
        share.before_step()
        sum(network.method.regularise(network.architectures(), network.mixtures(), network.at).values()).backward()
        if made:
            optimizer.step()
        share.after_step()
        assert (share.share() is None) == (not any(optimizer.state.values()))
    assert share.share() == pytest.approx(1, abs=1e-5)


def test_who_has_left_counts_for_nothing():
    """α of a candidate that has left is at -1e4: what weight decay takes from it dwarfs all movement."""
    network, alphas = begun()
    with torch.no_grad():
        for a in alphas:
            a[:, 5:] += GONE
    optimizer = torch.optim.Adam([{"params": alphas}], lr=0.05, betas=(0.0, 0.999))
    share = RegulariserShare(network, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        share.before_step()
        sum(network.method.regularise(network.architectures(), network.mixtures(), network.at).values()).backward()
        for a in alphas:
            a.grad[:, 5:] += 1e-3 * a.detach()[:, 5:]  # as weight decay does
        optimizer.step()
        share.after_step()
    assert all((a[:, 5:] > GONE / 2).sum() == 0 for a in alphas)
    assert share.share() == pytest.approx(1, abs=1e-5)
