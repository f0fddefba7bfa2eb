"""Genotypes as people write them: names of published cells, files, JSON, and what DARTS and its successors print.

A text is read as it was pasted: with a log's words before it, a name, an alias after it, in several lines. It is never
executed. What could mean two cells is refused.
"""

import ast
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daas_lab.errors import LabError, refuse, suggestion
from daas_lab.space.cell_space import CELL_TYPES, NONE, cell_edges
from daas_lab.space.genotype import CellGenotype, Edge, Genotype
from daas_lab.space.published import PUBLISHED


def load_genotype(name_or_path: "str | Path | Genotype | dict") -> Genotype:
    """A published cell by name, else a file, else the text of a genotype itself. A genotype, or what `to_json` made of
    it, will do as well."""
    if isinstance(name_or_path, Genotype):
        return name_or_path
    if isinstance(name_or_path, dict):
        return Genotype.from_json(name_or_path)
    if not isinstance(name_or_path, (str, Path)):
        raise refuse("genotype", name_or_path, "a Genotype, its JSON, a file, or a name that `daas-lab cells` lists")
    text = str(name_or_path)
    if text in PUBLISHED:
        return PUBLISHED[text]
    if not os.path.isfile(text):  # Path.is_file raises for a text that is no path
        if _CALL.search(text) or text.lstrip().startswith(("{", "[")):
            return parse_genotype(text)
        allowed = "a file, a genotype's text, or a name that `daas-lab cells` lists"
        within = os.path.join(text, "genotype.json")
        allowed += f" (did you mean {within}?)" if os.path.isfile(within) else suggestion(text[:80], PUBLISHED)
        raise refuse("genotype", text, allowed)
    try:
        return parse_genotype(_decoded(Path(text).read_bytes()))
    except UnicodeDecodeError as error:
        why = "no text; what `daas-lab cut` has written is for retrain --from and load_network"
        raise LabError(f"genotype file {text}: {why} ({error})") from error
    except LabError as error:
        raise LabError(f"genotype file {text}: {error}") from error


def _decoded(content: bytes) -> str:
    """UTF-8, or UTF-16 as a Windows shell writes what is redirected."""
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


# --- texts ------------------------------------------------------------------------------------------------------------

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
FORM = f"Genotype({'=…, '.join(FIELDS)}=…) as DARTS prints it, or this package's JSON"
_CALL = re.compile(r"\bGenotype\s*\(")
_TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\xa0": " "})  # of web pages
_NUMBER = re.compile(r"u?int\d*|str_?")  # numpy's scalars, as it prints them


def parse_genotype(text: str) -> Genotype:
    """The one genotype that a text holds, in JSON or as DARTS or one of its successors printed it."""
    text = re.sub(r"(?m)^[ \t]*>[> \t]*", "", text.translate(_TYPOGRAPHIC))  # also as a mail or an issue quotes it
    found = [_from_value(_read(call)) for call in _calls(text)] or [_from_value(_read(text.strip()))]
    if len(set(found)) > 1:
        raise refuse("genotype", f"a text with {len(found)} of them", "one: leave only the one that is meant")
    return found[0]


def _calls(text: str) -> list[str]:
    """Every `Genotype(…)` of a text, to the parenthesis that closes it."""
    calls = []
    for match in _CALL.finditer(text):
        depth = 0
        for place in range(match.end() - 1, len(text)):
            depth += (text[place] == "(") - (text[place] == ")")
            if not depth:
                break
        calls.append(text[match.start() : place + 1])
    return calls


def _read(text: str) -> Any:
    """The value that a text writes, in JSON or in Python's literals."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # what Python thinks of the text is no matter
            return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise refuse("genotype", text, f"{FORM} ({type(error).__name__}: {str(error).splitlines()[0]})") from None


def _value(node: Any) -> Any:
    """A literal; of calls only those in which such texts write lists and numbers. Nothing is executed."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part) for part in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    func: Any = node.func
    name = func.attr if isinstance(func, ast.Attribute) else func.id
    arguments = [_value(argument) for argument in node.args]
    if name == "Genotype":
        return dict(zip(FIELDS, arguments, strict=False)) | {part.arg: _value(part.value) for part in node.keywords}
    if name == "range":
        return list(range(*arguments)[:100])
    if name in ("list", "tuple") or _NUMBER.fullmatch(name):
        [argument] = arguments
        return argument
    raise ValueError(f"{name}(…) is no part of a genotype")


