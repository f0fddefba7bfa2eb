"""What a cell costs: parameters and multiply-adds of the derived network that is stacked of it.

Each module is counted once for every width, stride and side that it has; whoever limits a budget (`limited`) adds up
the same numbers.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from daas_lab.errors import one_of, refuse
from daas_lab.fields import coerce
from daas_lab.space import limited
from daas_lab.space.budget import QUANTITIES, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, choices
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import OPERATIONS, FactorizedReduce, relu_conv_norm
from daas_lab.space.skeleton import FORMS, check_side, layers_of, make_second_stem, make_stem
from daas_lab.space.text_forms import load_genotype

# --- counted ----------------------------------------------------------------------------------------------------------


def count(
    genotype: Genotype | str,
    form: str = "cifar",
    channels: int | None = None,
    layers: int | None = None,
    classes: int | None = None,
    side: int | None = None,
    image_channels: int = 3,
) -> dict[str, int]:
    """`{"parameters", "multiply_adds"}` of the network without auxiliary head, for one image of `side` pixels.

    `genotype`: also what `load_genotype` takes. Defaults are the paper's: CIFAR 36 channels, 20 cells, 10 classes, 32
    pixels; ImageNet 48, 14, 1000, 224. Multiply-adds are those of convolutions and the classifier, as torch's flop
    counter finds them.
    """
    one_of("form", form, FORMS)
    defaults = (36, 20, 10, 32) if form == "cifar" else (48, 14, 1000, 224)
    given = {"channels": channels, "layers": layers, "classes": classes, "side": side}
    channels, layers, classes, side = (
        default if value is None else coerce(name, int, value, {"at_least": 1})
        for default, (name, value) in zip(defaults, given.items(), strict=True)
    )
    image_channels = coerce("image_channels", int, image_channels, {"at_least": 1})
    check_side(side, form)
    cells = {name: load_genotype(genotype).cell(name) for name in CELL_TYPES}
    concat = {name: len(cell.concat) for name, cell in cells.items()}
    edges = {name: [(edge.operation, edge.source < 2) for edge in cell.edges] for name, cell in cells.items()}
    sizes = _sizes(concat, edges, form, channels, layers, classes, side, image_channels)
    return dict(zip(QUANTITIES, sizes, strict=True))


def _sizes(
    concat: Mapping[str, int],
    edges: Mapping[str, Iterable[tuple[str, bool]]],
    form: str = "cifar",
    channels: int = 36,
    layers: int = 20,
    classes: int = 10,
    side: int = 32,
    image_channels: int = 3,
) -> tuple[int, ...]:
    """`QUANTITIES` of a network. `edges`: cell type → (operation, whether it comes from an input of the cell), …"""
    parts: list[tuple[Callable[..., nn.Module], tuple, int, int | None]]
    parts = [(make_stem, (form, image_channels, channels), image_channels, side)]
    if form == "imagenet":
        parts.append((make_second_stem, (channels,), channels, side // 4))
        side //= 8
    for cell_type, channels_in, width, (before_reduces, reduces) in layers_of(form, channels, layers, concat):
        if before_reduces:
            parts.append((FactorizedReduce, (channels_in[0], width, True), channels_in[0], 2 * side))
        else:
            parts.append((relu_conv_norm, (channels_in[0], width, True), channels_in[0], side))
        parts.append((relu_conv_norm, (channels_in[1], width, True), channels_in[1], side))
        for operation, from_input in edges[cell_type]:
            stride = 2 if reduces and from_input else 1
            at = side // 2 if reduces and not from_input else side
            parts.append((_made(operation), (width, stride, True), width, at))
        side //= 2 if reduces else 1
    parts.append((nn.Linear, (concat[cell_type] * width, classes), concat[cell_type] * width, None))
    return tuple(map(sum, zip(*(_size(*part) for part in parts), strict=True)))


def _made(operation: str) -> Callable[..., nn.Module]:
    if operation not in OPERATIONS:
        raise refuse("operation", operation, "named before it is counted: --own FILE.py:function")
    return OPERATIONS[operation].make


@functools.lru_cache(maxsize=4096)
def _size(make: Callable[..., nn.Module], arguments: tuple, channels: int, side: int | None) -> tuple[int, int]:
    """Parameters and multiply-adds of `make(*arguments)` for one map of `channels` and `side`, or for one vector."""
    return module_size(lambda: make(*arguments), (channels,) if side is None else (channels, side, side))


def module_size(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters of a module, and the multiply-adds of its convolutions and matrices for one input of `shape`."""
    with torch.device("meta"):
        module = make().eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.empty(1, *shape))
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


# --- limits of a budget -----------------------------------------------------------------------------------------------


def meets(cells: Genotype, budget: EdgeBudget) -> bool:
    """Whether the paper's CIFAR-10 network of these cells is within the limits of `budget`."""
    return not budget.limits or all(count(cells)[name] <= most for name, most in budget.limits)


def check_limits(budget: EdgeBudget, names: Sequence[str]) -> None:
    """Raise unless there is a cell of the operations `names` that meets the limits of `budget`."""
    if budget.limits:
        limited.check(budget, names, sizes_under(budget, names))


def sizes_under(budget: EdgeBudget, names: Sequence[str]) -> limited.Sizes:
    """What `limited` adds up; a quantity without a limit counts 0."""
    limits = dict(budget.limits)

    def limited_only(sizes: Iterable[int]) -> tuple[int, ...]:
        return tuple(size if name in limits else 0 for name, size in zip(QUANTITIES, sizes, strict=True))

    nothing: dict[str, list[tuple[str, bool]]] = {cell_type: [] for cell_type in CELL_TYPES}

    def around(normal: int, reduce: int) -> tuple[int, ...]:
        return limited_only(_sizes(dict(zip(CELL_TYPES, (normal, reduce), strict=True)), nothing))

    def of_edge(cell_type: str, operation: str, from_input: bool) -> tuple[int, ...]:
        whole = _sizes(dict.fromkeys(CELL_TYPES, 1), nothing | {cell_type: [(operation, from_input)]})
        return tuple(size - rest for size, rest in zip(limited_only(whole), around(1, 1), strict=True))

    keys = product(CELL_TYPES, [names[o] for o in choices(names)], (True, False))
    edges = {key: of_edge(*key) for key in keys}

    return limited.Sizes(edges, around)
