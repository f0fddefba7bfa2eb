"""The space that is searched: nodes, edges and candidate operations of a cell.

Node numbers are those of the paper: 0 and 1 are the outputs of the two previous cells, 2 … N-1 are intermediate, and
node j may take an edge from every i < j. Edges are listed by node, then by source: (0,2) (1,2) (0,3) (1,3) (2,3) …

Operations go by name; what the names mean is the table in operations.py. A set of operations is written as a text of
names of that table and of `FILE.py:function`, separated by commas, or as one of `NAMED_SETS`; "" is the paper's seven.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from daas_lab.errors import one_of, refuse
from daas_lab.fields import check_text
from daas_lab.own_files import canonical_own, digest_of, is_own, own_name

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# Operations of published cells that the paper's super-network does not offer.
EXTRA_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7", "conv_3x1_1x3")
SKIP = "skip_connect"
# The paper's other six, each with a skip connection beside it: o(x) + x. Of one set, `all_skip`.
WITH_SKIP = tuple(f"{name}_and_skip" for name in PRIMITIVES if name != SKIP)
# Sets that go by a name: what a method does without its favourite, and with it everywhere.
NAMED_SETS = {"no_skip": tuple(name for name in PRIMITIVES if name != SKIP), "all_skip": WITH_SKIP}
NONE = "none"  # the edge passes nothing: a candidate of DARTS's first space, never part of a cell
CELL_TYPES = ("normal", "reduce")

# Name → FILE.py:function of the user's own operations that were named in this process (operations.py).
own_operations: dict[str, str] = {}


def known_operations() -> tuple[str, ...]:
    """The names of all operations that a cell can have in this process."""
    return (*PRIMITIVES, *EXTRA_PRIMITIVES, *WITH_SKIP, *own_operations)


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


def choices(operations: Sequence[str]) -> list[int]:
    """Places of the operations that a cell can have: all but `none`."""
    return [o for o, name in enumerate(operations) if name != NONE]


@dataclass(frozen=True)
class Space:
    """What a search chooses among: the nodes of a cell, its two inputs included, and candidate operations by name."""

    nodes: int = 6
    operations: tuple[str, ...] = PRIMITIVES

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(source, node) of every edge, E of them, in the order of α and β."""
        return cell_edges(self.nodes)

    @property
    def choices(self) -> list[int]:
        """Places of the operations that a cell can have: all but `none`."""
        return choices(self.operations)


# --- sets of operations as text ---------------------------------------------------------------------------------------


def split_operations(text: str) -> list[str]:
    """The parts of a set of operations, checked as far as that goes without executing a file."""
    check_text("operations", text)
    named = NAMED_SETS.get(text.strip(), PRIMITIVES if not text.strip() else None)
    parts = list(named) if named else [part.strip() for part in text.split(",")]
    table = (*PRIMITIVES, *EXTRA_PRIMITIVES, *WITH_SKIP, NONE)
    for part in parts:
        if not is_own(part):
            one_of("operations", part, (*table, "FILE.py:function", *NAMED_SETS))
        elif own_name(part) in table:
            raise refuse("operations", part, f"a function of another name: {own_name(part)} is the table's")
    names = list(map(operation_name, parts))
    if len(set(names)) < len(names):
        raise refuse("operations", text, "names that differ from each other")
    if len(choices(names)) < 2:
        raise refuse("operations", text, f"two or more to choose from, besides {NONE}")
    return parts


def operation_name(part: str) -> str:
    """The name in cells: of one's own operation that of its function."""
    return own_name(part) if is_own(part) else part


def canonical_operations(text: str) -> str:
    """The same text for the same set: files by their absolute paths, "" for the paper's seven in their order."""
    parts = [canonical_own(part) if is_own(part) else part for part in split_operations(text)]
    return "" if tuple(parts) == PRIMITIVES else ",".join(parts)


def operations_digest(text: str) -> str:
    """The digests of the files that a set names, in its order, separated by commas; "" where it names none."""
    return ",".join(digest_of("operations", part) for part in split_operations(text) if is_own(part))
