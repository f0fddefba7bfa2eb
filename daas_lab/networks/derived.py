"""The derived network: a genotype made into a network that is trained from scratch.

Legend: B batch, C channels of a cell, H = W side of its map.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daas_lab.errors import one_of
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import CellGenotype, Genotype
from daas_lab.space.operations import make_operation, preprocessing
from daas_lab.space.skeleton import FORMS, layers_of, make_second_stem, make_stem


class Join(nn.Module):
    """The output of a cell from those of its nodes."""

    def forward(self, *nodes: Tensor) -> Tensor:
        """[B, C, H, W] of every node → [B, nodes C, H, W]."""
        return torch.cat(nodes, dim=1)


class Cell(nn.Module):
    """A discrete cell: every node is the sum of its operations, the output the concatenation of the chosen nodes."""

    def __init__(self, genotype: CellGenotype, channels_in: tuple[int, int], channels: int, reduces: tuple[bool, bool]):
        super().__init__()
        before_reduces, self_reduces = reduces
        self.concat = genotype.concat
        self.wiring = [(edge.source, edge.node) for edge in genotype.edges]
        self.preprocess_0, self.preprocess_1 = preprocessing(channels_in, channels, before_reduces, affine=True)
        self.operations = nn.ModuleList(
            make_operation(edge.operation, channels, 2 if self_reduces and edge.source < 2 else 1, affine=True)
            for edge in genotype.edges
        )
        self.join = Join()

    def forward(self, input_0: Tensor, input_1: Tensor, drop_path: float) -> Tensor:
        """Outputs of the two cells before → [B, len(concat) C, H, W]."""
        states = {0: self.preprocess_0(input_0), 1: self.preprocess_1(input_1)}
        for (source, node), operation in zip(self.wiring, self.operations, strict=True):
            z = operation(states[source])
            if drop_path > 0 and self.training and not isinstance(operation, nn.Identity):
                z = drop_paths(z, drop_path)
            states[node] = states[node] + z if node in states else z
        return self.join(*(states[node] for node in self.concat))


def drop_paths(z: Tensor, probability: float) -> Tensor:
    """Zero whole samples of z [B, C, H, W] with `probability`, and scale the others up to keep the mean."""
    keep = torch.rand(len(z), 1, 1, 1, device=z.device, dtype=z.dtype) >= probability
    return z * keep / (1 - probability)


class AuxiliaryHead(nn.Sequential):
    """The classifier at two thirds of the depth whose loss is added in training."""

    def __init__(self, channels: int, classes: int, form: str):
        # DARTS's ImageNet head has no second batch-norm.
        second_norm = [nn.BatchNorm2d(768)] if form == "cifar" else []
        super().__init__(
            nn.ReLU(),
            AuxiliaryPool(),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            WholeMap(128, 768, 2, bias=False),
            *second_norm,
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )


class WholeMap(nn.Conv2d):
    """A convolution whose kernel is as large as its map: a product of matrices, as which it is several times faster."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, k, k] → [B, C', 1, 1]."""
        x, weight = (values.permute(0, 2, 3, 1).flatten(1) for values in (x, self.weight))  # as they lie in memory
        return F.linear(x, weight)[..., None, None]


class AuxiliaryPool(nn.Module):
    """[B, C, H, W] → [B, C, 2, 2]: DARTS's 5 × 5 average pool on its 8 × 8 and 7 × 7 maps, adaptive on all others."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] in (7, 8):
            return F.avg_pool2d(x, 5, stride=x.shape[-1] - 5)
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return halves(x)
        return F.adaptive_avg_pool2d(x, 2)


def halves(x: Tensor) -> Tensor:
    """`adaptive_avg_pool2d(x, 2)` of x [B, C, H, W] up to rounding, with a gradient that is deterministic on CUDA."""
    side = x.shape[-1]
    return x.expand(-1, -1, 2, 2) if side == 1 else F.avg_pool2d(x, -(-side // 2), side // 2)


class Network(nn.Module):
    """A network of `layers` cells with the cells of `genotype`, in the CIFAR or the ImageNet form.

    `drop_path` is the probability in force; the trainer raises it over the epochs. `make_cell`: of the arguments of
    `Cell`, a cell in its place.
    """

    def __init__(
        self,
        genotype: Genotype,
        *,
        channels: int = 36,
        layers: int = 20,
        classes: int = 10,
        form: str = "cifar",
        image_channels: int = 3,
        auxiliary: bool = True,
        make_cell: Callable[..., nn.Module] = Cell,
    ):
        super().__init__()
        one_of("form", form, FORMS)
        self.drop_path = 0.0
        self.genotype, self.form = genotype, form
        self.stem = make_stem(form, image_channels, channels)
        if form == "imagenet":
            self.stem_2 = make_second_stem(channels)
        self.cells = nn.ModuleList()
        self.auxiliary_layer = 2 * layers // 3
        self.auxiliary_head = None
        concat = {name: len(genotype.cell(name).concat) for name in CELL_TYPES}
        for layer, (cell_type, *shape) in enumerate(layers_of(form, channels, layers, concat)):
            cell = genotype.cell(cell_type)
            self.cells.append(make_cell(cell, *shape))
            channels_out = len(cell.concat) * shape[1]
            if auxiliary and layer == self.auxiliary_layer:
                self.auxiliary_head = AuxiliaryHead(channels_out, classes, form)
        self.classifier = nn.Linear(channels_out, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images [B, image channels, H, W] → logits [B, classes]; with the auxiliary ones in training, if there."""
        first = self.stem(x)
        states = (first, first) if self.form == "cifar" else (first, self.stem_2(first))
        auxiliary_logits = None
        for layer, cell in enumerate(self.cells):
            states = (states[1], cell(*states, self.drop_path))
            if self.training and self.auxiliary_head is not None and layer == self.auxiliary_layer:
                auxiliary_logits = self.auxiliary_head(states[1])
        logits = self.classifier(states[1].mean(dim=(2, 3)))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)


def leaves_weights_unused(genotype: Genotype) -> bool:
    """Whether some operations or inputs of a cell have no part in its output, so that their weights get no gradient."""
    for cell in (genotype.normal, genotype.reduce):
        used = set(cell.concat)
        for edge in reversed(cell.edges):  # a node's edges come before those that leave it
            if edge.node not in used:
                return True
            used.add(edge.source)
        if not {0, 1} <= used:
            return True
    return False
