"""What the site has beside its pages: figures, notebooks, and tables of figures/ where a page asks for them.

A page asks by a comment on a line of its own: `<!-- table: STEM; column; …; column = value -->`. Its links to
`../figures/` and `../notebooks/` are those of the source tree, so that they work on a code host too.
"""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOT_EXECUTED = '!!! note "Not executed"\n    The code alone, without what it shows: see the index of notebooks.'


def on_config(config):
    """A page for each notebook, in the navigation too."""
    pages = next(entry["Notebooks"] for entry in config.nav if "Notebooks" in entry)
    pages += [f"notebooks/{path.stem}.md" for path in NOTEBOOKS]


def on_files(files, config):
    """Add the figures, and the notebooks: executed ones with their pictures, of the others what they do."""
    for path in sorted((ROOT / "figures").glob("*.[sp][vn]g")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for path in NOTEBOOKS:
        executed = ROOT / config.extra["executed"] / path.name
        body, pictures = _executed(executed) if executed.is_file() else (_code(path), {})
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=body))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))


def _executed(path: Path) -> tuple[str, dict[str, bytes]]:
    from nbconvert import MarkdownExporter  # seconds to import

    named = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    body, found = MarkdownExporter().from_filename(path, resources=named)
    return _nested(body.strip()), found["outputs"]


def _code(path: Path) -> str:
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    shown = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
    return "\n\n".join([*shown[:1], NOT_EXECUTED, *shown[1:]])


def on_page_markdown(markdown, page, **_):
    """Fill in tables; links of the source tree become those of the site."""
    if not page.file.generated_by:
        markdown = re.sub(
            r"^<!-- (table|rows|sentences|everything): (.*) -->$", _generated, markdown, flags=re.MULTILINE
        )
        up = "../" * page.file.src_uri.count("/")
        markdown = re.sub(rf"\]\({up}\.\./(figures|notebooks)/", rf"]({up}\1/", markdown)
        markdown = re.sub(r"(\]\([./]*notebooks/\w+)\.ipynb\)", r"\1.md)", markdown)
    return re.sub(r"^ *\|.*\|$", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), markdown, flags=re.MULTILINE)


def _generated(match: re.Match) -> str:
    makes = {"table": table, "rows": rows, "sentences": sentences, "everything": everything}[match[1]]
    return makes(*match[2].split("; "))


def blocks(stem: str) -> list[str]:
    """Tables and paragraphs of a published table's file."""
    return _nested((ROOT / "figures" / f"{stem}.md").read_text("utf-8")).strip().split("\n\n")


def _nested(text: str) -> str:
    """Lists in lists, which Python-Markdown wants indented by four."""
    return text.replace("\n  - ", "\n    - ")


def table(stem: str, *asked: str) -> str:
    """The columns asked for, of the rows in which `column = value`, of the first table that has these columns."""
    columns = [name for name in asked if " = " not in name]
    wanted = dict(name.split(" = ") for name in asked if " = " in name)
    for block in blocks(stem):
        head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if {*columns, *wanted} <= set(head):
            named = [dict(zip(head, row, strict=True)) for row in rows[1:]]
            kept = [[row[name] for name in columns] for row in named if wanted.items() <= row.items()]
            if kept:
                return _markdown(columns, kept)
    raise ValueError(f"figures/{stem}.md has no rows of {'; '.join(asked)}")


def rows(stem: str, *columns: str) -> str:
    """The columns asked for of `figures/STEM.json`, where no table of it is written."""
    found = json.loads((ROOT / "figures" / f"{stem}.json").read_text("utf-8"))["rows"]
    shown = [["" if row[name] is None else str(row[name]).replace("|", "\\|") for name in columns] for row in found]
    return _markdown([name.replace("_", " ") for name in columns], shown)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def sentences(stem: str) -> str:
    """What is said below a table, without its provenance."""
    texts = [text for text in blocks(stem) if text[0] not in "|#" and text[-1] != ":"]
    return "\n\n".join(text for text in texts if not text.startswith("- Data:"))


def everything(stem: str) -> str:
    """All of a table's file, folded."""
    body = re.sub("^#+ (.*)$", r"**\1**", "\n\n".join(blocks(stem)), flags=re.MULTILINE)
    return f'??? note "All rows, and what made them: figures/{stem}.md"\n' + re.sub("^(?=.)", "    ", body, flags=re.M)
