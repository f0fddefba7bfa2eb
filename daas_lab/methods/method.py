"""What a search method is. The base class is DARTS, first order; every other method is one file beside this one.

Legend: E edges of a cell, O candidate operations, in the order of `Space.edges` and `Space.operations`.
"""

import difflib
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from daas_lab.errors import refuse
from daas_lab.fields import check_fields, number
from daas_lab.methods.pruning import alive
from daas_lab.space.budget import EdgeBudget, Group
from daas_lab.space.cell_space import CELL_TYPES, Space
from daas_lab.space.cost import meets, sizes_under
from daas_lab.space.genotype import Genotype
from daas_lab.space.limited import strongest_within
from daas_lab.space.selection import derive_cell

if TYPE_CHECKING:  # for readers and editors: a room below does not import these
    from daas_lab.config import SearchConfig
    from daas_lab.train.search import SearchState
    from daas_lab.train.search_steps import ArchitectureStep


class Architecture(NamedTuple):
    """The architecture parameters of one cell type."""

    alphas: Tensor  # α [E, O]
    betas: Tensor  # β [E], or what a method has in its place


class Mixture(NamedTuple):
    """What the network mixes one cell type with; the logits only where something is computed from them."""

    operations: Tensor  # a [E, O]
    edges: Tensor  # b [E]
    # [E, O], a = softmax of these; or what a is drawn, rounded or sharpened from
    operation_logits: Tensor | None = None
    edge_logits: Tensor | None = None  # [E], of a node's softmax, or of σ
    # [E, O], who is computed in training; by default all. Everyone else weighs 0, and α asks it for no gradient.
    computed: Tensor | None = None

    @property
    def ranks(self) -> Tensor:
        """What operations rank by [E, O]: logits, for weights saturate (in float32 two of them may both be 1.0)."""
        return self.operations if self.operation_logits is None else self.operation_logits

    @property
    def shares(self) -> Tensor:
        """Operation weights that rank edges [E, O]: of the logits' softmax, where there are logits, for one-hot weights
        are all alike."""
        return self.operations if self.operation_logits is None else self.operation_logits.softmax(dim=1)


class Strengths(NamedTuple):
    """How the candidates of one cell type rank."""

    operations: Tensor  # [E, O]
    edges: Tensor  # [E]


class Moment(NamedTuple):
    """Where in a search something is asked for. A sampled relaxation samples only while `training`."""

    epoch: int
    epochs: int
    step: int = 0
    training: bool = False
    seed: int = 0  # the search's
    part: str = ""  # of a step: "architecture" or "weights"
    space: Space = Space()

    def generator(self, cell_type: str = "", device: torch.device | str = "cpu") -> torch.Generator:
        """For the draws of a sampled relaxation, each cell type its own: the same after a resume, and in every process
        that shares a step."""
        return torch.Generator(device).manual_seed(seed_of(self.seed, self.part, self.epoch, self.step, cell_type))


