"""Tables: plain rows → means over seeds → ours beside reported → JSON and Markdown with their provenance.

A row is a dict. A quantity measured with several seeds is `<quantity>_mean` and `<quantity>_std` (sample deviation,
None for a single seed) beside `seeds`; what the paper reports is `reported_<quantity>…`, and a row that only repeats
the paper has no `seeds`. Accuracies and errors are in percent, parameters in millions.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from daas_lab import paper
from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.runs.provenance import provenance_text

Row = dict[str, Any]

# What a column is called in print; any other key is printed as it is.
HEADERS = {
    "after": "accuracy after (%)",
    "after_recalibrated": "after, statistics recalibrated (%)",
    "batch_norm": "batch-norm",
    "before": "accuracy before (%)",
    "control": "before, statistics recalibrated (%)",
    "drop": "drop (points)",
    "drop_learned": "drop as learned (points)",
    "drop_one": "drop, kept edges at 1 (points)",
    "error": "test error (%)",
    "error_best": "best test error (%)",
    "error_seeds": "seeds of the cells",
    "entropy": "entropy at the end (nats)",
    "kept_edges": "edge weight kept by the cut",
    "kept_operations": "operation weight kept by the cut",
    "lambda_1": "λ_1",
    "lambda_2": "λ_2",
    "lambda_c": "λ_c",
    "largest_weight": "mean largest weight at the end",
    "multiply_adds_m": "multiply-adds (M)",
    "onset_epoch": "weights differ from epoch",
    "onset_share": "as a share of the search",
    "parameter_free_normal": "pools and skips, normal cell (%)",
    "parameter_free_reduce": "pools and skips, reduction cell (%)",
    "params_m": "parameters (M)",
    "search_cost_gpu_days": "search cost (GPU-days)",
    "search_cost_s": "search time (s)",
    "share": "of α's movement by the entropy (%)",
    "test_error": "test error (%)",
    "top_1_error": "top-1 error (%)",
    "top_5_error": "top-5 error (%)",
    "worst_drop": "worst drop (points)",
}


# --- means over seeds -------------------------------------------------------------------------------------------------


def summarise(rows: Iterable[Row], by: Sequence[str], quantities: Sequence[str]) -> list[Row]:
    """One row for each combination of `by`, in order of appearance, with `seeds` and mean and std of each quantity.

    A quantity that some of a group's rows lack is averaged over the others, which `<quantity>_seeds` then lists.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in by), []).append(row)
    summaries = []
    for key, members in groups.items():
        summary = dict(zip(by, key, strict=True)) | {"seeds": sorted({row["seed"] for row in members})}
        for quantity in quantities:
            measured = [row for row in members if row.get(quantity) is not None]
            summary |= _mean_std(quantity, [row[quantity] for row in measured])
            if len(measured) < len(members):
                summary[f"{quantity}_seeds"] = sorted({row["seed"] for row in measured})
        summaries.append(summary)
    return summaries


def _mean_std(quantity: str, values: Sequence[float]) -> Row:
    return {
        f"{quantity}_mean": statistics.fmean(values) if values else None,
        f"{quantity}_std": statistics.stdev(values) if len(values) > 1 else None,
    }


def drop_rows(gaps: Iterable[Row], by: Sequence[str] = ("method", "budget")) -> list[Row]:
    """Accuracy drops of whole discretizations (Table 4), one row for each `by` × `edge_weight` × `batch_norm`.

    `gaps`: rows with `method`, `budget`, `seed`, `edge_weight`, `batch_norm`, `stage`, `before`, `after`, `drop`; only
    stage `both` counts. `worst_drop` is the largest drop of a single run.
    """
    whole = [row for row in gaps if row.get("stage", "both") == "both"]
    keys = (*by, "edge_weight", "batch_norm")
    summaries = summarise(whole, keys, ("before", "after", "drop"))
    for summary in summaries:
        drops = [row["drop"] for row in whole if all(row.get(key) == summary[key] for key in keys)]
        summary["worst_drop"] = max(drops)
    return summaries


