"""Our networks and losses against numbers that the paper authors' code computed."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from daas_lab.config import PROTOCOLS
from daas_lab.methods import losses, schedules
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.text_forms import PUBLISHED
from tests import reference

SUPERNET = reference.DATA / "supernet_c4_l3.safetensors"
DERIVED = reference.DATA / "derived_darts_v2_c4_l5.safetensors"


def close(ours, theirs, relative=1e-3):
    assert (ours - theirs).norm() <= relative * theirs.norm() + 1e-9, (ours, theirs)


def test_supernet_forward_and_gradients():
    network, tensors = reference.load_supernet(SUPERNET)
    logits = network(tensors["input"])
    assert (logits - tensors["out/logits"]).abs().max() < 1e-4
    loss = losses.classification_loss(logits, tensors["target"])
    torch.testing.assert_close(loss, tensors["out/cross_entropy"], rtol=1e-5, atol=0)
    loss.backward()
    for cell_type in CELL_TYPES:
        close(network.alphas(cell_type).grad, tensors[f"grad_ce/alpha/{cell_type}"])
        theirs = torch.cat(reference.node_betas(tensors, f"grad_ce/beta/{cell_type}"))
        close(network.betas(cell_type).grad[2:], theirs)
        assert (network.betas(cell_type).grad[:2] == 0).all(), "node 2 has no β under the authors' protocol"
    gradients, compared = reference.gradients(network), 0
    for key, norm in tensors.items():
        if key.startswith("grad_ce_norm/"):
            close(gradients[reference.supernet_key(key.removeprefix("grad_ce_norm/"))].norm(), norm)
            compared += 1
    assert compared == len(gradients) - len(network.arch_parameters())
    network.eval()
    assert (network(tensors["input"]) - tensors["out/eval_logits"]).abs().max() < 1e-4


def test_regulariser_terms_and_gradients():
    network, tensors = reference.load_supernet(SUPERNET)
    epoch, constants = 20, PROTOCOLS["authors"]
    lambda_c, lambda_1, lambda_2 = (
        schedules.coefficient(text, epoch, 50) for text in ("linear", "log:delayed", "const")
    )
    weights = network.mixtures()
    operation = losses.operation_loss({name: weights[name].operation_logits for name in CELL_TYPES})
    budget = EdgeBudget.parse("8/14")
    edge = losses.edge_loss(
        {name: network.betas(name) for name in CELL_TYPES},
        {name: budget.targets(name) for name in CELL_TYPES},
        constants.first_edge_node,
        constants.square_factor,
    )
    classification = losses.classification_loss(network(tensors["input"]), tensors["target"])
    total = losses.prioritised_objective(
        classification, operation, edge, constants.regulariser_factor * lambda_c, lambda_1, lambda_2
    )
    factor = constants.regulariser_factor * lambda_c
    torch.testing.assert_close(factor * lambda_1 * operation, tensors["out/operation_term"], rtol=1e-5, atol=0)
    torch.testing.assert_close(factor * 4 * lambda_2 * edge, tensors["out/edge_term"], rtol=1e-5, atol=0)
    torch.testing.assert_close(total, tensors["out/total_loss"], rtol=1e-5, atol=0)
    (total - classification).backward()
    for cell_type in CELL_TYPES:
        close(network.alphas(cell_type).grad, tensors[f"grad_reg/alpha/{cell_type}"])
        theirs = torch.cat(reference.node_betas(tensors, f"grad_reg/beta/{cell_type}"))
        close(network.betas(cell_type).grad[2:], theirs)


def test_derived_network():
    network, tensors = reference.load_derived(DERIVED)
    logits, auxiliary_logits = network(tensors["input"])
    assert (logits - tensors["out/logits"]).abs().max() < 1e-4
    assert (auxiliary_logits - tensors["out/aux_logits"]).abs().max() < 1e-4
    loss = F.cross_entropy(logits, tensors["target"]) + 0.4 * F.cross_entropy(auxiliary_logits, tensors["target"])
    torch.testing.assert_close(loss, tensors["out/loss"], rtol=1e-5, atol=0)
    loss.backward()
    parameters, compared = dict(network.named_parameters()), 0
    for key, norm in tensors.items():
        if key.startswith("grad_norm/"):
            close(
                parameters[reference.derived_key(key.removeprefix("grad_norm/"), PUBLISHED["DARTS_V2"], 5)].grad.norm(),
                norm,
            )
            compared += 1
    assert compared == len(list(network.parameters()))
    network.eval()
    assert (network(tensors["input"]) - tensors["out/eval_logits"]).abs().max() < 1e-4


def test_a_key_that_does_not_fit_is_named(tmp_path):
    tensors = load_file(SUPERNET)
    tensors["weight/classifier.wrong"] = torch.zeros(1)
    header = {"nodes": "4", "num_classes": "10", "layers": "3", "C": "4"}
    save_file(tensors, tmp_path / "x.safetensors", header)
    with pytest.raises(KeyError, match=r"classifier\.wrong"):
        reference.load_supernet(tmp_path / "x.safetensors")
