"""Reads the reference vectors (numbers computed by the paper authors' code) into our networks.

Their keys are `weight/<path>` under the authors' module paths; `supernet_key` and `derived_key` give our name for each.
"""

import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from daas_lab.compose import search_config
from daas_lab.networks.derived import Network
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.space.cell_space import PRIMITIVES
from daas_lab.space.genotype import Genotype
from daas_lab.space.text_forms import PUBLISHED
from daas_lab.train.search import build_supernet

DATA = Path(__file__).parent / "data"

# Positions inside the authors' nn.Sequential of an operation → our names.
_POSITIONS = {
    "sep_conv": {1: "depthwise_1", 2: "pointwise_1", 3: "norm_1", 5: "depthwise_2", 6: "pointwise_2", 7: "norm_2"},
    "dil_conv": {1: "depthwise", 2: "pointwise", 3: "norm"},
}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def load_supernet(path: Path) -> tuple[SuperNetwork, dict[str, Tensor]]:
    """The super-network of a reference file, with its weights, α and β, and all tensors of the file."""
    tensors, header = _read(path)
    config = search_config(
        "tiny",
        "cifar10",
        "da2s",
        "authors",
        channels=int(header["C"]),
        layers=int(header["layers"]),
        nodes=int(header["nodes"]) + 2,
        classes=int(header["num_classes"]),
    )
    network = build_supernet(config)
    state = {supernet_key(key): value for key, value in _weights(tensors).items()}
    for cell_type in ("normal", "reduce"):
        state[f"alphas_{cell_type}"] = tensors[f"alpha/{cell_type}"]
        # Node 2 has no β in the authors' code; ours has two that play no part.
        state[f"betas_{cell_type}"] = torch.cat([torch.zeros(2), *node_betas(tensors, f"beta/{cell_type}")])
    _load(network, state, path)
    return network, tensors


def node_betas(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """β (or a gradient for it) of the nodes 3, 4, … in order."""
    keys = [key for key in tensors if re.fullmatch(re.escape(prefix) + r"/node\d+", key)]
    return [tensors[key] for key in sorted(keys, key=lambda key: int(key.rsplit("node", 1)[1]))]


def load_derived(path: Path) -> tuple[Network, dict[str, Tensor]]:
    """The derived network of a reference file with its weights, and all tensors of the file."""
    tensors, header = _read(path)
    genotype = PUBLISHED[header["genotype"]]
    weights = _weights(tensors)
    network = Network(
        genotype,
        channels=int(header["C"]),
        layers=int(header["layers"]),
        classes=len(weights["classifier.bias"]),
        image_channels=weights["stem.0.weight"].shape[1],
        auxiliary=any(key.startswith("auxiliary_head.") for key in weights),
    )
    layers = int(header["layers"])
    _load(network, {derived_key(key, genotype, layers): value for key, value in weights.items()}, path)
    return network, tensors


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("weight/"): value for key, value in tensors.items() if key.startswith("weight/")}


def supernet_key(key: str) -> str:
    """Our name for the authors' super-network parameter `key`."""
    if match := re.fullmatch(r"cells\.(\d+)\._ops\.(\d+)\._ops\.(\d+)\.(.+)", key):
        cell, edge, operation, rest = match.groups()
        name = PRIMITIVES[int(operation)]
        return f"cells.{cell}.edges.{edge}.{name}.{_operation_key(name, rest)}"
    return _shared_key(key)


def derived_key(key: str, genotype: Genotype, layers: int) -> str:
    """Our name for the authors' parameter `key` of the derived network with `layers` cells of `genotype`."""
    if match := re.fullmatch(r"cells\.(\d+)\._ops\.(\d+)\.(.+)", key):
        cell, edge, rest = match.groups()
        reduces = int(cell) in (layers // 3, 2 * layers // 3)
        name = (genotype.reduce if reduces else genotype.normal).edges[int(edge)].operation
        return f"cells.{cell}.operations.{edge}.{_operation_key(name, rest)}"
    if match := re.fullmatch(r"auxiliary_head\.features\.(\d+)\.(.+)", key):
        return f"auxiliary_head.{match[1]}.{match[2]}"
    return _shared_key(key.replace("auxiliary_head.classifier.", "auxiliary_head.9."))


def _operation_key(name: str, rest: str) -> str:
    """`op.5.weight` of a separable convolution → `depthwise_2.weight`; a skip's `conv_1.weight` stays."""
    if match := re.fullmatch(r"op\.(\d+)\.(.+)", rest):
        return f"{_POSITIONS[name[:8]][int(match[1])]}.{match[2]}"
    return rest.replace("bn.", "norm.")


def _shared_key(key: str) -> str:
    if match := re.fullmatch(r"cells\.(\d+)\.preprocess([01])\.(?:op\.(\d)\.)?(.+)", key):
        cell, which, position, rest = match.groups()
        inner = {None: "", "1": "conv.", "2": "norm."}[position]
        return f"cells.{cell}.preprocess_{which}.{inner}{rest.replace('bn.', 'norm.')}"
    return key


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def gradients(network: SuperNetwork, read=lambda parameter: parameter.grad) -> dict[str, Tensor | None]:
    """Gradients of the fast super-network, or what else `read` finds for a parameter, under the names of its
    `state_dict`; None where there is none."""
    found = {}
    for name, parameter in network.named_parameters():
        match = re.match(r"cells\.(\d+)\.", name)
        cell = network.cells[int(match[1])] if match else None
        parts = [key for key, (owner, *_) in cell.layout.items() if match[0] + owner == name] if cell else []
        value = read(parameter)
        for key in parts:
            found[match[0] + key] = None if value is None else cell.entry(key, value)
        if not parts and len(parameter):  # a stack that nobody is left in has no name in a `state_dict`
            found[name] = value
    return found


def _load(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load `state`, all of it; a file does not hold batch-norm's running statistics, which stay at their start."""
    own = network.state_dict()
    for key, value in state.items():
        if key not in own:
            raise KeyError(f"{path}: {key} is no parameter of the network")
        if own[key].shape != value.shape:
            raise ValueError(f"{path}: {key} is {list(value.shape)}, the network's is {list(own[key].shape)}")
    missing = sorted(key for key in set(own) - set(state) if not key.endswith(_BUFFERS))
    if missing:
        raise KeyError(f"{path}: no value for {', '.join(missing)}")
    network.load_state_dict(own | state)