def drop_parts(gaps: Iterable[Row]) -> list[Row]:
    """Each accuracy drop as statistics + operations + edges + together, in points; a row for each run, budget and
    edge weight of `discretize.accuracy_drops`, which must hold the stages none, operations, edges and both with both
    kinds of batch-norm.

    The reference of what a cut costs is `control`, the network with nothing cut and its statistics estimated again: by
    itself that moves the accuracy, and no cut is to be blamed for it. Between networks with fitting statistics,
    `operations` and `edges` are what is lost when only these are discrete, and `together` what both lose beyond that
    (or save, if negative). `statistics` is what the drop with the statistics of the search has besides: stale ones.
    """
    runs: dict[tuple, tuple[Row, dict]] = {}
    for row in gaps:
        measured = ("batch_norm", "stage", "before", "after", "drop")
        named = {key: value for key, value in row.items() if key not in measured}
        _, after = runs.setdefault((*named.items(), row["before"]), (named, {}))
        after[row["batch_norm"], row["stage"]] = row["after"]
    rows = []
    for (*_, before), (named, after) in runs.items():
        control, drop = after["recalibrated", "none"], before - after["as-trained", "both"]
        lost = {stage: control - after["recalibrated", stage] for stage in ("operations", "edges", "both")}
        parts = {"statistics": drop - lost["both"], "operations": lost["operations"], "edges": lost["edges"]}
        parts["together"] = lost["both"] - lost["operations"] - lost["edges"]
        ends = {"before": before, "control": control, "after": after["as-trained", "both"], "drop": drop}
        rows.append(named | ends | parts)
    return rows


def with_errors(drops: Iterable[Row], errors: Iterable[Row], by: Sequence[str] = ("method", "budget")) -> list[Row]:
    """Add retraining results to the rows of accuracy drops by `by`; results without a drop (random cells) follow.

    Where they are of other seeds, which a study that is not finished has, these are `error_seeds`.
    """
    errors = {tuple(row[key] for key in by): row for row in errors}
    rows = []
    for row in drops:
        own = errors.get(tuple(row[key] for key in by), {})
        others = own.get("seeds") if own.get("seeds") != row.get("seeds") else None
        rows.append(own | row | ({"error_seeds": others} if others else {}))
    with_drop = {tuple(row[key] for key in by) for row in rows}
    return rows + [row for key, row in errors.items() if key not in with_drop]


# --- ours beside reported ---------------------------------------------------------------------------------------------


def scale_label(preset: str, dataset: str) -> str:
    """What a result of ours was measured at: only `full` on the paper's data sets is comparable with the paper."""
    at_scale = preset == "full" and dataset in ("cifar10", "imagenet")
    return f"{preset}, {dataset}" if at_scale else f"miniature ({preset}, {dataset})"


def images_of(config: SearchConfig | RetrainConfig) -> str:
    """Which images the accuracies are of that a run records after every epoch."""
    if not isinstance(config, SearchConfig):
        return "training images"
    return "held-out images" if config.held_out_images else "the architecture's images"


def beside(reported: Iterable[Row], ours: Iterable[Row], keys: Sequence[str], scale: str | None = None) -> list[Row]:
    """Join on `keys`: the reported row's other entries become `reported_<name>`, ours keep their names.

    Reported rows without a result of ours stay, without `seeds`; results without a reported row follow. A reported row
    with several results (of several edge weights, say) is repeated. `scale` labels every row that holds ours.
    """
    ours = [row if scale is None else row | {"scale": scale} for row in ours]
    joined, used = [], set()
    for row in reported:
        names = {key: row[key] for key in keys}
        figures = {f"reported_{key}": value for key, value in row.items() if key not in keys}
        matching = [n for n, own in enumerate(ours) if all(own.get(key) == names[key] for key in keys)]
        joined += [names | figures | ours[n] for n in matching] or [names | figures]
        used |= set(matching)
    return joined + [row for n, row in enumerate(ours) if n not in used]


def table_1(ours: Iterable[Row] = (), sizes: Iterable[Row] = (), scale: str | None = None) -> list[Row]:
    """Table 1: errors on CIFAR-10. `ours` and `sizes` (`studies.sizes.table_sizes`) by `architecture`."""
    return _with_sizes(paper.TABLE_1, ours, sizes, scale)


def table_5(ours: Iterable[Row] = (), sizes: Iterable[Row] = (), scale: str | None = None) -> list[Row]:
    """Table 5: errors on ImageNet. `ours` and `sizes` (`studies.sizes.table_sizes`) by `architecture`."""
    return _with_sizes(paper.TABLE_5, ours, sizes, scale)


def _with_sizes(reported, ours, sizes, scale) -> list[Row]:
    # Counting parameters needs no training, so only results carry the scale they were measured at.
    results = [row if scale is None else row | {"scale": scale} for row in ours]
    counted = [row for row in sizes if "cell" in row]
    remarks = {row["architecture"]: {"remark": row["remark"]} for row in sizes if "cell" not in row}
    return [
        row | remarks.get(row["architecture"], {}) for row in beside(reported, counted + results, ("architecture",))
    ]


def table_2(ours: Iterable[Row] = (), scale: str | None = None) -> list[Row]:
    """Table 2: control functions for λ_c; `ours` by `lambda_c` (`baseline` for the search without a regulariser)."""
    return beside(paper.TABLE_2, ours, ("lambda_c",), scale)


