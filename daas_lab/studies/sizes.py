"""Sizes of published networks, counted, beside what is printed of them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from daas_lab import paper
from daas_lab.networks.derived import AuxiliaryHead
from daas_lab.report.tables import Row, to_text
from daas_lab.space.cost import count, module_size
from daas_lab.space.genotype import Genotype
from daas_lab.space.published import PUBLISHED, SOURCES
from daas_lab.space.skeleton import FORMS

QUANTITIES = {"params_m": "parameters", "multiply_adds_m": "multiply_adds"}  # in millions → the same in full


def size_of(cells: Genotype, form: str = "cifar") -> dict[str, float]:
    """`params_m` and `multiply_adds_m`, both in millions, of the paper's network with these cells."""
    size = count(cells, form)
    return {"params_m": size["parameters"] / 1e6, "multiply_adds_m": size["multiply_adds"] / 1e6}


# --- networks made by hand --------------------------------------------------------------------------------------------


class Manual(NamedTuple):
    """A network that is no stack of cells."""

    make: Callable[[], nn.Module]
    side: int = 224


def _of_torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision import models  # takes as long to import as torch

    return getattr(models, name)(**options)


def _densenet_bc() -> nn.Module:
    """DenseNet-BC for CIFAR-10, 190 layers of growth rate 40: torchvision's without ImageNet's stem."""
    options = {"growth_rate": 40, "block_config": (31, 31, 31), "num_init_features": 80, "num_classes": 10}
    network: Any = _of_torchvision("DenseNet", **options)
    network.features.conv0 = nn.Conv2d(3, 80, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        delattr(network.features, name)
    return network


def _mobilenet_v1() -> nn.Module:
    """MobileNet (arXiv 1704.04861): torchvision has versions 2 and 3 only."""
    from torchvision.ops import Conv2dNormActivation

    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers, channels = [Conv2dNormActivation(3, 32, stride=2)], 32
    for width, stride in widths:
        layers.append(Conv2dNormActivation(channels, channels, stride=stride, groups=channels))
        layers.append(Conv2dNormActivation(channels, width, 1))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


MANUAL = {
    "densenet_bc_190_40": Manual(_densenet_bc, side=32),
    "googlenet": Manual(partial(_of_torchvision, "GoogLeNet", aux_logits=False, init_weights=False)),
    "mobilenet_v1": Manual(_mobilenet_v1),
    "shufflenet_v2_x2_0": Manual(partial(_of_torchvision, "shufflenet_v2_x2_0")),
    "mnasnet1_0": Manual(partial(_of_torchvision, "mnasnet1_0")),
}


# --- beside what is printed -------------------------------------------------------------------------------------------


def agreement(printed: str, computed: float, auxiliary: float = 0.0) -> str | None:
    """Whether a number is the printed one: "" where it rounds to it, a word where it is cut off to it, or is it with
    the auxiliary head, of size `auxiliary`; None where it is another."""
    digits = len(printed.partition(".")[2])
    for value, word in ((computed, ""), (computed + auxiliary, "with auxiliary head")):
        if f"{value:.{digits}f}" == printed:
            return word
        if f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}" == printed:
            return f"{word}, cut off".removeprefix(", ")
    return None


def table_sizes(table: int) -> list[Row]:
    """A row for each one of Table 1 or 5: `architecture`; the `cell` or network that is counted, `params_m` and
    `multiply_adds_m`; `remark`: as printed, or why not, or why there is nothing to count."""
    rows = []
    for printed in {1: paper.TABLE_1, 5: paper.TABLE_5}[table]:
        counted = paper.COUNTED[table][printed["architecture"]]
        row = {"architecture": printed["architecture"]}
        if counted.what in MANUAL:
            manual = MANUAL[counted.what]
            size = module_size(manual.make, (3, manual.side, manual.side))
            row |= {"cell": counted.what} | {key: n / 1e6 for key, n in zip(QUANTITIES, size, strict=True)}
        elif counted.what:
            row |= {"cell": counted.what} | size_of(PUBLISHED[counted.what], {1: "cifar", 5: "imagenet"}[table])
        words = _words({key: str(printed[key]) for key in QUANTITIES if key in row and printed.get(key)}, row)
        rows.append(row | {"remark": "; ".join(filter(None, (*words, counted.why))) or "as printed"})
    return rows


def cell_rows() -> list[Row]:
    """A row for each published cell: `name`; `parameters` and `multiply_adds` in the CIFAR-10 form, the same with
    `imagenet_` before them in ImageNet's; `source`, what it has `stated`, and in `remark` what differs."""
    rows = []
    for name, cells in PUBLISHED.items():
        source = SOURCES[name]
        sizes, words = {form: count(cells, form) for form in FORMS}, []
        for form, stated in source.get("stated", {}).items():
            head = _auxiliary_size(cells) if form == "cifar" else 0.0
            words += [f"{form} {word}" for word in _words(stated, size_of(cells, form), head)]
        row = {"name": name, **sizes["cifar"]} | {f"imagenet_{key}": n for key, n in sizes["imagenet"].items()}
        rows.append(row | source | {"remark": "; ".join(filter(None, (*words, source.get("remark"))))})
    return rows


def _auxiliary_size(cells: Genotype) -> float:
    """Parameters of the auxiliary head in the CIFAR form, in millions: it follows the second reduction cell."""
    channels = len(cells.reduce.concat) * 4 * 36
    parameters, _ = module_size(lambda: AuxiliaryHead(channels, 10, "cifar"), (channels, 8, 8))
    return parameters / 1e6


def _words(printed: dict[str, str], computed: Row, auxiliary: float = 0.0) -> list[str]:
    """What `agreement` says of parameters and multiply-adds, where it says anything."""
    heads = {"params_m": auxiliary}
    said = {key: agreement(text, computed[key], heads.get(key, 0.0)) for key, text in printed.items()}
    return [f"{QUANTITIES[key].replace('_', '-')} {word}" for key, word in said.items() if word]


def format_cells(rows: Sequence[Row]) -> str:
    """`cell_rows` for a terminal: sizes in millions, in brackets what the source states."""
    shown = []
    for row in rows:
        line = {"cell": row["name"]}
        for form, prefix in (("cifar", ""), ("imagenet", "imagenet_")):
            stated = row.get("stated", {}).get(form, {})
            for key, name in QUANTITIES.items():
                number = f"{row[prefix + name] / 1e6:.2f}"
                line[prefix + name] = f"{number} ({stated[key]})" if key in stated else number
        shown.append(line | {"remark": row["remark"]})
    return f"""{to_text(shown)}

In millions; in brackets what the source states, and in the remark why that is another number. CIFAR-10: 36 channels,
20 cells; ImageNet: 48 channels, 14 cells, 224 pixels; both without auxiliary head. Sources: daas-lab cells --json"""