def seed_of(*key: int | str) -> int:
    """A seed from what it is for, e.g. (seed, "weights", epoch): random numbers do not depend on the epochs before."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Method:
    """DARTS, first order (Liu et al., arXiv 1806.09055): a = softmax(α), every edge weighs 1, no loss but L^C.

    A subclass changes what sets it apart. Its fields are its numbers: checked, part of a configuration and of its hash,
    and changed by `--set NAME=VALUE`. A field that a configuration has as well (`budget`, `temperature`) is that of the
    configuration.
    """

    initial_noise: float = number(at_least=0, default=1e-3)  # deviation of α and β at the start

    title: ClassVar[str] = "DARTS"  # what reports call it
    colour: ClassVar[str] = "#D55E00"
    trains: ClassVar[bool] = True  # there is a super-network at all
    affine: ClassVar[bool] = False  # its batch-norms have parameters
    learns_edges: ClassVar[bool] = False  # β has a part in it
    betas_of_edges: ClassVar[bool] = True  # β has an entry for each edge, where it has the shape for it
    first_edge_node: ClassVar[int] = 2  # edges of the nodes before it have no β, where the others have
    asks_for_budget: ClassVar[bool] = False  # as one with a field `budget` does; else one search serves every budget
    edges_rank_by_weights: ClassVar[bool] = True  # else by logits
    operations_rank_edges: ClassVar[bool] = False  # in these logits is the weight of the edge's strongest operation
    remark: ClassVar[str] = ""  # what has to be said beside a comparison of the method
    edge_weight: ClassVar[str] = "one"  # of the edges that a cut keeps, in the drop that reports show first
    # The numbers that were always so before configurations held them: they are not hashed, so that the runs from before
    # are found. Never change an entry: change the field's default.
    always: ClassVar[dict[str, Any]] = {"initial_noise": 1e-3}

    def __init_subclass__(cls):
        if "budget" in cls.__annotations__:
            cls.asks_for_budget = True

    def __post_init__(self):
        check_fields(self)

    # --- what a configuration starts from ---

    @classmethod
    def numbers(cls, protocol: str) -> dict[str, Any]:
        """The fields in which a protocol differs from the class's defaults."""
        return {}

    @classmethod
    def always_under(cls, protocol: str) -> Mapping[str, Any]:
        """`always`, where it depends on the protocol."""
        return cls.always

    @classmethod
    def settings(cls, protocol: str, epochs: int) -> dict[str, Any]:
        """Fields of the configuration that the method starts from, where the preset's are not its own."""
        return {}

    def check(self, config: "SearchConfig") -> None:
        """Raise for a `SearchConfig` that the method cannot search with."""

    # --- the search ---

    def start(self, space: Space, budget: EdgeBudget) -> Architecture:
        """α and β of one cell type at the start, drawn from torch's generator. `budget`: of this cell type alone."""
        E, O = len(space.edges), len(space.operations)  # noqa: E741
        return Architecture(self.initial_noise * torch.randn(E, O), self.initial_noise * torch.randn(E))

    def mix(self, architecture: Architecture, cell_type: str, at: Moment) -> Mixture:
        """The relaxation: α, β of a cell type → the weights that the network mixes with."""
        alphas, betas = architecture
        return Mixture(alphas.softmax(dim=1), torch.ones_like(betas), alphas)

    def regularise(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, Tensor]:
        """Name → weighted term of the loss of α and β, beside L^C. Both mappings are by cell type."""
        return {}

    def measure(
        self, architectures: Mapping[str, Architecture], mixtures: Mapping[str, Mixture], at: Moment
    ) -> dict[str, float]:
        """Name → number for the history of a run, after an epoch: L^O without a weight, and over the edges of both
        cells the means of the entropy (nats) and of the largest weight of their operations."""
        weights = torch.cat([mixture.operations for mixture in mixtures.values()])
        entropies = torch.special.entr(weights.clamp(min=0)).sum(dim=1)
        return {
            "operation_loss": entropies.sum().item(),
            "operation_entropy": entropies.mean().item(),
            "largest_operation_weight": weights.amax(dim=1).mean().item(),
        }

    def optimizer(self, groups: list[dict], **rules: Any) -> torch.optim.Optimizer:
        """Of α and β, a group each; `rules`: learning rate, weight decay, and whether it may be fused."""
        return torch.optim.Adam(groups, betas=(0.5, 0.999), **rules)

    def architecture_gradients(self, step: "ArchitectureStep") -> None:
        """Leave the gradient of the objective in α and β. `step`: a `train.search_steps.ArchitectureStep`."""
        step.backward()

    def after_step(self, step: "ArchitectureStep") -> None:
        """Act on α and β when the optimizer has moved them."""

    def trains_weight(self, name: str) -> bool:
        """Whether a network weight is trained, by its name in the readable form; else it stays as it was drawn."""
        return True

    def depth(self, layers: int, at: Moment) -> int:
        """Cells of the network in an epoch. Where it changes, the network begins anew, with fresh weights."""
        return layers

    def annealing(self, at: Moment) -> tuple[int, int]:
        """Where on its cosine the weights' learning rate is in an epoch: in which of how many."""
        return at.epoch, at.epochs

    def after_epoch(self, search: "SearchState") -> None:
        """Act between epochs. `search`: a `train.search.SearchState`."""

    def stops(self, epochs: int, space: Space) -> dict[str, int]:
        """Budget → the epoch after which a search of so many epochs is at it: its cell, its drop and its weights are
        those of that epoch. Of a budget that is not here they are those of the last one."""
        return {}

    # --- the cut ---

    def strengths(self, architecture: Architecture, cell_type: str, at: Moment) -> Strengths:
        """How edges and operations rank: operations by their logit, edges by b times their largest operation weight."""
        mixture = self.mix(architecture, cell_type, at)
        return Strengths(mixture.ranks, mixture.edges * mixture.shares[:, at.space.choices].amax(dim=1))

    def select(self, architectures: Mapping[str, Architecture], budget: EdgeBudget, at: Moment) -> Genotype:
        """The cell that `budget` keeps: `strongest` of `strengths`, by `worth` where a limit asks for it."""
        strengths = {name: self.strengths(architectures[name], name, at) for name in CELL_TYPES}
        return strongest(strengths, lambda name: self.worth(architectures[name], name, budget, at), budget, at.space)

    def worth(self, architecture: Architecture, cell_type: str, budget: EdgeBudget, at: Moment) -> Tensor:
        """What a limited cut adds up, [E, O]: the strength of the edge times the weight of the operation as a share of
        the edge's largest. Of edges that rank by logits the strength is their share of what may enter the node. −∞ of
        what has left the search."""
        shares = self.mix(architecture, cell_type, at).shares
        edges = self.strengths(architecture, cell_type, at).edges
        if not self.edges_rank_by_weights:
            strengths, edges = edges, torch.zeros_like(edges)
            for group in budget.groups(cell_type):
                places = [at.space.edges.index(edge) for edge in group.candidates()]
                edges[places] = self.group_logits(strengths, group, at.space).softmax(dim=0)
        worth = edges[:, None] * shares / shares[:, at.space.choices].amax(dim=1, keepdim=True)
        return worth.masked_fill(~alive(architecture.alphas), -torch.inf)

    def group_logits(self, edges: Tensor, group: Group, space: Space) -> Tensor:
        """Of strengths [E] those of a group's candidates as logits. Where a group joins nodes with β and without, β
        stands beside weights as it is, for so they rank."""
        found = edges[[space.edges.index(edge) for edge in group.candidates()]]
        return found.log() if self.edges_rank_by_weights or max(group.nodes) < self.first_edge_node else found