def table_3(ours: Iterable[Row] = (), scale: str | None = None) -> list[Row]:
    """Table 3: the priority of operations or edges; `ours` by `lambda_1` and `lambda_2`, one of them `const`."""
    return beside(paper.TABLE_3, ours, ("lambda_1", "lambda_2"), scale)


def table_4(ours: Iterable[Row] = (), scale: str | None = None) -> list[Row]:
    """Table 4: edge budgets; `ours` by `method` and `budget`, such as `drop_rows` with the retraining errors added."""
    return beside(paper.TABLE_4, ours, ("method", "budget"), scale)


def best_of(rows: Iterable[Row], by: Sequence[str], quantity: str) -> list[Row]:
    """`summarise` for one quantity with the smallest value as `<quantity>_best` (Table 3)."""
    rows = list(rows)
    summaries = summarise(rows, by, (quantity,))
    for summary in summaries:
        members = [row for row in rows if all(row.get(key) == summary[key] for key in by)]
        summary[f"{quantity}_best"] = min(
            (row[quantity] for row in members if row.get(quantity) is not None), default=None
        )
    return summaries


# --- print ------------------------------------------------------------------------------------------------------------


def mean_std_text(mean: float | None, std: float | None, digits: int = 2) -> str:
    """`"2.51 ± 0.09"`; a single seed has no deviation and is printed alone, nothing as "–"."""
    if mean is None:
        return "–"
    return f"{mean:z.{digits}f}" if std is None else f"{mean:z.{digits}f} ± {std:.{digits}f}"


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The rows' keys in order of appearance; `<quantity>_mean` and `<quantity>_std` make one column `<quantity>`."""
    names = {key for row in rows for key in row}
    columns: dict[str, None] = {}
    for row in rows:
        for key in row:
            base = key.removesuffix("_mean").removesuffix("_std")
            paired = base != key and (f"{base}_mean" in names or base in names)
            columns[base if paired else key] = None
    return list(columns)


def to_markdown(rows: Sequence[Row], columns: Sequence[str] | Mapping[str, str] | None = None) -> str:
    """A Markdown table. `columns`: keys (`error` shows `error_mean ± error_std` too), or key → header; else all."""
    columns = columns_of(rows) if columns is None else columns
    headers = columns if isinstance(columns, Mapping) else {key: _header(key) for key in columns}
    lines = [list(headers.values()), ["---"] * len(headers)]
    lines += [[_cell(row, key) for key in headers] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def to_text(rows: Sequence[Row]) -> str:
    """The rows, all of the same keys, as columns for a terminal: texts to the left, numbers to the right."""
    lines = [[key.replace("_", " ") for key in rows[0]], *([_cell(row, key) for key in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [str.ljust if isinstance(value, str) else str.rjust for value in rows[0].values()]
    columns = list(zip(sides, widths, strict=True))
    texts = ("  ".join(side(cell, width) for cell, (side, width) in zip(line, columns, strict=True)) for line in lines)
    return "\n".join(map(str.rstrip, texts))


def _header(key: str) -> str:
    if key.startswith("reported_"):
        return f"{_header(key.removeprefix('reported_'))}, paper"
    return HEADERS.get(key, key.replace("_", " "))


def _cell(row: Row, key: str) -> str:
    value, std = row.get(f"{key}_mean", row.get(key)), row.get(f"{key}_std")
    if value is None or isinstance(value, (bool, str)):
        text = "–" if value is None else str(value)
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(str, value))
    else:
        # A count, or a number that the paper prints without decimals, is shown as it is.
        text = str(value) if isinstance(value, int) and std is None else mean_std_text(value, std)
    return text.replace("|", "\\|").replace("\n", " ")


# --- files ------------------------------------------------------------------------------------------------------------


def save_table(
    name: str,
    rows: Sequence[Row],
    provenance: Mapping,
    folder: str | Path,
    markdown: str | None = None,
    runs: Sequence[Row] = (),
    more: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `<name>.json` (`{"provenance", "rows", "runs"}`) and `<name>.md` beside it, and return both paths.

    `markdown`: what the Markdown shows above the provenance; without it, all that the rows hold. `runs`: the rows of
    single runs that the means were made of, with `seed` and `run`, so that a reader can test again. `more` is written
    into the document as it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"provenance": dict(provenance), "rows": [*map(_finite, rows)], "runs": [*map(_finite, runs)]}
    document |= more or {}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = f"{(markdown or to_markdown(rows)).rstrip()}\n\n{provenance_text(provenance)}"
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    for path, content in zip(paths, (text, page), strict=True):
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # a data set's path need not be UTF-8
    return paths


def _finite(row: Row) -> Row:
    """JSON knows no NaN or infinity; a diverged run's number becomes null rather than losing the table."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
