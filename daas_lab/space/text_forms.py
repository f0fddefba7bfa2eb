"""Genotypes as people write them: names of published cells, files, DARTS's printed tuples."""

import ast
import json
from pathlib import Path

from daas_lab.errors import LabError, refuse, suggestion
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.published import PUBLISHED


def load_genotype(name_or_path: "str | Path | Genotype | dict") -> Genotype:
    """A published cell by name, else a file: our JSON or the text of a DARTS `Genotype(…)` tuple. A genotype itself,
    or what `to_json` made of it, will do as well."""
    if isinstance(name_or_path, Genotype):
        return name_or_path
    if isinstance(name_or_path, dict):
        return Genotype.from_json(name_or_path)
    if not isinstance(name_or_path, (str, Path)):
        raise refuse("genotype", name_or_path, "a Genotype, its JSON, a file, or a name that `daas-lab cells` lists")
    if str(name_or_path) in PUBLISHED:
        return PUBLISHED[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        allowed = "a file, or a name that `daas-lab cells` lists" + suggestion(name_or_path, PUBLISHED)
        raise refuse("genotype", str(name_or_path), allowed)
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("Genotype("):
            return parse_darts(text)
        return Genotype.from_json(json.loads(text))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"genotype file {path}: not JSON ({error})") from error
    except LabError as error:
        raise LabError(f"genotype file {path}: {error}") from error


def from_darts(normal, normal_concat, reduce, reduce_concat) -> Genotype:
    """DARTS's tuples: a list of `(operation, source)`, two for each node from node 2 on."""
    cells = []
    for pairs, concat in ((normal, normal_concat), (reduce, reduce_concat)):
        if len(pairs) % 2:
            raise refuse("number of (operation, source) pairs", len(pairs), "even, two for each node")
        edges = (Edge(int(source), 2 + k // 2, operation) for k, (operation, source) in enumerate(pairs))
        cells.append(CellGenotype(tuple(edges), tuple(concat)))
    return Genotype(*cells)


def parse_darts(text: str) -> Genotype:
    """Read the printed form `Genotype(normal=[('sep_conv_3x3', 1), …], normal_concat=[2, 3, 4, 5], …)`."""
    fields = ("normal", "normal_concat", "reduce", "reduce_concat")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        # range(2, 6) is how DARTS prints its concat.
        values = {}
        for keyword in call.keywords:
            is_range = isinstance(keyword.value, ast.Call) and keyword.value.func.id == "range"
            arguments = keyword.value.args if is_range else [keyword.value]
            literals = [ast.literal_eval(argument) for argument in arguments]
            values[keyword.arg] = list(range(*literals)) if is_range else literals[0]
        return from_darts(*(values[field] for field in fields))
    except LabError:
        raise
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise refuse("DARTS genotype", text[:80], "Genotype(" + "=…, ".join(fields) + "=…)") from error


def format_darts(genotype: Genotype) -> str:
    """The printed DARTS form; refused for a cell that it cannot say (a node without exactly two inputs)."""
    parts = []
    for name in CELL_TYPES:
        cell = genotype.cell(name)
        nodes = [edge.node for edge in cell.edges]
        if nodes != [node for node in range(2, cell.nodes) for _ in range(2)]:
            raise refuse(f"inputs of the {name} cell's nodes", nodes, "two for each node to be written as DARTS tuples")
        pairs = ", ".join(f"({edge.operation!r}, {edge.source})" for edge in cell.edges)
        parts.append(f"{name}=[{pairs}], {name}_concat={list(cell.concat)}")
    return f"Genotype({', '.join(parts)})"


def format_darts_or_json(genotype: Genotype) -> str:
    """The printed DARTS form, or JSON for a cell that it cannot say."""
    try:
        return format_darts(genotype)
    except LabError:
        return json.dumps(genotype.to_json())
