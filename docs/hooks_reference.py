"""The reference that is generated from the code: command line, configurations, methods, and the public names.

A page asks for it by `<!-- generated: NAME -->`, one of `GENERATED`.
"""

import argparse
import ast
import inspect
import re
from dataclasses import fields
from itertools import takewhile
from typing import Any

import daas_lab
from daas_lab import cli, compose, config
from daas_lab.fields import allowed_values
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.methods.protocols import Protocol

# The columns of the tables of fields.
PRESETS = {"tiny": "digits", "quick": "digits", "mini": "fashion_mnist", "full": "cifar10"}


def on_page_markdown(markdown, **_):
    """Fill in what a page asks for, in place of the rest of that line, which is for readers of the source."""
    return re.sub(r"<!-- generated: (\w+) -->.*", lambda match: GENERATED[match[1]](), markdown)


def command_line() -> str:
    """Every command with its options, as the parser has them."""
    (commands,) = (found for found in cli._parser()._actions if isinstance(found, argparse._SubParsersAction))
    parts = []
    for name, parser in commands.choices.items():
        options = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
        rows = [[f"`{' '.join([*option.option_strings, *_value(option)])}`", option.help or ""] for option in options]
        parts.append(f"## daas-lab {name}\n\n{parser.description}\n\n{_table(['option', 'what'], rows)}")
    return "\n\n".join(parts)


def _value(option: argparse.Action) -> list[str]:
    named = option.metavar or (option.dest.upper() if option.option_strings else option.dest)
    return [] if option.nargs == 0 else [named]


def search_fields() -> str:
    """Fields of a search: meaning, limits, and the value under each preset."""
    return _fields([compose.search_config(preset, dataset) for preset, dataset in PRESETS.items()])


def retrain_fields() -> str:
    """The same of a retraining."""
    return _fields([compose.retrain_config("DARTS_V2", preset, dataset) for preset, dataset in PRESETS.items()])


def _fields(made: list[Any]) -> str:
    comments, rows = _comments(type(made[0])), []
    for spec in fields(made[0]):
        beside, above = comments[spec.name]
        rows += [[f"**{above.rstrip('.')}**", *[""] * (1 + len(made))]] if above else []
        values = [str(getattr(one, spec.name)) for one in made]
        shown = [f"`{value}`" if 0 < len(value) < 20 else "" for value in values]
        rows.append([f"`{spec.name}`", "; ".join(filter(None, [beside, allowed_values(spec)])), *shown])
    return _table(["field", "meaning", *map(", ".join, PRESETS.items())], rows)


def _comments(owner: type) -> dict[str, tuple[str, str]]:
    """Field → the comment beside it, and the one on the lines above it, in one class's own source."""
    lines, found = inspect.getsource(owner).splitlines(), {}
    for node in ast.parse("\n".join(lines)).body[0].body:
        if isinstance(node, ast.AnnAssign):
            before = (line.strip() for line in reversed(lines[: node.lineno - 1]))
            above = [line[2:] for line in takewhile(lambda line: line.startswith("# "), before)]
            found[node.target.id] = lines[node.end_lineno - 1].partition("  # ")[2], " ".join(reversed(above))
    return found


def methods() -> str:
    """Each method: what its class says, and its numbers."""
    parts, known = [], {spec.name for spec in fields(config.SearchConfig)}
    for name in METHODS:
        owner = method_class(name)
        bases = (Protocol, *reversed(owner.__mro__[:-1]))  # whose comments a class need not repeat
        said = [(key, beside or above) for base in bases for key, (beside, above) in _comments(base).items()]
        comments = {key: text for key, text in said if text}
        numbers = [spec for spec in fields(owner) if spec.name not in known]
        rows = [
            [f"`{one.name}`", comments.get(one.name, ""), allowed_values(one), f"`{one.default}`"] for one in numbers
        ]
        parts.append(f"## {name}\n\n**{owner.title}.** {inspect.getdoc(owner)}")
        parts.append(_table(["number", "meaning", "allowed", "default"], rows))
    return "\n\n".join(parts)


def public_names() -> str:
    """What `from daas_lab import …` gives, module by module, for mkdocstrings."""
    return "\n\n".join(
        "\n\n".join([f"## daas_lab.{module}", *(f"::: daas_lab.{module}.{name}" for name in names)])
        for module, names in daas_lab._FACE.items()
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


GENERATED = {make.__name__: make for make in (command_line, search_fields, retrain_fields, methods, public_names)}
