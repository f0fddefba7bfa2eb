"""The network that a retraining configuration asks for: a cell's from scratch, or one that was cut with its weights."""

from daas_lab.config import RetrainConfig
from daas_lab.networks.derived import Network
from daas_lab.networks.fast_layers import speed_up
from daas_lab.networks.kept import load_kept, size_of
from daas_lab.space.cost import count
from daas_lab.space.kept_file import read_cut


def build_network(config: RetrainConfig) -> Network:
    """The network in its fast form."""
    return speed_up(plain_network(config))


def plain_network(config: RetrainConfig) -> Network:
    """The same with torch's own convolutions: what the fast form is tested and timed against."""
    auxiliary = config.auxiliary_weight > 0
    if config.weights:
        return load_kept(config.weights, config.weights_digest, auxiliary)
    return Network(
        config.cells,
        channels=config.channels,
        layers=config.layers,
        classes=config.classes,
        form=config.form,
        image_channels=config.image_channels,
        auxiliary=auxiliary,
    )


def network_size(config: RetrainConfig) -> dict[str, int]:
    """`{"parameters", "multiply_adds"}` without the auxiliary head, for one image."""
    if config.weights:
        return size_of(read_cut(config.weights, config.weights_digest)[0], config.side)
    names = ("form", "channels", "layers", "classes", "side", "image_channels")
    return count(config.cells, **{name: getattr(config, name) for name in names})
