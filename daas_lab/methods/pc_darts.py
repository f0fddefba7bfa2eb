"""PC-DARTS (Xu et al., arXiv 1907.05737): partial channels, and edge weights of their own."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from daas_lab.methods.masks import split_nodes
from daas_lab.methods.method import Architecture, Method, Mixture, Moment


@dataclass(frozen=True, kw_only=True)
class PCDarts(Method):
    """b = softmax of β over a node's inputs (edge normalisation); a quarter of the channels pass the operations.

    Edges rank by b times their largest a, as published."""

    title: ClassVar[str] = "PC-DARTS"
    colour: ClassVar[str] = "#CC79A7"
    learns_edges: ClassVar[bool] = True
    edge_weight: ClassVar[str] = "learned"

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """K = 4; α and β rest in 15 of 50 epochs."""
        return {"partial_channels": 4, "warmup": round(0.3 * epochs)}

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """a = softmax(α), b = softmax of β over a node's inputs."""
        alphas, betas = architecture
        edges = torch.cat([logits.softmax(dim=0) for logits in split_nodes(betas)])
        return Mixture(alphas.softmax(dim=1), edges, alphas, betas)
