"""How cells are stacked to a network, and what it has beside their edges: of super-networks and derived ones alike."""

from collections.abc import Iterator, Mapping

from torch import nn

from daas_lab.errors import refuse
from daas_lab.space.cell_space import CELL_TYPES

FORMS = ("cifar", "imagenet")


def check_side(side: int, form: str = "cifar") -> None:
    """Raise unless a network of this form can halve images of `side` pixels as often as it does."""
    if form == "imagenet" and side % 32:
        raise refuse("side", side, "divisible by 32, for the ImageNet form halves it five times")
    if side % 4:
        raise refuse("side", side, "divisible by 4, for the two reduction cells halve it twice")


def layers_of(form: str, channels: int, layers: int, concat: Mapping[str, int]) -> Iterator[tuple]:
    """Of each layer the type of its cell, the channels of its two inputs, its own, and what reduces: the cell before,
    itself. `concat`: cell type → how many nodes are its output."""
    channels_in = (3 * channels, 3 * channels) if form == "cifar" else (channels, channels)
    before_reduces = form == "imagenet"  # the second stem does
    for layer in range(layers):
        reduces = layer in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduces else 1
        cell_type = CELL_TYPES[reduces]
        yield cell_type, channels_in, channels, (before_reduces, reduces)
        channels_in, before_reduces = (channels_in[1], concat[cell_type] * channels), reduces


def make_stem(form: str, image_channels: int, channels: int) -> nn.Sequential:
    """Images → the input of the first cell, in ImageNet's form at a quarter of the side."""
    if form == "cifar":
        return nn.Sequential(_conv(image_channels, 3 * channels), nn.BatchNorm2d(3 * channels))
    return nn.Sequential(
        _conv(image_channels, channels // 2, stride=2),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(),
        _conv(channels // 2, channels, stride=2),
        nn.BatchNorm2d(channels),
    )


def make_second_stem(channels: int) -> nn.Sequential:
    """What halves the first stem's output once more, in ImageNet's form."""
    return nn.Sequential(nn.ReLU(), _conv(channels, channels, stride=2), nn.BatchNorm2d(channels))


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
