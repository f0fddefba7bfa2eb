"""The two protocols: the constants in which the paper's text and its published code differ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """The constants of DA²S, and of every search the end of its weights' learning rate."""

    first_edge_node: int  # L^E sums over the nodes from this one on; edges of the nodes before it have no β
    square_factor: float  # factor of the squared term of Eq. (4)
    regulariser_factor: float  # factor of the whole regulariser of Eq. (7)
    initial_noise: float  # scale of the normal noise in the initial α and β
    learning_rate_min: float  # where the cosine of the weights' learning rate ends
    delay_alphas: bool  # α rests for the first d epochs
    partial_channels: int  # K: 1/K of the channels pass through the operations
    authors_log: bool  # keep the slip of the delayed logarithm (schedules.py)
    steepens: bool  # a = softmax(g(2α)), not softmax(α)
    scales_edges: bool  # b times the number of a node's inputs


PROTOCOLS = {
    "paper": Protocol(2, 1.0, 1.0, 1e-3, 0.0, False, 4, False, False, False),
    "authors": Protocol(3, 0.2, 0.1, 1e-4, 0.001, True, 1, True, True, True),
}
