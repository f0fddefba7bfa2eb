"""Numbers that configurations are composed from: methods, protocols, presets of both trainers.

A preset is a function of the data set's facts that gives the fields it sets; `config.search_config` and
`config.retrain_config` add what all presets share.
"""

from dataclasses import dataclass

# --- methods and protocols --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What a search method is, and what a search by it starts from unless the user says otherwise."""

    trains: bool = True  # there is a super-network at all
    learns_edges: bool = False  # β has a part in it
    lambdas: tuple[str, str, str] | None = None  # λ_c, λ_1, λ_2; None: the objective is L^C alone, for every budget
    regulariser_factor: float | None = None  # factor of the whole regulariser of Eq. (7); None: the protocol's
    partial_channels: int | None = 1  # K; None: the protocol's
    warmup: float = 0.0  # share of the epochs in which α and β rest
    hold: float = 0.0  # share of the epochs before λ, k and the temperature begin to move
    temperature: float = 1.0  # T of softmax(α / T) at the end

    @property
    def serves_every_budget(self) -> bool:
        """Whether one search can be cut to any budget, because no loss asked for one."""
        return self.trains and self.lambdas is None


METHODS = {
    "darts": Method(),  # first order
    "darts2": Method(),  # second order: through one unrolled step of the weights
    # Xu et al., arXiv 1907.05737: their α and β rest in 15 of 50 epochs.
    "pc_darts": Method(learns_edges=True, partial_channels=4, warmup=0.3),
    "da2s": Method(learns_edges=True, lambdas=("linear", "log:delayed", "const"), partial_channels=None),
    "da2s_exact": Method(
        learns_edges=True, lambdas=("linear", "const", "const"), regulariser_factor=0.5, hold=0.5, temperature=0.1
    ),
    "random": Method(trains=False),  # cells drawn uniformly under the budget
}


@dataclass(frozen=True)
class Protocol:
    """The constants in which the paper's text and its published code differ."""

    first_edge_node: int  # L^E sums over the nodes from this one on
    square_factor: float  # factor of the squared term of Eq. (4)
    regulariser_factor: float  # factor of the whole regulariser of Eq. (7)
    initial_noise: float  # scale of the normal noise in the initial α and β
    learning_rate_min: float  # where the cosine of the weights' learning rate ends
    delay_alphas: bool  # α rests for the first d epochs
    partial_channels: int  # K: 1/K of the channels pass through the operations
    authors_log: bool  # keep the slip of the delayed logarithm (schedules.py)


PROTOCOLS = {
    "paper": Protocol(2, 1.0, 1.0, 1e-3, 0.0, False, 4, False),
    "authors": Protocol(3, 0.2, 0.1, 1e-4, 0.001, True, 1, True),
}


# --- presets ----------------------------------------------------------------------------------------------------------

SEARCH_PRESETS = {
    # Seconds, on any data set: the tests run the real trainer with it.
    "tiny": lambda facts: {
        "side": 8,
        "layers": 3,
        "channels": 4,
        "weight_images": 96,
        "architecture_images": 96,
        "held_out_images": 96,
        "batch_size": 16,
        "epochs": 3,
        "steps": 3,
    },
    # A minute and a half a search: the effect itself, on digits. 40 epochs × 12 steps; learning rate × steps is 36, for
    # with 5.8 to 14 the edges of node 2 were still undecided at the end and the cut cost DA²S 6 to 69 points.
    "quick": lambda facts: {
        "side": min(facts.side, 8),
        "layers": 3,
        "channels": 8,
        "weight_images": 600,
        "architecture_images": 600,
        "held_out_images": 200,
        "batch_size": 32,
        "epochs": 40,
        "steps": 12,
        "arch_learning_rate": 0.075,
    },
    # Minutes, on Fashion-MNIST scaled to 16 × 16. 20 epochs × 50 steps; learning rate × steps is 50, of which α, which
    # rests for three epochs, can use 42.
    "mini": lambda facts: {
        "side": min(facts.side // 4 * 4, 16),
        "layers": 4,
        "channels": 8,
        "weight_images": 3200 if facts.side > 8 else 600,
        "architecture_images": 3200 if facts.side > 8 else 600,
        "held_out_images": 2000 if facts.side > 8 else 200,
        "batch_size": 32,
        "epochs": 20,
        "steps": 50 if facts.side > 8 else 18,
        "arch_learning_rate": 0.05,
    },
    # The paper's own search.
    "full": lambda facts: {
        "side": min((facts.side + 3) // 4 * 4 + 4 * (facts.side == 28), 224),
        "layers": 8,
        "channels": 16,
        "batch_size": 64,
        "epochs": 50,
        "arch_learning_rate": 3e-4,
    },
}

_RETRAIN_IMAGENET = {
    "form": "imagenet",
    "side": 224,
    "layers": 14,
    "channels": 48,
    "batch_size": 1024,
    "micro_batches": 8,  # of 128 images: on one to eight GPUs the same training
    "epochs": 250,
    "learning_rate": 0.5,
    "schedule": "linear",
    "warmup": 5,
    "weight_decay": 3e-5,
    "label_smoothing": 0.1,
    "drop_path": 0.0,
    "cutout": 0,
}

RETRAIN_PRESETS = {
    "tiny": lambda facts: {
        "side": 8,
        "layers": 3,
        "channels": 4,
        "train_images": 96,
        "batch_size": 16,
        "epochs": 2,
        "steps": 3,
    },
    "quick": lambda facts: {
        "side": min(facts.side, 8),
        "layers": 5,
        "channels": 8,
        "train_images": 1_400,
        "batch_size": 50,
        "epochs": 20,
        "cutout": 2,
        "drop_path": 0.1,
    },
    # Ten epochs underfit (with cutout and drop-path a published cell's training accuracy stayed three points below its
    # test accuracy), so neither is used.
    "mini": lambda facts: {
        "side": min(facts.side // 4 * 4, 16),
        "layers": 5,
        "channels": 16,
        "train_images": 10_000 if facts.side > 8 else 1_400,
        "batch_size": 64,
        "epochs": 10,
        "cutout": 0,
        "drop_path": 0.0,
    },
    # The paper's own retraining, on CIFAR-10 and on ImageNet.
    "full": lambda facts: (
        _RETRAIN_IMAGENET
        if facts.side >= 224
        else {"side": 32, "layers": 20, "channels": 36, "batch_size": 96, "epochs": 600, "drop_path": 0.3}
    ),
}
