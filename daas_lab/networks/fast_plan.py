"""What a fast cell computes, besides tensors: which edges leave a node together, and which operations they still have.

Edges are named by their place in *leaving order*: by source, then by node, so that the edges that leave a node are
neighbours. Of the edges of a group each operation has its own: all of them until candidates leave the search.
"""

from functools import lru_cache
from typing import NamedTuple

from daas_lab.space.cell_space import PRIMITIVES, cell_edges

MAX_POOL, AVERAGE_POOL, SKIP, SEP_3, SEP_5, DIL_3, DIL_5 = range(len(PRIMITIVES))
SEPARABLE, DILATED = (SEP_3, SEP_5), (DIL_3, DIL_5)
# Whose the rows of a cell's stacks are, one kind after the other: kernels of sep_1, sep_2 and dil; pointwise matrices
# of sep_1, sep_2 and dil, 3×3 and 5×5 each; batch-norms, which the pools have as well.
KERNELS = {3: (SEP_3, SEP_3, DIL_3), 5: (SEP_5, SEP_5, DIL_5)}
POINTWISE = (*SEPARABLE, *SEPARABLE, *DILATED)
NORMED = (MAX_POOL, AVERAGE_POOL, *POINTWISE)

Edges = tuple[int, ...]
Group = dict[int, Edges]  # convolution → which of a group's edges have it; without those that none has


def together(edges: Edges) -> slice | None:
    """Edges that are neighbours as a slice."""
    return slice(edges[0], edges[-1] + 1) if edges[-1] - edges[0] + 1 == len(edges) else None


class Pooled(NamedTuple):
    """Which of max-pool, average-pool and, at stride 1, skip any edge that leaves a node still has, and the smallest
    range of these edges."""

    operations: tuple[int, ...]
    edges: slice


def leaving_order(nodes: int) -> list[tuple[int, int]]:
    """(source, node) of every edge of a cell, in leaving order."""
    return sorted(cell_edges(nodes))


class Plan(NamedTuple):
    """What a cell's computation depends on besides tensors."""

    nodes: int
    reduces: bool
    partial_channels: int
    eps: float
    candidates: tuple[Edges, ...]  # of each operation the edges, by their place in leaving order, that still have it

    def only(self, chosen: list[list[bool]]) -> "Plan":
        """With none but the `chosen` [E, O] of its candidates, edges in leaving order."""
        having = (tuple(e for e in edges if chosen[e][o]) for o, edges in enumerate(self.candidates))
        return self._replace(candidates=tuple(having))

    def leaving(self, source: int) -> tuple[int, int, int]:
        """The slice of edges that leave `source`, and the first of their nodes, counted from 0 at node 2."""
        return _leaving(self.nodes, source)

    def stride(self, source: int) -> int:
        """Of the edges that leave `source`."""
        return 2 if self.reduces and source < 2 else 1

    def having(self, operation: int, source: int) -> Edges:
        """The edges that leave `source` and still have `operation`."""
        first, stop, _ = self.leaving(source)
        return tuple(e for e in self.candidates[operation] if first <= e < stop)

    def rows(self, operation: int, source: int) -> slice:
        """Of the edges that still have `operation`, one after the other, those that leave `source`."""
        start = sum(e < self.leaving(source)[0] for e in self.candidates[operation])
        return slice(start, start + len(self.having(operation, source)))

    def pooled(self, source: int) -> Pooled | None:
        """What is left of the pools, and at stride 1 of the skip, of what leaves `source`."""
        kinds = (MAX_POOL, AVERAGE_POOL, *([SKIP] if self.stride(source) == 1 else []))
        edges = {kind: having for kind in kinds if (having := self.having(kind, source))}
        if not edges:
            return None
        return Pooled(tuple(edges), slice(min(map(min, edges.values())), max(map(max, edges.values())) + 1))

    def reduced_skips(self, source: int) -> tuple[Edges, slice]:
        """At stride 2 the edges that leave `source` and still have a skip, and their rows in the stack of skips."""
        rows = self.rows(SKIP, source)
        return (self.having(SKIP, source), rows) if self.stride(source) == 2 else ((), slice(rows.start, rows.start))

    def groups(self, source: int, size: int) -> list[Group]:
        """The edges that leave `source`, `size` at a time, by the convolutions that they still have."""
        first, stop, _ = self.leaving(source)
        groups = []
        for a in range(first, stop, size):
            own = {o: tuple(e for e in self.candidates[o] if a <= e < min(a + size, stop)) for o in POINTWISE[2:]}
            if any(own.values()):
                groups.append({o: edges for o, edges in own.items() if edges})
        return groups


@lru_cache(maxsize=256)
def _leaving(nodes: int, source: int) -> tuple[int, int, int]:
    positions = [k for k, (i, _) in enumerate(leaving_order(nodes)) if i == source]
    return positions[0], positions[-1] + 1, max(0, source - 1)