def check_declaration(method: type[Method]) -> None:
    """Raise for what Python passes over in silence: a hook that is misspelt, the numbers of a class that is no
    dataclass, and those that are set anew without a type."""
    place = method.__mro__.index(Method)
    for k, cls in enumerate(method.__mro__[:place]):
        typed, decorated = inspect.get_annotations(cls), "__dataclass_fields__" in vars(cls)
        numbers = [name for name, kind in typed.items() if "ClassVar" not in str(kind)]
        if numbers and issubclass(cls, Method) and not decorated:
            why = f"or {numbers[0]} is no number of it: @dataclass(frozen=True, kw_only=True)"
            raise refuse("method", cls.__name__, f"a dataclass, {why}")
        for name in vars(cls) if issubclass(cls, Method) else ():
            own = not name.startswith("_") and name not in numbers and not hasattr(Method, name)
            if own and (meant := difflib.get_close_matches(name, vars(Method), n=1, cutoff=0.85)):
                allowed = f"without {name}, which no search asks for (did you mean {meant[0]}?)"
                raise refuse("method", cls.__name__, allowed)
        # What a mixin sets is no field either.
        bases = method.__mro__[k + 1 :] if issubclass(cls, Method) else method.__mro__
        known = {spec.name: spec for base in bases if issubclass(base, Method) for spec in fields(base)}
        for name, value in vars(cls).items():
            if name in known and not (decorated and name in typed) and not isinstance(value, MemberDescriptorType):
                kind = getattr(known[name].type, "__name__", known[name].type)
                allowed = f"a dataclass that says the type of what it sets: {name}: {kind} = …"
                raise refuse("method", cls.__name__, allowed)


def strongest(
    strengths: Mapping[str, Strengths], worth: Callable[[str], Tensor], budget: EdgeBudget, space: Space
) -> Genotype:
    """The strongest edges, and on each the strongest operations. Where these cost more than a limit of the budget
    allows, the cells with the largest sum of `worth` (of a cell type, [E, O]) that keep to it; of what is worth −∞ only
    where no others do."""
    cells, names = [], space.operations
    for name in CELL_TYPES:
        operations, edges = strengths[name]
        groups = budget.groups(name)
        cells.append(derive_cell(operations.tolist(), edges.tolist(), groups, budget.operations, names))
    if meets(Genotype(*cells), budget):
        return Genotype(*cells)
    worths = {name: worth(name).tolist() for name in CELL_TYPES}
    return strongest_within(budget, names, worths, sizes_under(budget, names))
