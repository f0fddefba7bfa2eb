"""The space that is searched: nodes, edges and candidate operations of a cell.

Node numbers are those of the paper: 0 and 1 are the outputs of the two previous cells, 2 … N-1 are intermediate, and
node j may take an edge from every i < j. Edges are listed by node, then by source: (0,2) (1,2) (0,3) (1,3) (2,3) …
"""

from dataclasses import dataclass

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# Operations of published cells that the super-network does not offer.
EXTRA_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7")
CELL_TYPES = ("normal", "reduce")


def cell_edges(nodes: int = 6) -> list[tuple[int, int]]:
    """All (source, node) pairs of a cell with `nodes` nodes, in the order of α and β."""
    return [(source, node) for node in range(2, nodes) for source in range(node)]


def input_edges(node: int) -> list[int]:
    """Places in `cell_edges` of the edges that enter `node`, which has as many inputs as its number."""
    first = sum(range(2, node))
    return list(range(first, first + node))


def nodes_of(edges: int) -> int:
    """Number of nodes of a cell with `edges` edges, the inverse of `len(cell_edges(nodes))`."""
    return next(nodes for nodes in range(3, edges + 4) if len(cell_edges(nodes)) >= edges)


@dataclass(frozen=True)
class Space:
    """What a search chooses among: the nodes of a cell, its two inputs included, and candidate operations by name."""

    nodes: int = 6
    operations: tuple[str, ...] = PRIMITIVES

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(source, node) of every edge, E of them, in the order of α and β."""
        return cell_edges(self.nodes)