def _from_value(value: Any) -> Genotype:
    """The genotype of our JSON, of DARTS's four fields by name, or of these in their order."""
    if isinstance(value, list) and len(value) == len(FIELDS):
        value = dict(zip(FIELDS, value, strict=True))
    if not isinstance(value, dict):
        raise refuse("genotype", value, FORM)
    if "format" in value or isinstance(value.get("normal"), dict):
        return Genotype.from_json(value)
    if missing := [name for name in FIELDS if name not in value]:
        raise refuse("genotype", value, f"{FORM}; {missing[0]} is missing")
    for name, extra in value.items():
        if name not in FIELDS and extra is not None:
            raise refuse(f"{name} of the genotype", extra, f"left out: a cell is {', '.join(FIELDS)}")
    return from_darts(*(value[name] for name in FIELDS))


# --- DARTS's tuples and their relatives -------------------------------------------------------------------------------


def from_darts(normal, normal_concat, reduce, reduce_concat) -> Genotype:
    """DARTS's tuples: a list of `(operation, source)`, two for each node from node 2 on, or all edges of a cell.

    Also one list a node, and entries that name their node as well, in any order; a weight beside them has no part in
    the cell. Where nodes are named, those without input are left out of the concat.
    """
    cells = []
    for name, listed, concat in zip(CELL_TYPES, (normal, reduce), (normal_concat, reduce_concat), strict=True):
        try:
            cells.append(_cell(listed, concat))
        except LabError as error:
            raise LabError(f"genotype's {name} cell: {error}") from error
    return Genotype(*cells)


def _cell(listed: Any, concat: Any) -> CellGenotype:
    if not isinstance(concat, Sequence) or not concat or any(type(node) is not int for node in concat):
        raise refuse("concat", concat, "the nodes of the cell's output, as [2, 3, 4, 5]")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise refuse("edges", listed, "a list of (operation, source)")
    last = max(concat)
    if listed and all(_is_list(part) and all(map(_is_list, part)) for part in listed):
        if len(listed) != last - 1:
            raise refuse("lists of edges", len(listed), f"{last - 1}, one for each node from 2 to {last}")
        edges = [_edge(entry, node) for node, part in enumerate(listed, start=2) for entry in part]
    else:
        edges = [_edge(entry) for entry in listed]
    unnamed = sum(edge.node is None for edge in edges)
    if unnamed and unnamed < len(edges):
        raise refuse("edges that name their node", len(edges) - unnamed, f"all {len(edges)}, or none")
    if unnamed:
        nodes = _nodes([edge.source for edge in edges], last)
        edges = [edge._replace(node=node) for edge, node in zip(edges, nodes, strict=True)]
    else:
        fed = {0, 1} | {edge.node for edge in edges}
        concat = [node for node in concat if node in fed]
    return CellGenotype(tuple(sorted(edges, key=lambda edge: edge.node)), tuple(concat))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _edge(entry: Any, place: int | None = None) -> Edge:
    """(operation, source), (operation, node, source) in any order; `place`: the node in whose list it stands."""
    parts = entry if _is_list(entry) else [entry]
    names = [part for part in parts if isinstance(part, str)]
    numbers = sorted(part for part in parts if type(part) is int)
    weights = [part for part in parts if isinstance(part, float)]
    if len(names) != 1 or len(numbers) not in (1, 2) or len(weights) > 1 or len(parts) != 1 + len(numbers + weights):
        raise refuse("edge", entry, "(operation, source) or (operation, node, source), and at most a weight")
    if names == [NONE]:
        raise refuse("edge", entry, f"left out: {NONE} passes nothing to its node, and is no operation of a cell")
    # An edge comes from an earlier node, so that the larger of two numbers is its node.
    node = numbers[1] if numbers[1:] else place
    if place not in (None, node):
        raise refuse("edge", entry, f"of node {place}, in whose list it stands")
    return Edge(numbers[0], node, names[0])  # type: ignore[arg-type]  # `_cell` fills in what no edge names


def _nodes(sources: list[int], last: int) -> list[int]:
    """The node of each edge where only sources are said: two edges a node, or each that there can be."""
    every = cell_edges(last + 1)
    if len(sources) == 2 * (last - 1):
        return [2 + k // 2 for k in range(len(sources))]
    nodes = [node for _, node in every]
    if len(sources) == len(nodes) and set(zip(sources, nodes, strict=True)) == set(every):
        return nodes
    allowed = f"{2 * (last - 1)}, two for each node from 2 to {last}, or the cell's {len(every)} edges node by node"
    raise refuse("(operation, source) pairs", len(sources), allowed)


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
